"""Measures how fast everything is, on this machine, in one run: python -m experiments.benchmark

Prints one table, with ratios, and writes a JSON list of rows (out=benchmark.json), anew after each measured point.

    python -m experiments.benchmark update agent=taco batch=256 out=taco.json

measures one thing alone: update, act, replay, rendering, loop or roofline. Options, each with a comma list where more
than one makes sense:

    agent=drqv2,taco,sac,sac+taco   batch=64,256,1024   path=fast,eager,sb3   update=separate,joint   device=auto
    image_size=84   channels=32   task=...   num_envs=...   threads=...
    seconds=...    time for each measured point     minutes=...    for all; what does not fit is listed as left out
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from envs.vector import processor_count
from experiments.files import write_atomically
from experiments.run import config as configuration
from experiments.speed.measure import AGENTS, Row, serve
from experiments.speed.table import report
from rlrep.registry import look_up

WHAT = ("update", "act", "replay", "rendering", "loop", "roofline")
PATHS = ("fast", "eager", "sb3")
BATCHES = [64, 256, 1024]
TASKS = ["cheetah_run", "walker_walk", "quadruped_run", "cartpole_swingup"]
SMALLEST_IMAGE = 17
LEAST_SAMPLES, MOST_SAMPLES = 3, 200


class BadOption(ValueError):
    """A word on the command line that means nothing; the message says what would."""


class TimeIsUp(Exception):
    """The time budget is spent."""


class ChildFailed(Exception):
    """A child can't measure, or has died; `fault` tells a mistake from a thing that this machine does not have."""

    def __init__(self, reason: str, fault: bool) -> None:
        super().__init__(reason)
        self.fault = fault


@dataclass
class Options:
    """What a person asked for; None is what suits each measurement."""

    what: tuple[str, ...] = ()
    agent: list[str] | None = None
    batch: list[int] | None = None
    path: list[str] | None = None
    update: list[str] | None = None
    device: str = "auto"
    image_size: int | None = None
    channels: int | None = None
    task: list[str] | None = None
    num_envs: list[int] | None = None
    seconds: float = 0  # 0 is what suits the device
    minutes: float = 0
    threads: int | None = None
    out: Path = Path("benchmark.json")

    def __post_init__(self) -> None:
        self.device = configuration.resolve_device(self.device)
        self.minutes = self.minutes or (8.5 if self.cuda else 20)
        self.seconds = self.seconds or (2 if self.cuda else 5)

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")


def parse(words: Sequence[str]) -> Options:
    """The options that the words of a command line ask for.

    Raises:
        ValueError: for the first word that means nothing.
    """
    what: list[str] = []
    given: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            what.append(choice("measurement", word, WHAT))
            continue
        choice("option", name, tuple(PARSERS))
        if name in given:
            raise BadOption(f"{name} is given twice")
        given[name] = PARSERS[name](name, value)
    return Options(tuple(dict.fromkeys(what)), **given)


def choice(kind: str, value: str, known: Sequence[str]) -> str:
    return look_up(kind, value, {name: name for name in known})


def choices(known: Sequence[str]) -> Callable[[str, str], list[str]]:
    return lambda name, value: [choice(name, part, known) for part in value.split(",")]


def whole(least: int) -> Callable[[str, str], int]:
    def parse_number(name: str, value: str) -> int:
        if not value.isdecimal() or int(value) < least:
            raise BadOption(f"{name} must be a whole number of at least {least}, got {value!r}")
        return int(value)

    return parse_number


def wholes(name: str, value: str) -> list[int]:
    return [whole(1)(name, part) for part in value.split(",")]


