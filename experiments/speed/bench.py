"""Measures points, each contender in its own process, in turns, and stores the rows."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import Any

from rlrep.experiments.files import write_atomically
from rlrep.experiments.speed.child import serve
from rlrep.experiments.speed.machine import describe_machine
from rlrep.experiments.speed.measure import Row
from rlrep.experiments.speed.options import Options
from rlrep.experiments.speed.points import Contender, Point, plan

LEAST_SAMPLES, MOST_SAMPLES = 3, 200


class TimeIsUp(Exception):
    """The time budget is spent."""


class ChildFailed(Exception):
    """A child can't measure, or has died; `fault` distinguishes an error from a missing feature of this machine."""

    def __init__(self, reason: str, fault: bool) -> None:
        super().__init__(reason)
        self.fault = fault


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
            TimeIsUp: if there is no answer in time.
            ChildFailed: if there will be no answer.
        """
        if not self.connection.poll(max(0.0, deadline - time.monotonic())):
            raise TimeIsUp
        try:
            kind, answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            code = self.process.exitcode
            hint = ", often because memory ran out" if code == -9 else ""
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
    """The results of one child's turns: mean seconds of a call in each block of `repeats`."""

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
        rows: measured so far; also in the file.
        left_out: titles of points that were not measured, with the reasons.
        failed: whether a reason was an error rather than a missing feature of this machine.
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
        """Times a block of calls; before the first block it warms up, and chooses the number of calls per block."""
        if not turns.repeats:
            child.time(call, 5 if self.options.cuda else 1, self.deadline)  # on CUDA the graph is captured, too
            seconds, turns.peak_memory = child.time(call, 1, self.deadline)
            # Long enough for the clock, and for refilling the caches after other children.
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
