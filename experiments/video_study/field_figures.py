"""The pictures of the field: every method under each noise, how many action labels help, and the temperature."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rlrep.experiments.results.pictures import COLOURS, GREY
from rlrep.experiments.results.statistics import seed_mean
from rlrep.experiments.video_study.cells import (
    DOMAINS,
    METHODS,
    NOISES,
    Results,
    reads,
    select,
    state_unit,
    values,
)
from rlrep.experiments.video_study.criteria import FewLabels, Survival, read
from rlrep.experiments.video_study.survival import field_cells, label_shares

# What a method reads, and the colour of such methods.
READS = {
    "video": COLOURS[0],
    "video and its background": COLOURS[4],
    "actions": COLOURS[2],
    "actions and rewards": COLOURS[3],
    "rewards": COLOURS[5],
    "labels of the state": COLOURS[6],
    "nothing": GREY,
}
TITLES = {"state_linear": "state read", "noise_linear": "noise read"}


def ranked(results: Results, domain: str) -> list[str]:
    """The methods by what they keep of the state under exogenous noise, the best first."""
    cells = field_cells(results, domain, noise="exogenous")
    score = {m: values(select(cells, method=m), "state_linear") for m in METHODS}
    return sorted((m for m in METHODS if len(score[m])), key=lambda m: -score[m].mean())


def field(results: Results, domain: str) -> Figure | None:
    """What linear probes read from every method's features, a row each, the best first; None for the core alone."""
    methods = ranked(results, domain)[::-1]
    if not select(results.cells, domain=domain, study="field"):
        return None
    figure = Figure(figsize=(16, 2.6 + 0.34 * len(methods)))
    seeds = len({c.seed for c in field_cells(results, domain)})
    shown = f"{seeds} seed{'s' * (seeds > 1)}"
    figure.suptitle(f"{DOMAINS[domain]}: which method keeps the state under noise? ({shown})", fontsize=20)
    panels = figure.subplots(1, 2, sharey=True)
    asked = read(Survival)
    for panel, (measure, title) in zip(panels, TITLES.items(), strict=True):
        for end in (asked.floor, asked.ceiling):  # so that each row can be compared with them
            found = values(field_cells(results, domain, noise="exogenous", method=end), measure)
            if len(found):
                panel.axvline(found.mean(), color=READS[reads(end)], linestyle="--", linewidth=1, zorder=0)
        for row, method in enumerate(methods):
            dots(panel, results, domain, method, measure, row)
        panel.set_title(title)
        panel.set_xlabel(state_unit(domain) if measure == "state_linear" else "R²")
        panel.set_xlim(-0.04, 1.04)
        panel.set_ylim(-0.7, len(methods) - 0.3)
        panel.set_xticks([0, 0.5, 1])
    panels[0].set_yticks(range(len(methods)), [METHODS[m] for m in methods])
    for text, method in zip(panels[0].get_yticklabels(), methods, strict=True):
        text.set_color(READS[reads(method)])
    marks = [Line2D([], [], marker="o", linestyle="", color=c, label=f"reads {name}") for name, c in READS.items()]
    for noise, face in (("exogenous", "0.3"), ("iid", "white")):
        marks.append(
            Line2D([], [], marker="o", linestyle="", color="0.3", markerfacecolor=face, label=f"under {NOISES[noise]}")
        )
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=13)
    return figure


def dots(panel: Axes, results: Results, domain: str, method: str, measure: str, row: int) -> None:
    """A full dot under exogenous noise with its interval, an empty one under iid noise; below 0 nothing is read."""
    colour = READS[reads(method)]
    for noise, face in (("iid", "white"), ("exogenous", colour)):
        found = values(field_cells(results, domain, noise=noise, method=method), measure)
        if len(found):
            mean = seed_mean(found)
            at, low, high = np.clip([mean.value, mean.low, mean.high], 0, 1)
            if noise == "exogenous":
                panel.plot([low, high], [row, row], color=colour, linewidth=2)
            panel.plot(at, row, "o", color=colour, markerfacecolor=face, markersize=8, clip_on=False)


