"""The study's report: verdicts, pictures and tables, as Markdown and as one HTML page with the pictures in it."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np

from experiments.benchmark_table import table as markdown_table
from experiments.files import write_atomically
from experiments.plot import bootstrap_interval
from experiments.theory.figures import draw, settings
from experiments.theory.results import (
    DOMAINS,
    METHODS,
    NOISES,
    STUDIES,
    Array,
    Cell,
    Results,
    core,
    missing,
    read_results,
    rows,
    select,
    sweep,
    values,
)
from experiments.theory.verdicts import CONFIRMED, REFUTED, UNDECIDED, Part, Verdict, share_kept, verdicts

INTERVALS = (
    "Pictures and tables show the mean over seeds with its 95 % bootstrap interval, as the project's other curves do. "
    "A bootstrap of three to five seeds is too narrow to decide anything, so the verdicts use wider ones: Welch's t "
    "interval for returns and probes, and a profile likelihood interval for the growth of the lock's episodes, in "
    "which a run that was given up counts as a lower bound. p is one-sided, against the predicted side."
)
RULE = (
    "A criterion is confirmed if its whole 95 % interval lies on the predicted side of the threshold, refuted if the "
    "whole interval lies on the other side, else undecided. A prediction is refuted if one of its criteria is, "
    "confirmed if all are, else undecided. Returns are counted from the random policy's. Criteria and thresholds are "
    "fixed in experiments/theory/verdicts.py; nothing is corrected for the number of criteria."
)
LOCK = (
    "The right action at each level depends on one of two factors that videos cannot tell apart, and an encoder keeps "
    "as many states as one factor has. A run is the worse of two locks that differ in which factor is controlled."
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2; margin: 2em 0 .6em; break-after: avoid }
h1 { margin-top: 0 }
img { width: 100%; break-inside: avoid }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; margin: 1em 0 }
th, td { text-align: left; vertical-align: top; padding: .3em .6em; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888 }
tr { break-inside: avoid }
pre { background: #f4f4f4; padding: .6em 1em; overflow-x: auto }
.confirmed, .refuted, .undecided { font-weight: 600; white-space: nowrap }
.confirmed { color: #00704f } .refuted { color: #b34700 } .undecided { color: #666 }
@media print {
  body { margin: 0; max-width: none; font-size: 11pt }
  table { font-size: 8.5pt }
  h2 { break-before: page }
}
"""

Line = dict[str, str]


@dataclass(frozen=True)
class Block:
    """A piece of the report: a heading of a level, text, a list, a command, a table or a picture."""

    kind: str
    text: str = ""
    lines: Sequence[Line] = ()
    items: Sequence[str] = ()
    picture: Path | None = None


def write_report(cells_folder: Path, out_folder: Path) -> list[Verdict]:
    """Writes `report.md`, `report.html`, `results.csv` (a row a cell) and the pictures to `out_folder`.

    Args:
        cells_folder: the study's, with `cells/*.json` in it. Cells and studies may be missing: the report names them.

    Raises:
        ValueError: there are no cells, or one is damaged.
    """
    results = read_results(cells_folder)
    judged = verdicts(results)
    pictures = draw(results, out_folder)
    blocks = compose(results, judged, pictures)
    write_atomically(out_folder / "results.csv", as_csv(rows(results)).encode())
    write_atomically(out_folder / "report.html", as_html(blocks).encode())
    write_atomically(out_folder / "report.md", as_markdown(blocks).encode())
    return judged


def compose(results: Results, judged: Sequence[Verdict], pictures: dict[str, Path]) -> list[Block]:
    blocks = [
        Block("h1", "Learning from video: what the theory predicts, and what was measured"),
        Block("table", lines=[summary_line(v) for v in judged]),
        Block("text", RULE),
        Block("text", INTERVALS),
        Block("code", command(results)),
        Block("table", lines=cost_lines(results)),
        *machine_block(results),
    ]
    if absent := missing(results):
        blocks += [Block("h2", "What is missing"), Block("list", items=absent)]
    blocks.append(Block("h2", "The verdicts in detail"))
    for verdict in judged:
        blocks.append(
            Block("h3", f"{verdict.prediction}, {DOMAINS[verdict.domain]}: {verdict.outcome}. {verdict.statement}.")
        )
        blocks.append(Block("table", lines=[part_line(part) for part in verdict.parts]))
    for domain in results.domains:
        blocks += domain_blocks(results, domain, pictures)
    if results.lock:
        blocks += [Block("h2", DOMAINS["lock"]), *shown(pictures, "lock"), Block("text", LOCK)]
        blocks += [Block("table", lines=lock_lines(results))]
    return [block for block in blocks if block.kind != "table" or block.lines]


def command(results: Results) -> str:
    """What made these cells, or would."""
    ran = {cell.study if cell.domain in ("gridworld", "lock") else cell.domain for cell in results.every}
    studies = [name for name in (*STUDIES, *DOMAINS) if name in ran]
    return f"python -m experiments.video_theory {' '.join(studies)} --seeds {len({c.seed for c in results.every})}"


