"""The report's section on the field: every method, action labels, temperatures, unseen noise, cloning, and codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from math import isfinite
from pathlib import Path

import numpy as np

from rlrep.experiments.results.statistics import seed_mean
from rlrep.experiments.results.tables import Line, bullets, markdown, picture
from rlrep.experiments.video_study import phase
from rlrep.experiments.video_study.cells import (
    METHODS,
    NOISES,
    Cell,
    LockCell,
    Results,
    by,
    grouped,
    reads,
    select,
    values,
)
from rlrep.experiments.video_study.criteria import (
    Arrow,
    FewLabels,
    LatentActions,
    Longer,
    ManyCodes,
    OverSeeds,
    Recorded,
    Replicated,
    Served,
    Survival,
    Tempered,
    Transferred,
    read,
    read_criteria,
)
from rlrep.experiments.video_study.field_figures import ranked
from rlrep.experiments.video_study.survival import (
    OUTCOMES,
    USUAL,
    Claim,
    arrow_claims,
    arrow_shares,
    code_claims,
    field_cells,
    kept,
    label_outcomes,
    label_shares,
    latent_claims,
    longer_claims,
    recording_claims,
    recording_shares,
    replicated_claims,
    return_shares,
    served_claims,
    state_kept,
    temperature_claims,
    transfer_claims,
)
from rlrep.experiments.video_study.verdicts import exploratory

TEXTS = {
    "tuning": (
        "The least held-out loss of the pre-training at several step sizes, for the methods beside the core's, without "
        "noise and on a map of its own, and in brackets what a linear probe then reads of the state. All methods have "
        "0.001: without noise a random encoder, too, reads every state, so that probes can't choose, and a loss whose "
        "target moves can't either. The table shows whether a method learns at 0.001."
    ),
    "field": (
        "Linear probes of every method's features, the best under exogenous noise first. All methods have the same "
        "recordings, encoder, updates, batch size and step size; seeds are those that have cells. Where a method reads "
        "rewards, the recordings also show the goal where it was reached. SepCLR reads as many frames of the noise "
        "alone beside the recordings, which are half of each batch."
    ),
    "arrow": (
        "The state kept, on a scale from 0, a random encoder, to 1, an encoder of labels, of the same seed; all under "
        "exogenous noise. Drifting noise moves to the right and down only."
    ),
    "recordings": (
        "The state kept, on a scale from 0, a random encoder, to 1, an encoder of labels, of the same seed, under "
        "exogenous noise: of encoders whose recordings all have that noise, and of those whose every second recording "
        "has iid noise instead."
    ),
    "served": "PPO's returns on frozen encoders of the core, and what a linear probe reads of their state.",
    "replicated": "What PPO returns on the encoders, its share of the true state's return, and what probes read.",
    "longer": "What a linear probe reads of the state, and what is kept of it on the diagram's scale.",
    "labels": (
        "The state kept, with its 95 % t interval. A method reads all recordings, and an inverse model on the same "
        "encoder the first ones, whose actions are known, in batches of its own, shifted by up to eight pixels. The "
        "last weights are taken. ACRO alone reads the labelled recordings and no others."
    ),
    "temperature": (
        "Uniformity and tolerance are of the layer that the loss reads: log of the mean Gaussian potential of pairs, "
        "less is more evenly spread; and the mean cosine of two pictures of one state, each with noise of its own."
    ),
    "transfer": (
        "The core's encoders, frozen, under noise that they were not trained under: an offset on every value of the "
        "picture, of up to a quarter of its range, which moves slowly."
    ),
    "cloned": "Behaviour cloning on the frozen features, from as many episodes of a player who knows the best action.",
    "latent": "The median of the episodes.",
    "codes": "The lock, for encoders with more codes than one factor has states. Four have room for both factors.",
}
CAPTIONS = {
    "field": "What linear probes read of state and noise from the features of every method",
    "labels": "State kept against the number of recorded frames whose action is known",
    "temperature": "State read, uniformity and tolerance against the temperature of contrastive losses",
}


def field_blocks(results: Results, pictures: Mapping[str, Path]) -> list[str]:
    """Empty without cells of these studies."""
    domain = "gridworld"
    parts = {
        "tuning": ("Step sizes", tuning_lines(results), ""),
        "field": ("Every method", field_lines(results, domain), f"field_{domain}"),
        "arrow": ("The arrow of time", arrow_lines(results), ""),
        "recordings": ("Recordings that differ in their noise", recording_lines(results), ""),
        "served": (f"PPO on {METHODS[read(Served).method]}", served_lines(results, domain), ""),
        "replicated": ("The main results on other maps", replicated_lines(results, domain), ""),
        "longer": ("Longer training on further maps", longer_lines(results), ""),
        "labels": ("Action labels", label_lines(results), "labels"),
        "temperature": ("Temperature", temperature_lines(results), "temperature"),
        "transfer": ("Unseen noise", transfer_lines(results), ""),
        "cloned": ("Few demonstrations", cloned_lines(results, domain), ""),
        "codes": ("More codes for the lock", code_lines(results), ""),
        "latent": ("Latent actions in the lock", latent_lines(results), ""),
    }
    judgements = {
        "field": partial(survival_blocks, results, domain),
        "arrow": partial(arrow_blocks, results),
        "recordings": partial(recording_blocks, results),
        "served": partial(served_blocks, results, domain),
        "replicated": partial(replicated_blocks, results, domain),
        "longer": partial(longer_blocks, results),
        "labels": partial(label_blocks, results),
        "temperature": partial(temperature_blocks, results),
        "transfer": partial(transfer_blocks, results, domain),
        "codes": partial(code_blocks, results),
        "latent": partial(latent_blocks, results),
    }
    blocks = []
    for name, (title, lines, drawn) in parts.items():
        if lines:
            shown = [picture(CAPTIONS[name], pictures[drawn])] if drawn in pictures else []
            said = judgements[name]() if name in judgements else []
            blocks += [f"### {title}", *shown, *said, TEXTS[name], markdown(lines)]
    return ["## The field", *blocks] if blocks else []


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def mean_of(cells: list[Cell], measure: str) -> str:
    found = values(cells, measure)
    return seed_mean(found).text(2) if len(found) else ""


def tuning_lines(results: Results) -> list[Line]:
    """A row for each method: held-out loss and state read after each step size, means over the tuning's seeds."""
    cells = select(results.cells, study="tuning")
    lines = []
    for method in (m for m in METHODS if select(cells, method=m)):
        line = {"method": METHODS[method]}
        for lr in sorted({c.lr for c in cells}):
            own = select(cells, method=method, lr=lr)
            loss, state = (values(own, measure) for measure in ("held_out_loss", "state_linear"))
            line[f"{lr:g}"] = f"{loss.mean():.4g} ({state.mean():.2f})" if len(loss) else "diverged" if own else ""
        lines.append(line)
    return lines


