"""The report on offline runs: two tables and a picture, and their numbers as CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlrep.experiments.comparison.picture import draw
from rlrep.experiments.comparison.scores import ALL, Line, Result, summarize
from rlrep.experiments.files import write_atomically
from rlrep.experiments.results import tables


def markdown(lines: Sequence[Line], objective: str) -> str:
    """Two tables: each data set, and all of them together."""
    title = objective.upper()

    def cell(data: str, agent: str, added: bool | None, statistic: str, digits: int = 1) -> str:
        found = [x for x in lines if (x.data, x.agent, x.added, x.statistic) == (data, agent, added, statistic)]
        return found[0].estimate.text(digits) if found else ""

    def by_chance(agent: str) -> str:
        found = [x.chance for x in lines if (x.data, x.agent) == (ALL, agent) and x.chance]
        return "{:.2f} to {:.2f}".format(*found[0]) if found else ""

    agents = list(dict.fromkeys(line.agent for line in lines if line.agent != ALL))
    each = [
        {
            "data": data,
            "agent": agent,
            "return": cell(data, agent, False, "return"),
            f"return +{title}": cell(data, agent, True, "return"),
            "score": cell(data, agent, False, "score"),
            f"score +{title}": cell(data, agent, True, "score"),
        }
        for data in dict.fromkeys(line.data for line in lines if line.data != ALL)
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
            "by chance": by_chance(agent),
        }
        for agent in [*agents, ALL]
    ]
    parts = [
        "Returns of the last evaluation, and scores: 0 is the random policy, 100 the expert of the data. Means over "
        "seeds, with 95 % t intervals from three seeds on.",
        tables.markdown(each),
    ]
    together = [row for row in together if any(text for name, text in row.items() if name != "agent")]
    if together:
        parts += [
            f"All data sets that an agent has both with and without {title}: mean score (t interval) and interquartile "
            "mean (IQM), and the probability that a run is better with it than one without it on the same data, with "
            "Brunner and Munzel's t interval where runs overlap. By chance is where that probability ends in 95 of "
            f"100 such experiments if {title} changes nothing.",
            tables.markdown(together),
        ]
    return "\n\n".join(parts) + "\n"


def write_report(results: Sequence[Result], out: Path, objective: str) -> str:
    """Writes report.md, report.csv, runs.csv and report.png into `out`; returns the Markdown."""
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
            **{name: tables.rounded(getattr(line.estimate, name)) for name in ("value", "low", "high")},
            **dict(zip(("chance_low", "chance_high"), map(tables.rounded, line.chance or ()), strict=False)),
        }
        for line in lines
    ]
    runs: list[dict[str, object]] = [
        {
            "data": r.data,
            "agent": r.agent,
            objective: int(r.added),
            "seed": r.seed,
            "episode_return": tables.rounded(r.episode_return),
            "score": tables.rounded(r.score),
            "run": str(r.folder),
        }
        for r in results
    ]
    tables.write_csv(out / "report.csv", numbers)
    tables.write_csv(out / "runs.csv", runs)
    draw(lines, out / "report.png", objective)
    return text
