"""Offline runs in one table and one picture: python -m experiments.offline_report RUN [RUN ...] --out FOLDER

A run is the folder of a finished experiments.offline; a folder of runs stands for all runs in it. Returns are those of
the last evaluation; scores put the random policy at 0 and the expert of the data at 100. Runs of one agent on one data
set are seeds of it; an agent with the objective is compared with the same one without.
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.files import write_atomically
from experiments.results.curves import RunError, find_runs, read_returns
from experiments.results.statistics import (
    Array,
    Scores,
    interquartile_mean,
    mean,
    probability_of_improvement,
    stratified_interval,
)
from experiments.run.checkpoint import CONFIG
from experiments.run.config import ConfigError, differences
from experiments.run.offline_config import FREE_ON_RESUME, OfflineConfig, level_of, load
from experiments.speed.table import table
from rlrep import OBJECTIVES
from rlrep.registry import look_up

log = logging.getLogger(__name__)

ALL = "all"

# What runs that are compared need not have in common, beside what may change when one is resumed.
OWN = (FREE_ON_RESUME - {"num_updates", "num_eval_episodes"}) | {"seed", "objectives", "objective"}
OWN |= {"log_every_updates", "checkpoint_every_updates", "skip_corrupt", "rendering"}


@dataclass(frozen=True)
class Result:
    """How one run ended.

    Attributes:
        data: task and level, such as "cheetah_run medium".
        agent: its name without the objective.
        added: whether it had the objective.
        config: of the run, with `agent` as the agent's name.
        score: 0 for the random policy, 100 for the data's expert; nan if the data do not tell their returns.
    """

    folder: Path
    data: str
    agent: str
    added: bool
    seed: int
    episode_return: float
    score: float
    config: OfflineConfig


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, nan where it has none."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 1) -> str:
        interval = "" if np.isnan(self.low) else f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{self.value:.{digits}f}{interval}"


@dataclass(frozen=True)
class Line:
    """One number of the report: a statistic of an agent on a data set, or on all."""

    data: str
    agent: str
    added: bool | None
    statistic: str
    runs: int
    estimate: Estimate


def estimate(statistic: Callable[..., Array], *groups: Scores) -> Estimate:
    return Estimate(float(statistic(*groups)), *stratified_interval(statistic, *groups))


def read_result(folder: Path, objective: str) -> Result:
    """How the run in `folder` ended.

    Raises:
        RunError: if it is no run on offline data, or has not come to its end.
    """
    try:
        config = load(folder / CONFIG)
    except ConfigError as error:
        raise RunError(f"{folder}: {error}") from error
    if not isinstance(config, OfflineConfig):
        raise RunError(f"{folder}: it was trained in an environment, not by experiments.offline; leave it out")
    updates, returns = read_returns(folder / "eval.csv")
    if updates[-1] < config.num_updates:
        raise RunError(f"{folder}: it has made {updates[-1]:.0f} of {config.num_updates} updates; resume it")
    level = config.data.get("level") or level_of(config.dataset)
    parts = [part for part in config.agent["name"].split("+") if part != objective]
    agent = "+".join(parts) or config.agent["algorithm"]  # agent=taco is DrQ-v2 with the objective of its name
    config.agent["name"] = agent
    return Result(
        folder=folder,
        data=f"{config.task} {level}",
        agent=agent,
        added=objective in config.objectives,
        seed=config.seed,
        episode_return=float(returns[-1]),
        score=score(returns[-1], config.data.get("random_return"), config.data.get("expert_return")),
        config=config,
    )


def score(value: float, bottom: float | None, top: float | None) -> float:
    """A return on the scale from the random policy's, 0, to the expert's, 100; nan where they are not known."""
    if bottom is None or top is None or bottom == top:
        return np.nan
    return float(100 * (value - bottom) / (top - bottom))


def read_results(paths: Iterable[Path], objective: str) -> list[Result]:
    """The results of all runs at and below `paths`; what can't be used is left out, with a warning.

    Raises:
        RunError: if none can be used.
    """
    results: dict[tuple[str, str, bool, int], Result] = {}
    for folder in find_runs(paths):
        try:
            result = read_result(folder, objective)
        except RunError as error:
            log.warning("%s", error)
            continue
        key = (result.data, result.agent, result.added, result.seed)
        if key in results:
            log.warning("%s: the same agent, data and seed as %s; left out", folder, results[key].folder)
        else:
            results[key] = result
    if not results:
        raise RunError("none of these runs can be used: give folders of finished runs of experiments.offline")
    warn_of_mixtures(results.values())
    return list(results.values())


def warn_of_mixtures(results: Iterable[Result]) -> None:
    """Says which runs are compared though their data hold something else, or their configurations differ in more than
    the objective."""
    by_data: dict[str, Result] = {}
    by_agent: dict[tuple[str, str], Result] = {}
    for result in results:
        fingerprint = result.config.data.get("fingerprint")
        if fingerprint is not None:  # older runs did not record it
            other = by_data.setdefault(result.data, result)
            if other.config.data["fingerprint"] != fingerprint:
                log.warning(
                    "%s: its data are not those of %s, though both are %s", result.folder, other.folder, result.data
                )
        other = by_agent.setdefault((result.data, result.agent), result)
        different = differences(result.config, other.config, OWN)
        if different:
            log.warning(
                "%s: compared with %s, a run of another configuration: %s",
                result.folder,
                other.folder,
                "; ".join(different),
            )


def summarize(results: Sequence[Result]) -> list[Line]:
    """All numbers of the report.

    Of each agent, with and without the objective: mean return and score on each data set; mean and interquartile mean
    of the scores on all of them; and, where both are there, the probability that it is better with the objective. What
    is said of all data sets is so of those that an agent has both with and without the objective, if there are both;
    others are left out, with a warning. All agents together stand last, as "all".
    """
    lines = []
    kept = paired([result for result in results if not np.isnan(result.score)])
    for data in unique(result.data for result in results):
        for agent, added in variants(results):
            here = [r for r in results if (r.data, r.agent, r.added) == (data, agent, added)]
            for statistic, name in (("return", "episode_return"), ("score", "score")):
                values = np.array([getattr(result, name) for result in here])
                if len(values) and not np.isnan(values).any():
                    lines.append(Line(data, agent, added, statistic, len(here), estimate(mean, [values])))
    for agent, added in variants(kept):
        scores = scores_of(kept, [agent], added)
        for statistic, function in (("mean score", mean), ("IQM score", interquartile_mean)):
            found = estimate(function, list(scores.values()))
            lines.append(Line(ALL, agent, added, statistic, sum(map(len, scores.values())), found))
    agents = unique(result.agent for result in kept)
    for agent, members in [*((agent, [agent]) for agent in agents), (ALL, agents)]:
        plain, with_it = (scores_of(kept, members, added) for added in (False, True))
        both = [key for key in plain if key in with_it]
        if both and (agent != ALL or len(agents) > 1):
            ours, theirs = [with_it[key] for key in both], [plain[key] for key in both]
            found = estimate(probability_of_improvement, ours, theirs)
            lines.append(Line(ALL, agent, None, "P(improvement)", sum(map(len, [*ours, *theirs])), found))
    return lines


def paired(results: Sequence[Result]) -> list[Result]:
    """Without the data sets that an agent has only with or only without the objective, if it has runs of both kinds."""
    kept = []
    for agent in unique(result.agent for result in results):
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


def unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def variants(results: Sequence[Result]) -> list[tuple[str, bool]]:
    """Every agent, without and with the objective, in the order of the runs."""
    present = {(result.agent, result.added) for result in results}
    agents = unique(result.agent for result in results)
    return [(agent, added) for agent in agents for added in (False, True) if (agent, added) in present]


def scores_of(results: Sequence[Result], agents: Sequence[str], added: bool) -> dict[tuple[str, str], Array]:
    """The scores of some agents' runs, an array for each agent and data set."""
    found: dict[tuple[str, str], list[float]] = {}
    for result in results:
        if result.agent in agents and result.added == added:
            found.setdefault((result.agent, result.data), []).append(result.score)
    return {key: np.array(values) for key, values in found.items()}


