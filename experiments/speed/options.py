"""Parses and checks the benchmark's command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from rlrep.envs import environment_spec
from rlrep.experiments.files import check_writable
from rlrep.experiments.run.device import resolve_device
from rlrep.experiments.speed.measure import AGENTS, REFERENCE
from rlrep.registry import look_up

WHAT = ("update", "act", "replay", "rendering", "loop", "roofline")
PATHS = ("fast", "eager", "sb3")
SMALLEST_IMAGE = 17


class BadOption(ValueError):
    """An invalid word on the command line; the message names valid ones."""


def names(kind: str, known: Iterable[str]) -> Callable[[str], list[str]]:
    """Parses a comma list of known names."""
    table = {name: name for name in known}
    return lambda text: [look_up(kind, part, table) for part in text.split(",")]


def whole(least: int = 1) -> Callable[[str], int]:
    def parsed(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise BadOption(f"a whole number of at least {least}")
        return int(text)

    return parsed


def wholes(text: str) -> list[int]:
    return [whole()(part) for part in text.split(",")]


def positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < inf:
        raise BadOption("a number greater than 0")
    return number


def tasks(text: str) -> list[str]:
    for task in text.split(","):
        environment_spec(task)
    return text.split(",")


def clone(text: str) -> Path:
    """The folder of TACO's own code."""
    folder = Path(text).expanduser().resolve()
    if not (folder / REFERENCE).is_file():
        raise BadOption(f"a clone of https://github.com/FrankZheng2022/TACO, which has {REFERENCE}")
    return folder


@dataclass
class Options:
    """The user's options, with their parsers. None means each measurement's default, 0 the device's."""

    what: tuple[str, ...] = ()
    agent: Annotated[list[str] | None, names("agent", AGENTS)] = None
    batch: Annotated[list[int] | None, wholes] = None
    path: Annotated[list[str] | None, names("path", PATHS)] = None
    update: Annotated[list[str] | None, names("update", ("separate", "joint"))] = None
    reference: Annotated[Path | None, clone] = None
    device: Annotated[str, str] = "auto"
    image_size: Annotated[int | None, whole(SMALLEST_IMAGE)] = None
    channels: Annotated[int | None, whole()] = None
    task: Annotated[list[str] | None, tasks] = None
    num_envs: Annotated[list[int] | None, wholes] = None
    seconds: Annotated[float, positive] = 0
    minutes: Annotated[float, positive] = 0
    threads: Annotated[int | None, whole()] = None
    out: Annotated[Path, Path] = Path("benchmark.json")

    def __post_init__(self) -> None:
        self.device = resolve_device(self.device)
        self.minutes = self.minutes or (8.5 if self.cuda else 20)
        self.seconds = self.seconds or (2 if self.cuda else 5)

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")


def parse(words: Sequence[str]) -> Options:
    """The options that the words of a command line ask for.

    Raises:
        ValueError: for the first invalid word.
    """
    annotated = get_type_hints(Options, include_extras=True)
    parsers = {name: kind.__metadata__[0] for name, kind in annotated.items() if name != "what"}
    what: list[str] = []
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            what.append(look_up("measurement", word, {name: name for name in WHAT}))
            continue
        parsed = look_up("option", name, parsers)
        if name in given:
            raise BadOption(f"{name} is given twice")
        try:
            given[name] = parsed(text)
        except BadOption as error:
            raise BadOption(f"{name} must be {error}, got {text!r}") from error
    return Options(tuple(dict.fromkeys(what)), **given)


def check_out(path: Path) -> None:
    """Refuses a file that is not writable, before the first measurement."""
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        check_writable(path.parent)
    except (OSError, ValueError) as error:  # of a null byte, which no file can have in its name
        raise BadOption(f"out={path} can't be written: {error}") from error
