"""The list of formats, and the properties of every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlrep.data import Provenance, TransitionFiles, Transitions, dataset, open_dataset, open_video, write_transitions
from rlrep.data.episode import Episode, Rows
from rlrep.data.formats import FORMATS, WRITTEN, Format, Unreadable
from rlrep.data.sources import find
from rlrep.experiments import data
from tests.own_format import Lines
from tests.rlrep.data.formats.numbered import SMALL, numbered, numbers
from tests.rlrep.data.transition_files import FORMATS as TESTED
from tests.rlrep.data.transition_files import assert_equal, episode, episodes, source_path

OWN = "tests.own_format:Lines"


def own_episode(steps: int = 5, first: int = 0) -> Transitions:
    taken = np.arange(steps, dtype=np.float32)[:, None] / 10
    return Transitions(numbered(steps + 1, first, channels=1), taken, taken[:, 0] + 1, terminated=False)


def test_every_format_that_is_written_is_tested_and_recognised(tmp_path: Path) -> None:
    assert sorted(TESTED) == sorted(each.name for each in WRITTEN)
    assert len({each.name for each in FORMATS}) == len(FORMATS)
    for name in TESTED:
        write_transitions(episodes(), tmp_path / name, format=name)
        (named,) = (each for each in FORMATS if each.name == name)
        for source in find(tmp_path / name):
            assert issubclass(named, type(source.format))


@pytest.mark.parametrize("rows", ["taken at", "led to", None])
@pytest.mark.parametrize("discrete", [False, True])
def test_an_episode_says_which_frames_its_rows_belong_to(rows: Rows | None, discrete: bool) -> None:
    """Five actions between six frames, in all the ways in which files store them."""
    taken = np.arange(1, 6) if discrete else np.arange(1, 6, dtype=np.float64)[:, None] / 10
    reward = np.arange(1, 6, dtype=np.float32)
    unused = np.full_like(taken[:1], 9 if rows else 0)
    stored = {"taken at": [taken, unused], "led to": [unused, taken], None: [unused, taken]}[rows]
    paid = {"taken at": [reward, [9]], "led to": [[9], reward], None: [[9], reward]}[rows]
    for action, rewards in ((np.concatenate(stored), np.concatenate(paid, dtype=np.float32)), (taken, reward)):
        one = Episode("a", iter([numbered()]), action=action, reward=rewards, rows=rows)
        np.testing.assert_array_equal(one.actions_taken(6), taken.astype(np.int64 if discrete else np.float32))
        np.testing.assert_array_equal(one.rewards(6), reward)
        whole = one.transitions()
        assert whole.discrete is discrete
        np.testing.assert_array_equal(whole.action, one.actions_taken(6))


def test_rows_that_may_belong_to_either_frame_are_refused() -> None:
    with pytest.raises(Unreadable, match="the first all zeros"):
        Episode("a", iter([numbered()]), action=np.ones((6, 2))).actions_taken(6)


def test_a_format_of_ones_own_needs_no_edit_of_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = [own_episode(5), own_episode(4, 10)]
    write_transitions(written, tmp_path / "own", format=OWN)
    for found, expected in zip(TransitionFiles(tmp_path / "own", format=OWN), written, strict=True):
        assert_equal(found, expected)
    assert len(open_dataset(tmp_path / "own", format=OWN)) == 9
    video = open_video(tmp_path / "own", format=OWN, actions=True, **SMALL)
    assert numbers(video) == [*range(6), *range(10, 15)]
    assert data.main(["convert", str(tmp_path / "own"), str(tmp_path / "new"), "--source-format", OWN]) == 0
    assert data.main(["convert", str(tmp_path / "new"), str(tmp_path / "back"), "--format", OWN]) == 0
    assert (tmp_path / "back/1.txt").read_text() == (tmp_path / "own/1.txt").read_text()
    assert data.main(["info", str(tmp_path / "own"), "--format", OWN]) == 0
    assert "lines" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds no videos or episode files"):
        open_video(tmp_path / "own", **SMALL)


def test_options_of_a_format_are_part_of_what_a_cache_depends_on(tmp_path: Path) -> None:
    write_transitions([own_episode()], tmp_path / "own", format=OWN)
    for _ in range(2):
        for brighter in (0, 7):
            video = open_video(tmp_path / "own", format=Lines(brighter), **SMALL)
            assert numbers(video) == list(range(brighter, brighter + 6))
            frames = open_dataset(tmp_path / "own", format=Lines(brighter)).frames
            assert frames[0, :, 0, 0, 0].tolist() == list(range(brighter, brighter + 6))


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("tests.nowhere:Lines", "no module 'tests.nowhere'"),
        ("tests.own_format:Words", "has no class 'Words'.*Lines"),
        ("tests.own_format:Path", "is not a subclass of rlrep.data.formats.base.Format"),
        ("tests.own_format:Scaled", "can't be made without arguments .*brighter"),
        ("rlrep.data.formats.base:Format", "Format is not a subclass of"),
        ("vd4rl", "unknown format 'vd4rl'"),
    ],
)
def test_a_format_that_is_not_available_is_refused_by_everything(tmp_path: Path, format: str, message: str) -> None:
    write_transitions(episodes(), tmp_path / "data")
    for opener in (open_dataset, open_video, TransitionFiles):
        with pytest.raises(ValueError, match=message):
            opener(tmp_path / "data", format=format)
    with pytest.raises(ValueError, match=message):
        write_transitions(episodes(), tmp_path / "new", format=format)


def test_a_format_without_a_name_is_refused_where_it_is_written_down() -> None:
    with pytest.raises(TypeError, match="has no name"):
        type("Nameless", (Format,), {})


def test_a_format_that_is_only_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown format 'video': known: drqv2"):
        write_transitions(episodes(), tmp_path / "new", format="video")


def test_a_named_format_is_the_only_one_that_is_read(tmp_path: Path) -> None:
    write_transitions(episodes(), tmp_path / "a", format="vd4rl_84")
    write_transitions(episodes(), tmp_path / "a/b", format="drqv2")
    assert len(list(TransitionFiles(tmp_path / "a"))) == 8
    assert len(list(TransitionFiles(tmp_path / "a", format="vd4rl_84"))) == 4
    with pytest.raises(ValueError, match=r"holds nothing of the format video; it holds \.hdf5, \.json, \.npz"):
        open_video(tmp_path / "a", format="video")
    (tmp_path / "a/data.hdf5").rename(tmp_path / "a/data.mat")
    assert len(list(TransitionFiles(tmp_path / "a/data.mat", format="vd4rl_84"))) == 4


@pytest.mark.parametrize("format", TESTED)
def test_a_folder_may_hold_several_data_sets(tmp_path: Path, format: str) -> None:
    for number, part in enumerate((episodes()[:2], episodes()[2:])):
        write_transitions(part, tmp_path / f"all/{number}", format=format)
    (tmp_path / "all/again").symlink_to(tmp_path / "all/1")  # each folder is read only once
    for found, expected in zip(
        sorted(TransitionFiles(tmp_path / "all"), key=len), sorted(episodes(), key=len), strict=True
    ):
        assert_equal(found, expected)
    assert len(open_dataset(tmp_path / "all")) == 25


def count(monkeypatch: pytest.MonkeyPatch, holder: Any, name: str) -> list[tuple[Any, ...]]:
    """A list that gets the arguments of each later call of a function."""
    calls: list[tuple[Any, ...]] = []
    function = getattr(holder, name)
    monkeypatch.setattr(holder, name, lambda *args, **options: calls.append(args) or function(*args, **options))
    return calls


@pytest.mark.parametrize("opener", [open_dataset, open_video])
@pytest.mark.parametrize("format", TESTED)
def test_nothing_is_done_twice_by_an_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, opener: Any
) -> None:
    from rlrep.data import dataset, replay_files, video

    write_transitions(episodes(), tmp_path / "data", format=format)
    path = source_path(tmp_path / "data", format)
    sources = find(path)
    module = dataset if opener is open_dataset else video
    for again in (False, True):
        with monkeypatch.context() as patch:
            located, found = count(patch, module, "locate"), count(patch, module, "find")
            reads = count(patch, type(sources[0].format), "read")
            loaded = count(patch, replay_files, "mapped")
            opener(path, skip_corrupt=True, cache=tmp_path / "cache")
        assert len(located) == len(found) == 1
        converts = not again and not (opener is open_dataset and format == "rlrep")
        assert sorted(call[1] for call in reads) == (sorted(each.path for each in sources) if converts else [])
        assert len(loaded) == len({call[0] for call in loaded})


@pytest.mark.parametrize("bound", [0, 1 << 20])
def test_corrupt_files_are_left_out_as_a_whole_and_each_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    """For a file that ends after its second episode; frames are held in memory or in a temporary file."""
    from rlrep.data import transition_files
    from rlrep.data.formats.vd4rl import VD4RL84

    for number, part in enumerate((episodes()[:3], episodes()[1:], episodes()[2:])):
        write_transitions(part, tmp_path / f"data/{number}", format="vd4rl_84")
    read = VD4RL84.read
    reads: list[str] = []

    def breaking(self: VD4RL84, path: Path, wanted: Any) -> Any:
        reads.append(path.parent.name)
        for number, each in enumerate(read(self, path, wanted)):
            if path.parent.name == "1" and number == 2:
                raise Unreadable("it breaks off")
            yield each

    monkeypatch.setattr(VD4RL84, "read", breaking)
    monkeypatch.setattr(transition_files, "HELD_IN_MEMORY", bound)
    files = TransitionFiles(tmp_path / "data", skip_corrupt=True)
    expected = [*episodes()[:3], *episodes()[2:]]
    for found, wanted in zip(files, expected, strict=True):
        assert_equal(found, wanted)
    assert reads == ["0", "1", "2"]
    assert files.skipped == {str(tmp_path / "data/1/data.hdf5"): "it breaks off"}
    reads.clear()
    with pytest.warns(UserWarning, match=r"(?s)skipped 1 of 3 files:.*1/data\.hdf5: it breaks off"):
        opened = open_dataset(tmp_path / "data", skip_corrupt=True)
    assert reads == ["0", "1", "2"]
    np.testing.assert_array_equal(opened.frames[0].numpy(), np.concatenate([each.frames for each in expected]))


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_the_storage_may_be_chosen_by_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    write_transitions(episodes(), tmp_path / "data")
    sizes: list[int] = []
    allocated: list[Any] = []
    plain = dataset.frame_memory
    monkeypatch.setattr(dataset, "frame_memory", lambda *given: allocated.append(given) or plain(*given))
    opened = open_dataset(tmp_path / "data", storage=lambda size: sizes.append(size) or storage)
    assert sizes == [opened.nbytes] and len(allocated) == (storage == "memory")


@pytest.mark.parametrize("format", TESTED)
@pytest.mark.parametrize("other", [dict(size=9), dict(discrete=True)])
def test_episodes_of_different_kinds_are_not_written(tmp_path: Path, format: str, other: dict[str, Any]) -> None:
    mixed = [episode(0), episode(1, **other)]
    with pytest.raises(ValueError, match="episodes with different"):
        write_transitions(mixed, tmp_path / "data", Provenance(num_actions=4), format=format)
    assert not (tmp_path / "data").exists()
