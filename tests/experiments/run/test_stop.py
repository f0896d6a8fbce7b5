"""SIGTERM and Ctrl-C stop a run between two steps with a checkpoint; resumed, it ends like an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlrep.agents import DrQV2
from rlrep.experiments.run import agent as agent_runs
from rlrep.experiments.run import driver, online
from rlrep.experiments.run.checkpoint import load_checkpoint
from rlrep.experiments.run.driver import Run as AnyRun
from rlrep.experiments.run.offline import OfflineRun
from rlrep.experiments.run.online import OnlineRun
from rlrep.experiments.run.stop import EarlyStop, Stopped, StopRequest, StopRequested
from tests.experiments.conftest import MRQ, ROOT, TINY
from tests.experiments.offline_data import TINY_OFFLINE, run_offline, write_data
from tests.experiments.run.test_resume import frames, live_rows, same, table
from tests.experiments.test_pretrain import TINY as TINY_PRETRAIN

Run = Callable[..., Path]
Start = Callable[..., subprocess.Popen[str]]
CHECKPOINT = "checkpoints/latest.pt"


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sends a signal from inside a method of a run, before its n-th call."""

    def signal_at(owner: type, method: str, call: int, number: int = signal.SIGTERM) -> None:
        original, calls = getattr(owner, method), []

        def sending(*arguments: Any, **options: Any) -> Any:
            calls.append(method)
            if len(calls) == call:
                send(number)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, method, sending)

    return signal_at


def assert_equal(stopped: Path, whole: Path) -> None:
    ours, theirs = (load_checkpoint(folder / CHECKPOINT) for folder in (stopped, whole))
    assert ours.keys() == theirs.keys()
    for part in ours:
        assert same(ours[part], theirs[part]), part
    for name in ("train.csv", "eval.csv"):
        if (whole / name).exists():
            rows, expected = table(stopped / name), table(whole / name)
            for row in (*rows, *expected):
                row.pop("updates_per_second", None)
            assert rows == expected, name


