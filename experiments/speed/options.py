"""What a person asks the benchmark for: words of a command line, checked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from experiments import config as configuration
from experiments.speed.measure import AGENTS
from rlrep.registry import look_up

WHAT = ("update", "act", "replay", "rendering", "loop", "roofline")
PATHS = ("fast", "eager", "sb3")
SMALLEST_IMAGE = 17


class BadOption(ValueError):
    """A word on the command line that means nothing; the message says what would."""


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
