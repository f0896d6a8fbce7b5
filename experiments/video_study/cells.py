"""The study's measurements: one JSON file for each cell, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from itertools import product
from math import isfinite, isinf, nan
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rlrep import OBJECTIVES
from rlrep.experiments.results.runs import Array
from rlrep.experiments.video_study.jobs import GIVEN_ACTIONS, VARIANTS

METHODS = {
    "oracle": "oracle state",
    "supervised": "labels of the state",
    "inverse_model": "ACRO (actions)",
    "temporal_contrastive": "contrastive",
    "forward_model": "forward model",
    "autoencoder": "autoencoder",
    "vq_autoencoder": "VQ autoencoder",
    "random": "random encoder",
}
CORE_METHODS = tuple(method for method in METHODS if method != "vq_autoencoder")
METHODS |= {name: objective.__name__ for name, objective in OBJECTIVES.items() if name not in METHODS}
METHODS |= {
    "spr_actions": "SPR (actions)",
    "taco_alone": "TACO without CURL",
    "curved_ahead": "Curved without the past",
}
NOISES = {"none": "no noise", "iid": "iid noise", "exogenous": "exogenous noise"}
ORDER = {"method": [*METHODS], "noise": [*NOISES, "persistence"]}
DOMAINS = {
    "gridworld": "Grid world",
    "vizdoom_basic": "ViZDoom Basic",
    "vizdoom_defend_the_center": "ViZDoom Defend the Center",
    "lock": "Combination lock",
}
SWEEPS = ("core", "size", "persistence")
FIELD = ("tuning", "field", "arrow", "recordings", "labels", "temperature", "transfer")
STUDIES = (*SWEEPS, "phase", *FIELD)
PROBED = ("phase", "tuning", "field", "arrow", "recordings", "labels", "temperature")  # whose cells may have no returns
ADVICE = "move it away and run the study again"


def reads(method: str) -> str:
    """What a method learns from, in words."""
    known = {"random": "nothing", "supervised": "labels of the state", "supremix": "rewards"}
    known |= dict.fromkeys(("bisimulation", "latent_model"), "actions and rewards")
    kind = OBJECTIVES.get(VARIANTS.get(method, method))
    if method in known or kind is None:
        return known.get(method, "labels of the state")
    if kind.needs_background:
        return "video and its background"
    return "actions" if kind.needs_actions or method in GIVEN_ACTIONS else "video"


def state_unit(domain: str) -> str:
    """The unit of `Cell.state_linear` and `state_mlp` in a domain."""
    return "accuracy" if domain == "gridworld" else "R²"


@dataclass(frozen=True)
class Cell:
    """An encoder pre-trained, probed and used by PPO. Measures that do not apply (no noise, no decoder) are nan.

    Returns are means over episodes; `state_*` are accuracies in [0, 1], in ViZDoom R² like `noise_*`; `reconstruction`
    is a mean squared error; `coverage` is the share of pixels under noise, `size` a shape's share of the image's side.
    `criteria` and `code` are digests of the criteria and the code that the cell was made with; `made` is the time, in
    ISO format. `layout` is the map, or which recordings are labelled; `returns` has one return for each PPO on the
    encoder; `final_return` is their mean.
    `state_head` is the linear probe of the layer behind the features that the method's loss reads. `updates` is the
    length of the training, 0 for the domain's own; `predictor` was computed before it, see `predictor.py`. Cells of the
    phase diagram have returns on a cross-section only. `uniformity_head` and `tolerance_head` are for the layer of
    `state_head`. `labels`, `temperature`, `lr`, `unseen`, `drift`, `random_actions` and `mixed` are those of the
    job.
    `held_out_loss` is the least validation loss of the pre-training. `cloned_N` is the return of behaviour cloning from
    N demonstrations. `diverged` is the number of updates after which the loss was not a number: the
    encoder is then that of the best validation before.
    """

    domain: str
    study: str
    method: str
    noise: str
    persistence: float
    num_shapes: int
    size: float
    coverage: float
    seed: int
    final_return: float = nan
    random_return: float = nan
    state_linear: float = nan
    state_mlp: float = nan
    state_chance: float = nan
    noise_linear: float = nan
    noise_mlp: float = nan
    reconstruction: float = nan
    alignment: float = nan
    uniformity: float = nan
    effective_rank: float = nan
    updates_per_second: float = nan
    pretrain_seconds: float = nan
    ppo_seconds: float = nan
    curve: tuple[tuple[float, float], ...] = ()
    pictures: Path | None = None
    machine: str = ""
    criteria: str = ""
    code: str = ""
    made: str = ""
    layout: int = 0
    returns: tuple[float, ...] = ()
    state_head: float = nan
    updates: int = 0
    predictor: float = nan
    uniformity_head: float = nan
    tolerance_head: float = nan
    diverged: float = nan
    labels: float = nan
    temperature: float = nan
    lr: float = nan
    held_out_loss: float = nan
    drift: bool = False
    random_actions: bool = False
    mixed: bool = False
    unseen: str = ""
    cloned_4: float = nan
    cloned_16: float = nan
    cloned_64: float = nan

    @property
    def gain(self) -> float:
        """The return above the random policy's."""
        return self.final_return - self.random_return


