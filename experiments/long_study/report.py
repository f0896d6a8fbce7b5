"""The report of a study, report.md, with runs.csv, a row for each run, and curves.png, a panel for each task."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan

import numpy as np

from rlrep.experiments.files import write_atomically
from rlrep.experiments.long_study.findings import Finding, compare, obstacles, scores_of
from rlrep.experiments.long_study.protocol import Study, StudyError
from rlrep.experiments.long_study.records import DIVERGED, ENDED, FINISHED, Record, read_records
from rlrep.experiments.results.curves import figure_of
from rlrep.experiments.results.pictures import save
from rlrep.experiments.results.runs import Array
from rlrep.experiments.results.seeds import Curve, curve
from rlrep.experiments.results.statistics import contrast, interquartile_mean, seed_mean
from rlrep.experiments.results.tables import markdown, rounded, write_csv

BLIND = "Returns and scores are not shown before all runs have ended, so that nobody stops the study at a good moment."
PUBLISHED = "published.csv"  # beside the protocol: task, method, frame, return, std, seeds, source


@dataclass(frozen=True)
class Published:
    """A method's published return on a task after `frame` simulator steps, and where it was published."""

    task: str
    method: str
    frame: float
    value: float
    source: str


def read_published(study: Study) -> list[Published]:
    """The published returns of the study's tasks; empty without such a file.

    Raises:
        StudyError: if the file is not such a table.
    """
    path = study.file.parent / PUBLISHED
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                Published(row["task"], row["method"], float(row["frame"]), float(row["return"]), row["source"])
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise StudyError(f"{path} must have the columns task, method, frame, return and source ({error!r})") from error
    if any(not isfinite(row.frame + row.value) for row in rows):
        raise StudyError(f"{path} must have finite numbers in the columns frame and return")
    return [row for row in rows if row.task in study.tasks]


def write_report(study: Study) -> str:
    """Writes report.md, runs.csv and curves.png beside the protocol; returns the Markdown.

    Raises:
        StudyError: if the folder holds runs of another protocol.
    """
    study.check_folder(study.kept)
    records, published, out = read_records(study), read_published(study), study.file.parent
    hidden = dict.fromkeys(("final_return", "area", "score"), nan) if blind(study, records) else {}
    write_csv(out / "runs.csv", [row(study, record) | hidden for record in records])
    text = "\n\n".join(parts(study, records, published)) + "\n"
    write_atomically(out / "report.md", text.encode())
    return text


def blind(study: Study, records: Sequence[Record]) -> bool:
    """Whether what the runs reached is not to be shown yet."""
    return bool(study.comparisons) and any(record.state not in ENDED for record in records)


def row(study: Study, record: Record) -> dict[str, object]:
    return {
        "arm": record.job.arm,
        "task": record.job.task,
        "seed": record.job.seed,
        "state": record.state,
        "frames": rounded(record.run.frames[-1]) if record.run else nan,
        "final_return": rounded(record.run.returns[-1]) if record.run else nan,
        "area": rounded(record.area(study)) if record.run else nan,
        "score": rounded(record.score(study)) if record.state in ENDED else nan,
        "commit": record.commit,
        "machine": record.machine,
        "seconds": record.seconds,
        "config": record.config,
        "reason": record.reason,
    }


def curves_of(study: Study, records: Sequence[Record]) -> list[Curve]:
    """The curve of each arm on each task that has a finished run."""
    curves = []
    for name, task in study.tasks.items():
        frames = next((r.run.frames for r in records if r.run is not None and r.job.task == name), None)
        for arm in study.arms:
            ended = [r for r in records if r.state in ENDED and (r.job.arm, r.job.task) == (arm, name)]
            if ended and frames is not None:
                runs = [record.curve(study, frames) for record in ended]
                curves.append(replace(curve(name, arm, runs), random_return=task.random))
    return curves


def draw(study: Study, records: Sequence[Record], published: Sequence[Published]) -> bool:
    """Draws the curves of all arms, a panel for each task; returns whether there are any."""
    curves = curves_of(study, records)
    if curves:
        points = [(p.task, p.method, p.frame, p.value) for p in published]
        save(figure_of(curves, study.name, points), study.file.parent / "curves.png")
    return bool(curves)


def parts(study: Study, records: Sequence[Record], published: Sequence[Published]) -> list[str]:
    """The paragraphs of report.md."""
    against = obstacles(study, records)
    findings = [] if against else [compare(study, records, comparison) for comparison in study.comparisons]
    answers = [finding.answer for finding in findings] or [f"None: {'; '.join(against)}."]
    return [
        f"# {study.name}",
        "Written by `python -m rlrep.experiments.study`; the protocol is beside it, each run in [runs.csv](runs.csv).",
        "\n\n".join(f"**Answer.** {answer}" for answer in answers),
        *([BLIND] if blind(study, records) else measured(study, records, published)),
        *([comparison_part(findings)] if findings else []),
        provenance(records),
        *sources(published),
    ]


