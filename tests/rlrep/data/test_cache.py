"""Locks and temporary folders: other people's files stay, and leftovers of killed processes are removed."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlrep.data import TransitionFiles, Transitions, cache, write_transitions
from rlrep.data.locks import InUse, held
from rlrep.experiments.files import FolderInUse
from rlrep.experiments.files import locked as folder_locked
from tests.rlrep.data.transition_files import FORMATS, assert_equal, episode, episodes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(folder: Path) -> None:
    """Leaves the files of a process that was killed with kill -9 while it wrote `folder`."""
    process = os.fork()  # a new interpreter takes seconds
    if process == 0:
        with cache.locked(folder), cache.filling(folder) as temporary:
            (temporary / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("name", ["data", "d" * 250, "Daten é 数据", os.fsdecode(b"not utf-8 \xff")])
def test_a_rerun_removes_what_a_killed_one_left_and_keeps_none_of_it(tmp_path: Path, name: str) -> None:
    killed(tmp_path / name)
    assert len(names(tmp_path)) == 2
    write_transitions(episodes(), tmp_path / name, format="drqv2")
    assert names(tmp_path) == [name]
    assert len(list((tmp_path / name).glob("*.npz"))) == 4


@pytest.mark.parametrize("making", [cache.filling, cache.replacing])
@pytest.mark.parametrize("there", [True, False])
def test_a_kill_behind_the_last_rename_leaves_the_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, making: Any, there: bool
) -> None:
    folder = tmp_path / "data"
    if there:
        folder.mkdir()
        (folder / "old").touch() if making is cache.replacing else None
    process = os.fork()
    if process == 0:
        monkeypatch.setattr(cache.shutil, "rmtree", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        with cache.locked(folder), making(folder) as temporary:
            (temporary / "new").touch()
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    (usual := tmp_path / "usual").mkdir()
    assert names(folder) == ["new"] and folder.stat().st_mode == usual.stat().st_mode
    usual.rmdir()
    left = [name for name in names(tmp_path) if name != "data" and not name.endswith(".lock")]
    assert len(left) == (making is cache.replacing and there)  # the old one
    with cache.locked(folder):
        pass
    assert names(tmp_path) == ["data"]


def test_only_what_nobody_works_on_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".data-0123abcd.partial").mkdir()  # somebody else's folder
    (tmp_path / ".data.1234").mkdir()
    killed(tmp_path / "other")
    with cache.locked(tmp_path / "busy"), cache.filling(tmp_path / "busy") as temporary:
        write_transitions(episodes(), tmp_path / "data")
        assert temporary.is_dir()
    assert names(tmp_path) == [".data-0123abcd.partial", ".data.1234", "busy", "data"]


def test_a_second_writer_to_a_folder_is_refused(tmp_path: Path) -> None:
    taken = []

    def meanwhile() -> Iterator[Transitions]:
        yield episode(0)
        with pytest.raises(InUse, match=r"another process is writing .*data"):
            write_transitions((taken.append(one) or one for one in episodes()), tmp_path / "data")  # type: ignore[func-returns-value]
        yield episode(1)

    write_transitions(meanwhile(), tmp_path / "data")
    assert not taken, "the refusal must come before the first episode is made"
    assert len(list(TransitionFiles(tmp_path / "data"))) == 2
    assert names(tmp_path) == ["data"]


@pytest.mark.parametrize("empty_before", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_files_that_others_put_into_the_target_stay_and_so_do_the_episodes(
    tmp_path: Path, format: str, empty_before: bool
) -> None:
    target = tmp_path / "data"
    if empty_before:
        target.mkdir()

    def meanwhile() -> Iterator[Transitions]:
        yield episode(0)
        target.mkdir(exist_ok=True)
        (target / "theirs.txt").write_text("theirs")

    with pytest.raises(FileExistsError, match=r"data can't be replaced any more .*: what was written is in ") as caught:
        write_transitions(meanwhile(), target, format=format)
    assert (target / "theirs.txt").read_text() == "theirs"
    kept = Path(str(caught.value).rpartition(" is in ")[2])
    assert names(tmp_path) == sorted(["data", kept.name])
    (found,) = TransitionFiles(kept)
    assert_equal(found, episode(0))


@pytest.mark.parametrize("kind", ["folder", "nothing"])
def test_a_link_is_written_through(tmp_path: Path, kind: str) -> None:
    (tmp_path / "far").mkdir()
    if kind == "folder":
        (tmp_path / "far/real").mkdir()
    (tmp_path / "link").symlink_to("far/real")
    write_transitions(episodes(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(list(TransitionFiles(tmp_path / "far/real"))) == 4


@pytest.mark.parametrize("kind", ["mount", "file", "loop"])
def test_a_target_that_can_not_be_replaced_is_refused_before_any_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def none() -> Iterator[Transitions]:
        raise AssertionError("an episode was made")
        yield

    target = tmp_path / "data"
    if kind == "mount":
        target.mkdir()
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target)
    elif kind == "file":
        target.touch()
    else:
        target.symlink_to("data")
    with pytest.raises(ValueError, match=r"data .*name a new folder"):
        write_transitions(none(), target)
    assert names(tmp_path) == ["data"]


def test_a_new_data_set_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    write_transitions(episodes(), tmp_path / "data")
    assert (tmp_path / "data").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_lock_that_is_waited_for_is_taken_over_although_its_file_was_removed(tmp_path: Path) -> None:
    with held(tmp_path / "lock"):
        with pytest.raises(InUse), held(tmp_path / "lock", wait=False):
            pass
        assert (tmp_path / "lock").exists()
    with held(tmp_path / "lock", wait=False) as sure:
        assert sure
    assert not names(tmp_path)


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for target in ("mine", "none"):
        (tmp_path / target).with_suffix(".lock").symlink_to(target)
        with pytest.raises(OSError, match="symbolic links"), held((tmp_path / target).with_suffix(".lock")):
            pass
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "none").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_file_systems_without_locks_are_written_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    killed(tmp_path / "other")
    left = names(tmp_path)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="no lock on .*whose file system has none"):
        write_transitions(episodes(), tmp_path / "data")
    assert len(list(TransitionFiles(tmp_path / "data"))) == 4
    assert names(tmp_path) == sorted([*left, "data"]), "files that may belong to another process must stay"
    with pytest.warns(UserWarning, match="no lock on"), folder_locked(tmp_path / "run"):
        (tmp_path / "run/file").touch()


def test_a_run_folder_is_held(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with folder_locked(tmp_path / "run"):
            with pytest.raises(FolderInUse, match="another process works in"), folder_locked(tmp_path / "run"):
                pass
            assert names(tmp_path / "run") == [".lock"]
    assert not names(tmp_path)