@dataclass(frozen=True)
class LockCell:
    """Tabular learning on a frozen encoder. If unsolved, `episodes_to_solve` is only known to exceed `max_episodes`.

    Of two locks that differ in which factor is controlled, this is the one that took longer; `..._other` is the other.
    """

    method: str
    horizon: int
    seed: int
    episodes_to_solve: int
    solved: bool
    max_episodes: int
    episodes_to_solve_other: float = nan
    controlled_accuracy: float = nan
    exogenous_accuracy: float = nan
    codes: int = 2
    domain: str = "lock"
    study: str = "lock"
    machine: str = ""
    criteria: str = ""
    code: str = ""
    made: str = ""

    @property
    def episodes(self) -> int:
        """Episodes to solve, or the lower bound on them."""
        return self.episodes_to_solve if self.solved else self.max_episodes


AnyCell = TypeVar("AnyCell", Cell, LockCell)


@dataclass(frozen=True)
class Results:
    """The cells that were read. `lock` has those with two codes, as in the lower bound; `codes` has the others."""

    cells: list[Cell]
    lock: list[LockCell]
    codes: list[LockCell] = field(default_factory=list)

    @property
    def every(self) -> list[Cell | LockCell]:
        return [*self.cells, *self.lock, *self.codes]

    @property
    def domains(self) -> list[str]:
        """The domains of the reinforcement learning cells, in the report's order."""
        return [domain for domain in DOMAINS if select(self.cells, domain=domain)]


def read_results(folder: Path) -> Results:
    """All cells of `folder/cells/*.json`.

    Raises:
        ValueError: if there is none, or one is not a cell of the study; the message names the file.
    """
    paths = sorted((folder / "cells").glob("*.json"))
    if not paths:
        raise ValueError(
            f"{folder / 'cells'} has no cells (*.json): run `python -m rlrep.experiments.video_theory` first"
        )
    found = [read_cell(path, folder) for path in paths]
    locks = [c for c in found if isinstance(c, LockCell)]
    cells = [c for c in found if isinstance(c, Cell)]
    return Results(cells, [c for c in locks if c.study == "lock"], [c for c in locks if c.study == "codes"])


