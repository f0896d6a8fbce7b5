"""The criteria of the verdicts: a file, the commit that froze it, and whether a cell was made after that."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rlrep.experiments.files import git
from rlrep.experiments.results.statistics import FEWEST
from rlrep.experiments.video_study.cells import DOMAINS, METHODS, NOISES, Cell, LockCell
from rlrep.experiments.video_study.jobs import LENGTHS
from rlrep.experiments.yaml_files import built, read_yaml
from rlrep.registry import look_up

S = TypeVar("S", bound="OverSeeds")
FOLDER = Path(__file__).parents[1] / "reports" / "theory"
FILE = FOLDER / "criteria.yaml"
# The criteria over seeds that name methods or noises.
ROLES = {
    "method": (
        *("floor", "ceiling", "oracle", "reference", "method", "methods", "without"),
        *("baseline", "baselines", "beside", "keep", "lose"),
    ),
    "noise": ("noise", "noises"),
}


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A file of criteria.

    Attributes:
        name: the file's.
        content: the file's, as plain values.
        digest: of the file, 12 hexadecimal digits of SHA-256.
        frozen: when the last commit changed it; None if it has changed since, or without git's history.
        commit: that commit.
    """

    name: str = FILE.name
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)
    digest: str = ""
    frozen: datetime | None = None
    commit: str = ""

    @property
    def source(self) -> str:
        """The file, its hash and the commit that froze it, in a sentence."""
        if self.frozen is None:
            when = "not frozen: no commit holds it as it is, or git's full history is missing"
        else:
            when = f"frozen by commit {self.commit} on {self.frozen:%Y-%m-%d %H:%M %z}"
        return f"The criteria are in experiments/reports/theory/{self.name} (SHA-256 {self.digest}…), {when}."

    def exploratory(self, cell: Cell | LockCell) -> str:
        """Why a cell is no test of the criteria, if so: they were not fixed before it was made."""
        if not cell.made:
            return "made before cells noted their date"
        if self.frozen is None:
            return "the criteria are not frozen"
        if datetime.fromisoformat(cell.made) < self.frozen:
            return "made before the criteria were frozen"
        return ""


ORIGIN = {each.name for each in fields(Frozen)}


@dataclass(frozen=True)
class Iid:
    """P1: under which noise which methods recover the state and serve reinforcement learning."""

    noise: str
    methods: Sequence[str]


@dataclass(frozen=True)
class Exogenous:
    """P2: under which noise; which method fails first, which next as it covers more, which stays; test thresholds."""

    noise: str
    first: str
    then: str
    stays: str
    difference: float
    slope: float


@dataclass(frozen=True)
class Drawn:
    """P3: which methods fall under which noises, and from which share of covered pixels on."""

    noises: Sequence[str]
    methods: Sequence[str]
    dominates: float


@dataclass(frozen=True)
class Growths:
    """P4: for which methods episodes grow exponentially or polynomially; thresholds of rate, degree and AIC."""

    video: Sequence[str]
    labelled: Sequence[str]
    rate: float
    degree: float
    aic: float


@dataclass(frozen=True)
class Phases:
    """P5: the settings of the diagram, its methods, the ends of their scale, and thresholds of the tests."""

    sizes: Sequence[float]
    persistences: Sequence[float]
    updates: Sequence[int]
    methods: Sequence[str]
    floor: str
    ceiling: str
    correlation: float
    seeds: int
    forward_ahead: Sequence[float]
    contrast_ahead: Sequence[float]
    difference: float
    gained: float


@dataclass(frozen=True)
class OverSeeds(Frozen):
    """A file that says which seeds are judged, and at which level."""

    file: ClassVar[Path]
    seeds: Sequence[int]
    level: float

    @property
    def span(self) -> str:
        return f"seeds {self.seeds[0]} to {self.seeds[-1]}"


@dataclass(frozen=True)
class Survival(OverSeeds):
    """The content of the field's file, see its comments, and its origin."""

    file: ClassVar = FOLDER / "field_criteria.yaml"
    noises: Sequence[str]
    floor: str
    ceiling: str
    keeps: float
    worse: float
    baseline: str


