"""The study's pictures, each for a slide: a method has one colour in all of them and its name beside its line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from rlrep.experiments.results import pictures
from rlrep.experiments.results.pictures import COLOURS, GREY, save, styled
from rlrep.experiments.results.seeds import align
from rlrep.experiments.results.statistics import over_seeds, seed_mean
from rlrep.experiments.video_study import phase
from rlrep.experiments.video_study.cells import (
    CORE_METHODS,
    DOMAINS,
    METHODS,
    NOISES,
    AnyCell,
    Array,
    Cell,
    LockCell,
    Results,
    by,
    by_setting,
    core,
    oracle,
    select,
    state_unit,
    sweep,
    values,
)
from rlrep.experiments.video_study.criteria import Phases
from rlrep.experiments.video_study.diagram import noise_examples, phase_diagram
from rlrep.experiments.video_study.field_figures import field, labels, temperatures
from rlrep.experiments.video_study.verdicts import growth_fits, percent

COLOUR = {
    "temporal_contrastive": COLOURS[0],
    "forward_model": COLOURS[1],
    "inverse_model": COLOURS[2],
    "autoencoder": COLOURS[3],
    "vq_autoencoder": COLOURS[5],
    "oracle": COLOURS[6],
    "supervised": COLOURS[4],
    "random": "0.5",
}
MORE = [to_hex(colormaps[name](i)) for name in ("tab20", "tab20b") for i in range(20)]
COLOUR |= dict(zip((method for method in METHODS if method not in COLOUR), MORE, strict=False))
POLICY = "random policy"
COLOUR[POLICY] = GREY
NAMES = METHODS | {POLICY: POLICY}
SAMPLES = 1
LEGEND = "bar, number: linear probe; line: its 95 % interval; diamond: MLP probe; below 0, drawn at 0: nothing is read"
MOST = 9  # how many methods one picture can show as lines or bars
FEW = 5  # seeds: fewer are drawn one by one, as their intervals would be wider than the picture

End = tuple[float, float]
Ends = Mapping[str, End | None]


@styled()
def draw(results: Results, out: Path, asked: Phases, numbers: Mapping[str, Array]) -> dict[str, Path]:
    """Every picture that the cells allow, as `out/NAME.png`; the keys are their names without the ending.

    Args:
        asked: the settings of the phase diagram.
        numbers: for each of its methods, what was known before training, (sizes, persistences).
    """
    figures: dict[str, Figure | None] = {}
    for domain in results.domains:
        figures[f"returns_{domain}"] = returns(results, domain)
        figures[f"probes_{domain}"] = probes(results, domain)
        figures[f"reconstructions_{domain}"] = reconstructions(results, domain)
        figures[f"size_{domain}"] = size(results, domain)
        figures[f"persistence_{domain}"] = persistence(results, domain)
        figures[f"field_{domain}"] = field(results, domain)
    figures["labels"] = labels(results, COLOUR)
    figures["temperature"] = temperatures(results, COLOUR)
    figures["lock"] = lock(results.lock)
    figures[f"phase_{phase.DOMAIN}"] = phase_diagram(results, asked, numbers)
    figures[f"noise_{phase.DOMAIN}"] = noise_examples() if figures[f"phase_{phase.DOMAIN}"] else None
    paths = {}
    for name, figure in figures.items():
        if figure is not None:
            paths[name] = out / f"{name}.png"
            save(figure, paths[name])
    return paths


def returns(results: Results, domain: str) -> Figure | None:
    """Learning curves of PPO on the frozen encoders, a panel for each noise."""
    noises = [noise for noise in NOISES if core(results, domain, noise=noise)]
    if not noises:
        return None
    figure, panels = canvas(len(noises), f"{DOMAINS[domain]}: PPO on frozen encoders")
    ends = []
    for noise, panel in zip(noises, panels, strict=True):
        cells = [*core(results, domain, noise=noise), *oracle(results, domain, noise)]
        lines: dict[str, End | None] = {}
        for method in methods_of(cells):
            shown = [np.array(c.curve).T for c in unique(select(cells, method=method)) if len(c.curve) > 1]
            if shown:
                steps, runs = align([(x, y) for x, y in shown])
                lines[method] = band(panel, steps, runs, method, marker="")
        dress(panel, f"{NOISES[noise]}, {seeds(cells)}", "environment steps")
        panel.xaxis.set_major_formatter(FuncFormatter(thousands))
        ends.append(lines | random_policy(panel, cells))
    share_y(panels, "episode return")
    for panel, lines in zip(panels, ends, strict=True):
        label_lines(panel, lines)
    return figure


def probes(results: Results, domain: str) -> Figure | None:
    """What can be read from the frozen features: the state above, the noise below; a column for each noise."""
    measured = {cell.noise for cell in core(results, domain) if isfinite(cell.state_linear)}
    noises = [noise for noise in NOISES if noise in measured]
    if not noises:
        return None
    figure = Figure(figsize=(16, 9))
    shown = seeds(core(results, domain))
    figure.suptitle(f"{DOMAINS[domain]}: what can be read from frozen features ({shown})", fontsize=20)
    grid = figure.subplots(2, len(noises), squeeze=False)
    for noise, (above, below) in zip(noises, grid.T, strict=True):
        cells = [*core(results, domain, noise=noise), *oracle(results, domain, noise)]
        bars(above, cells, "state", f"state read, {NOISES[noise]}", state_unit(domain))
        if noise == "none":
            below.axis("off")
            continue
        bars(below, select(cells, noise=noise), "noise", f"noise read, {NOISES[noise]}", "R² (0: nothing)")
    figure.supxlabel(LEGEND, fontsize=14)
    return figure


def bars(panel: Axes, cells: Sequence[Cell], what: str, title: str, unit: str) -> None:
    """A bar for each method. A probe that scores below 0 is worse than none and is drawn at 0: nothing can be read."""
    methods = [m for m in reversed(methods_of(cells)) if len(values(select(cells, method=m), f"{what}_linear"))]
    for row, method in enumerate(methods):
        cells_of = unique(select(cells, method=method))
        linear, mlp = values(cells_of, f"{what}_linear"), values(cells_of, f"{what}_mlp")
        found = seed_mean(linear)
        mean, low, high = np.clip([found.value, found.low, found.high], 0, 1)
        panel.barh(row, mean, height=0.7, color=COLOUR[method], alpha=0.85)
        panel.plot([low, high], [row + 0.15, row + 0.15], color="black", linewidth=2)
        at = max(mlp.mean(), 0.0) if len(mlp) else mean
        if len(mlp):
            panel.plot(at, row - 0.15, "D", color="white", markeredgecolor="black", markersize=7, clip_on=False)
        text = f"{found.value:.2f}".replace("-0.00", "0.00")
        panel.text(np.nanmax([mean, high, at]) + 0.05, row, text, va="center", fontsize=13)
    panel.set_yticks(range(len(methods)), [METHODS[m] for m in methods])
    dress(panel, title, unit)
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x", color="0.92")
    panel.set_xlim(-0.04, 1.22)
    panel.set_xticks([0, 0.5, 1])


def reconstructions(results: Results, domain: str) -> Figure | None:
    """Observations and a decoder's pictures from frozen features, a row each, of the seed that has most of them."""
    rows: dict[tuple[str, bytes], dict[str, Array]] = {}
    for noise in NOISES:
        with_pictures = [c for c in core(results, domain, noise=noise) if c.pictures and c.pictures.is_file()]
        fullest = max(by(with_pictures, "seed").values(), key=len, default=[])
        for cell in fullest:
            for seen, decoded in zip(*read_pictures(cell.pictures), strict=True):
                rows.setdefault((noise, seen.tobytes()), {"observation": seen})[cell.method] = decoded
    chosen = [(n, row) for n in NOISES for row in [row for (noise, _), row in rows.items() if noise == n][:SAMPLES]]
    if not chosen:
        return None
    columns = ["observation", *(m for m in METHODS if any(m in row for _, row in chosen))]
    figure = Figure(figsize=(2.3 * len(columns) + 0.6, 2.3 * len(chosen) + 1.1))
    figure.suptitle(f"{DOMAINS[domain]}: reconstructed from frozen features", fontsize=20)
    grid = figure.subplots(len(chosen), len(columns), squeeze=False)
    for panel in grid.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
    for column, panel in zip(columns, grid[0], strict=True):
        panel.set_title(METHODS.get(column, column), fontsize=15, color=COLOUR.get(column, "black"))
    for (noise, row), panels in zip(chosen, grid, strict=True):
        panels[0].set_ylabel(NOISES[noise], fontsize=15)
        for column, panel in zip(columns, panels, strict=True):
            if column in row:
                panel.imshow(row[column], interpolation="nearest")
    return figure


