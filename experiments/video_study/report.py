"""The study's report: verdicts, pictures and tables, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, isnan
from pathlib import Path

import numpy as np

from rlrep.experiments.files import write_atomically
from rlrep.experiments.results.statistics import seed_mean
from rlrep.experiments.results.tables import Line, bullets, markdown, picture, write_csv
from rlrep.experiments.video_study import field_report, phase
from rlrep.experiments.video_study.cells import (
    DOMAINS,
    METHODS,
    NOISES,
    STUDIES,
    SWEEPS,
    Array,
    Cell,
    Results,
    by_setting,
    condition,
    core,
    grouped,
    missing,
    point,
    read_results,
    rows,
    select,
    sweep,
    values,
)
from rlrep.experiments.video_study.criteria import Criteria, Longer, Replicated, read, read_criteria
from rlrep.experiments.video_study.figures import draw
from rlrep.experiments.video_study.origin import stamp
from rlrep.experiments.video_study.phase_report import phase_blocks
from rlrep.experiments.video_study.study import TUNING_SEED
from rlrep.experiments.video_study.verdicts import Part, Verdict, paired, percent, share_kept, verdicts

INTERVALS = (
    "All intervals are 95 % t intervals over seeds, none for fewer than three. Comparisons are paired by seed, so "
    "both sides have the same map, recording and noise. For the lock's growth each seed gives one rate, one degree and "
    "one difference of AIC; a run that was given up counts as a lower bound. p is the probability of a result at least "
    "as clear if the truth were at the threshold: for the prediction, and against it after Holm's correction for "
    "the number of criteria."
)
RULE = (
    "A criterion holds if p for it is below {0.level:g} (one-sided) with at least {0.seeds} seeds, {0.P5.seeds} for "
    "P5. A prediction is confirmed if all of its criteria hold, which needs no correction; refuted if p against one of "
    "them is below {0.level:g} after the correction; else undecided. Returns are measured from the random policy's. A "
    "ceiling is what could be reached under the same noise: {1}."
)
EXPLORATORY = (
    "A verdict is a test if the criteria were frozen before all cells that it rests on, else exploratory: the "
    "author of the criteria may have seen them."
)
COLLAPSED = 1.5  # an effective rank below it is about one
RECORDED = {"gridworld": "half of the actions random, half those of a player that knows all"}
LOCK = (
    "The right action at each level depends on one of two factors that videos cannot tell apart, and an encoder keeps "
    "as many states as one factor has. A run is the worse of two locks that differ in which factor is controlled, as "
    "in the theorem; an encoder from video is the same in both, so what it costs in one it saves in the other. The "
    "table has the episodes of both.",
    "The encoders are models made for the lock (experiments/video_study/lock.py): a binary code of the picture, "
    "learned by each method's loss in expectation over the code, with level and gap known and both codes kept in use.",
)
UNITS = (
    "state: the share of states classified correctly by a probe of frozen features (R² of what is seen in ViZDoom). "
    "behind the head: by a linear probe of the layer that the method's loss reads; all else is read before it. noise: "
    "R² of the noise alone, on black, as 4×4 mean colours. held out are the noise and, in ViZDoom, the episodes; the "
    "grid world's states are the same few hundred, so without noise its test pictures are those of the training.",
    "reconstruction error: squared, a pixel's range being 1, of a decoder trained on frozen features. alignment: mean "
    "squared distance of two features of one state, on the unit sphere, less is better (0 without noise). uniformity: "
    "log of the mean Gaussian potential of pairs of features, less is better. effective rank: of the features.",
)


def write_report(cells_folder: Path, out_folder: Path, quick: bool = False) -> list[Verdict]:
    """Writes `report.md`, `results.csv` (a row for each cell) and the pictures to `out_folder`.

    Args:
        cells_folder: the study's, with `cells/*.json` in it. Cells and studies may be missing: the report names them.
        quick: whether the cells are of quick sizes.

    Raises:
        ValueError: there are no cells, or one is damaged.
    """
    results = read_results(cells_folder)
    criteria = read_criteria()
    judged = verdicts(results)
    numbers = phase.numbers(results, criteria.P5)
    pictures = draw(results, out_folder, criteria.P5, numbers)
    blocks = compose(results, judged, pictures, criteria, numbers, quick)
    write_csv(out_folder / "results.csv", rows(results))
    write_atomically(out_folder / "report.md", ("\n\n".join(blocks) + "\n").encode())
    return judged


def write_table(folder: Path) -> Path:
    """Writes `results.csv` to a folder of studies: the cells of all, with the name of each one's folder.

    Raises:
        ValueError: there are no studies, or a cell is damaged.
    """
    studies = sorted(path.parent for path in folder.glob("*/cells"))
    if not studies:
        read_results(folder)  # which says so
    table = [{"folder": study.name} | row for study in studies for row in rows(read_results(study))]
    write_csv(folder / "results.csv", table)
    return folder / "results.csv"


def compose(
    results: Results,
    judged: Sequence[Verdict],
    pictures: dict[str, Path],
    criteria: Criteria,
    numbers: Mapping[str, Array],
    quick: bool = False,
) -> list[str]:
    early = {verdict.where: verdict.exploratory for verdict in judged if verdict.exploratory}
    ceilings = ", ".join(f"{METHODS[method]} in {DOMAINS[domain]}" for domain, method in criteria.ceiling.items())
    blocks = [
        "# Learning from video: what the theory predicts, and what was measured",
        markdown([summary_line(v) for v in judged]),
        RULE.format(criteria, ceilings),
        INTERVALS,
        f"{criteria.source} {EXPLORATORY}",
        bullets([f"{place}: {why}." for place, why in early.items()]),
        *code_block(results),
        f"```\n{command(results)}\n```",
        markdown(cost_lines(results)),
        *machine_block(results),
        "## What was run",
        markdown(setup_lines(results, quick)),
        *block_mdp(results, quick),
    ]
    if absent := [*missing(results), *phase.missing(results)]:
        blocks += ["## What is missing", bullets(absent)]
    if broken := [*diverged_lines(results), *collapsed_lines(results)]:
        blocks += ["## What diverged or collapsed", bullets(broken)]
    blocks += ["## The verdicts in detail"] if judged else []
    for verdict in judged:
        blocks.append(f"### {verdict.prediction}, {verdict.where}: {verdict.outcome}. {verdict.statement}.")
        blocks.append(markdown([part_line(part) for part in verdict.parts]))
    blocks += phase_blocks(results, criteria.P5, numbers, pictures)
    blocks += field_report.field_blocks(results, pictures)
    for domain in results.domains:
        if any(c.study in SWEEPS for c in select(results.cells, domain=domain)):
            blocks += domain_blocks(results, domain, pictures)
    if results.lock:
        blocks += [f"## {DOMAINS['lock']}", *shown(pictures, "lock"), *LOCK]
        blocks += [markdown(lock_lines(results))]
    return [*filter(None, blocks)]


def diverged_lines(results: Results) -> list[str]:
    """The trainings whose loss was not a number at some time; the best earlier weights were measured."""
    return [
        f"{where(cell)}: diverged after {cell.diverged:,.0f} updates, measured as it was at its best before"
        for cell in results.cells
        if isfinite(cell.diverged)
    ]


def collapsed_lines(results: Results) -> list[str]:
    """The encoders whose features are nearly on one line, or in one point."""
    found = [cell for cell in results.cells if cell.effective_rank < COLLAPSED]
    return [f"{where(cell)}: collapsed, effective rank {cell.effective_rank:.1f}" for cell in found]


def where(cell: Cell) -> str:
    return f"{DOMAINS[cell.domain]}, {cell.study}: {METHODS[cell.method]}, {condition(cell)}, seed {cell.seed}"


def command(results: Results) -> str:
    """The commands that make these cells, one line for each range of seeds."""
    seeds: dict[str, set[int]] = {}
    for cell in results.every:
        seeds.setdefault(cell.study if cell.domain in ("gridworld", "lock") else cell.domain, set()).add(cell.seed)
    lines: dict[str, list[str]] = {}
    for study in (*STUDIES, *DOMAINS, "codes"):
        if study in seeds:
            name, first = with_own_seeds(study, min(seeds[study]))
            least = min(seeds[study]) if first == 0 else 0
            asked = f"--seeds {1 + max(seeds[study]) - max(first, least)}" + f" --first-seed {least}" * (least > 0)
            lines.setdefault(asked, []).append(name)
    return "\n".join(f"python -m rlrep.experiments.video_theory {' '.join(lines[asked])} {asked}" for asked in lines)


def with_own_seeds(study: str, least: int) -> tuple[str, int]:
    """The study that makes cells whose least seed is this, and its own first seed; most begin at 0."""
    own = {"core": ("replication", min(read(Replicated).seeds)), "phase": ("longer", min(read(Longer).seeds))}
    if study == "tuning":
        return study, TUNING_SEED
    further = min(read(Replicated).seeds)  # `longer` was explored on these, too
    return own[study] if study in own and least >= further else (study, 0)


def domain_blocks(results: Results, domain: str, pictures: dict[str, Path]) -> list[str]:
    return [
        f"## {DOMAINS[domain]}",
        *shown(pictures, f"returns_{domain}"),
        *ranking(results, domain),
        markdown(core_lines(results, domain, READ)),
        UNITS[0],
        *shown(pictures, f"probes_{domain}"),
        markdown(core_lines(results, domain, GEOMETRY)),
        UNITS[1],
        *shown(pictures, f"reconstructions_{domain}"),
        *shown(pictures, f"size_{domain}"),
        markdown(size_lines(results, domain)),
        *shown(pictures, f"persistence_{domain}"),
        *first_to_break(results, domain),
        markdown(persistence_lines(results, domain)),
    ]


def setup_lines(results: Results, quick: bool) -> list[Line]:
    """The sizes of each domain's jobs."""
    from rlrep.experiments.video_study import pixels

    lines = []
    for domain in results.domains:
        chosen = pixels.settings(domain, quick)
        every = select(results.cells, domain=domain)
        own = [c for c in every if isfinite(c.final_return)]
        noisy = by_setting(cell for cell in core(results, domain) if cell.noise == "exogenous")
        shapes = set()
        for group in noisy:
            covered = percent(values(group, "coverage").mean())
            shapes.add(f"{group[0].num_shapes} shapes of {group[0].size:g} of the side, {covered} of the pixels")
        lines.append(
            {
                "where": DOMAINS[domain],
                "video": f"{chosen.frames:,} frames, {RECORDED.get(domain, 'all actions random')}",
                "pre-training": f"{chosen.steps:,} updates, batch {chosen.batch_size}, gap up to {chosen.horizon}",
                "features": str(chosen.encoder["out_dim"]),
                "probes": f"{chosen.labels} labels a state" if domain == "gridworld" else "1,000 observations",
                "PPO": f"{chosen.ppo.steps:,} steps, {chosen.ppo.episodes} episodes an evaluation" if own else "",
                "PPO seeds an encoder": counted(max(1, len(c.returns)) for c in own),
                "maps": counted([len({c.layout for c in every})]) if domain == "gridworld" else "1",
                "noise of the core": "; ".join(sorted(shapes)),
                "return": "100 points" if domain == "vizdoom_basic" else "as the environment gives it",
            }
        )
    return lines