def survival_blocks(results: Results, domain: str) -> list[str]:
    """Which methods keep the state under each noise, by what, and which differ from the baseline."""
    asked, found = read(Survival), kept(results, domain)
    items = []
    for noise in asked.noises:
        for outcome in OUTCOMES:
            own = [k for k in found.values() if (k.noise, k.outcome) == (noise, outcome)]
            if own:
                named = ", ".join(
                    f"{METHODS[k.method]} {k.estimate.text(2)}" for k in sorted(own, key=lambda k: -k.estimate.value)
                )
                items.append(f"{NOISES[noise]}, {outcome}: {named}.")
        clear = [k for k in found.values() if k.noise == noise and k.difference and k.p < asked.level]
        for more, word in ((True, "more"), (False, "less")):
            names = [METHODS[k.method] for k in clear if k.difference and (k.difference.value > 0) == more]
            if names:
                items.append(f"{NOISES[noise]}, clearly {word} than {METHODS[asked.baseline]}: {', '.join(names)}.")
    if not items:
        return []
    baseline = METHODS[asked.baseline]
    rule = (
        f"State kept: a linear probe's accuracy on a scale from 0, {METHODS[asked.floor]}, to 1, "
        f"{METHODS[asked.ceiling]}, both under the same noise and of the same seed. A method keeps the state if the 95 "
        f"% t interval over {asked.span} lies above {asked.keeps:g}, loses it if below, and has less than a random "
        f"encoder if below {asked.worse:g}; otherwise it is open. These intervals are not corrected for the number of "
        f"methods. The difference from {baseline} is paired by seed; it is clear if its two-sided p is below "
        f"{asked.level:g} after Holm's correction over all methods and noises. To keep the state is not to drop the "
        f"noise: its probe is in the table."
    )
    cells = (c for noise in asked.noises for c in field_cells(results, domain, noise=noise))
    return judged(rule, asked, cells, items)