def read_pictures(path: Path | None) -> tuple[Array, Array]:
    """`observation` and `reconstruction`, (n, H, W, 3) uint8 each.

    Raises:
        ValueError: if the file does not hold them.
    """
    assert path is not None
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["observation"], file["reconstruction"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} must hold observation and reconstruction ({error}): move its cell away and run the study again"
        ) from error


def size(results: Results, domain: str) -> Figure | None:
    """Return against the share of pixels under noise, a panel for each noise; at 0 %, the core without noise."""
    cells = sweep(results, domain, "size")
    noises = [noise for noise in NOISES if len({(c.num_shapes, c.size) for c in select(cells, noise=noise)}) > 1]
    if not noises:
        return None
    figure, panels = canvas(len(noises), f"{DOMAINS[domain]}: return as the noise covers more")
    ends = []
    for noise, panel in zip(noises, panels, strict=True):
        shown = select(cells, noise=noise)
        dress(panel, f"{NOISES[noise]}, {seeds(shown)}", "pixels under noise")
        shown += [c for c in core(results, domain, noise="none") if select(shown, method=c.method)]
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: percent(x)))
        own: dict[str, End | None] = {
            m: against(panel, select(shown, method=m), "coverage", "final_return") for m in methods_of(shown)
        }
        ends.append(own | reference(panel, results, domain, noise))
    share_y(panels, "episode return")
    for panel, lines in zip(panels, ends, strict=True):
        label_lines(panel, lines)
    return figure