def measured(study: Study, records: Sequence[Record], published: Sequence[Published]) -> list[str]:
    """What each arm reached."""
    drawn = draw(study, records, published)
    return [
        "Return of the last evaluation, mean over seeds with its 95 % t interval, and published returns:",
        markdown(return_lines(study, records, published)),
        "Score: the area under the evaluation curve, 0 for the random policy or less, and 1 for the best published "
        "return. The mean over tasks has a t interval that is stratified by task (Welch, Satterthwaite); IQM is the "
        "interquartile mean over all runs.",
        markdown(score_lines(study, records)),
        *(["![Learning curves of all arms, a panel for each task](curves.png)"] if drawn else []),
    ]


def final_returns(study: Study, records: Sequence[Record], arm: str) -> list[Array]:
    return [
        np.array([r.last_return(study) for r in records if r.state in ENDED and (r.job.arm, r.job.task) == (arm, task)])
        for task in study.tasks
    ]


def cell(values: Array, digits: int) -> str:
    return seed_mean(values).text(digits) if len(values) else ""


def seeds_told(study: Study, values: Sequence[Array], arm: str) -> str:
    found, asked = sorted({len(x) for x in values}), study.arms[arm].seeds
    told = str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
    return told if found == [asked] else f"{told} of {asked}"


def return_lines(study: Study, records: Sequence[Record], published: Sequence[Published]) -> list[dict[str, str]]:
    lines = []
    for arm in study.arms:
        values = final_returns(study, records, arm)
        told = {task: cell(x, 1) for task, x in zip(study.tasks, values, strict=True)}
        lines.append({"arm": arm, "seeds": seeds_told(study, values, arm), **told})
    lines.append({"arm": "random policy", "seeds": "", **{name: f"{t.random:.1f}" for name, t in study.tasks.items()}})
    for method in dict.fromkeys(p.method for p in published):
        values_of = {p.task: f"{p.value:.1f}" for p in published if p.method == method}
        lines.append({"arm": f"{method}, published", "seeds": "", **{t: values_of.get(t, "") for t in study.tasks}})
    return lines


def score_lines(study: Study, records: Sequence[Record]) -> list[dict[str, str]]:
    lines = []
    for arm in study.arms:
        values = scores_of(study, records, arm)
        whole = all(len(x) for x in values)
        lines.append(
            {
                "arm": arm,
                **{task: cell(x, 3) for task, x in zip(study.tasks, values, strict=True)},
                "mean": contrast([(1 / len(values), x) for x in values]).text(3) if whole else "",
                "IQM": f"{float(interquartile_mean(values)):.3f}" if whole else "",
            }
        )
    return lines


def comparison_part(findings: Sequence[Finding]) -> str:
    lines = [
        {
            "difference of scores": f"{f.comparison.arm} less {f.comparison.than}",
            **{task: found.text(3) for task, found in f.by_task.items()},
            "mean": f.difference.text(3),
            "found in 80 of 100 tries": "" if np.isnan(f.detectable) else f"{f.detectable:.3f}",
            "P(better)": f.better.text(2),
            "by chance": "{:.2f} to {:.2f}".format(*f.chance),
        }
        for f in findings
    ]
    return markdown(lines)


def provenance(records: Sequence[Record]) -> str:
    """The origin of the runs, and a list of unfinished runs."""
    finished = [record for record in records if record.state == FINISHED]
    hours = sum(record.seconds for record in finished) / 3600
    lines = [f"{len(finished)} of {len(records)} runs have finished, in {hours:.1f} hours of a core."]
    for name, values in (
        ("commit", [record.commit for record in finished]),
        ("machine", [record.machine for record in finished]),
    ):
        kinds = {value: values.count(value) for value in values}
        told = "; ".join(f"{value} ({count} runs)" for value, count in kinds.items())
        if told:
            lines.append(f"- {name}{'s, not one' if len(kinds) > 1 else ''}: {told}")
    for state in dict.fromkeys(record.state for record in records if record.state != FINISHED):
        left = [record for record in records if record.state == state]
        named = [f"{r.job} ({r.reason})" for r in left if r.reason]
        seeds: dict[str, list[int]] = {}
        for job in (r.job for r in left if not r.reason):
            seeds.setdefault(f"{job.arm}/{job.task}", []).append(job.seed)
        named += [f"{place}/{spans(own)}" for place, own in seeds.items()]
        counted = ", counted as the random policy" if state == DIVERGED else ""
        lines.append(f"- {state}{counted}: {', '.join(named)}")
    return "\n".join([lines[0], "", *lines[1:]]) if lines[1:] else lines[0]


def spans(numbers: Sequence[int]) -> str:
    """Whole numbers, the consecutive ones together: 3 and 5 to 9."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " and ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def sources(published: Sequence[Published]) -> list[str]:
    named: dict[str, list[str]] = {}
    for each in published:
        named.setdefault(each.source, []).append(each.method)
    told = "; ".join(f"{', '.join(dict.fromkeys(methods))}: {source}" for source, methods in named.items())
    return [f"Published returns ([{PUBLISHED}]({PUBLISHED})): {told}."] if told else []