def judged(rule: str, asked: OverSeeds, cells: Iterable[Cell | LockCell], items: list[str]) -> list[str]:
    """How results are judged, by which file, why cells are exploratory if some are, and the outcomes."""
    early = exploratory([c for c in cells if c.seed in asked.seeds], asked)
    status = f"Exploratory: {early}." if early else "They are older than all cells that they judge."
    return [rule, f"{asked.source} {status}", bullets(items)]


def arrow_lines(results: Results) -> list[Line]:
    """A row for each method: the state kept under the usual noise and behaviour, and after each change."""
    asked, lines = read(Arrow), []
    columns = {"as in the field": USUAL, "noise drifts": (True, False), "random actions": (False, True)}
    for method in METHODS:
        found = {name: arrow_shares(results, method, where, asked) for name, where in columns.items()}
        if any(found.values()) and method not in (asked.floor, asked.ceiling):
            lines.append(shares_line(METHODS[method], found))
    return lines


def shares_line(name: str, found: Mapping[str, dict[int, float]]) -> Line:
    """A method's means over seeds, a column each."""
    means = {n: mean_share(own) for n, own in found.items()}
    return {"method": name, **means, "seeds": str(max(map(len, found.values())))}


def mean_share(own: dict[int, float]) -> str:
    return seed_mean(np.array([*own.values()])).text(2) if own else ""


def arrow_blocks(results: Results) -> list[str]:
    """Whether the claim holds, criterion by criterion."""
    asked = read(Arrow)
    rule = (
        f"The claim is that {METHODS[asked.method]} keeps the state because the noise looks the same backwards in time "
        f"and the recorded behaviour does not: each of three changes alone must take more than {asked.falls:g} of it "
        f"away, by a one-sided t test at {asked.level:g}, paired over {asked.span}."
    )
    return judged(rule, asked, select(results.cells, study="arrow"), claim_texts(arrow_claims(results), "less"))


def claim_texts(claims: list[Claim], word: str) -> list[str]:
    return [
        f"{c.name}: {c.outcome}, {c.estimate.text(2)} {word}, {p_text(c.p)}"
        if c.estimate
        else f"{c.name}: {c.outcome}, cells are missing"
        for c in claims
    ]


def recording_lines(results: Results) -> list[Line]:
    """A row for each method: the state kept where all recordings have one noise, and where they have two."""
    asked, lines = read(Recorded), []
    for method in METHODS:
        found = {
            name: recording_shares(results, method, mixed, asked)
            for name, mixed in (("exogenous noise alone", False), ("iid noise in every second", True))
        }
        if any(found.values()) and method not in (asked.floor, asked.ceiling):
            lines.append(shares_line(METHODS[method], found))
    return lines


def recording_blocks(results: Results) -> list[str]:
    """Whether invariance across recordings repairs contrast."""
    asked = read(Recorded)
    name = METHODS[asked.method]
    rule = (
        f"Every second recording has iid noise. {name} repairs contrast if it keeps more than {asked.keeps:g}, and "
        f"more than {METHODS[asked.baseline]} on the same recordings: one-sided t tests at {asked.level:g}, paired "
        f"over {asked.span}."
    )
    items = claim_texts(recording_claims(results), "kept")
    return judged(rule, asked, select(results.cells, study="recordings"), items)


def served_lines(results: Results, domain: str) -> list[Line]:
    """A row for each method that has PPO's returns; none without the method that is judged."""
    asked, lines = read(Served), []
    cells = select(results.cells, domain=domain, study="core", noise=asked.noise)
    for method in METHODS if select(cells, method=asked.method) else ():
        if shares := return_shares(select(cells, method=method), results, asked.ceiling):
            line = {"method": METHODS[method], "return": mean_of(select(cells, method=method), "final_return")}
            line |= {"of the scale": mean_share(shares)}
            line |= {"state read": mean_of(select(cells, method=method), "state_linear")}
            lines.append(line | {"seeds": str(len(shares))})
    return lines