def persistence(results: Results, domain: str) -> Figure | None:
    """Return and probes against the noise's persistence ρ."""
    cells = sweep(results, domain, "persistence")
    if len({c.persistence for c in cells}) < 2:
        return None
    titles = {
        "final_return": "episode return",
        "state_linear": f"state read, {state_unit(domain)}",
        "noise_linear": "noise read, R²",
    }
    random = [c for c in core(results, domain, method="random") if c.noise != "none"]
    measures = [m for m in titles if len(values(cells, m))]
    title = f"{DOMAINS[domain]}: at which time correlation does each method break?"
    figure, panels = canvas(len(measures), f"{title} ({seeds(cells)})")
    for measure, panel in zip(measures, panels, strict=True):
        dress(panel, titles[measure], "persistence ρ of the noise")
        panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0\niid", "0.25", "0.5", "0.75", "1\nexogenous"])
        shown = [*cells, *random] if measure != "final_return" else cells  # there the random policy is shown
        methods = [m for m in methods_of(shown) if m != "oracle"]
        lines: dict[str, End | None] = {
            m: against(panel, select(shown, method=m), "persistence", measure) for m in methods
        }
        if measure == "final_return":
            lines |= reference(panel, results, domain, "exogenous")
        label_lines(panel, lines)
    return figure


