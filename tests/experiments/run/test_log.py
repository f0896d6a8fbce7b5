"""What a run logs to Weights & Biases, TensorBoard and its table."""

import csv
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlrep.experiments.files import CsvLog
from rlrep.experiments.run import log
from rlrep.experiments.run.log import NonFiniteLoss, Progress, UpdateMetrics, reading

Run = Callable[..., Path]


@pytest.fixture
def quiet_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.usefixtures("quiet_wandb")
def test_wandb_offline_keeps_the_history_and_a_resumed_run_its_id(run: Run) -> None:
    overrides = ("agent=drqv2", "use_wandb=true", "wandb.mode=offline", "save_video=true")
    folder = run(*overrides, "num_train_frames=2000")
    run(*overrides, "num_train_frames=3000", "resume=true")
    logs = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 2
    assert {path.stem for path in logs} == {f"run-{(folder / 'wandb_id').read_text()}"}
    for path in logs:
        end = time.monotonic() + 30  # wandb's own process may still be writing
        while b"train/critic_loss" not in (history := path.read_bytes()) and time.monotonic() < end:
            time.sleep(0.1)
        assert b"eval/episode_return" in history and b"train/critic_loss" in history
    assert list((folder / "wandb").glob("offline-run-*/files/media/videos/*.mp4"))


@pytest.mark.usefixtures("quiet_wandb")
def test_wandb_that_does_not_start_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def fail(**_: object) -> None:
        raise wandb.errors.UsageError("no API key configured")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(ValueError, match=r"did not start \(no API key configured\): `wandb login`, or wandb.mode=off"):
        run("agent=drqv2", "use_wandb=true")


def test_tensorboard_reads_what_was_logged(run: Run) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run("agent=drqv2", "use_tb=true")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("eval", "train"):
        with (folder / f"{name}.csv").open(newline="") as file:
            expected = [(int(row["frame"]), float(row["episode_return"])) for row in csv.DictReader(file)]
        logged = [(event.step, event.value) for event in events.Scalars(f"{name}/episode_return")]
        assert logged == [(frame, pytest.approx(value, rel=1e-5)) for frame, value in expected]


def test_metrics_are_averaged_over_updates_once() -> None:
    metrics = UpdateMetrics("frame")
    for value in (1.0, 3.0):
        metrics.add({"loss": torch.tensor(value), "q": torch.tensor(2 * value)}, frame=10)
    assert metrics.mean() == {"loss": 2, "q": 4}
    assert metrics.mean() == {}


def test_the_mean_of_large_losses_is_finite() -> None:
    metrics = UpdateMetrics("frame")
    for value in (3e38, 3e38, 1e38):
        metrics.add({"loss": torch.tensor(value)}, frame=10)
    assert metrics.mean()["loss"] == pytest.approx(7e38 / 3, rel=1e-6)


def test_the_random_policy_is_named_by_the_episodes_of_exploration(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    folder = run("agent=drqv2", "agent.num_expl_steps=20", "num_train_frames=2000")
    with (folder / "train.csv").open(newline="") as file:
        first = float(next(csv.DictReader(file))["episode_return"])
    told = capfd.readouterr().err
    assert f"random policy's {first:.1f}" in told
    assert re.search(r"eval return \d+\.\d \(untrained\)", told)


@pytest.mark.usefixtures("quiet_wandb")
@pytest.mark.parametrize(("typed", "expected"), [((), "offline"), (("wandb.mode=disabled",), "disabled")])
def test_the_mode_of_wandb_is_the_environments_unless_it_is_typed(
    run: Run, monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...], expected: str
) -> None:
    import wandb

    modes = []

    def fail(**options: object) -> None:
        modes.append(options["mode"])
        raise wandb.errors.UsageError("enough")

    monkeypatch.setattr(wandb, "init", fail)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ValueError, match="enough"):
        run("agent=drqv2", "use_wandb=true", *typed)
    assert modes == [expected]


def test_the_first_update_that_was_not_finite_is_named() -> None:
    metrics = UpdateMetrics("frame")
    for frame, loss, q in ((2, 1.0, 1.0), (4, 1.0, torch.inf), (6, torch.nan, torch.nan)):
        metrics.add({"loss": torch.tensor(loss), "q": torch.tensor(q)}, frame)
    with pytest.raises(NonFiniteLoss, match=r"^q=inf at frame 4$"):
        metrics.mean()


def test_columns_may_join_a_table_and_rows_after_a_frame_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    log = CsvLog(path)
    log.append({"frame": 1, "episode_return": 0.123456789})
    log.append({"frame": 2, "episode_return": 2.0, "loss": 5.0})
    log.append({"frame": 3, "episode_return": 3.0, "loss": 6.0})
    assert path.read_text().split() == ["frame,episode_return,loss", "1,0.123457,", "2,2,5", "3,3,6"]
    CsvLog(path, until=2)
    assert path.read_text().split() == ["frame,episode_return,loss", "1,0.123457,", "2,2,5"]


class Clock:
    """A clock that tests move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(log.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Returns the lines that were logged since the last call."""
    return lambda: capsys.readouterr().err.splitlines()


def test_progress_is_logged_only_for_what_takes_long(clock: Clock, lines: Callable[[], list[str]]) -> None:
    for seconds, told in ((2, []), (4, ["short: 1 of 2 files,  0.25 files/s, 00:04 left"])):
        progress = Progress("short", 2, 0, "file", patience=3)
        progress.advance(0)
        clock.now += seconds
        progress.advance(1)
        assert lines() == told
        progress.close()
        assert lines() == told


def test_the_time_is_logged_while_the_count_stands_still(clock: Clock, lines: Callable[[], list[str]]) -> None:
    progress = Progress("run", 10, 0, "frame")
    progress.advance(4)
    lines()
    for _ in range(7):
        clock.now += 10
        progress.tell(4)
    assert len(lines()) == 2


def test_a_stage_is_logged_until_it_is_over(clock: Clock, lines: Callable[[], list[str]]) -> None:
    progress = Progress("run", 10, 4, "frame")
    told = progress.evaluating(3)
    for count in (0, 1, 1, 2, 3):
        told(count)
        clock.now += 9
    clock.now += 30
    progress.advance(5)
    ends = [line.rpartition(" left")[2] for line in lines()]
    assert ends == [", evaluating 1 of 3", ""]


def test_a_terminal_shows_the_time_too_and_nothing_before_its_patience(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log.sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress("run", 10, 0, "file", patience=3)
    progress.advance(0)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress.bar, "_time", lambda: progress.bar.start_t + 4)
    progress.tell(0)
    assert "run:   0%" in capsys.readouterr().err
    progress.close()


def test_reading_logs_files_and_frames(clock: Clock, lines: Callable[[], list[str]]) -> None:
    with reading("data") as progress:
        for files, frames in ((0, 500), (0, 1000), (2, 1500), (3, 1700)):
            progress(files, 3, frames)
            clock.now += 16
    first, *_, last = lines()
    assert first == "reading data: 0 of 3 files, ? files/s, ? left, frames 1,000"
    assert last.startswith("reading data: 3 of 3 files, ") and last.endswith(", frames 1,700")