def block_mdp(results: Results, quick: bool) -> list[str]:
    """What the theory assumes of the grid world, computed: the margin that tells states apart, and the coverage."""
    from rlrep.experiments.video_study import pixels
    from rlrep.experiments.video_study.gridworld import GridDomain

    recordings = sorted({(c.layout, c.seed) for c in results.cells if c.domain == "gridworld"})
    if not recordings:
        return []
    chosen, places = pixels.settings("gridworld", quick), {layout: GridDomain(layout) for layout, _ in recordings}
    each = np.array([place.margins(chosen.horizon) for place in places.values()])
    ends = [(f"{low:.3f}", f"{high:.3f}") for low, high in zip(each.min(0), each.max(0), strict=True)]
    margins = ", ".join(low if low == high else f"{low} to {high}" for low, high in ends)
    lines = []
    for layout, seed in recordings:
        place = places[layout]
        unseen = round((1 - place.visited(chosen, seed)) * len(place.seen))
        lines.append(f"{unseen} of {len(place.seen)} (seed {seed}, map {layout})")
    return [
        "Exactly from the transition table and the recorded behaviour, the least total variation between where two "
        f"states lead in k steps, the margin of the block MDP, is {margins} for k = 1 to {chosen.horizon}.",
        f"States that {chosen.frames:,} recorded frames never show: {', '.join(lines)}.",
    ]