@pytest.mark.parametrize(
    ("method", "call", "number", "stopped_at"),
    [
        ("make_step", 27, signal.SIGTERM, 1350),  # in the middle of an episode of 20 agent steps
        pytest.param("make_step", 20, signal.SIGINT, 1000, marks=pytest.mark.slow),  # at the end of one
        pytest.param("make_step", 4, signal.SIGTERM, 200, marks=pytest.mark.slow),  # before the first update
        ("play_evaluation", 2, signal.SIGINT, 2000),  # in an evaluation
        ("play_evaluation", 3, signal.SIGTERM, 2500),  # in the last one
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(
    run: Run, signal_at: Callable[..., None], tmp_path: Path, method: str, call: int, number: int, stopped_at: int
) -> None:
    overrides = ("agent=drqv2", "num_train_frames=2500", "eval_every_frames=2000", "noise.kind=shapes")
    whole = run(*overrides, f"run_dir={tmp_path}/whole")
    signal_at(OnlineRun, method, call, number)
    with pytest.raises(Stopped, match=f"stopped at frame {stopped_at}, and everything is saved: resume with") as stop:
        run(*overrides)
    assert stop.value.exit_code == 128 + number
    folder = tmp_path / "run"
    assert load_checkpoint(folder / CHECKPOINT)["step"] * 50 == stopped_at
    run(*overrides, "resume=true")
    assert_equal(folder, whole)
    (head,) = load_checkpoint(whole / CHECKPOINT)["ranks"][0]["replay"]["head"]
    rows, expected = live_rows(folder, head, 100), live_rows(whole, head, 100)
    assert all((rows[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize(
    "kind", ["video", pytest.param("camera", marks=pytest.mark.slow), pytest.param("color", marks=pytest.mark.slow)]
)
def test_a_run_with_distractors_of_every_kind_resumes_bit_for_bit(
    run: Run, signal_at: Callable[..., None], tmp_path: Path, kind: str
) -> None:
    video = np.random.default_rng(0).integers(0, 256, (9, 20, 20, 3), np.uint8)
    np.savez(tmp_path / "video.npz", observation=video)
    videos = (f"noise.videos={tmp_path}/video.npz",) if kind == "video" else ()
    noise = (f"noise.kind={kind}", "noise.persistence=0.5", *videos)
    overrides = ("agent=drqv2", "num_train_frames=1500", "eval_every_frames=100000", *noise)
    whole = run(*overrides, f"run_dir={tmp_path}/whole")
    signal_at(OnlineRun, "make_step", 27, signal.SIGTERM)  # in the middle of an episode
    with pytest.raises(Stopped):
        run(*overrides)
    run(*overrides, "resume=true")
    assert_equal(tmp_path / "run", whole)
    frames, expected = (live_rows(folder, 30, 30)["frame"] for folder in (tmp_path / "run", whole))
    assert (frames == expected).all() and (frames != frames[0]).any()


class OnGpu(torch.Tensor):
    """A tensor as on a GPU: it must be copied to the host before NumPy can read it."""

    def cpu(self, *arguments: Any, **options: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def numpy(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy


def on_gpu(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint whose replay and episode are on a GPU; torch itself copies all else to where it belongs."""
    for own in state["ranks"]:
        for part in (own["replay"], own["playing"]):
            part |= {name: value.as_subclass(OnGpu) for name, value in part.items() if isinstance(value, torch.Tensor)}
    return state


@pytest.mark.parametrize("agent", [("agent=drqv2",), tuple(MRQ)], ids=["drqv2", "mrq"])
def test_a_checkpoint_that_was_loaded_to_a_gpu_is_resumed(
    run: Run, signal_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, agent: tuple[str, ...]
) -> None:
    overrides = (*agent, "num_train_frames=2000", "eval_every_frames=100000")
    whole = run(*overrides, f"run_dir={tmp_path}/whole")
    signal_at(OnlineRun, "make_step", 27)  # in the middle of an episode
    with pytest.raises(Stopped):
        run(*overrides)
    load: Any = load_checkpoint
    monkeypatch.setattr(agent_runs, "load_checkpoint", lambda *of: on_gpu(load(*of)))
    run(*overrides, "resume=true")
    assert_equal(tmp_path / "run", whole)


def test_several_environments_that_are_stopped_before_the_first_step_resume_bit_for_bit(
    run: Run, signal_at: Callable[..., None], tmp_path: Path
) -> None:
    overrides = ("agent=drqv2", "num_envs=2", "num_train_frames=2000", "eval_every_frames=100000")
    whole = run(*overrides, f"run_dir={tmp_path}/whole")
    signal_at(OnlineRun, "play_evaluation", 1)
    with pytest.raises(Stopped, match="stopped at frame 0,"):
        run(*overrides)
    run(*overrides, "resume=true")
    assert_equal(tmp_path / "run", whole)


@pytest.mark.parametrize("call", [10, 35])  # in the first episode; after 1400 frames, when a checkpoint is due
def test_a_stop_in_an_episode_moves_no_checkpoint(
    run: Run, signal_at: Callable[..., None], tmp_path: Path, call: int
) -> None:
    overrides = ("agent=drqv2", "num_train_frames=3000", "checkpoint_every_frames=1400", "save_snapshot=true")
    whole = run(*overrides, f"run_dir={tmp_path}/whole")
    signal_at(OnlineRun, "make_step", call)
    with pytest.raises(Stopped):
        run(*overrides)
    run(*overrides, "resume=true")
    stopped = {f"{call * 50:09d}.pt"}
    found, expected = (
        {path.name for path in (folder / "checkpoints").iterdir()} for folder in (tmp_path / "run", whole)
    )
    assert expected == {"latest.pt", "000001000.pt", "000002000.pt", "000003000.pt"}
    assert found == expected | stopped


def test_a_kill_between_two_files_of_a_checkpoint_loses_no_snapshot(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("agent=drqv2", "num_train_frames=2000", "checkpoint_every_frames=1000", "save_snapshot=true")
    plain, written = online.save_checkpoint, []

    def save(path: Path, state: dict[str, Any]) -> None:
        written.append(path.name)
        if len(written) == 2:
            raise KeyboardInterrupt  # acts as a kill: nothing runs after it
        plain(path, state)

    for module in (online, driver):
        monkeypatch.setattr(module, "save_checkpoint", save)
    with pytest.raises((KeyboardInterrupt, Stopped)):
        run(*overrides)
    run(*overrides, "resume=true")
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {"latest.pt", "000001000.pt", "000002000.pt"} <= kept


@pytest.mark.slow
def test_a_run_stopped_twice_in_one_episode_resumes_bit_for_bit(
    run: Run, signal_at: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("agent=sac", "num_train_frames=2000")
    whole = run(*overrides, f"run_dir={tmp_path}/whole")
    for call in (25, 7):
        with monkeypatch.context() as patched:
            step, calls = OnlineRun.make_step, []

            def stopping(run: OnlineRun, step: Any = step, calls: list[int] = calls, call: int = call) -> None:
                calls.append(1)
                if len(calls) == call:
                    send(signal.SIGTERM)
                step(run)

            patched.setattr(OnlineRun, "make_step", stopping)
            with pytest.raises(Stopped):
                run(*overrides, "resume=true")
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT)["step"] == 32
    run(*overrides, "resume=true")
    assert_equal(tmp_path / "run", whole)


def test_an_episode_that_does_not_repeat_is_cut_with_a_message(
    run: Run, signal_at: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = ("agent=drqv2", "num_train_frames=2500")
    signal_at(OnlineRun, "make_step", 27)
    with pytest.raises(Stopped):
        run(*overrides)
    from rlrep.experiments.run.checkpoint import save_checkpoint

    state = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    state["ranks"][0]["playing"]["observation"] += 1
    save_checkpoint(tmp_path / "run" / CHECKPOINT, {key: state[key] for key in state if key != "version"})
    run(*overrides, "resume=true")
    assert "the episode is cut at frame 1350" in capfd.readouterr().err
    assert frames(tmp_path / "run") == [1000, 2350]


@pytest.mark.parametrize(("method", "call"), [("make_step", 5), ("play_evaluation", 2), ("play_evaluation", 3)])
def test_a_stopped_offline_run_resumes_bit_for_bit(
    signal_at: Callable[..., None], tmp_path: Path, method: str, call: int
) -> None:
    data = write_data(tmp_path / "data")
    whole = run_offline(data, tmp_path / "whole")
    signal_at(OfflineRun, method, call)
    with pytest.raises(Stopped, match=r"stopped at update \d+, and everything is saved"):
        run_offline(data, tmp_path / "run")
    run_offline(data, tmp_path / "run", "resume=true")
    assert_equal(tmp_path / "run", whole)


def test_a_kill_between_the_last_evaluation_and_the_last_checkpoint_leaves_a_run_to_finish(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = ("agent=drqv2", "num_train_frames=3000", "eval_every_frames=2000")
    whole = run(*overrides, f"run_dir={tmp_path}/whole")
    save = AnyRun.save

    def killed(run: AnyRun) -> None:
        if run.finished:
            raise KeyboardInterrupt
        save(run)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(AnyRun, "save", killed)
        run(*overrides)
    folder = tmp_path / "run"
    assert frames(folder, "eval.csv")[-1] == 3000  # evaluated, but not saved
    assert load_checkpoint(folder / CHECKPOINT)["updates"] < load_checkpoint(whole / CHECKPOINT)["updates"]
    run(*overrides, "resume=true")
    assert "nothing to do" not in capfd.readouterr().out
    assert_equal(folder, whole)


def test_a_second_interrupt_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlrep.experiments.run.stop.INSISTING", 0)
    with StopRequest() as stop:
        send(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
            time.sleep(1)
    before = signal.getsignal(signal.SIGINT)
    assert before is signal.default_int_handler


def test_repeated_sigterm_still_leaves_time_for_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlrep.experiments.run.stop.INSISTING", 0)
    with StopRequest() as stop:
        for _ in range(3):
            send(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM


def test_the_command_says_where_it_stopped_and_exits_as_the_signal_does(start: Start, tmp_path: Path) -> None:
    process = start("agent=drqv2", "num_train_frames=1000000", "eval_every_frames=1000000")
    while not frames(tmp_path / "run"):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    step = load_checkpoint(tmp_path / "run" / CHECKPOINT)["step"]
    assert f"stopped at frame {step * 50}, and everything is saved: resume with resume=true" in errors
    assert "Traceback" not in errors


def test_an_interrupt_while_modules_are_imported_shows_no_traceback(start: Start) -> None:
    process = start("agent=drqv2")
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert errors in ("stopped\n", "stopped: resume with resume=true\n")


# A command that gets a signal while MuJoCo makes its drawing context, whose destructor then complains.
IN_THE_MIDDLE = """
import os, runpy, sys
from dm_control.mujoco.wrapper import core

def make(context, *arguments):
    os.kill(os.getpid(), {number})
    plain(context, *arguments)

plain, core.MjrContext.__init__ = core.MjrContext.__init__, make
runpy.run_module("rlrep.experiments.{command}", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("command", "number", "said"),
    [
        ("train", signal.SIGINT, "stopped: resume with resume=true"),
        ("offline", signal.SIGTERM, "stopped: resume with resume=true"),
        ("pretrain", signal.SIGHUP, "stopped: resume with resume=true"),
        ("collect", signal.SIGTERM, "stopped: nothing was written"),
    ],
)
def test_a_signal_while_environments_are_made_ends_a_command_quietly(
    finished: Path, tmp_path: Path, command: str, number: int, said: str
) -> None:
    given = {
        "train": [*TINY, f"run_dir={tmp_path}/new"],
        "offline": [*TINY_OFFLINE, f"run_dir={tmp_path}/new"],
        "pretrain": [*TINY_PRETRAIN, "objective=curl", "source=env:cartpole_balance", f"run_dir={tmp_path}/new"],
        "collect": [f"run={finished}", "level=random", f"out={tmp_path}/new"],
    }
    if command == "offline":
        given[command].append(f"dataset={write_data(tmp_path / 'data')}")
    ended = subprocess.run(
        [sys.executable, "-c", IN_THE_MIDDLE.format(number=int(number), command=command), *given[command]],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "0", "MUJOCO_GL": "egl"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 128 + number, ended.stderr
    assert [line for line in ended.stderr.splitlines() if not line.startswith("note:")] == [said]
    assert not list(tmp_path.glob("*new*/*.pt")) and not list(tmp_path.glob("*partial*"))


class Ending:
    """Sends a signal from its destructor, where exceptions are lost."""

    def __del__(self) -> None:
        send(signal.SIGTERM)
        time.sleep(0.001)


def test_an_early_stop_that_is_lost_in_a_destructor_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    show = sys.unraisablehook
    try:
        with EarlyStop() as early, pytest.raises(KeyboardInterrupt):
            ending = Ending()
            del ending
            assert early.signal == signal.SIGTERM
            time.sleep(5)
    finally:
        sys.unraisablehook = show
    assert capfd.readouterr().err == ""


def test_errors_that_nobody_can_catch_are_shown_until_there_is_an_early_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Complaining:
        def __del__(self) -> None:
            raise ValueError("dropped")

    shown: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: shown.append(lost.exc_value.args))
    with EarlyStop():
        Complaining()
    assert shown == [("dropped",)]
    with EarlyStop():
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
            time.sleep(1)
        Complaining()
    assert shown == [("dropped",)]


def test_a_signal_in_the_last_checkpoint_ends_the_command_as_well(
    run: Run, signal_at: Callable[..., None], tmp_path: Path
) -> None:
    signal_at(OnlineRun, "write", 2)
    with pytest.raises(Stopped, match="finished at frame 1000, and everything is saved") as stop:
        run("agent=drqv2", "num_train_frames=1000")
    assert stop.value.exit_code == 128 + signal.SIGTERM
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT)["finished"]


@pytest.mark.slow
def test_a_signal_to_the_whole_process_group_saves_a_run_with_environment_processes(
    start: Start, tmp_path: Path
) -> None:
    process = start("agent=drqv2", "num_envs=2", "num_train_frames=1000000", "eval_every_frames=1000000")
    while not frames(tmp_path / "run"):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (*children, str(process.pid)):
        os.kill(int(pid), signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "died" not in errors


def test_updates_of_a_stopped_run_are_those_of_one_that_was_not(
    run: Run, signal_at: Callable[..., None], tmp_path: Path
) -> None:
    signal_at(DrQV2, "update", 9)
    with pytest.raises(Stopped):
        run("agent=drqv2", "num_train_frames=2000")
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT)["updates"] == 9


def test_a_closed_terminal_asks_to_stop_unless_nohup_has_it_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            send(signal.SIGHUP)
            stop.check()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with StopRequest() as stop:
            send(signal.SIGHUP)
            with pytest.raises(StopRequested):
                stop.check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
