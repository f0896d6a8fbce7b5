"""Kills commands at random moments, resumes them, and compares the results with uninterrupted runs: `make kills`.

`python -m tests.kills --seed 1 --count 40 20 20 20` makes 40 tiny runs of `train` and 20 each of `offline`, `pretrain`
and `data convert`, with various settings. Each starts in its own folder. Its whole process group gets SIGKILL, SIGTERM
or SIGINT at a random moment; then the same command runs with resume=true, and may be killed again. At the end, all
results are compared bit for bit: checkpoints (agent, optimizers, sampler), the rows of the replay, tables without their
rates, encoders, pictures, films and converted files. It fails if something differs, if a temporary file is left over,
or if a command does not stop when asked to, or shows a traceback.

Most moments are uniform over the time from the start of the run to its end; a few are in the start-up before. One kill
in four comes at a file operation in the folder instead, or shortly after it, where it could leave an incomplete file.
Processes are forked from one that has imported everything, which makes the start-up short; one in ten is a real
`python -m`.

With several environments, a run that is stopped in the middle of episodes promises less: everything before the stop is
equal, and the run ends at the same frame with the same number of updates (experiments/README.md). `--command train
--number 7` repeats one run, except for its timing.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import multiprocessing
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Set before torch and MuJoCo are imported, here and in the processes.
os.environ |= {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "0"}
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np

ROOT = Path(__file__).parents[1]
SECONDS = 300.0  # limit for a whole run
TO_STOP = 60.0  # after SIGTERM or SIGINT
SIGNALS = (*3 * [signal.SIGKILL], signal.SIGTERM, signal.SIGINT)
IN_START_UP, AT_A_FILE, AGAIN, PLAIN = 0.15, 0.25, 0.3, 0.1  # shares of kills, kills, resumed runs, processes
OPERATIONS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")  # names of Python's audit events
CHECKPOINT = "checkpoints/latest.pt"
RATES = {"frames_per_second", "updates_per_second"}
MOVABLE = {"run_dir", "resume", "cache"}  # settings that may differ between the compared runs
IN_A_REPLAY = ("frame", "action", "reward", "terminated", "step", "episode")

CACHE = "cache={own}/cache"
TRAIN = "checkpoint_every_frames=1000 num_train_frames=4000 eval_every_frames=2000"
OFFLINE = "num_updates=90 log_every_updates=7 eval_every_updates=30 checkpoint_every_updates=12"
PRETRAIN = "steps=100 validate_every=10 batch_size=8"
# Settings by command, in addition to the tiny ones. {data} is the folder of the inputs, {own} the run's own folder.
KINDS = {
    "train": (
        f"{TRAIN} agent=taco num_train_frames=8000 eval_every_frames=4000 replay_buffer_size=60 replay_storage=disk",
        f"{TRAIN} agent=drqv2 objectives=[spr] update=joint checkpoint_every_frames=700 save_snapshot=true",
        f"{TRAIN} agent=sac objectives=[taco] objective.taco.batch_size=12 num_seed_frames=1000",
        f"{TRAIN} agent=drqv2 objectives=[curl] noise.kind=shapes noise.persistence=0.5 save_video=true nstep=1",
        f"{TRAIN} agent=taco num_envs=2 agent.update_every_steps=3",
        f"{TRAIN} agent=td3_bc objectives=[taco] update=joint offline.data={{data}}/rlrep",
        f"{TRAIN} agent=drqv2 objectives=[spr,forward_model] num_envs=2 replay_storage=disk eval_every_frames=1500",
        f"{TRAIN} agent=sac objectives=[spr,curl] update=joint offline.data={{data}}/vd4rl_64 offline.{CACHE}",
    ),
    "offline": (
        f"{OFFLINE} agent=td3_bc objectives=[taco] dataset={{data}}/rlrep update=joint",
        f"{OFFLINE} agent=iql objectives=[spr] dataset={{data}}/vd4rl_64 {CACHE}",
        f"{OFFLINE} agent=cql objectives=[curl] objective.curl.batch_size=12 dataset={{data}}/vd4rl_84 {CACHE}",
        f"{OFFLINE} agent=drqv2_bc dataset={{data}}/rlrep save_video=true",
        f"{OFFLINE} agent=bc objectives=[forward_model] dataset={{data}}/rlrep",
    ),
    "pretrain": (
        f"{PRETRAIN} objective=temporal_contrastive source={{data}}/videos {CACHE}",
        f"{PRETRAIN} objective=forward_model source={{data}}/videos {CACHE}",
        f"{PRETRAIN} objective=curl source={{data}}/rlrep {CACHE} validate_every=7",
        f"{PRETRAIN} objective=autoencoder source=env:cartpole_balance num_frames=150",
        f"{PRETRAIN} objective=inverse_model source={{data}}/vd4rl_64 {CACHE} patience=3",
        f"{PRETRAIN} objective=spr source={{data}}/videos {CACHE}",
    ),
    "convert": (
        "{data}/long {own}/run --format vd4rl_84",
        "{data}/long {own}/run --format vd4rl_64",
        "{data}/long {own}/run --format drqv2",
        "{data}/long {own}/run --format minari",
        "{data}/long_64 {own}/run --format rlrep",
    ),
}
COMMANDS = tuple(KINDS)


def tiny(command: str) -> list[str]:
    from tests.experiments.conftest import TINY
    from tests.experiments.offline_data import TINY_OFFLINE
    from tests.experiments.test_pretrain import TINY as TINY_PRETRAIN

    return {"train": TINY, "offline": TINY_OFFLINE, "pretrain": TINY_PRETRAIN}.get(command, [])


def arguments(command: str, kind: int, data: Path, own: Path) -> list[str]:
    """The arguments of a run in `own`/run; a later setting replaces an earlier one."""
    given = [*tiny(command), *KINDS[command][kind].format(data=data, own=own).split()]
    if command == "convert":
        return ["convert", *given]
    settings = dict(setting.split("=", 1) for setting in (*given, f"run_dir={own}/run"))
    return [f"{name}={value}" for name, value in settings.items()]


def make_data(folder: Path) -> None:
    """Writes the inputs: the same four short episodes in several formats, videos, and longer data to convert."""
    from rlrep.data import TransitionFiles, write_transitions
    from tests.experiments.offline_data import PROVENANCE, episode, write_data

    write_data(folder / "rlrep")
    for format in ("vd4rl_64", "vd4rl_84"):
        write_transitions(TransitionFiles(folder / "rlrep"), folder / format, PROVENANCE, format=format)
    rng = np.random.default_rng(0)
    write_data(folder / "long", episodes=[episode(rng, steps=30, size=64) for _ in range(80)])
    write_transitions(TransitionFiles(folder / "long"), folder / "long_64", PROVENANCE, format="vd4rl_64")
    (folder / "videos").mkdir()
    for number in range(5):
        np.savez(folder / "videos" / f"{number}.npz", observation=rng.integers(0, 256, (12, 20, 20, 3), np.uint8))


# ---- processes


class Process:
    """A command in its own process group; its output goes into a file.

    Args:
        command: one of `COMMANDS`.
        arguments: of the command.
        log: the file for its output.
        plain: whether to start `python -m` instead of forking.
        kill: for a forked process: after which file operation in the log's folder it ends, and how many seconds
            later. The file `operations` gets one byte per operation.
    """

    def __init__(
        self, command: str, arguments: list[str], log: Path, plain: bool, kill: tuple[int, float] | None = None
    ) -> None:
        module = f"rlrep.experiments.{'data' if command == 'convert' else command}"
        self.log = log
        self.forked: Any = None
        self.started: Any = None
        if plain:
            with log.open("wb") as file:
                self.started = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    stdout=file,
                    stderr=file,
                    cwd=ROOT,
                    start_new_session=True,
                )
            self.pid = self.started.pid
            return
        fork = multiprocessing.get_context("fork")
        self.forked = fork.Process(target=run_module, args=(module, arguments, log, kill))
        self.forked.start()
        self.pid = self.forked.pid
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(self.pid, self.pid)  # the process does the same itself, perhaps later

    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        found: int | None = self.started.poll() if self.forked is None else self.forked.exitcode
        return found

    def wait(self, seconds: float) -> int | None:
        end = time.monotonic() + seconds
        while self.code() is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.code()

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def output(self) -> str:
        return self.log.read_text(errors="replace")


def run_module(module: str, arguments: list[str], log: Path, kill: tuple[int, float] | None) -> None:
    """Does the same as `python -m`, in a forked process."""
    from rlrep.experiments import _report

    os.setpgid(0, 0)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(ROOT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [module, *arguments]
    watch_files(log.parent, kill)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit:
        raise
    except BaseException:
        _report(*sys.exc_info())
        sys.exit(1)


def watch_files(folder: Path, kill: tuple[int, float] | None) -> None:
    """Counts this process's file operations in a folder, and ends it at a chosen one: see `Process`."""
    counter = os.open(folder / "operations", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    prefix, writing, count = f"{folder}/", os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0

    def note(event: str, given: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in OPERATIONS or isinstance(given[0], int) or given[0] is None:
            return
        if not os.fsdecode(given[0]).startswith(prefix) or (event == "open" and not given[2] & writing):
            return
        count += 1
        os.write(counter, b".")
        if kill is not None and count == kill[0]:
            signal.setitimer(signal.ITIMER_REAL, kill[1])  # SIGALRM has no handler, so it ends the process like SIGKILL

    sys.addaudithook(note)


def preload() -> None:
    """Imports everything that commands import, before processes are forked."""
    modules = (
        "rlrep.agents",
        "rlrep.envs",
        "av",
        "dm_control.suite",
        "h5py",
        "hydra",
        "matplotlib.pyplot",
        "tensordict",
        "torch",
    )
    rooms = ("collection", "inspection", "offline", "online", "pretraining")
    for name in (*modules, "rlrep.experiments.results.curves", *(f"rlrep.experiments.run.{room}" for room in rooms)):
        importlib.import_module(name)


# ---- what must be equal


def difference(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """The places where two nested values are not equal bit for bit."""
    import torch

    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in ours.keys() ^ theirs.keys():
            yield f"{where}.{key} is in one only"
        for key in ours.keys() & theirs.keys():
            yield from difference(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list | tuple) and isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            yield f"{where} has {len(ours)} entries, not {len(theirs)}"
        for number, pair in enumerate(zip(ours, theirs, strict=False)):
            yield from difference(*pair, f"{where}[{number}]")
    elif isinstance(theirs, torch.Tensor):
        if not isinstance(ours, torch.Tensor) or ours.dtype != theirs.dtype or not torch.equal(ours, theirs):
            yield f"{where} is another tensor"
    elif isinstance(theirs, bytes):
        if ours != theirs:
            yield f"{where} has other bytes"
    elif type(ours) is not type(theirs) or ours != theirs:
        yield f"{where} is {str(ours)[:80]}, not {str(theirs)[:80]}"


def names(folder: Path) -> set[str]:
    """The files and folders in a folder, without lock files."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} - {".lock"}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in RATES} for row in csv.DictReader(file)]


def settings(folder: Path) -> Any:
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    for section in (found, found.get("offline") or {}):
        for name in MOVABLE & section.keys():
            del section[name]
    return found


def live_rows(folder: Path, state: dict[str, Any], kept: int) -> dict[str, list[Any]]:
    """The rows in a checkpoint's replay, from each of its files, for each environment."""
    heads = state["ranks"][0]["replay"]["head"]
    kept //= len(heads)
    rows = {}
    for name in IN_A_REPLAY:
        array = np.load(folder / "replay" / f"{name}.npy", mmap_mode="r")
        rows[name] = [
            array[lane, np.arange(max(0, head - kept), head) % array.shape[1]].tobytes()
            for lane, head in enumerate(heads)
        ]
    return rows


def compare_runs(ours: Path, theirs: Path) -> Iterator[str]:
    """The differences between two runs."""
    from rlrep.experiments.run.checkpoint import load_checkpoint

    # Each stop leaves a snapshot, in addition to the regular ones.
    found = {name for name in names(ours) if (theirs / name).exists() or not is_snapshot(name)}
    for name in sorted(found ^ names(theirs)):
        yield f"{name} is {'left over' if name in found else 'missing'}"
    yield from difference(settings(ours), settings(theirs), "config.yaml")
    for name in sorted(found & names(theirs)):
        path, expected = ours / name, theirs / name
        if path.is_dir() or name == "config.yaml" or name.startswith("replay/"):
            continue
        if path.suffix == ".pt":
            yield from difference(load_checkpoint(path), load_checkpoint(expected), name)
        elif path.suffix == ".csv":
            yield from difference(table(path), table(expected), name)
        elif path.read_bytes() != expected.read_bytes():
            yield f"{name} has other bytes"
    if (theirs / "replay").exists() and "replay" in found:
        kept = settings(theirs)["replay_buffer_size"]
        rows, wanted = (live_rows(folder, load_checkpoint(folder / CHECKPOINT), kept) for folder in (ours, theirs))
        yield from difference(rows, wanted, "replay")


def compare(command: str, ours: Path, theirs: Path, cuts: list[int]) -> Iterator[str]:
    """The broken promises of a run; `cuts` are the frames at which episodes were cut."""
    if command == "convert":
        return compare_files(ours, theirs)
    return compare_after_cut(ours, theirs, min(cuts)) if cuts else compare_runs(ours, theirs)


def is_snapshot(name: str) -> bool:
    return name.startswith("checkpoints/") and Path(name).stem.isdigit()


def compare_after_cut(ours: Path, theirs: Path, cut: int) -> Iterator[str]:
    """The broken promises of a run with several environments whose episodes were cut at frame `cut`."""
    from rlrep.experiments.run.checkpoint import load_checkpoint

    for name in sorted(names(ours) ^ names(theirs)):
        yield f"{name} is {'left over' if name in names(ours) else 'missing'}"
    yield from difference(settings(ours), settings(theirs), "config.yaml")
    for name in ("train.csv", "eval.csv"):
        rows, wanted = ([row for row in table(folder / name) if int(row["frame"]) <= cut] for folder in (ours, theirs))
        yield from difference(rows, wanted, f"{name} until frame {cut}")
    evaluated, expected = ([row["frame"] for row in table(folder / "eval.csv")] for folder in (ours, theirs))
    yield from difference(evaluated, expected, "frames of eval.csv")
    states = [load_checkpoint(folder / CHECKPOINT) for folder in (ours, theirs)]
    for name in ("step", "updates", "finished", "evaluated"):
        yield from difference(states[0][name], states[1][name], name)


def compare_files(ours: Path, theirs: Path) -> Iterator[str]:
    """The differences between two converted data sets."""
    found, expected = ({untimed(name): folder / name for name in names(folder)} for folder in (ours, theirs))
    for name in sorted(found.keys() ^ expected.keys()):
        yield f"{name} is {'left over' if name in found else 'missing'}"
    for name in sorted(found.keys() & expected.keys()):
        stamp = name == "verified.json"  # it holds the number and times of the file
        if found[name].is_file() and not stamp and found[name].read_bytes() != expected[name].read_bytes():
            yield f"{name} has other bytes"


def untimed(name: str) -> str:
    """A name without the time of writing, which comes first in the names of V-D4RL's and DrQ-v2's episodes."""
    return re.sub(r"^\d{8}T\d{6}", "TIME", name)


# ---- one run


@dataclass
class Reference:
    """An uninterrupted run.

    Attributes:
        folder: of the run.
        start_up: seconds until the run began.
        seconds: until it ended.
        operations: the number of file operations.
    """

    folder: Path
    start_up: float
    seconds: float
    operations: int


@dataclass
class Result:
    """The outcome of one killed run."""

    command: str
    number: int
    kind: int
    kills: list[str] = field(default_factory=list)
    late: int = 0  # kills that came after the end
    cut: bool = False
    wrong: list[str] = field(default_factory=list)


def stamp(command: str, own: Path) -> int | None:
    """A number that changes when a run begins."""
    if command == "convert":
        return next((path.stat().st_ino for path in own.glob(".run-*.partial-*")), None)
    path = own / "run" / "config.yaml"
    return path.stat().st_ino if path.exists() else None


def begun(process: Process, command: str, own: Path, before: int | None) -> None:
    """Waits until a run has begun or ended."""
    while process.code() is None:
        with contextlib.suppress(FileNotFoundError):
            if stamp(command, own) not in (None, before):
                return
        time.sleep(0.005)


def make_reference(command: str, kind: int, place: Path) -> Reference:
    own = place / f"{command}_{kind}" / "whole"
    own.mkdir(parents=True)
    started = time.monotonic()
    process = Process(command, arguments(command, kind, place / "data", own), own / "log", plain=False)
    begun(process, command, own, None)
    start_up = time.monotonic() - started
    if process.wait(SECONDS) != 0:
        raise RuntimeError(f"{command} {kind} fails without a kill:\n{process.output()[-1500:]}")
    operations = (own / "operations").stat().st_size
    return Reference(own / "run", start_up, time.monotonic() - started, operations)


def make_kill(
    command: str, number: int, seed: int, place: Path, references: dict[tuple[str, int], Reference]
) -> Result:
    """Starts a run, kills and resumes it until it ends, and compares it with its reference."""
    rng = random.Random(f"{seed} {command} {number}")
    result = Result(command, number, number % len(KINDS[command]))
    reference = references[command, result.kind]
    own = place / f"{command}_{result.kind}" / str(number)
    while not result.kills:  # some runs end before the kill
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        cuts = run_killed(result, reference, rng, place, own)
        if result.wrong or result.late > 5:
            break
    if not result.wrong:
        result.cut = bool(cuts)
        try:
            result.wrong += compare(command, own / "run", reference.folder, cuts)
        except Exception as error:
            result.wrong.append(f"{type(error).__name__}: {error}")
    if not result.wrong:
        shutil.rmtree(own)
    return result


def run_killed(result: Result, reference: Reference, rng: random.Random, place: Path, own: Path) -> list[int]:
    """Runs a command to its end, with kills on the way; adds the kills to `result`.

    Returns:
        The frames at which episodes of several environments were cut.
    """
    command = result.command
    cuts: list[int] = []
    for attempt in range(10):
        given = arguments(command, result.kind, place / "data", own)
        if attempt and command != "convert":
            given.append("resume=true")
        before = stamp(command, own)
        wanted, plain = attempt == 0 or rng.random() < AGAIN, rng.random() < PLAIN
        early, moment, number = rng.random() < IN_START_UP, rng.random(), rng.choice(SIGNALS)
        at_file = wanted and not plain and rng.random() < AT_A_FILE
        kill = (rng.randint(1, reference.operations), 10 ** rng.uniform(-6, -2.5)) if at_file else None
        process = Process(command, given, own / f"log_{attempt}", plain, kill)
        if at_file:
            process.wait(SECONDS)
        elif wanted and early:
            process.wait(moment * reference.start_up)
        elif wanted:
            begun(process, command, own, before)
            process.wait(moment * (reference.seconds - reference.start_up))
        killed = wanted and process.code() is None
        if killed:
            process.signal(number)
        code = process.wait(TO_STOP if killed else SECONDS)
        if code == -signal.SIGALRM:
            killed, number, early = True, signal.SIGKILL, False
        if code is None:
            process.signal(signal.SIGKILL)
            process.wait(TO_STOP)
            name = number.name if killed else "no signal"
            result.wrong.append(f"does not end after {name}:\n{process.output()[-1500:]}")
            return cuts
        process.signal(signal.SIGKILL)  # a process left in its group would continue to write
        if "Traceback" in process.output() or (not killed and code):
            result.wrong.append(f"return code {code} in attempt {attempt}:\n{process.output()[-1500:]}")
            return cuts
        if killed and code:
            result.kills.append(f"{number.name}{' at a file' if at_file else ' in start-up' if early else ''}")
            cuts += cut_episodes(own / "run")
        elif wanted:
            result.late += 1
        if code == 0:
            result.wrong += [f"{path} is left over" for path in own.glob(".run*")]
        if code == 0 or (command == "convert" and (own / "run").exists()):  # the folder appears when it is complete
            return cuts
    result.wrong.append("did not end")
    return cuts


def cut_episodes(folder: Path) -> list[int]:
    """A list with the frame of a checkpoint that is in the middle of episodes of several environments, else empty."""
    from rlrep.experiments.run.checkpoint import load_checkpoint

    if not (folder / "replay").exists() or not (folder / CHECKPOINT).exists():
        return []
    state = load_checkpoint(folder / CHECKPOINT)
    running = state["ranks"][0]["replay"]["running"]
    return [state["step"] * settings(folder)["action_repeat"]] if len(running) > 1 and any(running) else []


# ---- the table


def show(one: Result, most: int = 5) -> None:
    """Prints the problems of a run."""
    for number, wrong in enumerate(one.wrong):
        if number == most:
            print(f"  … and {len(one.wrong) - most} more")
            return
        print(f"--command {one.command} --number {one.number} ({', '.join(one.kills)}): {wrong}", flush=True)


def summary(results: list[Result]) -> str:
    """A row for each command and each signal."""
    columns = ["runs", "kills", "SIGKILL", "SIGTERM", "SIGINT", "in start-up", "at a file", "killed twice or more"]
    columns += ["exact", "cut, as promised", "wrong"]
    lines = [f"| command | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for command in (*dict.fromkeys(one.command for one in results), "all"):
        rows = [one for one in results if command in (one.command, "all")]
        kills = Counter(kill for one in rows for kill in one.kills)
        values = [len(rows), kills.total()]
        for name in ("SIGKILL", "SIGTERM", "SIGINT"):
            values.append(sum(count for kill, count in kills.items() if kill.startswith(name)))
        for where in ("start-up", "file"):
            values.append(sum(count for kill, count in kills.items() if kill.endswith(where)))
        values.append(sum(len(one.kills) > 1 for one in rows))
        values.append(sum(not one.wrong and not one.cut for one in rows))
        values.append(sum(not one.wrong and one.cut for one in rows))
        values.append(sum(bool(one.wrong) for one in rows))
        lines.append(f"| {command} | {' | '.join(map(str, values))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--count", type=int, nargs=4, default=[40, 20, 20, 20], metavar=tuple(name.upper() for name in COMMANDS)
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many runs at once")
    parser.add_argument("--command", choices=COMMANDS, help="only this one")
    parser.add_argument("--number", type=int, help="only this run of the command")
    options = parser.parse_args()
    start = time.perf_counter()
    os.nice(5)
    todo = [
        (command, number)
        for command, count in zip(COMMANDS, options.count, strict=True)
        for number in range(count)
        if options.command in (None, command) and options.number in (None, number)
    ]
    preload()
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    make_data(place / "data")
    kinds = list(dict.fromkeys((command, number % len(KINDS[command])) for command, number in todo))
    results = []
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        made = [pool.submit(make_reference, command, kind, place) for command, kind in kinds]
        references = {key: one.result() for key, one in zip(kinds, made, strict=True)}
        print(f"{len(kinds)} runs that are not killed took {time.perf_counter() - start:.0f} s", flush=True)
        killed = [pool.submit(make_kill, *job, options.seed, place, references) for job in todo]
        for each in killed:
            results.append(each.result())
            show(results[-1])
            if len(results) % 10 == 0:
                print(f"{len(results)} of {len(todo)} after {time.perf_counter() - start:.0f} s", flush=True)
    print(summary(results))
    failed = sum(bool(one.wrong) for one in results)
    if failed:
        print(f"the folders are kept in {place}")
    else:
        shutil.rmtree(place)
    print(f"seed {options.seed}, {time.perf_counter() - start:.0f} s: {failed} of {len(results)} wrong")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