def read_content(path: Path) -> dict[str, Any]:
    """Raises ValueError if the file holds no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {ADVICE}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}: {ADVICE}")
    return content


def read_cell(path: Path, folder: Path) -> Cell | LockCell:
    """Raises ValueError if the file is no cell; `pictures` is a path relative to `folder`."""
    content = read_content(path)
    content["final_return"] = content.pop("return", None)
    kind = LockCell if content.get("domain") == "lock" else Cell
    known = {f.name for f in fields(kind)}
    values: dict[str, Any] = {name: value for name, value in content.items() if name in known and value is not None}
    if "pictures" in values:
        values["pictures"] = folder / values["pictures"]
    try:
        if "returns" in values:
            values["returns"] = tuple(map(float, values["returns"]))
        if "curve" in values:
            values["curve"] = tuple((float(steps), float(value)) for steps, value in values["curve"])
        cell = kind(**values)
        check(cell)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no cell of the study ({error}): {ADVICE}") from error
    return cell


def check(cell: Cell | LockCell) -> None:
    """Raises ValueError for a name that the study does not know or a result that is not a number."""
    names: dict[str, Iterable[str]] = {"method": METHODS, "domain": DOMAINS}
    if isinstance(cell, Cell):
        names |= {"study": STUDIES, "noise": (*NOISES, "persistence")}
    else:
        names |= {"study": ("lock", "codes")}
    for key, allowed in names.items():
        if getattr(cell, key) not in allowed:
            raise ValueError(f"{key} is {getattr(cell, key)!r}, expected one of {', '.join(allowed)}")
    results: tuple[str, ...] = ("final_return", "random_return", "coverage")
    if isinstance(cell, LockCell):
        results = ("episodes",)
    elif cell.study in PROBED:
        results = ("state_linear", "coverage")
    for key in results:
        value = getattr(cell, key)
        if not isinstance(value, int | float) or not isfinite(value):
            raise ValueError(f"{key} is {value!r}, expected a number")
    if cell.made:
        datetime.fromisoformat(cell.made)
    for name in (each.name for each in fields(cell)):  # what does not apply is null in the file, and nan here
        value = getattr(cell, name)
        if isinstance(value, float) and isinf(value):
            raise ValueError(f"{name} is {value!r}, expected a number")
    if isinstance(cell, LockCell) and min(cell.episodes, cell.horizon) < 1:
        raise ValueError(f"{cell.episodes} episodes at horizon {cell.horizon}: both must be at least 1")


def select(cells: Iterable[AnyCell], **wanted: object) -> list[AnyCell]:
    """The cells whose fields equal those given."""
    return [cell for cell in cells if all(getattr(cell, name) == value for name, value in wanted.items())]


def values(cells: Iterable[Cell | LockCell], measure: str) -> Array:
    """(cells,) one measure, of each cell that has it."""
    found = np.array([getattr(cell, measure) for cell in cells], dtype=float)
    return found[np.isfinite(found)]


def core(results: Results, domain: str, **wanted: object) -> list[Cell]:
    return select(results.cells, domain=domain, study="core", **wanted)


def sweep(results: Results, domain: str, study: str, **wanted: object) -> list[Cell]:
    """The cells of a sweep, and the cells of the core that are points of it; each seed has each point once.

    In the persistence sweep the core's iid noise is ρ = 0 and its exogenous noise ρ = 1, if the shapes are the same.
    """
    swept = select(results.cells, domain=domain, study=study)
    if study == "persistence":
        shapes = {(c.num_shapes, c.size) for c in swept}
        ends = [c for c in core(results, domain) if c.noise != "none" and (c.num_shapes, c.size) in shapes]
    else:
        ends = [c for c in core(results, domain) if c.noise in {s.noise for s in swept}]
    ends = [c for c in ends if c.method in {s.method for s in swept}]
    points = {(c.method, c.noise if study == "size" else "", *point(c), c.seed): c for c in (*ends, *swept)}
    return select(points.values(), **wanted)


def point(cell: Cell) -> tuple[float, int, float]:
    return cell.persistence, cell.num_shapes, cell.size


def by_setting(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Seeds of one setting of the noise together."""
    groups: dict[tuple[bool, float, int, float], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.noise == "none", *point(cell)), []).append(cell)
    return list(groups.values())