def lock(cells: Sequence[LockCell]) -> Figure | None:
    """Episodes to solve against the horizon, each seed a point, with the better of the two fits."""
    horizons = sorted({c.horizon for c in cells})
    if len(horizons) < 2:
        return None
    figure, (panel,) = canvas(1, f"Combination lock: episodes to solve ({seeds(cells)})")
    methods = [m for m in METHODS if any(c.method == m for c in cells)]
    ends, names = {}, {}
    for i, method in enumerate(methods):
        own = select(cells, method=method)
        shift = 0.12 * (i - (len(methods) - 1) / 2)
        for solved, marker, face in ((True, "o", COLOUR[method]), (False, "^", "white")):
            drawn = select(own, solved=solved)
            x, y = values(drawn, "horizon") + shift, values(drawn, "episodes")
            panel.plot(x, y, marker, color=COLOUR[method], markerfacecolor=face, markersize=8, alpha=0.75)
        ends[method] = (float(max(values(own, "horizon"))), float(np.exp(np.log(values(own, "episodes")).mean())))
        names[method] = METHODS[method]
        if fit := better_fit(own):
            label, curve = fit
            x = np.linspace(min(values(own, "horizon")), max(values(own, "horizon")), 100)
            panel.plot(x, curve(x), color=COLOUR[method], linewidth=2.5)
            ends[method] = (float(x[-1]), float(curve(x)[-1]))
            names[method] += f" {label}"
    panel.set_yscale("log")
    dress(panel, "", "horizon H")
    panel.set_xticks(horizons)
    panel.set_ylabel("episodes to solve (log scale)", fontsize=15)
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}"))
    most = max(c.max_episodes for c in cells)
    panel.set_ylim(top=max(1.5 * max(c.episodes for c in cells), 1.5 * max(y for _, y in ends.values())))
    if not all(c.solved for c in cells):
        panel.axhline(most, color=GREY, linestyle="--", linewidth=1.6)
        panel.annotate("given up (△: unsolved)", (horizons[0], most), (0, 5), textcoords="offset points", fontsize=13)
    label_lines(panel, ends, names)
    return figure


def better_fit(cells: Sequence[LockCell]) -> tuple[str, Callable[[Array], Array]] | None:
    """The fit with the lower AIC, exponential or polynomial: its name and its curve."""
    fits = growth_fits(cells)
    if fits is None:
        return None
    exponential, power = fits
    if power.aic < exponential.aic:
        return f"$\\propto H^{{{power.slope:.1f}}}$", lambda horizon: power.episodes(np.log(horizon))
    return f"$\\propto {np.exp(exponential.slope):.2f}^H$", exponential.episodes


def seeds(cells: Iterable[AnyCell]) -> str:
    """How many seeds a panel shows, for its title: from the method with the fewest to the one with the most."""
    counts = sorted({len({c.seed for c in own}) for own in by(cells, "method").values()})
    few, many = counts[0], counts[-1]
    return f"{few} to {many} seeds" if few != many else f"{many} seed{'s' * (many > 1)}"


def canvas(panels: int, title: str) -> tuple[Figure, list[Axes]]:
    """A slide's width for three panels; a single panel gets half a slide."""
    figure = Figure(figsize=(max(10.0, 6.4 * panels), 6.0))
    figure.suptitle(title, fontsize=20)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def dress(panel: Axes, title: str, unit: str) -> None:
    panel.set_title(title)
    panel.set_xlabel(unit)


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """One cell for each seed: the oracle may be in a list twice."""
    return list({cell.seed: cell for cell in cells}.values())


def methods_of(cells: Iterable[Cell]) -> list[str]:
    """The methods that a picture shows, in their order: all, or only those of the core if there are many."""
    found = [method for method in METHODS if method in {cell.method for cell in cells}]
    return found if len(found) <= MOST else [method for method in found if method in CORE_METHODS]