@dataclass(frozen=True)
class Arrow(OverSeeds):
    """The content of the file about the arrow of time, see its comments, and its origin."""

    file: ClassVar = FOLDER / "arrow_criteria.yaml"
    floor: str
    ceiling: str
    method: str
    without: str
    falls: float


@dataclass(frozen=True)
class FewLabels(OverSeeds):
    """The content of the file about few action labels, see its comments, and its origin."""

    file: ClassVar = FOLDER / "labels_criteria.yaml"
    floor: str
    reference: str
    keeps: float
    beside: Sequence[str]


@dataclass(frozen=True)
class Served(OverSeeds):
    """The content of the file about PPO on the encoders of one method, see its comments, and its origin."""

    file: ClassVar = FOLDER / "core_criteria.yaml"
    noise: str
    method: str
    ceiling: str
    serves: float
    baseline: str


@dataclass(frozen=True)
class Replicated(OverSeeds):
    """The content of the file about the main results on other maps, see its comments, and its origin."""

    file: ClassVar = FOLDER / "replication_criteria.yaml"
    noise: str
    floor: str
    ceiling: str
    keeps: float
    keep: Sequence[str]
    lose: Sequence[str]
    oracle: str
    method: str
    serves: float
    baselines: Sequence[str]


@dataclass(frozen=True)
class Longer(OverSeeds):
    """The content of the file about one method after longer training, see its comments, and its origin."""

    file: ClassVar = FOLDER / "longer_criteria.yaml"
    method: str
    updates: int
    size: float
    persistence: float
    keeps: float
    baseline: str


@dataclass(frozen=True)
class Tempered(OverSeeds):
    """The content of the file about temperatures, see its comments, and its origin."""

    file: ClassVar = FOLDER / "temperature_criteria.yaml"
    noise: str
    methods: Sequence[str]
    floor: str
    ceiling: str
    keeps: float


@dataclass(frozen=True)
class Transferred(OverSeeds):
    """The content of the file about unseen noise, see its comments, and its origin."""

    file: ClassVar = FOLDER / "transfer_criteria.yaml"
    noise: str
    methods: Sequence[str]
    ceiling: str
    serves: float
    baseline: str


@dataclass(frozen=True)
class ManyCodes(OverSeeds):
    """The content of the file about the lock's encoders of more codes, see its comments, and its origin."""

    file: ClassVar = FOLDER / "codes_criteria.yaml"
    methods: Sequence[str]
    codes: int
    degree: float
    aic: float


@dataclass(frozen=True)
class Recorded(OverSeeds):
    """The content of the file about recordings that differ in their noise, see its comments, and its origin."""

    file: ClassVar = FOLDER / "recordings_criteria.yaml"
    floor: str
    ceiling: str
    method: str
    baseline: str
    keeps: float


@dataclass(frozen=True)
class LatentActions(OverSeeds):
    """The content of the file about latent actions in the lock, see its comments, and its origin."""

    file: ClassVar = FOLDER / "latent_criteria.yaml"
    methods: Sequence[str]
    rate: float
    aic: float


@dataclass(frozen=True)
class Criteria(Frozen):
    """The content of the file, see its comments, and its origin."""

    level: float
    seeds: int
    ceiling: Mapping[str, str]
    keeps: float
    reference: str
    probe_margin: float
    coverage: Mapping[str, Sequence[float]]
    persistence: Mapping[str, Sequence[float]]
    P1: Iid
    P2: Exogenous
    P3: Drawn
    P4: Growths
    P5: Phases

    def exploratory(self, cell: Cell | LockCell) -> str:
        """The same; a cell also notes the file that it was made under."""
        if not (cell.criteria and cell.made):
            return "made before cells noted their criteria"
        if cell.criteria != self.digest:
            return f"made under other criteria ({cell.criteria})"
        return super().exploratory(cell)


@lru_cache
def read_criteria(path: Path = FILE) -> Criteria:
    """Raises ValueError for a file with a missing, extra or unknown name or number."""
    with only_usable(path):
        values = dict(read_yaml(path))
        for name, kind in {"P1": Iid, "P2": Exogenous, "P3": Drawn, "P4": Growths, "P5": Phases}.items():
            values[name] = built(kind, values.get(name), f"{name}.")
        criteria = built(Criteria, values, own=ORIGIN)
        check(criteria)
    return replace(criteria, **provenance(path))


