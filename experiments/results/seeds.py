"""Seeds put together: runs with the same label are one curve, their mean at each frame, and its t interval."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan

import numpy as np

from rlrep.experiments.results.runs import Array, Run, RunError, learned_differently
from rlrep.experiments.results.statistics import Means, over_seeds

log = logging.getLogger(__name__)

SHORT = 0.9  # share of the longest run of a curve: a run that ends earlier has stopped early


@dataclass(frozen=True)
class Curve:
    """The joined seeds of a group.

    Attributes:
        task: the subject, see `Run.subject`; the title of its panel.
        counted: the unit of `frames`.
        means: over the seeds that reached each frame.
        random_return: the random policy's return, if the runs have it.
    """

    task: str
    group: str
    counted: str
    frames: Array
    means: Means
    random_return: float | None = None


def align(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Curves at common points by interpolation: (points,), (curves, points), nan outside of a curve.

    Much shorter curves than the longest are ignored for the end: the points end with the shortest of the others.
    """
    ends = np.array([x[-1] for x, _ in curves])
    points = np.unique(np.concatenate([x for x, _ in curves]))
    points = points[points <= ends[ends >= SHORT * ends.max()].min()]
    return points, np.stack([np.interp(points, x, y, left=nan, right=nan) for x, y in curves])


def curve(task: str, group: str, runs: Sequence[Run]) -> Curve:
    """Joins several seeds into one curve; warns of possible errors."""
    frames, returns = align([(run.frames, run.returns) for run in runs])
    name, longest = f"{group} on {task}", max(run.frames[-1] for run in runs)
    for run in runs:
        if run.frames[-1] < SHORT * longest:
            log.warning(
                "%s: %s ends at %s of %s %s, and counts up to there only; resume it",
                name,
                run.folder,
                f"{run.frames[-1]:,.0f}",
                f"{longest:,.0f}",
                run.counted,
            )
    seeds = [run.config.get("seed") for run in runs]
    if len(set(seeds)) < len(seeds):
        log.warning("%s has a seed more than once (%s): are these runs of one kind?", name, seeds)
    mixed = {setting for run in runs[1:] for setting in learned_differently(run.config, runs[0].config)}
    if mixed:
        log.warning(
            "%s joins runs of several configurations; they differ in %s: --group KEY draws them apart",
            name,
            ", ".join(sorted(mixed)),
        )
    known = [run.random_return for run in runs if run.random_return is not None]
    return Curve(task, group, runs[0].counted, frames, over_seeds(returns), float(np.mean(known)) if known else None)


def group_runs(runs: Iterable[Run], key: str) -> list[Curve]:
    """One curve for each task and each value of the config key `key`, in the order of the runs.

    A run without that key is left out, with a warning.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        try:
            groups.setdefault((run.subject, run.label(key)), []).append(run)
        except RunError as error:
            log.warning("%s", error)
    return [curve(task, group, members) for (task, group), members in groups.items()]


def renamed(curves: Sequence[Curve], names: Mapping[str, str]) -> list[Curve]:
    """The curves under other names; each key of `names` is a group, or a unique ending of a group.

    Raises:
        RunError: if a key names no group or several.
    """
    groups = list(dict.fromkeys(c.group for c in curves))
    new = dict(zip(groups, groups, strict=True))
    for ending, name in names.items():
        meant = [g for g in groups if g == ending] or [g for g in groups if g.endswith(ending)]
        if len(meant) != 1:
            raise RunError(f"{ending} names {len(meant)} curves, expected one of {', '.join(groups)}, or its end")
        new[meant[0]] = name
    return [replace(c, group=new[c.group]) for c in curves]