def grouped(cells: Iterable[AnyCell], *names: str) -> dict[tuple[Any, ...], list[AnyCell]]:
    """Cells grouped by the values of fields, in order: methods and noises in the report's."""
    groups: dict[tuple[Any, ...], list[AnyCell]] = {}
    for cell in cells:
        groups.setdefault(tuple(getattr(cell, name) for name in names), []).append(cell)

    def place(key: tuple[Any, ...]) -> list[Any]:
        return [ORDER[name].index(value) if name in ORDER else value for name, value in zip(names, key, strict=True)]

    return {key: groups[key] for key in sorted(groups, key=place)}


def by(cells: Iterable[AnyCell], name: str) -> dict[Any, list[AnyCell]]:
    """Cells grouped by one field."""
    return {key: own for (key,), own in grouped(cells, name).items()}


def oracle(results: Results, domain: str, noise: str) -> list[Cell]:
    """The oracle's cells under this noise. If it ran only without noise, those, as it sees the state itself."""
    return core(results, domain, method="oracle", noise=noise) or core(results, domain, method="oracle", noise="none")


def missing(results: Results) -> list[str]:
    """The cells that the studies in a folder lack of whole ones, one line each; a study without any is left out."""
    lines = []
    for domain, study in product(results.domains, SWEEPS):
        cells = select(results.cells, domain=domain, study=study)
        # Under iid noise, sizes are swept for some methods only.
        for own in by(cells, "noise").values() if study == "size" else [cells]:
            lines += absent(f"{DOMAINS[domain]}, {study}", [(c.method, condition(c), c.seed) for c in own])
    return lines + absent(DOMAINS["lock"], [(c.method, f"H = {c.horizon}", c.seed) for c in results.lock])


def condition(cell: Cell) -> str:
    """What a study varies besides method and seed, in words."""
    noise = f"ρ = {cell.persistence:g}" if cell.noise == "persistence" else NOISES[cell.noise]
    own = [f"{cell.num_shapes} shapes of size {cell.size:g}"] * (cell.study in ("size", "phase"))
    own += [f"{cell.labels:,.0f} labels"] * isfinite(cell.labels)
    own += [f"τ = {cell.temperature:g}"] * isfinite(cell.temperature) + [f"step size {cell.lr:g}"] * isfinite(cell.lr)
    own += ["drifting"] * cell.drift + ["random actions"] * cell.random_actions + ["two noises"] * cell.mixed
    return ", ".join([noise, *own])


def absent(name: str, found: Sequence[tuple[str, str, int]]) -> list[str]:
    """The seeds that were run for others but not for a method at a condition; `found`: (method, condition, seed).

    The oracle sees no noise, so it need not be run under each noise.
    """
    seeds, conditions = {seed for *_, seed in found}, {where for method, where, _ in found if method != "oracle"}
    lines = []
    for method in (m for m in METHODS if m in {cell[0] for cell in found}):
        own = {where for m, where, _ in found if m == method}
        for where in sorted(own if method == "oracle" else conditions):
            if lost := sorted(seeds - {seed for m, c, seed in found if (m, c) == (method, where)}):
                lines.append(f"{name}: {METHODS[method]}, {where}: seed {', '.join(map(str, lost))}")
    return lines


def rows(results: Results) -> list[dict[str, object]]:
    """A flat row for each cell, without its curve and pictures, under the names of the JSON files; the returns of its
    PPO runs are one field, with spaces between them.
    """
    table: list[dict[str, object]] = []
    for cell in results.every:
        row = {name: value for name, value in asdict(cell).items() if name not in ("curve", "pictures")}
        if "returns" in row:
            row["returns"] = " ".join(map(str, row["returns"]))
        renamed = {("return" if name == "final_return" else name): value for name, value in row.items()}
        table.append(renamed)
    return table