def markdown(lines: Sequence[Line], objective: str) -> str:
    """Two tables: each data set, and all of them together."""
    title = objective.upper()

    def cell(data: str, agent: str, added: bool | None, statistic: str, digits: int = 1) -> str:
        found = [x for x in lines if (x.data, x.agent, x.added, x.statistic) == (data, agent, added, statistic)]
        return found[0].estimate.text(digits) if found else ""

    agents = unique(line.agent for line in lines if line.agent != ALL)
    each = [
        {
            "data": data,
            "agent": agent,
            "return": cell(data, agent, False, "return"),
            f"return +{title}": cell(data, agent, True, "return"),
            "score": cell(data, agent, False, "score"),
            f"score +{title}": cell(data, agent, True, "score"),
        }
        for data in unique(line.data for line in lines if line.data != ALL)
        for agent in agents
    ]
    together = [
        {
            "agent": agent,
            "mean score": cell(ALL, agent, False, "mean score"),
            f"mean score +{title}": cell(ALL, agent, True, "mean score"),
            "IQM score": cell(ALL, agent, False, "IQM score"),
            f"IQM score +{title}": cell(ALL, agent, True, "IQM score"),
            f"P(+{title} better)": cell(ALL, agent, None, "P(improvement)", digits=2),
        }
        for agent in [*agents, ALL]
    ]
    parts = [
        "Returns of the last evaluation, and scores: 0 is the random policy, 100 the expert of the data. Means over "
        "seeds, with 95 % bootstrap intervals; none where there is one seed.",
        table(each),
    ]
    together = [row for row in together if any(text for name, text in row.items() if name != "agent")]
    if together:
        parts += [
            f"All data sets that an agent has both with and without {title}: mean and interquartile mean (IQM) of the "
            "scores, and the probability that a run is better with it than one without it on the same data; stratified "
            "bootstrap, as in rliable.",
            table(together),
        ]
    return "\n\n".join(parts) + "\n"