@lru_cache
def read(kind: type[S]) -> S:
    """The criteria of a kind, from its file."""
    return read_over_seeds(kind, kind.file)


def read_over_seeds(kind: type[S], path: Path) -> S:
    """Raises ValueError for a missing, extra or unknown name or number, for too few seeds for an interval, and for a
    level that is no probability.
    """
    with only_usable(path):
        criteria = built(kind, read_yaml(path), own=ORIGIN)
        for what, known in (("method", METHODS), ("noise", NOISES)):
            for role in ROLES[what]:
                named = getattr(criteria, role, ())
                for name in (named,) if isinstance(named, str) else named:
                    look_up(what, name, known)
        if len(criteria.seeds) < FEWEST:
            raise ValueError(f"seeds must be at least {FEWEST}, as fewer have no interval, got {criteria.seeds}")
        if not 0 < criteria.level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {criteria.level}")
    return replace(criteria, **provenance(path))


@contextmanager
def only_usable(path: Path) -> Iterator[None]:
    """Says which file of criteria can't be used."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be used ({error}): restore the committed version") from error


def provenance(path: Path) -> dict[str, Any]:
    """The values of `Frozen`."""
    frozen, commit = last_commit(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return dict(name=path.name, content=read_yaml(path), digest=digest, frozen=frozen, commit=commit)


def check(criteria: Criteria) -> None:
    """Raises ValueError for names that the study does not know, and for numbers that decide nothing."""
    if missing := sorted(DOMAINS.keys() - {"lock"} - criteria.ceiling.keys()):
        raise ValueError(f"ceiling.{missing[0]} is missing")
    for domain in (*criteria.ceiling, *criteria.coverage, *criteria.persistence):
        look_up("domain", domain, DOMAINS)
    p1, p2, p3, p4, p5 = criteria.P1, criteria.P2, criteria.P3, criteria.P4, criteria.P5
    roles = (criteria.reference, p2.first, p2.then, p2.stays, p5.floor, p5.ceiling, *criteria.ceiling.values())
    for method in (*roles, *p1.methods, *p3.methods, *p4.video, *p4.labelled, *p5.methods):
        look_up("method", method, METHODS)
    for noise in (p1.noise, p2.noise, *p3.noises):
        look_up("noise", noise, NOISES)
    for name in ("level", "keeps"):
        if not 0 < getattr(criteria, name) < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {getattr(criteria, name)}")
    for points in (*criteria.coverage.values(), *criteria.persistence.values(), p5.sizes, p5.persistences, p5.updates):
        if not isinstance(points, list) or len(points) < 2 or points != sorted(points):
            raise ValueError(f"a sweep needs at least two numbers in their order, got {points}")
    for place in (p5.forward_ahead, p5.contrast_ahead):
        if not (isinstance(place, list) and len(place) == 2 and place[0] in p5.sizes and place[1] in p5.persistences):
            raise ValueError(f"{place} is no [size, persistence] of the diagram")
    if foreign := sorted(set(p5.updates) - set(LENGTHS)):
        raise ValueError(
            f"no training is measured after {foreign[0]} updates, only after {', '.join(map(str, LENGTHS))}"
        )
    if min(criteria.seeds, p5.seeds) < 2:
        raise ValueError(f"seeds must be at least 2, as one has no spread, got {min(criteria.seeds, p5.seeds)}")


def last_commit(path: Path) -> tuple[datetime | None, str]:
    """When the file was committed as it is now, and in which commit; (None, "") if that is unknown."""
    folder, name = path.parent, path.name
    try:
        # In a shallow clone, every file seems to date from its oldest commit.
        whole = git(folder, "rev-parse", "--is-shallow-repository") == "false"
        if not whole or git(folder, "status", "--porcelain", "--", name):
            return None, ""
        date, _, commit = git(folder, "log", "-1", "--format=%cI %h", "--", name).partition(" ")
        return (datetime.fromisoformat(date.replace("Z", "+00:00")), commit) if date else (None, "")
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None, ""