def domain_blocks(results: Results, domain: str, pictures: dict[str, Path]) -> list[Block]:
    return [
        Block("h2", DOMAINS[domain]),
        *shown(pictures, f"returns_{domain}"),
        Block("table", lines=core_lines(results, domain)),
        *shown(pictures, f"probes_{domain}"),
        Block("table", lines=geometry_lines(results, domain)),
        *shown(pictures, f"reconstructions_{domain}"),
        *shown(pictures, f"size_{domain}"),
        Block("table", lines=size_lines(results, domain)),
        *shown(pictures, f"persistence_{domain}"),
        Block("table", lines=persistence_lines(results, domain)),
    ]


def shown(pictures: dict[str, Path], name: str) -> list[Block]:
    return [Block("picture", CAPTIONS[name.split("_")[0]], picture=pictures[name])] if name in pictures else []


CAPTIONS = {
    "returns": "Return of PPO on frozen encoders against environment steps, mean and 95 % interval over seeds",
    "probes": "How well probes read the state and the noise from frozen features",
    "reconstructions": "Observations and their reconstructions from frozen features, one seed",
    "size": "Final return against the share of pixels that the noise covers",
    "persistence": "Final return and probes against the persistence of the noise",
    "lock": "Episodes to solve the combination lock against its horizon, each seed a point, with the better fit",
}


def summary_line(verdict: Verdict) -> Line:
    return {
        "prediction": f"{verdict.prediction}. {verdict.statement}",
        "where": DOMAINS[verdict.domain],
        "verdict": verdict.outcome,
        "because": verdict.reason,
    }


def part_line(part: Part) -> Line:
    interval = "" if isnan(part.low) else f"[{part.low:.3g}, {part.high:.3g}]"
    return {
        "criterion": part.criterion,
        "measure": part.unit,
        "estimate": "" if isnan(part.estimate) else f"{part.estimate:.3g}",
        "95 % interval": interval,
        "predicted": f"{'>' if part.above else '<'} {part.threshold:.3g}",
        "p": "" if isnan(part.p) else f"{part.p:.2g}",
        "seeds": str(part.seeds or ""),
        "outcome": part.outcome,
        "note": part.note,
    }


def core_lines(results: Results, domain: str) -> list[Line]:
    measures = {
        "return": "final_return",
        "state, linear": "state_linear",
        "state, MLP": "state_mlp",
        "noise, linear": "noise_linear",
        "noise, MLP": "noise_mlp",
    }
    return [
        {"noise": NOISES[noise], "method": METHODS[method], **cells_line(cells, measures)}
        for noise, method, cells in core_groups(results, domain)
    ]


def geometry_lines(results: Results, domain: str) -> list[Line]:
    measures = {
        "reconstruction error": "reconstruction",
        "alignment": "alignment",
        "uniformity": "uniformity",
        "effective rank": "effective_rank",
    }
    return [
        {"noise": NOISES[noise], "method": METHODS[method], **cells_line(cells, measures)}
        for noise, method, cells in core_groups(results, domain)
        if any(len(values(cells, measure)) for measure in measures.values())
    ]


def core_groups(results: Results, domain: str) -> list[tuple[str, str, list[Cell]]]:
    groups = [(n, m, core(results, domain, noise=n, method=m)) for n in NOISES for m in METHODS]
    return [group for group in groups if group[2]]


def size_lines(results: Results, domain: str) -> list[Line]:
    cells = sweep(results, domain, "size")
    lines = []
    for noise in NOISES:
        for method in METHODS:
            groups = settings(select(cells, noise=noise, method=method))
            for group in sorted(groups, key=lambda group: values(group, "coverage").mean()):
                coverage = f"{100 * values(group, 'coverage').mean():.0f} %"
                measures = {"return": "final_return", "state, linear": "state_linear", "noise, linear": "noise_linear"}
                where = {"noise": NOISES[noise], "method": METHODS[method], "pixels under noise": coverage}
                lines.append({**where, **cells_line(group, measures)})
    return lines


def persistence_lines(results: Results, domain: str) -> list[Line]:
    """A row a method: its return at each ρ, and the first ρ that clearly costs it, by the rule of the verdicts."""
    cells = sweep(results, domain, "persistence")
    lines = []
    for method in METHODS:
        groups = {group[0].persistence: group for group in settings(select(cells, method=method))}
        order = sorted(groups)
        if len(order) < 2:
            continue
        kept = {rho: share_kept("", "", False, groups[rho], groups[order[0]]).outcome for rho in order[1:]}
        broken = next((f"ρ = {rho:g}" for rho in order[1:] if kept[rho] == CONFIRMED), "not shown")
        by_rho = {f"ρ = {rho:g}": interval(values(groups[rho], "final_return")) for rho in order}
        lines.append(
            {"method": METHODS[method], "loses over 10 % from": broken, **by_rho, "n": counts(groups.values())}
        )
    columns = list(dict.fromkeys(name for line in lines for name in line))
    return [{name: line.get(name, "") for name in columns} for line in lines]


