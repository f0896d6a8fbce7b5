"""The protocol of a study: a file with the runs, their scores, and the criteria for answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import OmegaConf

from rlrep.experiments.files import write_atomically
from rlrep.experiments.yaml_files import UnusableYaml, differences, read_yaml
from rlrep.registry import look_up

T = TypeVar("T")

PROTOCOL = "protocol.yaml"  # in a folder of runs: the protocol that they follow
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # becomes a folder
OWN = ("seed", "run_dir", "resume", "task")  # settings that the study itself makes


class StudyError(ValueError):
    """A study cannot be run or reported as requested; the message says what to do."""


@dataclass(frozen=True)
class Arm:
    """A compared configuration.

    Attributes:
        seeds: the number of seeds.
        overrides: of `rlrep.experiments.train`.
    """

    seeds: int
    overrides: list[str]


@dataclass(frozen=True)
class Task:
    """A task of the comparison.

    Attributes:
        random: the random policy's return, the score 0.
        best: the best published return at the study's last step, the score 1.
    """

    random: float
    best: float
    overrides: list[str]


@dataclass(frozen=True)
class Comparison:
    """A question, and its answer by the 95 % interval of the difference of two arms' mean scores.

    Attributes:
        question: its wording in the report.
        arm, than: the arm that may be better, and the one that it is compared with.
        helps_above: it helps if the interval's lower end is above this.
        hurts_below: it hurts if the interval's upper end is below this.
        notable: the least difference that matters: if neither holds, larger ones are excluded where the interval's
            upper end is below this.
    """

    question: str
    arm: str
    than: str
    helps_above: float
    hurts_below: float
    notable: float


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    arm: str
    task: str
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}/{self.task}/{self.seed}"

    def run_dir(self, runs: Path) -> Path:
        return runs / self.arm / self.task / f"seed_{self.seed}"


@dataclass(frozen=True)
class Study:
    """A protocol.

    Attributes:
        frozen: whether it is final: the report of a draft gives no answer.
        first_seed: the first of consecutive seeds, by default 1.
        overrides: of all runs.
        file: its file.
        content: its content, as plain values.
    """

    name: str
    frozen: bool
    overrides: list[str]
    arms: Mapping[str, Arm]
    tasks: Mapping[str, Task]
    comparisons: list[Comparison]
    file: Path
    content: Mapping[str, Any]
    first_seed: int = 1

    @property
    def jobs(self) -> Iterator[Job]:
        """All runs, ordered by seed, so that an incomplete study has runs of every arm and task."""
        for number in range(max(arm.seeds for arm in self.arms.values())):
            for task in self.tasks:
                having = (name for name, arm in self.arms.items() if number < arm.seeds)
                yield from (Job(name, task, self.first_seed + number) for name in having)

    @property
    def runs(self) -> Path:
        """The folder of the runs."""
        return Path("runs") / self.name

    @property
    def kept(self) -> Path:
        """The folder of the stored evaluations, in the repository."""
        return self.file.parent / "runs"

    def overrides_of(self, job: Job) -> list[str]:
        """The command line of a run."""
        own = [f"task={job.task}", f"seed={job.seed}", f"run_dir={job.run_dir(self.runs)}", "resume=true"]
        return [*self.overrides, *self.arms[job.arm].overrides, *self.tasks[job.task].overrides, *own]

    def check_folder(self, folder: Path) -> None:
        """Refuses a folder that holds runs of another protocol.

        Raises:
            StudyError: naming the differences.
        """
        if not (folder / PROTOCOL).exists():
            if folder.is_dir() and any(path.is_dir() for path in folder.iterdir()):
                raise StudyError(f"{folder} holds runs but no {PROTOCOL}: put it back, or move them away")
            return
        try:
            other = read_yaml(folder / PROTOCOL)
        except (OSError, UnusableYaml) as error:
            raise StudyError(
                f"{folder / PROTOCOL} can't be read ({error}): put it back, or move {folder} away"
            ) from error
        if different := differences(self.content, other):
            told = "; ".join(f"{name}={new} (there {old})" for name, (new, old) in different.items())
            raise StudyError(
                f"{folder} holds runs of another protocol: {told}. Put {self.file} back to that, or move the folder "
                f"away"
            )

    def claim(self, folder: Path) -> None:
        """Records in a folder the protocol of its runs; refuses a folder with another protocol."""
        self.check_folder(folder)
        if not (folder / PROTOCOL).exists():
            write_atomically(folder / PROTOCOL, OmegaConf.to_yaml(OmegaConf.create(dict(self.content))).encode())


def read_study(file: Path) -> Study:
    """The study that a file describes.

    Raises:
        StudyError: naming what is wrong with it.
    """
    try:
        content = read_yaml(file)
        return Study(**checked(content), file=file, content=content)
    except (OSError, UnusableYaml, ValueError) as error:
        raise StudyError(f"{file}: {error}") from error


def checked(content: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Study` in a file's content."""
    names = {field.name for field in fields(Study)} - {"file", "content"}
    for name in content:
        look_up("entry", name, dict.fromkeys(names))
    for name in sorted(names - {"first_seed"}):
        if name not in content:
            raise ValueError(f"it has no entry {name}")
    arms = {name: made(Arm, f"arms.{name}", each) for name, each in mapping("arms", content["arms"]).items()}
    tasks = {name: made(Task, f"tasks.{name}", each) for name, each in mapping("tasks", content["tasks"]).items()}
    if not isinstance(content["comparisons"], list):
        raise ValueError(f"comparisons must be a list, not {content['comparisons']!r}")
    comparisons = [made(Comparison, "comparisons", each) for each in content["comparisons"]]
    for comparison in comparisons:
        look_up("arm", comparison.arm, arms)
        look_up("arm", comparison.than, arms)
    for name in (content["name"], *arms, *tasks):
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise ValueError(f"{name!r} becomes a folder: write it with letters, digits, _, - and .")
    for name, task in tasks.items():
        if not task.best > task.random:
            raise ValueError(f"tasks.{name}: best={task.best:g} must be above random={task.random:g}")
    return {
        "name": content["name"],
        "frozen": typed(bool, "frozen", content["frozen"]),
        "first_seed": typed(int, "first_seed", content.get("first_seed", 1)),
        "overrides": typed(list[str], "overrides", content["overrides"]),
        "arms": arms,
        "tasks": tasks,
        "comparisons": comparisons,
    }


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not (isinstance(value, dict) and value):
        raise ValueError(f"{name} must be a mapping of at least one name, not {value!r}")
    return value