def served_blocks(results: Results, domain: str) -> list[str]:
    """Whether one method's encoders serve PPO."""
    asked = read(Served)
    cells = select(results.cells, domain=domain, study="core")
    cells = [
        *select(cells, method=asked.ceiling),
        *(c for m in (asked.method, asked.baseline) for c in select(cells, noise=asked.noise, method=m)),
    ]
    rule = (
        f"PPO's return on frozen encoders of {METHODS[asked.method]} under {NOISES[asked.noise]}, on a scale from 0, "
        f"the random policy's, to 1, that of {METHODS[asked.ceiling]}, on the same map; one-sided t tests at "
        f"{asked.level:g} over {asked.span}."
    )
    return judged(rule, asked, cells, claim_texts(served_claims(results, domain), "of that scale"))


def replicated_lines(results: Results, domain: str) -> list[Line]:
    """A row for each method, over the seeds that are judged; none while one of them is missing for the method."""
    asked, lines = read(Replicated), []
    cells = [c for c in select(results.cells, domain=domain, study="core") if c.seed in asked.seeds]
    under = select(cells, noise=asked.noise)
    if {c.seed for c in select(under, method=asked.method)} != {*asked.seeds}:
        return []
    for (method,), own in grouped(under, "method").items():
        shares = {"kept": state_kept(own, results, asked), "of it": return_shares(own, results, asked.oracle)}
        line = {"method": METHODS[method], "return": mean_of(own, "final_return")}
        line |= {name: mean_share(share) if share else "" for name, share in shares.items()}
        line |= {"state read": mean_of(own, "state_linear"), "noise read": mean_of(own, "noise_linear")}
        lines.append(line | {"seeds": str(len(own))})
    return lines


def longer_lines(results: Results) -> list[Line]:
    """A row for each method after as many updates, over the seeds that are judged; none while one is missing."""
    asked, ends, lines = read(Longer), read_criteria().P5, []
    found = [c for c in select(results.cells, study="phase", updates=asked.updates) if c.seed in asked.seeds]
    found = select(found, size=asked.size, persistence=asked.persistence)
    if {c.seed for c in select(found, method=asked.method)} != {*asked.seeds}:
        return []
    for (method,), own in grouped(found, "method").items():
        kept_by = phase.at(results, method, asked.updates, asked.size, asked.persistence, ends)
        line = {"method": METHODS[method], "kept": mean_share(kept_by), "state read": mean_of(own, "state_linear")}
        lines.append(line | {"noise read": mean_of(own, "noise_linear"), "seeds": str(len(own))})
    return lines


def longer_blocks(results: Results) -> list[str]:
    """Whether one method keeps the state after longer training."""
    asked = read(Longer)
    cells = [c for c in select(results.cells, study="phase") if c.seed in asked.seeds]
    rule = (
        f"The state kept of {METHODS[asked.method]} after {asked.updates:,} updates, at ρ = {asked.persistence:g} and "
        f"shapes of {asked.size:g}; one-sided t tests at {asked.level:g} over {asked.span}."
    )
    return judged(rule, asked, cells, claim_texts(longer_claims(results), ""))


def replicated_blocks(results: Results, domain: str) -> list[str]:
    """Whether the main results hold on other maps."""
    asked = read(Replicated)
    used = {asked.floor, asked.ceiling, *asked.keep, *asked.lose, asked.method, *asked.baselines}
    cells = [c for c in select(results.cells, domain=domain, study="core") if c.seed in asked.seeds]
    cells = [c for c in cells if c.method == asked.oracle or (c.method in used and c.noise == asked.noise)]
    rule = (
        f"The state kept under {NOISES[asked.noise]}, on a scale from 0, {METHODS[asked.floor]}, to 1, "
        f"{METHODS[asked.ceiling]}; and PPO's return on frozen encoders, from 0, the random policy's, to 1, that of "
        f"{METHODS[asked.oracle]}, on the same map; one-sided t tests at {asked.level:g} over {asked.span}."
    )
    return judged(rule, asked, cells, claim_texts(replicated_claims(results, domain), ""))