def ranking(results: Results, domain: str) -> list[str]:
    """Which method is best under exogenous noise; the verdicts judge each method separately."""
    cells = {m: values(core(results, domain, noise="exogenous", method=m), "final_return") for m in METHODS}
    order = sorted((m for m in cells if len(cells[m])), key=lambda m: -cells[m].mean())
    if not order:
        return []
    return [
        "Mean return under exogenous noise, in order: "
        + ", ".join(f"{METHODS[m]} {cells[m].mean():.2f}" for m in order)
        + "."
    ]


def first_to_break(results: Results, domain: str) -> list[str]:
    """Whether temporal contrast loses its return at less persistence than forward modelling, or at more."""
    cells = sweep(results, domain, "persistence")
    found = []
    for rho in sorted({c.persistence for c in cells} - {0.0, 1.0}):
        here = select(cells, persistence=rho)
        ours, theirs = (select(here, method=m) for m in ("temporal_contrastive", "forward_model"))
        first, second = paired(ours, theirs, "final_return")
        if len(first):
            found.append(f"{seed_mean(first - second).text(2)} at ρ = {rho:g}")
    return [f"Return of temporal contrast less that of forward modelling: {'; '.join(found)}."] if found else []


def shown(pictures: dict[str, Path], name: str) -> list[str]:
    return [picture(CAPTIONS[name.split("_")[0]], pictures[name])] if name in pictures else []


