"""The protocol of a study: a file with the runs, their scores, and the criteria for answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rlrep.experiments.files import write_atomically
from rlrep.experiments.yaml_files import UnusableYaml, built, differences, read_yaml
from rlrep.registry import look_up

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
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """A task of the comparison.

    Attributes:
        random: the random policy's return, the score 0.
        best: the best published return at the study's last step, the score 1.
    """

    random: float
    best: float
    overrides: list[str] = field(default_factory=list)


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
    first_seed: int = 1
    file: Path = Path()
    content: Mapping[str, Any] = field(default_factory=dict)

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
        values = dict(content)
        for part, kind in (("arms", Arm), ("tasks", Task)):
            if not (isinstance(named := content.get(part), dict) and named):
                raise ValueError(f"{part} must be a mapping of at least one name, not {named!r}")
            values[part] = {name: built(kind, each, f"{part}.{name}.") for name, each in named.items()}
        if not isinstance(asked := content.get("comparisons"), list):
            raise ValueError(f"comparisons must be a list, not {asked!r}")
        values["comparisons"] = [built(Comparison, each, "comparisons.") for each in asked]
        study = replace(built(Study, values, own=("file", "content")), file=file, content=content)
        check(study)
    except (OSError, UnusableYaml, ValueError) as error:
        raise StudyError(f"{file}: {error}") from error
    return study


def check(study: Study) -> None:
    """Raises ValueError for names and numbers that make no study."""
    if study.first_seed < 1:
        raise ValueError(f"first_seed must be at least 1, not {study.first_seed}")
    for name, arm in study.arms.items():
        if arm.seeds < 1:
            raise ValueError(f"arms.{name}.seeds must be at least 1, not {arm.seeds}")
    for comparison in study.comparisons:
        look_up("arm", comparison.arm, study.arms)
        look_up("arm", comparison.than, study.arms)
    for name in (study.name, *study.arms, *study.tasks):
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise ValueError(f"{name!r} becomes a folder: write it with letters, digits, _, - and .")
    for name, task in study.tasks.items():
        if not task.best > task.random:
            raise ValueError(f"tasks.{name}: best={task.best:g} must be above random={task.random:g}")
    parts: tuple[Study | Arm | Task, ...] = (study, *study.arms.values(), *study.tasks.values())
    for part in parts:
        for word in part.overrides:
            name, equals, _ = word.partition("=")
            if not equals:
                raise ValueError(f"overrides: {word!r} is no override, KEY=VALUE")
            if name.lstrip("+") in OWN:
                raise ValueError(f"overrides: {word} is for the study itself to say; leave it out")
