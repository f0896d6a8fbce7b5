"""The findings of a study's finished runs: differences between arms, and answers by the protocol's criteria.

A run's score is the area under its evaluation curve, 0 for the random policy or less, and 1 for the best published
return. A run that diverged scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

from rlrep.experiments.long_study.protocol import Comparison, Study
from rlrep.experiments.long_study.records import ENDED, FINISHED, Record, strangers
from rlrep.experiments.results.runs import Array
from rlrep.experiments.results.statistics import Estimate, contrast, effects_needed, improvement, improvement_by_chance

FOUND = 0.8  # of the tries: the design "finds" an effect that is detected in this share
EXAMPLE = 0.25  # of the mean: the effect whose power is reported
ENOUGH_SEEDS = 2  # of each arm and task, for an interval


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        difference: of the means over tasks of the scores, with an interval stratified by task.
        by_task: the same on each task.
        level: the mean over tasks of the arm that is compared with.
        better: the probability that a run of `arm` beats one of `than`, and its range by chance.
        detectable: the difference that such runs detect in 80 of 100 tries; nan if unknown.
    """

    comparison: Comparison
    difference: Estimate
    by_task: dict[str, Estimate]
    level: float
    better: Estimate
    chance: tuple[float, float]
    detectable: float

    @property
    def answer(self) -> str:
        """The answer in one sentence."""
        c, found = self.comparison, self.difference
        effect = f"is {found.text(3)}"
        if found.low > c.helps_above:
            verdict, effect = f"yes: {c.arm} scores higher than {c.than}", f"by {found.text(3)}"
        elif found.high < c.hurts_below:
            lower = Estimate(-found.value, -found.high, -found.low)
            verdict, effect = f"no, it hurts: {c.arm} scores lower than {c.than}", f"by {lower.text(3)}"
        elif found.high < c.notable:
            verdict = f"no gain of {c.notable:g} or more: {c.arm} less {c.than}"
        else:
            verdict = f"undecided: {c.arm} less {c.than}"
        tasks = f"{len(self.by_task)} tasks" if len(self.by_task) > 1 else "one task"
        return f"{c.question} {verdict} {effect} over {tasks}; {self.limit}"

    @property
    def limit(self) -> str:
        if isnan(self.detectable):
            return "what such runs could have found is not known."
        share = self.percent(self.detectable)
        return f"such runs find a difference of {self.detectable:.3f}{share} in {FOUND * 100:.0f} of 100 tries."

    def percent(self, difference: float) -> str:
        return f" ({100 * difference / self.level:+.0f} %)" if self.level > 0 else ""


def scores_of(study: Study, records: Sequence[Record], arm: str) -> list[Array]:
    """The scores of an arm's runs that have finished or diverged, (runs,) for each task."""
    ended = [record for record in records if record.state in ENDED and record.job.arm == arm]
    return [np.array([r.score(study) for r in ended if r.job.task == task]) for task in study.tasks]


def compare(study: Study, records: Sequence[Record], comparison: Comparison) -> Finding:
    """Two arms that have runs on every task."""
    ours, theirs = (scores_of(study, records, arm) for arm in (comparison.arm, comparison.than))
    tasks = len(study.tasks)
    terms = [(1 / tasks, x) for x in ours] + [(-1 / tasks, y) for y in theirs]
    detectable = nan
    if all(len(x) >= ENOUGH_SEEDS for _, x in terms):
        needed = effects_needed([(share, float(x.std(ddof=1)), len(x)) for share, x in terms])
        detectable = float(np.quantile(needed, FOUND))
    by_task = {task: contrast([(1, x), (-1, y)]) for task, x, y in zip(study.tasks, ours, theirs, strict=True)}
    return Finding(
        comparison,
        contrast(terms),
        by_task,
        float(np.mean([y.mean() for y in theirs])),
        improvement(ours, theirs),
        improvement_by_chance(ours, theirs),
        detectable,
    )


def obstacles(study: Study, records: Sequence[Record]) -> list[str]:
    """The reasons why there is no answer yet."""
    found = [] if study.frozen else ["the protocol is a draft (frozen: false)"]
    if not study.comparisons:
        found.append("the protocol compares nothing (comparisons: [])")
    if missing := sum(record.state not in ENDED for record in records):
        found.append(f"incomplete: {missing} of {len(records)} runs have not finished")
    finished = [record for record in records if record.run is not None]
    if changed := [str(r.job) for r in finished if "+changes" in r.commit or "unknown" in r.commit]:
        found.append(f"runs of changes in no commit, or outside of git: {', '.join(changed)}")
    if len(commits := {record.commit for record in finished}) > 1:
        found.append(f"runs of {len(commits)} commits ({', '.join(sorted(commits))})")
    if len({tuple(record.run.frames) for record in finished if record.run is not None}) > 1:
        found.append("runs were not all evaluated at the same frames")
    for arm in study.arms:
        for task in study.tasks:
            hashes = {r.config for r in records if r.state == FINISHED and (r.job.arm, r.job.task) == (arm, task)}
            if len(hashes) > 1:
                found.append(f"{arm} on {task} has runs of {len(hashes)} configurations ({', '.join(sorted(hashes))})")
    if unknown := strangers(study):
        found.append(f"{study.kept} holds runs that the protocol does not have: {', '.join(map(str, unknown))}")
    return found


def power_text(study: Study, spreads: Sequence[float], level: float | None = None) -> str:
    """The effect that the design finds for given spreads over seeds, a line for each comparison.

    Args:
        spreads: standard deviation of the score over seeds: one per task, or one for all.
        level: the mean score of the arm that is compared with, for effects in percent.
    """
    tasks = list(study.tasks)
    if len(spreads) not in (1, len(tasks)) or not all(0 < spread < np.inf for spread in spreads):
        raise ValueError(f"--power needs a spread above 0 for all tasks, or one for each of {', '.join(tasks)}")
    if level is not None and not 0 < level < np.inf:
        raise ValueError(f"--level must be a score above 0, not {level:g}")
    lines = []
    for c in study.comparisons:
        seeds = study.arms[c.arm].seeds, study.arms[c.than].seeds
        if min(seeds) < ENOUGH_SEEDS:
            raise ValueError(f"{c.arm} and {c.than} have {min(seeds)} seed: an interval needs {ENOUGH_SEEDS}")
        each = spreads if len(spreads) > 1 else [*spreads] * len(tasks)
        groups = [(sign / len(tasks), s, n) for sign, n in zip((1, -1), seeds, strict=True) for s in each]
        needed = effects_needed(groups)
        effect = float(np.quantile(needed, FOUND))
        line = f"{c.arm} ({seeds[0]} seeds) less {c.than} ({seeds[1]}): finds {effect:.3f} in {FOUND * 100:.0f} of 100"
        if level is not None:
            tries = 100 * float((needed <= EXAMPLE * level).mean())
            line += f", {100 * effect / level:+.0f} % of {level:g}; {100 * EXAMPLE:+.0f} % in {tries:.0f} of 100"
        lines.append(line)
    return "\n".join(lines)