# Columns of the tables, and the measures in them.
READ = {
    "return": "final_return",
    "state, linear": "state_linear",
    "state, MLP": "state_mlp",
    "state, behind the head": "state_head",
    "noise, linear": "noise_linear",
    "noise, MLP": "noise_mlp",
}
GEOMETRY = {
    "reconstruction error": "reconstruction",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "effective rank": "effective_rank",
}
CAPTIONS = {
    "returns": "Return of PPO on frozen encoders against steps, mean and 95 % interval, or each of few seeds",
    "probes": "How well probes read the state and the noise from frozen features",
    "reconstructions": "Observations and their reconstructions from frozen features, one seed",
    "size": "Final return against the share of pixels that the noise covers",
    "persistence": "Final return and probes against the persistence of the noise",
    "lock": "Episodes to solve the combination lock against its horizon, each seed a point, with the better fit",
}


def summary_line(verdict: Verdict) -> Line:
    return {
        "prediction": f"{verdict.prediction}. {verdict.statement}",
        "where": verdict.where,
        "verdict": verdict.outcome,
        "status": "exploratory" if verdict.exploratory else "test",
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
        "p for": "" if isnan(part.p) else f"{part.p:.2g}",
        "p against": "" if isnan(part.p_against) else f"{part.p_against:.2g}",
        "seeds": str(part.seeds or ""),
        "outcome": part.outcome,
        "note": part.note,
    }


def core_lines(results: Results, domain: str, measures: dict[str, str]) -> list[Line]:
    """A row for each noise and method of the core that has one of the measures."""
    lines, run = [], core(results, domain)
    measures = {name: measure for name, measure in measures.items() if len(values(run, measure))}
    for (noise, method), cells in grouped(run, "noise", "method").items():
        if any(len(values(cells, measure)) for measure in measures.values()):
            lines.append({"noise": NOISES[noise], "method": METHODS[method], **cells_line(cells, measures)})
    return lines