def positive(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise BadOption(f"{name} must be a number greater than 0, got {value!r}")
    return number


def known_tasks(name: str, value: str) -> list[str]:
    for task in value.split(","):
        configuration.check_task(task)
    return value.split(",")


PARSERS: dict[str, Callable[[str, str], Any]] = {
    "agent": choices(tuple(AGENTS)),
    "batch": wholes,
    "path": choices(PATHS),
    "update": choices(("separate", "joint")),
    "device": lambda _, value: value,
    "image_size": whole(SMALLEST_IMAGE),
    "channels": whole(1),
    "task": known_tasks,
    "num_envs": wholes,
    "seconds": positive,
    "minutes": positive,
    "threads": whole(1),
    "out": lambda _, value: Path(value),
}
assert {*PARSERS, "what"} == {known.name for known in fields(Options)}


def check_out(path: Path) -> None:
    """Refuses a place that nothing can be written to, before anything is measured."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise BadOption(f"out={path} can't be written: {error}") from error


@dataclass
class Contender:
    """One child: what it measures, with which arguments, and what its rows say of that."""

    measures: str
    arguments: Row
    row: Row


@dataclass
class Point:
    """Children whose calls are timed in turns, so that other load on the machine hits them alike.

    `calls` names the calls, and what each adds to a row; a child that answers with rows has none. Points of a small
    `rank` are measured first.
    """

    title: str
    rank: int
    contenders: list[Contender]
    calls: dict[str, Row]


def plan(options: Options) -> list[Point]:
    """What the options ask for, what matters most first.

    Raises:
        BadOption: if that is nothing.
    """
    planners = {
        "update": update_points,
        "act": act_points,
        "replay": replay_points,
        "rendering": rendering_points,
        "loop": loop_points,
        "roofline": roofline_points,
    }
    points = [point for what in options.what or WHAT for point in planners[what](options)]
    points = [point for point in points if point.contenders]
    if not points:
        raise BadOption(f"nothing to measure: {' and '.join(options.what)} has no path=sb3, only update has")
    return sorted(points, key=lambda point: point.rank)


def update_points(options: Options) -> Iterator[Point]:
    for agent in options.agent or AGENTS:
        for batch in options.batch or BATCHES:
            contenders = [
                update_contender(options, agent, batch, path, update)
                for update in options.update or ["separate"]
                for path in options.path or PATHS
                if path != "sb3"
            ]
            # What joint updates save stands beside the update that matters most.
            if not options.what and not options.update and agent == "taco" and batch == 256:
                contenders.append(update_contender(options, agent, batch, "fast", "joint"))
            if "sb3" in (options.path or PATHS):
                sb3 = {"batch_size": batch, "path": "sb3", "image_size": options.image_size or 84}
                contenders.append(Contender("sb3", sb3, {"agent": agent, "batch_size": batch, "path": "sb3"}))
            main = agent == "taco" and batch != 64
            yield Point(f"update {agent} batch {batch}", 0 if main else 50, contenders, {"update": {"what": "update"}})


def update_contender(options: Options, agent: str, batch: int, path: str, update: str) -> Contender:
    row = {"agent": agent, "batch_size": batch, "path": path, "update": update}
    # A name of its own, so that who looks for "update" finds the paper's.
    own_name = {"what": "joint_update"} if update == "joint" else {}
    return Contender("update", {**row, **network(options)}, {**row, **own_name})


def network(options: Options) -> Row:
    return {"image_size": options.image_size or 84, "channels": options.channels or 32}


def act_points(options: Options) -> Iterator[Point]:
    paths = [path for path in options.path or ["fast"] if path != "sb3"]
    for agent in options.agent or AGENTS:
        rows = [{"agent": agent, "path": path} for path in paths]
        contenders = [Contender("act", {**row, **network(options)}, {**row, "batch_size": 1}) for row in rows]
        yield Point(f"act {agent}", 40 if agent == "taco" else 60, contenders, {"act": {"what": "act"}})


def replay_points(options: Options) -> Iterator[Point]:
    batches = options.batch or BATCHES
    shared = {"batch_sizes": batches, "image_size": options.image_size or 84}
    storages = ["memory", "disk", *([options.device] if options.cuda else [])]
    contenders = [Contender("replay", {"storage": name, **shared}, {"storage": name}) for name in storages]
    calls: dict[str, Row] = {f"sample {size}": {"what": "replay_sample", "batch_size": size} for size in batches}
    yield Point("replay", 10, contenders, {**calls, "add": {"what": "replay_add"}})


def rendering_points(options: Options) -> Iterator[Point]:
    for task in options.task or TASKS:
        arguments = {"task": task, "image_size": options.image_size or 84}
        yield Point(
            f"rendering {task}", 70, [Contender("rendering", arguments, {"what": "rendering", **arguments})], {}
        )


def loop_points(options: Options) -> Iterator[Point]:
    """Whole runs at their preset's sizes, unless the options say otherwise."""
    preset = "paper" if options.cuda else "cpu"
    task = "quadruped_run" if options.cuda else "cheetah_run"
    cores = processor_count()
    numbers = [16, 1, 4, 8] if options.cuda else [1, 2, 4]
    numbers = options.num_envs or [number for number in numbers if number <= 2 * cores]
    paths = [path for path in options.path or ["fast", "eager"] if path != "sb3"]
    sizes: Row = {"image_size": options.image_size, "encoder.channels": options.channels}
    if options.batch:
        sizes["batch_size"] = options.batch[0]
    if options.update:
        sizes["update"] = options.update[0]
    seconds = options.seconds * (10 if options.cuda else 3)
    for run_task in options.task or [task]:
        values = {"preset": preset, "task": run_task, **sizes}
        overrides = [f"{name}={value}" for name, value in values.items() if value is not None]
        for agent in options.agent or ["taco"]:
            for number in numbers:
                for path in paths:
                    if path == "eager" and number != numbers[0] and not options.path:
                        continue  # one comparison tells
                    row = {"agent": agent, "num_envs": number, "path": path}
                    arguments = {**row, "seconds": seconds, "overrides": overrides}
                    rank = 90 if path == "eager" else 20 if number == numbers[0] else 80
                    contender = Contender("loop", arguments, {"what": "loop", "preset": preset, **row})
                    yield Point(f"loop {run_task} {agent} num_envs={number} {path}", rank, [contender], {})


def roofline_points(options: Options) -> Iterator[Point]:
    for agent in options.agent or ["taco"]:
        for batch in options.batch or ([256, 1024] if options.cuda else [256]):
            contender = update_contender(options, agent, batch, "fast", (options.update or ["separate"])[0])
            contender.measures, contender.row["what"] = "roofline", "roofline"
            yield Point(f"roofline {agent} batch {batch}", 30, [contender], {})


class Child:
    """A process that measures one contender."""

    def __init__(self, contender: Contender, options: Options, folder: str) -> None:
        self.contender = contender
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, contender.measures, options.device, options.threads, folder, contender.arguments)
        self.process = context.Process(target=serve, args=arguments)
        self.process.start()
        theirs.close()

    def receive(self, deadline: float) -> tuple[str, Any]:
        """The kind of its answer, and the answer.

        Raises:
            TimeIsUp: when there is none by then.
            ChildFailed: when there will be none.
        """
        if not self.connection.poll(max(0.0, deadline - time.monotonic())):
            raise TimeIsUp
        try:
            kind, answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            code = self.process.exitcode
            hint = ", often for want of memory" if code == -9 else ""
            raise ChildFailed(f"its process ended with exit code {code}{hint}", fault=True) from error
        if kind in ("unavailable", "failed"):
            raise ChildFailed(answer, fault=kind == "failed")
        return kind, answer

    def time(self, call: str, repeats: int, deadline: float) -> tuple[float, int]:
        """Seconds of a call, the mean of `repeats`, and the peak memory so far."""
        with suppress(OSError):  # `receive` finds out why
            self.connection.send((call, repeats))
        return self.receive(deadline)[1]

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


