"""Files are complete or absent, and unfinished files of killed processes are removed."""

import os
import signal
from pathlib import Path
from typing import NoReturn

import pytest

from rlrep.experiments.files import locked, write_atomically


def killed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the files of a process that was killed with kill -9 while it wrote `path`."""
    process = os.fork()  # a new interpreter takes seconds
    if process == 0:
        monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        write_atomically(path, b"half")
    assert os.waitpid(process, 0)[1] == signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_resumed_run_removes_what_a_killed_one_was_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "checkpoints" / "latest.pt", b"whole")
    for name in ("checkpoints/latest.pt", "train.csv"):
        killed(tmp_path / name, monkeypatch)
    assert len(names(tmp_path)) == 3
    with locked(tmp_path):
        assert names(tmp_path) == [".lock", "latest.pt"]
    assert (tmp_path / "checkpoints" / "latest.pt").read_bytes() == b"whole"


def test_only_what_no_process_is_writing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [".notes.1", ".notes.partial-x", "notes.partial-99999999", f".curve.png.partial-{os.getppid()}"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / f".curve.png.partial-{os.getpid()}").touch()  # left by a killed process that had our number
    with locked(tmp_path):
        assert names(tmp_path) == sorted([*others, ".lock"])


def test_a_folder_that_holds_a_killed_process_file_alone_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    killed(tmp_path / "run" / "config.yaml", monkeypatch)
    with pytest.raises(ValueError, match="refused"), locked(tmp_path / "run"):
        refuse()
    assert not (tmp_path / "run").exists()


def refuse() -> NoReturn:
    raise ValueError("refused")