def size_lines(results: Results, domain: str) -> list[Line]:
    measures = {"return": "final_return", "state, linear": "state_linear", "noise, linear": "noise_linear"}
    lines = []
    for (noise, method), cells in grouped(sweep(results, domain, "size"), "noise", "method").items():
        for group in sorted(by_setting(cells), key=lambda group: values(group, "coverage").mean()):
            where = {"noise": NOISES[noise], "method": METHODS[method]}
            where |= {"pixels under noise": percent(values(group, "coverage").mean())}
            lines.append({**where, **cells_line(group, measures)})
    return lines


def persistence_lines(results: Results, domain: str) -> list[Line]:
    """A row for each method: its return at each ρ, and the first ρ with a clear loss, by the rule of the verdicts."""
    cells = sweep(results, domain, "persistence")
    lines, criteria = [], read_criteria()
    loses = f"loses over {percent(1 - criteria.keeps)} from"
    for method in METHODS:
        groups = {group[0].persistence: group for group in by_setting(select(cells, method=method))}
        order = sorted(groups)
        if len(order) < 2:
            continue
        kept = [share_kept("", "", False, groups[rho], groups[order[0]], criteria) for rho in order[1:]]
        lost = [rho for rho, part in zip(order[1:], kept, strict=True) if not part.barred and part.p < criteria.level]
        broken = f"ρ = {lost[0]:g}" if lost else "not shown"
        by_rho = {f"ρ = {rho:g}": interval(values(groups[rho], "final_return")) for rho in order}
        lines.append({"method": METHODS[method], loses: broken, **by_rho, "n": counted(map(len, groups.values()))})
    columns = list(dict.fromkeys(name for line in lines for name in line))
    return [{name: line.get(name, "") for name in columns} for line in lines]


def lock_lines(results: Results) -> list[Line]:
    lines = []
    for (method, horizon), cells in grouped(results.lock, "method", "horizon").items():
        other = values(cells, "episodes_to_solve_other")
        lines.append(
            {
                "method": METHODS[method],
                "H": str(horizon),
                "median episodes": field_report.median_episodes(cells),
                "of the other lock": f"{np.median(other):,.0f}" if len(other) else "",
                "solved": f"{sum(c.solved for c in cells)} of {len(cells)}",
                "controlled factor read": interval(values(cells, "controlled_accuracy")),
                "exogenous factor read": interval(values(cells, "exogenous_accuracy")),
            }
        )
    return lines


def cells_line(cells: Sequence[Cell], measures: dict[str, str]) -> Line:
    return {**{name: interval(values(cells, m)) for name, m in measures.items()}, "n": str(len(cells))}


def interval(seeds: Array) -> str:
    """`mean [low, high]` over seeds; without the interval for fewer than three seeds, empty for none."""
    return seed_mean(seeds).text(3, "g") if len(seeds) else ""


def counted(numbers: Iterable[int]) -> str:
    """The number, or the least and the largest; empty for none."""
    found = sorted(set(numbers))
    return "–".join(map(str, dict.fromkeys((*found[:1], *found[-1:]))))


def cost_lines(results: Results) -> list[Line]:
    """What each study ran, and how long it took."""
    lines = []
    for domain in results.domains:
        for study in STUDIES:
            cells = select(results.cells, domain=domain, study=study)
            if cells:
                # Of several lengths of one training, the longest includes the others.
                ordered = sorted(cells, key=lambda c: c.updates)
                trainings = {(c.method, *point(c), condition(c), c.seed): c for c in ordered}
                pretrain = values(trainings.values(), "pretrain_seconds").sum() / 60
                ppo = values(cells, "ppo_seconds").sum() / 60
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


def code_block(results: Results) -> list[str]:
    """Which code made the cells, where they note it."""
    present, noted = stamp()["code"], [cell.code for cell in results.every if cell.code]
    counts_of = {digest: noted.count(digest) for digest in sorted(set(noted))}
    here = {True: "the present code", False: "other code"}
    lines = [f"{count:,} cells by {here[digest == present]} ({digest})" for digest, count in counts_of.items()]
    return [f"Made {', '.join(lines)}."] if lines else []


def machine_block(results: Results) -> list[str]:
    machines = sorted({cell.machine for cell in results.every if cell.machine})
    return [f"Measured on: {'; '.join(machines)}."] if machines else []