def field_lines(results: Results, domain: str) -> list[Line]:
    """A row for each method; none if only the core was run."""
    if not select(results.cells, domain=domain, study="field"):
        return []
    lines, shares = [], kept(results, domain)
    for method in ranked(results, domain):
        line = {"method": METHODS[method], "reads": reads(method)}
        for noise, name in NOISES.items():
            cells = field_cells(results, domain, method=method, noise=noise)
            line |= {f"state, {name}": mean_of(cells, "state_linear")}
            if noise != "none":
                line |= {f"noise, {name}": mean_of(cells, "noise_linear")}
                share = shares.get((method, noise))
                line |= {f"kept, {name}": share.estimate.text(2) if share else ""}
                gap = share and share.difference
                line |= {
                    f"more than {METHODS[read(Survival).baseline]}, {name}": f"{gap.text(2)}, {p_text(share.p)}"
                    if share and gap
                    else ""
                }
        cells = field_cells(results, domain, method=method, noise="exogenous")
        lines.append(line | {"effective rank": mean_of(cells, "effective_rank"), "seeds": str(len(cells))})
    return lines


def label_lines(results: Results) -> list[Line]:
    """A row for each method: the state kept with each number of labels."""
    asked, lines = read(FewLabels), []
    counts = sorted({int(c.labels) for c in select(results.cells, study="labels")})
    for method in (asked.reference, *asked.beside):
        found = {f"{n:,} labels": label_shares(results, method, n, asked) for n in counts}
        if any(found.values()):
            lines.append(shares_line(METHODS[method] + " alone" * (method == asked.reference), found))
    return lines


def label_blocks(results: Results) -> list[str]:
    """With how many labels the state is back, and which methods for videos help."""
    asked = read(FewLabels)
    name = METHODS[asked.reference]
    rule = (
        f"State kept: a linear probe's accuracy on a scale from 0, {METHODS[asked.floor]}, to 1, {name} with all "
        f"labels, of the same seed, under exogenous noise. {name} alone has the state back with fewer labels if its "
        f"95 % t interval over {asked.span} lies above {asked.keeps:g}, and not if "
        f"below. A method for videos helps (hurts) if it keeps more (less) with labels than {name} alone with as "
        f"many labels: two-sided, paired by seed, p below {asked.level:g} after Holm's correction over all of them."
    )
    items = []
    for each in label_outcomes(results):
        said = f"{each.count:,} labels: {each.outcome}, {each.estimate.text(2)}"
        if each.method == asked.reference:
            items.append(f"{name} alone, {said}")
        else:
            items.append(f"{METHODS[each.method]}, {said} more, {p_text(each.p)}")
    return judged(rule, asked, select(results.cells, study="labels"), items)


def temperature_lines(results: Results) -> list[Line]:
    measures = {"state read": "state_linear", "noise read": "noise_linear"}
    measures |= {"uniformity": "uniformity_head", "tolerance": "tolerance_head"}
    cells = select(results.cells, study="temperature")
    return [
        {"method": METHODS[method], "noise": NOISES[noise], "τ": f"{temperature:g}"}
        | {"state kept": mean_share(state_kept(own, results, read(Tempered)))}
        | {name: mean_of(own, measure) for name, measure in measures.items()}
        | {"n": str(len(own))}
        for (method, noise, temperature), own in grouped(cells, "method", "noise", "temperature").items()
    ]


def temperature_blocks(results: Results) -> list[str]:
    """Whether a temperature repairs contrast."""
    asked = read(Tempered)
    ends = [c for m in (asked.floor, asked.ceiling) for c in field_cells(results, "gridworld", method=m)]
    cells = [*select(results.cells, study="temperature"), *ends]
    rule = (
        f"State kept: as in the field, on a scale from 0, {METHODS[asked.floor]}, to 1, {METHODS[asked.ceiling]}. A "
        f"temperature repairs a method if more than {asked.keeps:g} is kept under {NOISES[asked.noise]}: a one-sided t "
        f"test at {asked.level:g} over {asked.span}."
    )
    items = claim_texts(temperature_claims(results), "kept")
    return judged(rule, asked, select(cells, noise=asked.noise), items)


def transfer_lines(results: Results) -> list[Line]:
    lines = []
    for (method, noise), own in grouped(select(results.cells, study="transfer"), "method", "noise").items():
        seen = field_cells(results, own[0].domain, method=method, noise=noise)
        line = {"method": METHODS[method], "trained under": NOISES[noise], "shown": own[0].unseen}
        line |= {"state": mean_of(own, "state_linear"), "return": mean_of(own, "final_return")}
        line |= {"state, own noise": mean_of(seen, "state_linear"), "return, own noise": mean_of(seen, "final_return")}
        lines.append(line | {"n": str(len(own))})
    return lines