@dataclass
class Turns:
    """What the turns of one child brought: mean seconds of a call in each block of `repeats`."""

    seconds: list[float] = field(default_factory=list)
    repeats: int = 0
    peak_memory: int = 0

    @property
    def row(self) -> Row:
        low, middle, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return {
            "seconds": middle,
            "seconds_low": low,
            "seconds_high": high,
            "repeats": len(self.seconds),
            "calls_per_repeat": self.repeats,
            "peak_memory_bytes": self.peak_memory,
        }


class Benchmark:
    """Measures points and keeps their rows.

    Attributes:
        rows: measured so far; they stand in the file, too.
        left_out: titles of what was not measured, with the reasons.
        failed: whether a reason was a fault rather than something that this machine lacks.
    """

    def __init__(self, options: Options) -> None:
        self.options, self.points = options, plan(options)
        self.start = time.monotonic()
        self.deadline = self.start + 60 * options.minutes
        self.machine = describe_machine(options.device)
        self.rows: list[Row] = []
        self.left_out: dict[str, str] = {}
        self.failed = False

    def run(self) -> None:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            for index, point in enumerate(self.points):
                try:
                    if time.monotonic() >= self.deadline:
                        raise TimeIsUp
                    print(f"[{time.monotonic() - self.start:4.0f} s] {point.title}", file=sys.stderr, flush=True)
                    self.measure(point, folder)
                except TimeIsUp:
                    self.left_out[point.title] = f"the {self.options.minutes:g} minutes were over"
                except KeyboardInterrupt:
                    self.left_out |= {left.title: "interrupted" for left in self.points[index:]}
                    raise

    def measure(self, point: Point, folder: str) -> None:
        with ExitStack() as opened:
            children = [opened.enter_context(closing(Child(c, self.options, folder))) for c in point.contenders]
            facts: dict[Child, Row] = {}
            for child in children:
                try:
                    kind, answer = child.receive(self.deadline)
                except ChildFailed as error:
                    self.leave_out(point, child, error)
                    continue
                if kind == "ready":
                    facts[child] = answer
                for row in answer if kind == "rows" else []:
                    self.keep({**child.contender.row, **row})
            for call, part in point.calls.items():
                for child, timing in self.take_turns(point, call, facts).items():
                    self.keep({**part, **child.contender.row, **facts[child], **timing})

    def take_turns(self, point: Point, call: str, facts: dict[Child, Row]) -> dict[Child, Row]:
        """Times one call of all children in turns; a child that fails loses its place in `facts`."""
        budget = time.monotonic() + self.options.seconds * len(facts)
        turns = {child: Turns() for child in facts}
        for rounds in range(MOST_SAMPLES):
            if rounds >= LEAST_SAMPLES and time.monotonic() > budget:
                break
            for child, own in list(turns.items()):
                try:
                    self.turn(child, call, own)
                except ChildFailed as error:
                    del turns[child], facts[child]
                    self.leave_out(point, child, error)
        return {child: own.row for child, own in turns.items()}

    def turn(self, child: Child, call: str, turns: Turns) -> None:
        """Times a block of calls; before the first it warms up, and sees how many calls make a block."""
        if not turns.repeats:
            child.time(call, 5 if self.options.cuda else 1, self.deadline)  # on CUDA the graph is captured, too
            seconds, turns.peak_memory = child.time(call, 1, self.deadline)
            # Long enough for the clock, and for the caches that the others have emptied.
            block = 0.2 if self.options.cuda else 0.1
            turns.repeats = max(1, min(1000, int(block / max(seconds, 1e-7))))
            if turns.repeats == 1:
                turns.seconds.append(seconds)
                return
        seconds, turns.peak_memory = child.time(call, turns.repeats, self.deadline)
        turns.seconds.append(seconds)

    def leave_out(self, point: Point, child: Child, error: ChildFailed) -> None:
        row = child.contender.row
        which = ", ".join(str(row[name]) for name in ("update", "path", "storage") if name in row)
        self.left_out[f"{point.title} ({which})" if len(point.contenders) > 1 else point.title] = str(error)
        self.failed |= error.fault

    def keep(self, row: Row) -> None:
        first = ("what", "agent", "batch_size", "path", "device", "seconds", "peak_memory_bytes")
        known = {"device": self.options.device, **row, "machine": self.machine}
        self.rows.append({name: known.get(name) for name in first} | known)
        self.rows = with_shares(self.rows)
        write_atomically(self.options.out, (json.dumps(self.rows, indent=1) + "\n").encode())