def write_report(results: Sequence[Result], out: Path, objective: str) -> str:
    """Writes report.md, report.csv, runs.csv and report.png into `out`; returns the Markdown."""
    from experiments.comparison.picture import draw

    lines = summarize(results)
    text = markdown(lines, objective)
    write_atomically(out / "report.md", text.encode())
    numbers: list[dict[str, object]] = [
        {
            "data": line.data,
            "agent": line.agent,
            objective: "" if line.added is None else int(line.added),
            "statistic": line.statistic,
            "runs": line.runs,
            **{name: number(getattr(line.estimate, name)) for name in ("value", "low", "high")},
        }
        for line in lines
    ]
    runs: list[dict[str, object]] = [
        {
            "data": r.data,
            "agent": r.agent,
            objective: int(r.added),
            "seed": r.seed,
            "episode_return": number(r.episode_return),
            "score": number(r.score),
            "run": str(r.folder),
        }
        for r in results
    ]
    write_rows(out / "report.csv", numbers)
    write_rows(out / "runs.csv", runs)
    draw(lines, out / "report.png", objective)
    return text


def number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def write_rows(path: Path, rows: Sequence[dict[str, object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.offline_report", description="Compare offline runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run, or a folder with runs in it")
    parser.add_argument("--out", default=Path("offline_report"), type=Path, help="folder (default: %(default)s)")
    parser.add_argument("--objective", default="taco", help="what is compared with its absence (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        look_up("objective", options.objective, OBJECTIVES)
        text = write_report(read_results(options.runs, options.objective), options.out, options.objective)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    print(f"{options.out}: report.md, report.csv, runs.csv, report.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