def transfer_blocks(results: Results, domain: str) -> list[str]:
    """Whether encoders carry over to unseen noise."""
    asked = read(Transferred)
    cells = select(results.cells, domain=domain)
    used = [
        *select(cells, study="core", method=asked.ceiling),
        *select(cells, study="transfer", method=asked.baseline),
        *(c for m in asked.methods for c in select(cells, study="transfer", noise=asked.noise, method=m)),
    ]
    rule = (
        f"PPO's return under the unseen noise on encoders that were trained under {NOISES[asked.noise]}, on a scale "
        f"from 0, the random policy's, to 1, that of {METHODS[asked.ceiling]}, on the same map. An encoder carries "
        f"over if that is more than {asked.serves:g}, and more than on {METHODS[asked.baseline]}, which may not mind "
        f"this noise either: one-sided t tests at {asked.level:g} over {asked.span}, paired by seed."
    )
    return judged(rule, asked, used, claim_texts(transfer_claims(results, domain), "of that scale"))


def cloned_lines(results: Results, domain: str) -> list[Line]:
    cells = [cell for cell in select(results.cells, domain=domain, study="core") if isfinite(cell.cloned_64)]
    return [
        {"noise": NOISES[noise], "method": METHODS[method]}
        | {f"{n} episodes": mean_of(own, f"cloned_{n}") for n in (4, 16, 64)}
        | {"PPO": mean_of(own, "final_return"), "n": str(len(own))}
        for (noise, method), own in grouped(cells, "noise", "method").items()
    ]


def median_episodes(cells: list[LockCell]) -> str:
    """Empty for no cells; where no more than half were solved, a bound, as an unsolved run may need any number."""
    if not cells:
        return ""
    bound = "" if sum(c.solved for c in cells) > len(cells) / 2 else "> "
    return f"{bound}{np.median(values(cells, 'episodes')):,.0f}"


def code_lines(results: Results) -> list[Line]:
    """The median of the episodes, a row for each method and number of codes; a lower bound if half were given up."""
    if not results.codes:
        return []
    cells: list[LockCell] = [*results.lock, *results.codes]
    horizons = sorted({c.horizon for c in results.codes})
    lines = []
    for (method, codes), own in grouped(cells, "method", "codes").items():
        line = {"method": METHODS[method], "codes": str(codes)}
        line |= {f"H = {horizon}": median_episodes(select(own, horizon=horizon)) for horizon in horizons}
        lines.append(line | {"seeds": str(len({c.seed for c in own}))})
    return lines


def code_blocks(results: Results) -> list[str]:
    """Whether the lower bound vanishes with room for both factors."""
    asked = read(ManyCodes)
    cells = select(results.codes, codes=asked.codes)
    rule = (
        f"With {asked.codes} codes there is room for both factors. The bound vanishes for a method if its episodes "
        f"grow more slowly than H^{asked.degree:g}, and polynomial growth fits better than exponential, by AIC: "
        f"one-sided t tests at {asked.level:g} over {asked.span}, of which each gives one degree and one difference."
    )
    return judged(rule, asked, cells, claim_texts(code_claims(results), "apart"))


def latent_lines(results: Results) -> list[Line]:
    """A row for each method with latent actions."""
    found = {method: select(results.lock, method=method) for method in read(LatentActions).methods}
    return [
        {"method": METHODS[method]}
        | {f"H = {horizon}": median_episodes(each) for horizon, each in by(own, "horizon").items()}
        | {"seeds": str(len({c.seed for c in own}))}
        for method, own in found.items()
        if own
    ]


def latent_blocks(results: Results) -> list[str]:
    """Whether latent actions escape the lower bound."""
    asked = read(LatentActions)
    cells = [cell for method in asked.methods for cell in select(results.lock, method=method)]
    rule = (
        f"Latent actions do not escape the bound if episodes grow by a rate above {asked.rate:g} a level, and "
        f"exponential growth fits better than polynomial, by AIC: one-sided t tests at {asked.level:g} over "
        f"{asked.span}, of which each gives one rate and one difference."
    )
    return judged(rule, asked, cells, claim_texts(latent_claims(results), "apart"))
