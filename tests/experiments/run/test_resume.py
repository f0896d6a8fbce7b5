"""A killed and resumed run ends like an uninterrupted one."""

import csv
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlrep.experiments.run.checkpoint import CheckpointError, load_checkpoint
from tests.experiments.conftest import MRQ
from tests.experiments.offline_data import write_data

Run = Callable[..., Path]
Start = Callable[..., subprocess.Popen[str]]


def frames(folder: Path, name: str = "train.csv") -> list[int]:
    """The `frame` column, without an incomplete last line."""
    path = folder / name
    lines = path.read_text().splitlines(keepends=True)[1:] if path.exists() else []
    return [int(line.split(",")[0]) for line in lines if line.endswith("\n")]


def kill_after(process: subprocess.Popen[str], folder: Path, frame: int) -> None:
    while not any(written >= frame for written in frames(folder)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def same(a: Any, b: Any) -> bool:
    """Whether nested dictionaries and lists are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name != "frames_per_second"} for row in rows]


def live_rows(folder: Path, head: int, count: int) -> dict[str, np.ndarray]:
    """The last `count` rows before position `head` of the first lane, from each of the replay's files."""
    files = {path.stem: np.load(path, mmap_mode="r") for path in (folder / "replay").glob("*.npy")}
    return {name: array[0, np.arange(max(0, head - count), head) % array.shape[1]] for name, array in files.items()}


# With 60 rows kept and 82 in reserve, the ring of a run of 168 rows wraps.
@pytest.mark.parametrize(
    ("agent", "total", "kept"),
    [
        (["agent=taco"], 8000, 60),
        ([*MRQ, "agent.fade=0.99"], 6000, 60),
        pytest.param(["agent=sac"], 5000, 1_000_000, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_equals_never_stopped(
    run: Run, start: Start, tmp_path: Path, agent: list[str], total: int, kept: int
) -> None:
    overrides = (*agent, f"replay_buffer_size={kept}", f"num_train_frames={total}")
    overrides = (*overrides, "eval_every_frames=2000")
    folder = tmp_path / "run"
    kill_after(start(*overrides), folder, frame=total - 2000)
    assert 0 < load_checkpoint(folder / "checkpoints" / "latest.pt")["step"] * 50 < total
    run(*overrides, "resume=true")
    whole = run(*overrides, f"run_dir={tmp_path}/whole")

    ours, theirs = (load_checkpoint(path / "checkpoints" / "latest.pt") for path in (folder, whole))
    assert set(ours) == set(theirs) >= {"agent", "ranks", "step", "updates"}
    for part in ours:
        assert same(ours[part], theirs[part]), part
    (head,) = ours["ranks"][0]["replay"]["head"]
    rows, expected = live_rows(folder, head, kept), live_rows(whole, head, kept)
    assert set(rows) == {"frame", "action", "reward", "terminated", "step", "episode"}
    if kept == 60 and total == 8000:
        assert head > np.load(whole / "replay" / "step.npy").shape[1]
    for name in rows:
        np.testing.assert_array_equal(rows[name], expected[name], name)
    for name in ("train.csv", "eval.csv"):
        assert table(folder / name) == table(whole / name)
    assert frames(folder, "eval.csv") == sorted({*range(0, total, 2000), total})


@pytest.mark.slow
def test_two_environments_are_killed_with_the_run_and_go_on(run: Run, start: Start, tmp_path: Path) -> None:
    overrides = ("agent=drqv2", "num_envs=2", "num_train_frames=20000", "eval_every_frames=20000")
    process = start(*overrides)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not frames(tmp_path / "run"):
        assert process.poll() is None, process.communicate()[1]
        workers = children.read_text().split()
        time.sleep(0.01)
    kill_after(process, tmp_path / "run", frame=3000)
    step = load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")["step"]
    assert len(workers) >= 2
    deadline = time.monotonic() + 20
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "environment processes outlived the run"
        time.sleep(0.05)
    until = step * 50 + 2000
    folder = run(*overrides, f"num_train_frames={until}", "resume=true")
    assert load_checkpoint(folder / "checkpoints" / "latest.pt")["step"] == until // 50
    rows = frames(folder)
    assert rows == sorted(rows) and rows[-1] == until
    assert rows.count(until) == 2  # one row for each environment's episode


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("first", [True, False])
def test_a_run_is_resumed_with_finished_data_only_if_it_had_some(run: Run, tmp_path: Path, first: bool) -> None:
    data = f"offline.data={write_data(tmp_path / 'data')}"
    command = ["agent=drqv2", "task=cartpole_balance", "num_train_frames=1000", "checkpoint_every_frames=1000"]
    run(*command, *[data] * first)
    config = (tmp_path / "run" / "config.yaml").read_text()
    had, has = ("finished data", "none") if first else ("none", "finished data")
    with pytest.raises(CheckpointError, match=f"saved with {had} beside its replay, and now offline.data gives {has}"):
        run(*command, *[data] * (not first), "num_train_frames=2000", "resume=true")
    assert (tmp_path / "run" / "config.yaml").read_text() == config


def test_resume_starts_a_new_run_if_there_is_none(run: Run) -> None:
    folder = run("agent=drqv2", "num_train_frames=1000", "resume=true")
    assert frames(folder) == [1000]


def test_resume_restarts_a_run_without_a_checkpoint(run: Run, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "checkpoints" / "latest.pt").unlink()
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace(str(finished), str(folder)))
    run("agent=drqv2", "resume=true")
    for name in ("train.csv", "eval.csv"):
        assert table(folder / name) == table(finished / name)


def test_a_finished_run_has_nothing_to_resume(
    run: Run, finished: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run("agent=drqv2", "resume=true")
    assert "nothing to do: the run is at frame 3000 already" in capfd.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_without_its_replay_has_nothing_to_resume_or_says_so(
    run: Run, finished: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """README says to delete the replay of a run that has ended."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "replay")
    run("agent=drqv2", "resume=true")
    assert "nothing to do: the run is at frame 3000 already" in capfd.readouterr().out
    with pytest.raises(CheckpointError, match=r"replay is missing, .* init="):
        run("agent=drqv2", "resume=true", "num_train_frames=5000")
    assert not (folder / "replay").exists()


def test_a_resumed_run_evaluates_as_often_as_it_is_told_now(run: Run, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    run("agent=drqv2", "resume=true", "num_train_frames=5000", "eval_every_frames=1000")
    assert frames(folder, "eval.csv") == [0, 3000, 4000, 5000]


def test_a_finished_run_goes_on_for_more_frames(run: Run, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    run("agent=drqv2", "resume=true", "num_train_frames=5000")
    assert frames(folder) == [1000, 2000, 3000, 4000, 5000]
    assert frames(folder, "eval.csv") == [0, 3000, 5000]
    assert table(folder / "train.csv")[:3] == table(finished / "train.csv")