def band(panel: Axes, x: Array, runs: Array, method: str, marker: str = "o") -> End:
    """The mean over seeds, and its interval or each of few seeds; returns the line's end."""
    line, means = "--" if method == "random" else "-", over_seeds(runs)
    if len(runs) >= FEW:
        pictures.band(panel, x, means, COLOUR[method], line=line, marker=marker)
    else:
        style: dict[str, Any] = dict(color=COLOUR[method], clip_on=False)
        panel.plot(x, means.mean, line, linewidth=2.4, marker=marker, markersize=6, **style)
        for run in runs if len(runs) > 1 else ():
            panel.plot(x, run, line, linewidth=0.9, alpha=0.6, **style)
    return float(x[-1]), float(means.mean[-1])


def against(panel: Axes, cells: Sequence[Cell], x: str, measure: str) -> End | None:
    """A measure against what a sweep varies; an interval at each point, as seeds may be missing at some."""
    points = {float(values(group, x).mean()): values(group, measure) for group in by_setting(cells)}
    points = {at: runs for at, runs in sorted(points.items()) if len(runs)}
    if not points:
        return None
    padded = np.full((max(map(len, points.values())), len(points)), nan)
    for column, runs in enumerate(points.values()):
        padded[: len(runs), column] = runs
    return band(panel, np.array(list(points)), padded, cells[0].method)


def random_policy(panel: Axes, cells: Sequence[Cell]) -> dict[str, End | None]:
    return {POLICY: level(panel, float(values(cells, "random_return").mean()), GREY)}


def reference(panel: Axes, results: Results, domain: str, noise: str) -> dict[str, End | None]:
    """The returns of the oracle and of the random policy, the ends of the scale: where their lines end."""
    if not (ends := oracle(results, domain, noise)):
        return {}
    height = float(values(ends, "final_return").mean())
    return {"oracle": level(panel, height, COLOUR["oracle"])} | random_policy(panel, ends)


def level(panel: Axes, height: float, colour: str) -> End:
    """A dotted line; its end at the right edge, which is where it will be once all is drawn."""
    panel.axhline(height, color=colour, linestyle=":", linewidth=2)
    return float("inf"), height


def label_lines(panel: Axes, ends: Ends, names: Mapping[str, str] = NAMES) -> None:
    """Names to the right of the lines' ends, in their order, moved apart where they would touch, tied to their ends."""
    shown = sorted(((end, method) for method, end in ends.items() if end and isfinite(end[1])), key=lambda e: e[0][1])
    if not shown:
        return
    gap = 0.058
    low, high = panel.get_ylim()
    left, right = panel.get_xlim()
    transform = np.log if panel.get_yscale() == "log" else np.asarray
    heights = (transform([end[1] for end, _ in shown]) - transform(low)) / (transform(high) - transform(low))
    for _ in range(200):
        for i in range(len(heights) - 1):
            if (overlap := gap - (heights[i + 1] - heights[i])) > 1e-6:
                heights[i] -= overlap / 2
                heights[i + 1] += overlap / 2
        heights[0], heights[-1] = max(heights[0], 0.0), min(heights[-1], 1.0)
    for height, (end, method) in zip(heights, shown, strict=True):
        panel.annotate(
            names[method],
            (min(end[0], right), end[1]),
            (1.06, height),
            textcoords="axes fraction",
            va="center",
            fontsize=13,
            color=COLOUR[method],
            arrowprops=dict(arrowstyle="-", color=COLOUR[method], linewidth=0.9, relpos=(0, 0.5), shrinkA=0, shrinkB=3),
            annotation_clip=False,
        )
    panel.set_xlim(left, right)
    panel.set_ylim(low, high)


def share_y(panels: Sequence[Axes], name: str) -> None:
    low, high = min(p.get_ylim()[0] for p in panels), max(p.get_ylim()[1] for p in panels)
    for panel in panels:
        panel.set_ylim(low, high)
    panels[0].set_ylabel(name, fontsize=15)


def thousands(value: float, _: int) -> str:
    return f"{value / 1000:,.0f}k" if value >= 1000 else f"{value:,.0f}"
