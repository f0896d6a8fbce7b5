"""The results of finished offline runs, and the effect of an objective: scores, means, probabilities.

Returns are those of the last evaluation; scores put the random policy at 0 and the expert of the data at 100. Runs of
one agent on one data set are seeds of it; an agent with the objective is compared with the same one without.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlrep.experiments.results.runs import (
    Array,
    Config,
    RunError,
    data_name,
    find_runs,
    learned_differently,
    read_run,
    to_float,
)
from rlrep.experiments.results.statistics import (
    Estimate,
    contrast,
    improvement,
    improvement_by_chance,
    interquartile_mean,
    seed_mean,
)
from rlrep.experiments.yaml_files import value_of

log = logging.getLogger(__name__)

ALL = "all"


@dataclass(frozen=True)
class Result:
    """The result of one run.

    Attributes:
        data: task and level, such as "cheetah_run medium".
        agent: its name without the objective.
        added: whether it had the objective.
        score: 0 for the random policy, 100 for the data's expert; nan if the data do not have these returns.
    """

    folder: Path
    data: str
    agent: str
    added: bool
    seed: int
    episode_return: float
    score: float
    config: Config


@dataclass(frozen=True)
class Line:
    """One number of the report: a statistic of an agent on a data set, or on all.

    `chance` is the range of a probability of improvement in 95 of 100 such experiments if the objective changes
    nothing.
    """

    data: str
    agent: str
    added: bool | None
    statistic: str
    runs: int
    estimate: Estimate
    chance: tuple[float, float] | None = None


def read_result(folder: Path, objective: str) -> Result:
    """The result of the run in `folder`.

    Raises:
        RunError: if it is not a run on offline data, or has not finished.
    """
    run = read_run(folder)
    config, updates, returns = run.config, run.frames, run.returns
    if "dataset" not in config:
        raise RunError(f"{folder}: it was trained in an environment, not by rlrep.experiments.offline; leave it out")
    name, algorithm, objectives, target, seed, task = (
        run.setting(key) for key in ("agent.name", "agent.algorithm", "objectives", "num_updates", "seed", "task")
    )
    if updates[-1] < target:
        raise RunError(f"{folder}: it has made {updates[-1]:.0f} of {target} updates; resume it")
    return Result(
        folder=folder,
        data=f"{task} {data_name(config)}",
        # agent=taco is DrQ-v2 with the objective of its name
        agent="+".join(part for part in name.split("+") if part != objective) or algorithm,
        added=objective in objectives,
        seed=seed,
        episode_return=float(returns[-1]),
        score=score(returns[-1], *(value_of(config, f"data.{end}_return") for end in ("random", "expert"))),
        config=config,
    )


def score(value: float, bottom: float | None, top: float | None) -> float:
    """A return on the scale from the random policy's, 0, to the expert's, 100; nan if they are unknown."""
    if bottom is None or top is None or bottom == top:
        return np.nan
    return float(100 * (value - bottom) / (top - bottom))


def read_table(path: Path, objective: str) -> list[Result]:
    """The results in a `runs.csv` that a report wrote.

    Raises:
        RunError: if it is not such a table, or has another objective.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                Result(
                    folder=Path(row["run"]),
                    data=row["data"],
                    agent=row["agent"],
                    added=bool(int(row[objective])),
                    seed=int(row["seed"]),
                    episode_return=float(row["episode_return"]),
                    score=to_float(row["score"]),
                    config={},
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{path} is no runs.csv of a report on {objective} ({error!r})") from error


def read_results(paths: Sequence[Path], objective: str) -> list[Result]:
    """The results of all runs at and below `paths`, and in tables of runs; unusable runs are left out, with a warning.

    Raises:
        RunError: if none can be used.
    """
    tables = {path for path in paths if path.suffix == ".csv"}
    found = [result for path in paths if path in tables for result in read_table(path, objective)]
    for folder in find_runs(path for path in paths if path not in tables):
        try:
            found.append(read_result(folder, objective))
        except RunError as error:
            log.warning("%s", error)
    results: dict[tuple[str, str, bool, int], Result] = {}
    for result in found:
        key = (result.data, result.agent, result.added, result.seed)
        if key in results:
            log.warning("%s: the same agent, data and seed as %s; left out", result.folder, results[key].folder)
        else:
            results[key] = result
    if not results:
        raise RunError("none of these runs can be used: give folders of finished runs of rlrep.experiments.offline")
    warn_of_mixtures(results.values())
    return list(results.values())


def warn_of_mixtures(results: Iterable[Result]) -> None:
    """Warns of compared runs whose data differ, or whose configurations differ in more than the objective."""
    by_data: dict[str, Result] = {}
    by_agent: dict[tuple[str, str], Result] = {}
    for result in results:
        fingerprint = value_of(result.config, "data.fingerprint")
        if fingerprint is not None:  # older runs did not record it
            other = by_data.setdefault(result.data, result)
            if value_of(other.config, "data.fingerprint") != fingerprint:
                log.warning(
                    "%s: its data differ from those of %s, though both are %s", result.folder, other.folder, result.data
                )
        other = by_agent.setdefault((result.data, result.agent), result)
        if not (result.config and other.config):
            continue  # of a runs.csv
        different = learned_differently(result.config, other.config, ("objectives", "objective", "agent.name"))
        if different:
            log.warning(
                "%s: compared with %s, a run of another configuration: %s",
                result.folder,
                other.folder,
                "; ".join(f"{name}={ours} (there {theirs})" for name, (ours, theirs) in different.items()),
            )


def summarize(results: Sequence[Result]) -> list[Line]:
    """All numbers of the report.

    For each agent, with and without the objective: mean return and score on each data set; mean and interquartile mean
    of the scores on all data sets; and, if both exist, the probability that it is better with the objective. Values
    over all data sets use only data sets on which the agent has runs both with and without the objective, if it has
    both; other data sets are left out, with a warning. The last rows are all agents together, as "all".
    """
    lines = []
    whole = paired(results)
    kept = [result for result in whole if not np.isnan(result.score)]
    for data in dict.fromkeys(result.data for result in results):
        for agent, added in variants(results):
            here = [r for r in results if (r.data, r.agent, r.added) == (data, agent, added)]
            for statistic, name in (("return", "episode_return"), ("score", "score")):
                values = np.array([getattr(result, name) for result in here])
                if len(values) and not np.isnan(values).any():
                    lines.append(Line(data, agent, added, statistic, len(here), seed_mean(values)))
    for agent, added in variants(kept):
        scores = list(scores_of(kept, [agent], added).values())
        for statistic, found in (
            ("mean score", contrast([(1 / len(scores), task) for task in scores])),
            ("IQM score", Estimate(float(interquartile_mean(scores)))),
        ):
            lines.append(Line(ALL, agent, added, statistic, sum(map(len, scores)), found))
    if lost := dict.fromkeys(result.data for result in results if np.isnan(result.score)):
        log.warning(
            "%s: no score, as the returns of the random policy and of the expert are unknown: give them to "
            "`rlrep.experiments.data convert --random-return --expert-return`",
            ", ".join(lost),
        )
    agents = list(dict.fromkeys(result.agent for result in whole))
    for agent, members in [*((agent, [agent]) for agent in agents), (ALL, agents)]:
        plain, with_it = (scores_of(whole, members, added, "episode_return") for added in (False, True))
        both = [key for key in plain if key in with_it]
        if both and (agent != ALL or len(agents) > 1):
            ours, theirs = [with_it[key] for key in both], [plain[key] for key in both]
            found, runs = improvement(ours, theirs), sum(map(len, [*ours, *theirs]))
            chance = improvement_by_chance(ours, theirs)
            lines.append(Line(ALL, agent, None, "P(improvement)", runs, found, chance))
    return lines


def paired(results: Sequence[Result]) -> list[Result]:
    """Removes data sets that an agent has only with or only without the objective, if it has runs of both kinds."""
    kept = []
    for agent in dict.fromkeys(result.agent for result in results):
        plain, added = (
            {r.data for r in results if (r.agent, r.added) == (agent, with_it)} for with_it in (False, True)
        )
        lone = plain ^ added if plain and added else set()
        kept += [result for result in results if result.agent == agent and result.data not in lone]
        if lone:
            log.warning(
                "%s has runs on %s only with or only without the objective: left out of what is said of all data sets",
                agent,
                ", ".join(sorted(lone)),
            )
    return kept


def variants(results: Sequence[Result]) -> list[tuple[str, bool]]:
    """Every agent, without and with the objective, in the order of the runs."""
    present = {(result.agent, result.added) for result in results}
    agents = dict.fromkeys(result.agent for result in results)
    return [(agent, added) for agent in agents for added in (False, True) if (agent, added) in present]


def scores_of(
    results: Sequence[Result], agents: Sequence[str], added: bool, value: str = "score"
) -> dict[tuple[str, str], Array]:
    """The scores or other values of some agents' runs, an array for each agent and data set."""
    found: dict[tuple[str, str], list[float]] = {}
    for result in results:
        if result.agent in agents and result.added == added:
            found.setdefault((result.agent, result.data), []).append(getattr(result, value))
    return {key: np.array(values) for key, values in found.items()}
