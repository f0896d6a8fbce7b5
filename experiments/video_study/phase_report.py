"""The report's section on the phase diagram: the question, the numbers known before, the measurements."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path

import numpy as np

from rlrep.experiments.results.runs import Array
from rlrep.experiments.results.statistics import rank_correlation, seed_mean
from rlrep.experiments.results.tables import Line, markdown, picture
from rlrep.experiments.video_study import phase
from rlrep.experiments.video_study.cells import METHODS, Results, values
from rlrep.experiments.video_study.criteria import Phases
from rlrep.experiments.video_study.jobs import LENGTHS
from rlrep.experiments.video_study.verdicts import percent

ASKED = (
    "Forward models lost the state before temporal contrast did as noise became persistent, and after it as noise "
    "covered more. Is there a number, known before training, that says where each of them breaks?"
)
BEFORE = (
    "Each loss has its number, computed from the simulator alone (experiments/video_study/predictor.py has the "
    "equations) and noted in each cell before its training. That of a forward model: the pixel variance that noise "
    "explains some steps ahead, over what the state explains. It grows as noise covers more and as it becomes "
    "persistent. That of temporal contrast: among the slowest functions of state and noise, as many as the loss has "
    "features, the share in which noise has a part. It grows with the persistence alone. So contrast should "
    "break at one persistence however little the noise covers, forward models only where it covers enough as well."
)
SCALE = (
    "The state that is kept: a linear probe of the features, 0 for that of a random encoder under the same noise, or "
    "less, 1 for that of an encoder of labels, which reads {share} of the states. Both ends see single pictures, so "
    "they are measured at one persistence. All lengths of training are snapshots of one training, with the weights of "
    "its best validation until then: as the step size is constant and validations come every 200 updates, each equals "
    "a separate training of that length, bit for bit."
)
CORRELATION = (
    "Rank correlations of the number and the state that is kept, over all settings, of the means over seeds. The "
    "interval is that of Fisher's z, as if the settings were drawn at random; p is one-sided, of 10,000 permutations "
    "of the settings. The verdict takes one correlation a seed instead. The last column has the other loss's number, "
    "which is no criterion."
)
CAPTIONS = {
    f"noise_{phase.DOMAIN}": "Steps on the way to the goal, without noise and under noise of each persistence",
    f"phase_{phase.DOMAIN}": (
        "State kept over persistence and coverage of the noise, after each length of training, with lines of the "
        "number that was known before"
    ),
}


def phase_blocks(
    results: Results, asked: Phases, numbers: Mapping[str, Array], pictures: Mapping[str, Path]
) -> list[str]:
    """Empty without cells of the diagram."""
    measured = phase.cells(results)
    if not measured:
        return []
    ends = values(phase.cells(results, method=asked.ceiling), "state_linear")
    share = f"{100 * ends.mean():.1f} %" if len(ends) else "an unknown share"
    return [
        "## The phase diagram",
        ASKED,
        *(picture(text, pictures[name]) for name, text in CAPTIONS.items() if name in pictures),
        BEFORE,
        markdown(number_lines(results, asked, numbers)),
        SCALE.format(share=share),
        markdown(state_lines(results, asked)),
        CORRELATION,
        markdown(correlation_lines(results, asked)),
        markdown(return_lines(results, asked)),
    ]


def number_lines(results: Results, asked: Phases, numbers: Mapping[str, Array]) -> list[Line]:
    """The numbers known before training, a row for each method and coverage."""
    shares, lines = phase.coverages(results, asked), []
    for method, number in numbers.items():
        for share, row in zip(shares, number, strict=True):
            by_rho = {f"ρ = {rho:g}": f"{value:.2f}" for rho, value in zip(asked.persistences, row, strict=True)}
            name = METHODS[method]
            lines.append({"known before training, of": name, "pixels under noise": percent(share), **by_rho})
    return lines


def state_lines(results: Results, asked: Phases) -> list[Line]:
    """The state that is kept, with its interval over seeds, a row for each method, length of training and coverage."""
    shares, lines = phase.coverages(results, asked), []
    found = {(cell.method, cell.updates) for cell in phase.cells(results)}
    for method in (m for m in METHODS if m not in (asked.floor, asked.ceiling)):
        for updates in (n for n in LENGTHS if (method, n) in found):
            states = np.array([state for _, state in phase.grids(results, method, updates, asked).values()])
            for i, share in enumerate(shares):
                if np.isfinite(states[:, i]).any():
                    texts = [seed_mean(known).text(2) for known in (row[np.isfinite(row)] for row in states[:, i].T)]
                    by_rho = {f"ρ = {rho:g}": text for rho, text in zip(asked.persistences, texts, strict=True)}
                    by_rho = {name: "" if text == "nan" else text for name, text in by_rho.items()}
                    where = {"method": METHODS[method], "updates": f"{updates:,}"}
                    where |= {"pixels under noise": percent(share), "seeds": str(len(states))}
                    lines.append({**where, **by_rho})
    return lines


def correlation_lines(results: Results, asked: Phases) -> list[Line]:
    lines = []
    for method in asked.methods:
        (other,) = (m for m in asked.methods if m != method)
        for updates in asked.updates:
            own, foreign = (phase.whole(results, m, updates, asked) for m in (method, other))
            if not own:
                continue
            number, state = np.mean(list(own.values()), axis=0)
            found = rank_correlation(number.ravel(), state.ravel())
            each = [rank_correlation(x.ravel(), y.ravel()).value for x, y in own.values()]
            line = {
                "method": METHODS[method],
                "updates": f"{updates:,}",
                "settings": str(number.size),
                "seeds": str(len(own)),
                "with its number": found.text(2),
                "p": f"{found.p_not_below:.2g}",
                "of each seed": ", ".join(f"{value:.2f}" for value in each),
                "with the other's": "",
                "with persistence alone": rank_correlation(
                    np.tile(asked.persistences, len(asked.sizes)).astype(float), state.ravel()
                ).text(2),
            }
            if foreign:
                numbers = np.mean([x for x, _ in foreign.values()], axis=0)
                line["with the other's"] = rank_correlation(numbers.ravel(), state.ravel()).text(2)
            lines.append(line)
    return lines


def return_lines(results: Results, asked: Phases) -> list[Line]:
    """The settings with PPO: what is kept of the state, and the return."""
    lines = []
    for method in METHODS:
        for size, rho in phase.CROSS_SECTION:
            found = phase.cells(results, method=method, size=size, persistence=rho)
            found = [cell for cell in found if isfinite(cell.final_return)]
            for updates in sorted({cell.updates for cell in found}):
                cells = [cell for cell in found if cell.updates == updates]
                states = np.array([phase.kept(results, cell, asked) for cell in cells])
                lines.append(
                    {
                        "PPO on": METHODS[method],
                        "updates": f"{updates:,}",
                        "pixels under noise": percent(values(cells, "coverage").mean()),
                        "ρ": f"{rho:g}",
                        "state kept": seed_mean(states).text(2),
                        "return": seed_mean(values(cells, "final_return")).text(2),
                        "of a random policy": seed_mean(values(cells, "random_return")).text(2),
                        "seeds": str(len(cells)),
                    }
                )
    return lines