def lock_lines(results: Results) -> list[Line]:
    lines = []
    for method in METHODS:
        for horizon in sorted({c.horizon for c in results.lock}):
            cells = [c for c in results.lock if (c.method, c.horizon) == (method, horizon)]
            if not cells:
                continue
            solved = sum(c.solved for c in cells)
            # An unsolved run may need any number of episodes: the median is known where more than half are solved.
            median = np.median(values(cells, "episodes"))
            lines.append(
                {
                    "method": METHODS[method],
                    "H": str(horizon),
                    "median episodes": f"{'' if solved > len(cells) / 2 else '> '}{median:,.0f}",
                    "solved": f"{solved} of {len(cells)}",
                    "controlled factor read": interval(values(cells, "controlled_accuracy")),
                    "exogenous factor read": interval(values(cells, "exogenous_accuracy")),
                }
            )
    return lines


def cells_line(cells: Sequence[Cell], measures: dict[str, str]) -> Line:
    return {**{name: interval(values(cells, m)) for name, m in measures.items()}, "n": str(len(cells))}


def interval(seeds: Array) -> str:
    """`mean [low, high]` over seeds; without the interval for one seed, empty for none."""
    if not len(seeds):
        return ""
    low, high = (end[0] for end in bootstrap_interval(seeds[:, None]))
    return f"{seeds.mean():.3g}" + ("" if np.isnan(low) else f" [{low:.3g}, {high:.3g}]")


def counts(groups: Iterable[Sequence[Cell]]) -> str:
    found = sorted({len(group) for group in groups})
    return "–".join(map(str, dict.fromkeys((found[0], found[-1]))))


def cost_lines(results: Results) -> list[Line]:
    """What each study ran, and how long."""
    lines = []
    for domain in results.domains:
        for study in ("core", "size", "persistence"):
            cells = select(results.cells, domain=domain, study=study)
            if cells:
                pretrain, ppo = (values(cells, f"{part}_seconds").sum() / 60 for part in ("pretrain", "ppo"))
                speed = values(cells, "updates_per_second")
                lines.append(
                    {
                        "study": f"{DOMAINS[domain]}, {study}",
                        "cells": str(len(cells)),
                        "seeds": str(len({c.seed for c in cells})),
                        "minutes of pre-training": f"{pretrain:.1f}",
                        "minutes of PPO": f"{ppo:.1f}",
                        "updates/s": f"{speed.min():.0f} to {speed.max():.0f}" if len(speed) else "",
                    }
                )
    if results.lock:
        seeds = len({c.seed for c in results.lock})
        blank = {"minutes of pre-training": "", "minutes of PPO": "", "updates/s": ""}
        lines.append({"study": DOMAINS["lock"], "cells": str(len(results.lock)), "seeds": str(seeds), **blank})
    return lines


def machine_block(results: Results) -> list[Block]:
    machines = sorted({cell.machine for cell in results.every if cell.machine})
    return [Block("text", f"Measured on: {'; '.join(machines)}.")] if machines else []


def as_csv(lines: Sequence[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(map(markdown, blocks)) + "\n"


def markdown(block: Block) -> str:
    if block.kind in ("h1", "h2", "h3"):
        return f"{'#' * int(block.kind[1])} {block.text}"
    if block.kind == "list":
        return "\n".join(f"- {item}" for item in block.items)
    if block.kind == "code":
        return f"```\n{block.text}\n```"
    if block.kind == "table":
        return markdown_table(list(block.lines))
    if block.picture:
        return f"![{block.text}]({block.picture.name})"
    return block.text


def as_html(blocks: Sequence[Block]) -> str:
    title = html.escape(blocks[0].text)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(map(markup, blocks))
    head += f"<style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def markup(block: Block) -> str:
    text = html.escape(block.text)
    if block.kind in ("h1", "h2", "h3"):
        return f"<{block.kind}>{text}</{block.kind}>"
    if block.kind == "list":
        return f"<ul>{''.join(f'<li>{html.escape(item)}</li>' for item in block.items)}</ul>"
    if block.kind == "code":
        return f"<pre>{text}</pre>"
    if block.kind == "table":
        return html_table(block.lines)
    if block.picture:
        content = base64.b64encode(block.picture.read_bytes()).decode()
        return f'<img alt="{text}" src="data:image/png;base64,{content}">'
    return f"<p>{text}</p>"


def html_table(lines: Sequence[Line]) -> str:
    """A column that is empty in all lines is dropped; a verdict has its colour."""
    names = [name for name in lines[0] if any(line[name] for line in lines)]

    def cell(value: str) -> str:
        style = f' class="{value}"' if value in (CONFIRMED, REFUTED, UNDECIDED) else ""
        return f"<td{style}>{html.escape(value)}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "\n".join(f"<tr>{''.join(cell(line[name]) for name in names)}</tr>" for line in lines)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