def labels(results: Results, colours: Mapping[str, str]) -> Figure | None:
    """State kept against the recorded frames whose action is known."""
    asked = read(FewLabels)
    cells = select(results.cells, study="labels")
    counts = sorted({int(c.labels) for c in cells})
    if len(counts) < 2:
        return None
    figure = Figure(figsize=(10, 6))
    seeds = len({c.seed for c in cells})
    shown = f"{seeds} seed{'s' * (seeds > 1)}"
    figure.suptitle(f"How many action labels bring the state back? (exogenous noise, {shown})", fontsize=18)
    panel = figure.subplots()
    ends = []
    panel.axhline(0, color=GREY, linestyle="--", linewidth=2)
    for method in (asked.reference, *asked.beside):
        shares = {n: label_shares(results, method, n, asked) for n in counts}
        own = {n: np.array([*found.values()]) for n, found in shares.items() if found}
        if not own:
            continue
        name = f"{METHODS[method]} alone" if method == asked.reference else f"{METHODS[method]} + labels"
        at = [counts.index(n) for n in own]
        means = [float(found.mean()) for found in own.values()]
        panel.plot(at, means, "o-", color=colours[method], linewidth=2.4, markersize=7, clip_on=False)
        for x, found in zip(at, own.values(), strict=True):
            panel.plot([x] * len(found), found, ".", color=colours[method], alpha=0.6, clip_on=False)
        ends.append((means[-1], name, colours[method]))
    name_ends(panel, ends)
    panel.set_xticks(range(len(counts)), [f"{n:,}" for n in counts])
    panel.set_xlabel("recorded frames with their action")
    panel.set_ylabel("state kept", fontsize=15)
    panel.set_yticks([0, 0.5, 1], [f"0: {METHODS[asked.floor]}", "0.5", "1: all labels"])
    return figure


def temperatures(results: Results, colours: Mapping[str, str]) -> Figure | None:
    """State read, uniformity and tolerance against the temperature of contrastive losses, solid lines under exogenous
    noise, dashed ones under iid noise.
    """
    cells = select(results.cells, study="temperature")
    if len({c.temperature for c in cells}) < 2:
        return None
    titles = {"state_linear": "state read, accuracy", "uniformity_head": "uniformity", "tolerance_head": "tolerance"}
    figure = Figure(figsize=(16, 5.6))
    seeds = len({c.seed for c in cells})
    figure.suptitle(f"Temperature of contrastive losses ({seeds} seed{'s' * (seeds > 1)})", fontsize=20)
    for panel, (measure, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        for method in (m for m in METHODS if select(cells, method=m)):
            for noise, line in (("exogenous", "-"), ("iid", "--")):
                own = select(cells, method=method, noise=noise)
                points = {t: values(select(own, temperature=t), measure) for t in sorted({c.temperature for c in own})}
                points = {t: found for t, found in points.items() if len(found)}
                means = [found.mean() for found in points.values()]
                label = f"{METHODS[method]}, {NOISES[noise]}"
                panel.plot(list(points), means, f"o{line}", color=colours[method], linewidth=2.4, label=label)
                for t, found in points.items():
                    panel.plot([t] * len(found), found, ".", color=colours[method], alpha=0.6)
        if measure == "state_linear":
            panel.set_ylim(-0.03, 1.03)
        panel.set_xscale("log")
        known = sorted({c.temperature for c in cells})
        panel.set_xticks(known, [f"{t:g}" for t in known])
        panel.set_xticks([], minor=True)
        panel.set_title(title)
        panel.set_xlabel("temperature τ")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=13)
    return figure


def name_ends(panel: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names beside the right edge, in the order of the lines' ends, spaced so that they do not touch."""
    low, high = panel.get_ylim()
    height, gap = -inf, 0.05 * (high - low)
    for end, name, colour in sorted(ends):
        height = max(end, height + gap)
        panel.annotate(name, (1.02, height), xycoords=("axes fraction", "data"), fontsize=13, color=colour, va="center")