def made(kind: type[T], name: str, values: Any) -> T:
    """Builds a dataclass from the values at `name`."""
    hints = get_type_hints(kind)
    values = mapping(name, values)
    for key in values:
        look_up(f"entry of {name}", key, hints)
    if missing := [key for key in hints if key not in values and key != "overrides"]:
        raise ValueError(f"{name} has no {' and no '.join(missing)}")
    return kind(**{key: typed(hint, f"{name}.{key}", values.get(key, [])) for key, hint in hints.items()})


def typed(kind: Any, name: str, value: Any) -> Any:
    """A value of an entry: a whole number from 1 on, a finite number, a text, a switch or a list of overrides."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int and number and isinstance(value, int) and value >= 1:
        return value
    if kind is float and number and isfinite(value):
        return float(value)
    if (kind is str and isinstance(value, str)) or (kind is bool and isinstance(value, bool)):
        return value
    if kind == list[str] and isinstance(value, list) and all(isinstance(each, str) and "=" in each for each in value):
        if own := [each for each in value if each.partition("=")[0].lstrip("+") in OWN]:
            raise ValueError(f"{name}: {own[0]} is for the study itself to say; leave it out")
        return value
    wanted = {int: "a whole number from 1 on", float: "a finite number", str: "a text", bool: "true or false"}
    raise ValueError(f"{name} must be {wanted.get(kind, 'a list of overrides, KEY=VALUE')}, not {value!r}")
