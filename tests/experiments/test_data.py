"""The command that shows the content of data and converts formats."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from rlrep.data import Provenance, TransitionFiles, Transitions, write_transitions
from rlrep.experiments import data
from rlrep.experiments.run.inspection import learning
from tests.rlrep.data.lerobot_files import write_lerobot

PROVENANCE = Provenance(task="cartpole_swingup", level="medium", made={"run": "runs/1"}, random_return=1.0)


def episode(steps: int, reward: float, terminated: bool = False) -> Transitions:
    rng = np.random.default_rng(steps)
    frames = rng.integers(0, 256, (steps + 1, 3, 8, 8), np.uint8)
    action = np.linspace(-0.5, 0.75, 2 * steps, dtype=np.float32).reshape(steps, 2)
    return Transitions(frames, action, np.full(steps, reward, np.float32), terminated)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    episodes = [episode(4, 1.0), episode(6, 2.0, terminated=True), episode(5, 0.0)]
    write_transitions(episodes, tmp_path / "data", PROVENANCE, format="drqv2")
    return tmp_path / "data"


def test_info_says_what_the_data_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["info", str(folder)]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line[:1].strip())
    assert said["format"] == "DrQ-v2 replay"
    assert said["episodes"] == "3, 1 of which ended in a terminal state"
    assert said["steps"] == "15"
    assert said["return"] == "mean 5.333, standard deviation 4.989"
    assert said["image"].startswith("3 x 8 x 8")
    assert said["actions"].startswith("vectors of 2, from -0.5 ")
    assert said["task"] == "cartpole_swingup"
    assert said["level"] == "medium"
    picture = Path(said["picture"])
    assert picture == folder.with_name("data.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("format", ["rlrep", "vd4rl_84", "vd4rl_64"])
def test_convert_keeps_everything(folder: Path, tmp_path: Path, format: str) -> None:
    told = ["--format", format, "--expert-return", "20"]
    assert data.main(["convert", str(folder), str(tmp_path / "new"), *told]) == 0
    old, new = TransitionFiles(folder), TransitionFiles(tmp_path / "new")
    for before, after in zip(old, new, strict=True):
        for name in ("frames", "action", "reward", "terminated"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert new.provenance == Provenance(**(vars(PROVENANCE) | {"expert_return": 20.0}))


def test_a_data_set_that_takes_long_to_read_says_how_far_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlrep.experiments.run.log.PATIENCE", 0)
    for command, files in (["convert", str(folder), str(tmp_path / "new")], 3), (["info", str(tmp_path / "new")], 1):
        assert data.main(command) == 0
        first, last = capsys.readouterr().err.splitlines()
        assert first.startswith(f"reading {command[1]}: 0 of {files} files, ") and ", frames " in first
        assert last.startswith(f"reading {command[1]}: {files} of {files} files, ") and last.endswith(", frames 18")


def test_the_last_lines_say_what_comes_next(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "a name"
    assert data.main(["convert", str(folder), str(new)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: python -m rlrep.experiments.data info '{new}'"
    assert data.main(["info", str(new)]) == 0
    name, command = capsys.readouterr().out.splitlines()[-1].split(maxsplit=1)
    assert name == "next"
    assert command == f"python -m rlrep.experiments.offline agent=td3_bc dataset='{new}'"


def test_the_suggested_command_fits_the_data() -> None:
    assert learning(Path("x")).endswith("offline agent=td3_bc dataset=x")
    assert learning(Path("x"), rewards=False).endswith("offline agent=bc dataset=x")
    assert learning(Path("x"), choices=True).endswith("pretrain source=x")
    assert learning(Path("x"), task=False, rewards=False).endswith("pretrain source=x")  # data of a robot
    assert learning(Path("x"), task=False).endswith("offline agent=td3_bc task=TASK dataset=x")  # V-D4RL's own


def test_convert_does_not_write_into_the_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert data.main(["convert", str(folder), str(folder / "new")]) == 1
    assert "lies inside of the data" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_a_corrupt_file_is_named_or_listed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = sorted(folder.glob("*.npz"))[0]
    bad.write_bytes(b"PK")
    for command in (["info", str(folder)], ["convert", str(folder), str(tmp_path / "new")]):
        assert data.main(command) == 1
        assert re.search(rf"{bad.name} can't be used: .*; --skip-corrupt leaves it out", capsys.readouterr().err)
        assert data.main([*command, "--skip-corrupt"]) == 0
        captured = capsys.readouterr()
        assert f"{bad.name}: it is corrupt or truncated" in captured.out + captured.err
    assert data.main(["convert", str(folder), str(tmp_path / "new")]) == 1
    assert data.main(["info", str(tmp_path / "nothing")]) == 1


def test_the_command_takes_what_its_messages_ask_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (7, 1, 20, 24), np.uint8)
    rows = np.maximum(np.arange(7)[:, None] - np.arange(4)[::-1], 0)
    arrays = dict(action=np.zeros((7, 2)), reward=np.zeros(7, np.float32), discount=np.ones(7, np.float32))
    np.savez(tmp_path / "a.npz", observation=grey[rows][:, :, 0], **arrays)
    assert data.main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "new")]) == 1
    assert "--frame-channels=1" in capsys.readouterr().err
    assert data.main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "new"), "--frame-channels=1"]) == 0
    (found,) = TransitionFiles(tmp_path / "new")
    np.testing.assert_array_equal(found.frames, grey)
    np.savez(tmp_path / "b.npz", observation=np.zeros((7, 9, 12, 9), np.uint8), **arrays)
    assert data.main(["info", str(tmp_path / "b.npz")]) == 1
    assert "--channels-last or --no-channels-last" in capsys.readouterr().err
    assert data.main(["info", str(tmp_path / "b.npz"), "--no-channels-last"]) == 0


def test_names_need_not_be_utf_8(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = folder.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    assert data.main(["info", str(named)]) == 0
    assert "caf\\udce9" in capsys.readouterr().out
    target = tmp_path / os.fsdecode(b"na\xefve")
    assert data.main(["convert", str(named), str(target)]) == 0
    assert len(list(TransitionFiles(target))) == 3


def test_a_target_that_is_there_is_refused_before_anything_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/mine").touch()
    monkeypatch.setattr(data, "TransitionFiles", None)
    assert data.main(["convert", str(folder), str(tmp_path / "new")]) == 1
    assert "new is there already" in capsys.readouterr().err


def test_a_return_that_is_no_number_is_refused(tmp_path, capsys) -> None:
    for value in ("nan", "inf"):
        with pytest.raises(SystemExit):
            data.main(["convert", str(tmp_path), str(tmp_path / "out"), "--random-return", value])
        assert f"invalid finite number value: '{value}'" in capsys.readouterr().err


def test_a_picture_never_takes_the_place_of_data(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_transitions([episode(4, 1.0)], tmp_path / "own")
    source = sorted(folder.glob("*.npz"))[0]
    whole = source.read_bytes()
    for path, picture, message in (
        (source, source, "name a file that ends in .png"),
        (tmp_path / "own", tmp_path / "own/frame.png", "is one of the files of the data"),
    ):
        assert data.main(["info", str(path), "--picture", str(picture)]) == 1
        assert message in capsys.readouterr().err
    assert source.read_bytes() == whole and not (tmp_path / "own/frame.png").exists()


def test_the_next_command_opens_the_data_in_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot, camera = write_lerobot(tmp_path / "robot"), "camera=observation.images.top"
    assert data.main(["info", str(robot)]) == 1
    assert f"--format lerobot --format-option {camera}" in capsys.readouterr().err
    assert data.main(["info", str(robot), "--format", "lerobot", "--format-option", camera]) == 0
    (following,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next")]
    assert following.endswith(f"pretrain source={robot} format=lerobot format_options.{camera}")