def with_shares(rows: list[Row]) -> list[Row]:
    """The rows; those of replay sampling with their share of TACO's fast update (else another agent's) of this run."""
    updates: dict[int, Row] = {}
    for row in rows:
        if (row["what"], row["path"]) == ("update", "fast") and (
            row["batch_size"] not in updates or row["agent"] == "taco"
        ):
            updates[row["batch_size"]] = row
    return [
        row
        | {
            "share_of_update": row["seconds"] / updates[row["batch_size"]]["seconds"],
            "share_of_agent": updates[row["batch_size"]]["agent"],
        }
        if row["what"] == "replay_sample" and row["batch_size"] in updates
        else row
        for row in rows
    ]


def describe_machine(device: str) -> Row:
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [
            line.partition(":")[2].strip() for line in information.read_text().splitlines() if "model name" in line
        ]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "cores": processor_count(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help", "help"} & set(words):
        print(__doc__)
        return 0
    try:
        options = parse(words)
        benchmark = Benchmark(options)
        check_out(options.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        benchmark.run()
        code = int(benchmark.failed)
    except KeyboardInterrupt:
        code = 130
    print(report(benchmark.machine, benchmark.rows, benchmark.left_out))
    if benchmark.rows:
        print(f"\nwritten to {options.out}")
    return code


if __name__ == "__main__":
    sys.exit(main())
