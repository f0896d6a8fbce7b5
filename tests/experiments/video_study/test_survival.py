"""Which methods keep the state under which noise: the scale, the classes, and the differences from the baseline."""

import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from rlrep.experiments.video_study import criteria, field_report, survival
from rlrep.experiments.video_study.cells import Cell, LockCell, Results
from rlrep.experiments.video_study.criteria import Arrow, LatentActions, Longer, Recorded, Replicated, Survival, read
from rlrep.experiments.video_study.survival import KEEPS, LOSES, OPEN, WORSE, kept, shares

FLOOR, CEILING = 0.4, 0.9
SEEDS = (0, *read(Survival).seeds)
HIGH, LOW = (0.8, 0.85, 0.9, 0.82, 0.84), (0.1, 0.2, 0.05, 0.15, 0.1)


def cells(method: str, states: tuple[float, ...], noise: str = "exogenous", study: str = "field") -> list[Cell]:
    """Of the last seeds that are judged."""
    seeds = SEEDS[-len(states) :]
    return [
        Cell("gridworld", study, method, noise, 1.0, 8, 0.3, 0.2, seed, state_linear=state)
        for seed, state in zip(seeds, states, strict=True)
    ]


def results(*groups: list[Cell], noise: str = "exogenous") -> Results:
    ends = [*cells("random", (FLOOR,) * len(SEEDS), noise), *cells("supervised", (CEILING,) * len(SEEDS), noise)]
    return Results([*ends, *(cell for group in groups for cell in group)], [])


@pytest.mark.parametrize(
    ("states", "outcome"),
    [
        (HIGH, KEEPS),
        (LOW, WORSE),
        ((0.5, 0.45, 0.52, 0.48, 0.5), LOSES),
        ((0.5, 0.8, 0.6, 0.7, 0.65), OPEN),
        (HIGH[1:], ""),
    ],
)
@pytest.mark.parametrize("study", ["field", "core"])
def test_a_method_keeps_the_state_if_the_whole_interval_lies_above(
    states: tuple[float, ...], outcome: str, study: str
) -> None:
    found = kept(results(cells("taco", states, study=study)), "gridworld")["taco", "exogenous"]
    assert (found.outcome, found.seeds) == (outcome, len(states))
    assert found.estimate.value == pytest.approx((np.mean(states) - FLOOR) / (CEILING - FLOOR))


def test_only_the_seeds_that_are_judged_count_once_all_of_them_are_there() -> None:
    more = replace(cells("taco", HIGH)[0], seed=0, state_linear=-9.0)
    whole = kept(results([more], cells("taco", HIGH)), "gridworld")["taco", "exogenous"]
    assert whole.seeds == 5 and whole.outcome == KEEPS
    part = kept(results([more], cells("taco", HIGH[1:])), "gridworld")["taco", "exogenous"]
    assert part.seeds == 5 and part.outcome == "" and part.estimate.value < 0


def test_ends_are_of_the_same_seed_and_noise_and_less_than_a_random_encoder_has_is_below_0() -> None:
    ends = [*cells("random", (0.2, 0.4)), *cells("supervised", (0.8, 0.6, 0.9))]
    others = results(noise="iid").cells
    found = Results([*ends, *others, *cells("spr", (0.7, 0.4, 0.3))], [])
    assert shares(found, "gridworld", "spr", "exogenous", read(Survival)) == pytest.approx({4: 0.5, 5: -0.2})
    assert kept(Results(cells("spr", (0.5,)), []), "gridworld") == {}


def test_differences_from_temporal_contrast_are_paired_and_corrected_over_all() -> None:
    ours, theirs = np.array(HIGH), np.array(LOW)
    both = results(cells("laom", HIGH), cells("taco", LOW[::-1]), cells("temporal_contrastive", LOW))
    found = kept(both, "gridworld")
    laom, taco, contrast = (found[m, "exogenous"] for m in ("laom", "taco", "temporal_contrastive"))
    assert contrast.difference is None and laom.difference is not None and taco.difference is not None
    assert laom.difference.value == pytest.approx((ours - theirs).mean() / (CEILING - FLOOR))
    assert laom.p == pytest.approx(2 * ttest_rel(ours, theirs).pvalue)  # the less likely of two
    assert taco.p == pytest.approx(ttest_rel(theirs[::-1], theirs).pvalue)
    (alone,) = [k for k in kept(results(cells("laom", HIGH)), "gridworld").values()]
    assert alone.outcome == KEEPS and alone.difference is None


def test_report_says_which_keep_it_by_what_and_whether_it_is_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    made = results(cells("taco", LOW), cells("laom", HIGH), cells("temporal_contrastive", LOW))
    blocks = field_report.survival_blocks(made, "gridworld")
    text = "\n\n".join(blocks) + "\n"
    assert "- exogenous noise, keeps the state: LAOM 0.88 [" in text
    assert re.search(r"- exogenous noise, has less of it than a random encoder: contrastive .*, TACO -0\.56 \[", text)
    assert "- exogenous noise, clearly more than contrastive: LAOM.\n" in text and "clearly less" not in text
    assert "- iid noise" not in text and Survival.file.name in text
    assert "Exploratory: 25 of 25 cells made before cells noted their date" in text
    (line,) = [line for line in field_report.field_lines(made, "gridworld") if line["method"] == "LAOM"]
    assert (
        line["more than contrastive, exogenous noise"].startswith("1.44 [")
        and line["more than contrastive, iid noise"] == ""
    )
    date = datetime(2026, 11, 27, tzinfo=timezone.utc)
    frozen = replace(read(Survival), frozen=date, commit="abc123")
    for module in (survival, field_report):
        monkeypatch.setattr(module, "read", lambda kind: frozen)
    for later, said in ((1, "older than all cells"), (-1, "Exploratory: 25 of 25 cells made before the criteria were")):
        time = (date + timedelta(seconds=later)).isoformat()
        dated = Results([replace(cell, made=time) for cell in made.cells], [])
        assert said in "\n\n".join(field_report.survival_blocks(dated, "gridworld"))


def arrow_cells(method: str, states: tuple[float, ...], **changed: bool) -> list[Cell]:
    return [replace(cell, **changed) for cell in cells(method, states, study="arrow")]  # type: ignore[arg-type]


def test_the_arrow_of_time_must_explain_all_three_changes() -> None:
    ends = [*arrow_cells("random", (FLOOR,) * 5), *arrow_cells("supervised", (CEILING,) * 5)]
    parts = [*ends, *arrow_cells("curved", HIGH), *arrow_cells("curved_ahead", LOW)]
    parts += [*arrow_cells("curved", HIGH, drift=True), *arrow_cells("curved", LOW[1:], random_actions=True)]
    falls = survival.arrow_claims(Results(parts, []))
    assert [fall.outcome for fall in falls] == ["holds", "open", "fails"]
    assert falls[0].estimate is not None and falls[0].estimate.value == pytest.approx(
        (np.mean(HIGH) - np.mean(LOW)) / (CEILING - FLOOR)
    )
    gap = (np.array(HIGH) - LOW) / (CEILING - FLOOR)
    assert falls[0].p == pytest.approx(ttest_1samp(gap, read(Arrow).falls, alternative="greater").pvalue)
    assert falls[1].estimate is None and falls[2].estimate is not None and falls[2].estimate.value == 0
    text = "\n\n".join(field_report.arrow_blocks(Results(parts, [])))
    assert "- without its term about the past: holds, 1.44 [" in text
    assert "- recordings of random actions: open, cells are missing" in text
    lines = {line["method"]: line for line in field_report.arrow_lines(Results(parts, []))}
    assert lines["Curved"]["noise drifts"].startswith("0.88 [") and lines["Curved without the past"]["seeds"] == "5"


def test_ppo_is_served_by_more_than_half_of_what_the_true_state_gives() -> None:
    def returned(method: str, noise: str, returns: tuple[float, ...], base: float) -> list[Cell]:
        made = cells(method, returns, noise, "core")
        return [replace(c, final_return=base + c.state_linear, random_return=base) for c in made]

    parts = [*returned("oracle", "none", (0.8,) * 5, -0.1), *returned("temporal_contrastive", "exogenous", LOW, -0.1)]
    curved = (0.5, 0.6, 0.55, 0.52, 0.56)
    made = Results([*parts, *returned("curved", "exogenous", curved, -0.1)], [])
    half, more = survival.served_claims(made, "gridworld")
    assert half.estimate is not None and half.estimate.value == pytest.approx(np.mean(curved) / 0.8)
    assert half.p == pytest.approx(ttest_1samp(np.array(curved) / 0.8, 0.5, alternative="greater").pvalue)
    assert more.estimate is not None and more.estimate.value == pytest.approx((np.mean(curved) - np.mean(LOW)) / 0.8)
    assert (half.outcome, more.outcome) == ("holds", "holds")
    text = "\n\n".join(field_report.field_blocks(made, {}))
    assert "### PPO on Curved" in text and "- more than 0.5 of what oracle state gives: holds, 0.68 [" in text
    few = Results([*parts, *returned("curved", "exogenous", LOW[1:], -0.1)], [])
    assert [each.outcome for each in survival.served_claims(few, "gridworld")] == ["open", "open"]
    poor = Results([*parts, *returned("curved", "exogenous", LOW, -0.1)], [])
    assert [each.outcome for each in survival.served_claims(poor, "gridworld")] == ["fails", "open"]
    assert field_report.served_lines(Results(parts, []), "gridworld") == []


def test_the_main_results_are_judged_anew_on_other_maps_alone() -> None:
    seeds = read(Replicated).seeds

    def made(method: str, states: tuple[float, ...], returns: tuple[float, ...], noise: str = "exogenous") -> list[Any]:
        found = cells(method, states, noise, "core")
        return [
            replace(cell, seed=seed, final_return=value, random_return=0.0)
            for cell, seed, value in zip(found, seeds, returns, strict=True)
        ]

    low, high = (0.0, 0.02, 0.01, 0.0, 0.03), (0.8, 0.82, 0.79, 0.81, 0.8)
    half = (0.5, 0.45, 0.52, 0.48, 0.5)
    parts = [*made("oracle", (nan,) * 5, (0.9,) * 5, "none"), *made("random", (FLOOR,) * 5, low)]
    parts += [*made("supervised", (CEILING,) * 5, high), *made("curved", HIGH, high), *made("autoencoder", half, half)]
    parts += [*made("inverse_model", HIGH, high), *made("temporal_contrastive", LOW, low)]
    whole = Results([*parts, *made("forward_model", HIGH, low)], [])
    claims = {each.name: each.outcome for each in survival.replicated_claims(whole, "gridworld")}
    assert [*claims.values()] == ["holds", "holds", "holds", "fails", "holds", "holds", "holds"]
    assert claims["forward model keeps less than 0.5"] == "fails"
    text = "\n\n".join(field_report.field_blocks(whole, {}))
    assert "### The main results on other maps" in text and "PPO on Curved, more than on autoencoder: holds" in text
    others = Results([replace(cell, seed=cell.seed - 5) for cell in whole.cells], [])
    assert {each.outcome for each in survival.replicated_claims(others, "gridworld")} == {"open"}
    assert field_report.replicated_lines(others, "gridworld") == []


def test_longer_training_is_judged_on_further_maps_alone() -> None:
    asked = read(Longer)

    def made(method: str, states: tuple[float, ...], updates: int = asked.updates, first: int = 0) -> list[Cell]:
        found = cells(method, states, "persistence", "phase")
        return [
            replace(cell, seed=seed + first, size=asked.size, persistence=asked.persistence, updates=updates)
            for cell, seed in zip(found, asked.seeds, strict=True)
        ]

    ends = [*made("random", (FLOOR,) * 5, 0), *made("supervised", (CEILING,) * 5, 1000)]
    whole = Results([*ends, *made("curved", HIGH), *made("autoencoder", (0.6, 0.55, 0.62, 0.58, 0.6))], [])
    assert [each.outcome for each in survival.longer_claims(whole)] == ["holds", "holds"]
    assert "Curved after 3,000 updates keeps more than 0.5: holds" in "\n\n".join(field_report.field_blocks(whole, {}))
    for parts in (made("curved", HIGH, 1000), made("curved", HIGH, first=-5)):
        other = Results([*ends, *parts], [])
        assert [each.outcome for each in survival.longer_claims(other)] == ["open", "open"]
        assert field_report.longer_lines(other) == []


def test_a_temperature_repairs_contrast_if_it_keeps_more_than_half() -> None:
    def tempered(temperature: float, states: tuple[float, ...], noise: str = "exogenous") -> list[Cell]:
        made = cells("temporal_contrastive", states, noise, "temperature")
        return [replace(c, temperature=temperature) for c in made]

    lost = (0.5, 0.45, 0.52, 0.48, 0.5)
    made = results(tempered(0.03, HIGH), tempered(0.3, lost), tempered(1.0, HIGH[1:]), tempered(0.1, HIGH, "iid"))
    found = survival.temperature_claims(made)
    assert [(each.name[-3:], each.outcome) for each in found] == [(".03", "holds"), ("0.3", "fails"), ("= 1", "open")]
    kept = (np.array(HIGH) - FLOOR) / (CEILING - FLOOR)
    assert found[0].estimate is not None and found[0].estimate.value == pytest.approx(kept.mean())
    assert found[0].p == pytest.approx(ttest_1samp(kept, 0.5, alternative="greater").pvalue)
    text = "\n\n".join(field_report.field_blocks(made, {}))
    assert "### Temperature" in text and "τ = 0.03: holds, 0.88 [" in text
    lines = {(line["noise"], line["τ"]): line["state kept"] for line in field_report.temperature_lines(made)}
    assert lines["exogenous noise", "0.03"].startswith("0.88 [") and lines["iid noise", "0.1"] == ""  # no ends


def test_encoders_carry_over_if_ppo_keeps_more_than_half_under_noise_they_never_saw() -> None:
    def shown(method: str, noise: str, returns: tuple[float, ...], study: str = "transfer") -> list[Cell]:
        made = cells(method, returns, noise, study)
        return [replace(c, final_return=c.state_linear - 0.1, random_return=-0.1, unseen="pixels") for c in made]

    parts = [*shown("oracle", "none", (0.8,) * 5, "core"), *shown("inverse_model", "none", LOW)]
    parts += [*shown("inverse_model", "exogenous", (0.5, 0.6, 0.55, 0.52, 0.56)), *shown("curved", "exogenous", LOW)]
    parts += shown("inverse_model", "exogenous", LOW, "core")  # under its own noise: another question
    parts += shown("random", "none", (0.3, 0.5, 0.6, 0.3, 0.5))
    claims = survival.transfer_claims(Results(parts, []), "gridworld")
    assert [each.outcome for each in claims] == ["holds", "open", "fails", "fails"]
    labelled = claims[0]
    assert labelled.estimate is not None and labelled.estimate.value == pytest.approx(0.546 / 0.8)
    text = "\n\n".join(field_report.field_blocks(Results(parts, []), {}))
    assert "### Unseen noise" in text and "- ACRO (actions), more than 0.5: holds, 0.68 [" in text


def test_invariance_must_keep_more_than_contrast_on_the_same_recordings() -> None:
    asked = read(Recorded)

    def made(method: str, states: tuple[float, ...], mixed: bool = True, first: int = 0) -> list[Cell]:
        found = cells(method, states, study="recordings")
        return [replace(c, seed=s + first, mixed=mixed) for c, s in zip(found, asked.seeds, strict=True)]

    ends = [*made("random", (FLOOR,) * 5, False), *made("supervised", (CEILING,) * 5, False)]
    contrast = [*made("temporal_contrastive", (0.7, 0.72, 0.75, 0.7, 0.71)), *made("temporal_contrastive", LOW, False)]
    whole = Results([*ends, *contrast, *made("invariance", HIGH)], [])
    assert [each.outcome for each in survival.recording_claims(whole)] == ["holds", "holds"]
    text = "\n\n".join(field_report.field_blocks(whole, {}))
    assert "### Recordings that differ in their noise" in text
    assert "- Invariance keeps more than 0.5: holds, 0.88" in text
    (line,) = [line for line in field_report.recording_lines(whole) if line["method"] == "contrastive"]
    assert line["exogenous noise alone"].startswith("-0.56 [")
    assert line["iid noise in every second"].startswith("0.63 [")
    for worse in (Results([*ends, *contrast, *made("invariance", LOW)], []), Results([*ends, *contrast], [])):
        assert "holds" not in [each.outcome for each in survival.recording_claims(worse)]
    others = Results([replace(cell, seed=cell.seed - 10) for cell in whole.cells], [])
    assert {each.outcome for each in survival.recording_claims(others)} == {"open"}


def test_latent_actions_do_not_escape_if_episodes_grow_exponentially() -> None:
    def opened(rate: float, method: str = "lapo") -> list[LockCell]:
        rng = np.random.default_rng(0)
        return [
            LockCell(method, h, seed, int(100 * np.exp(h * (rate + rng.normal(0, 0.01)))), True, 10**9)
            for seed in read(LatentActions).seeds
            for h in range(2, 11)
        ]

    results = Results([], [*opened(0.7), *opened(0.1, "forward_model")])
    found = survival.latent_claims(results)
    assert [each.outcome for each in found] == ["holds", "holds"]
    assert found[0].estimate is not None and found[0].estimate.value == pytest.approx(0.7 - 0.3466, abs=0.05)
    text = "\n\n".join(field_report.field_blocks(results, {}))
    assert "### Latent actions in the lock" in text and "- LAPO, rate above 0.3466 a level: holds, 0.3" in text
    slow = [replace(c, episodes_to_solve=10 * c.horizon) for c in opened(0.7)]
    assert [each.outcome for each in survival.latent_claims(Results([], slow))] == ["fails", "fails"]
    assert [each.outcome for each in survival.latent_claims(Results([], opened(0.7)[9:]))] == ["open", "open"]


def test_with_room_for_both_factors_episodes_must_grow_slower_than_the_bound() -> None:
    def opened(method: str, degree: float, codes: int = 4, seeds: int = 10) -> list[LockCell]:
        rng = np.random.default_rng(0)
        return [
            LockCell(method, h, seed, int(100 * h ** (degree + rng.normal(0, 0.05))), True, 10**9, codes=codes)
            for seed in range(seeds)
            for h in range(2, 11)
        ]

    made = [*opened("temporal_contrastive", 1.2), *opened("forward_model", 4.0), *opened("autoencoder", 1.5, seeds=9)]
    results = Results([], [], [*made, *opened("autoencoder", 1.5, codes=3)])
    found = survival.code_claims(results)
    assert [each.outcome for each in found] == ["holds", "holds", "fails", "holds", "open", "open"]
    assert found[0].estimate is not None and found[0].estimate.value == pytest.approx(1.73 - 1.2, abs=0.1)
    assert "- contrastive, 4 codes, degree below 1.73: holds, 0.5" in "\n\n".join(field_report.code_blocks(results))


def label_cells(method: str, count: int, states: tuple[float, ...]) -> list[Cell]:
    return [replace(cell, labels=float(count)) for cell in cells(method, states, study="labels")]


def test_few_labels_are_judged_alone_and_beside_videos() -> None:
    """The scale ends at what all labels give, and a video method is compared with as many labels alone."""
    few, more = (0.5, 0.45, 0.52, 0.48, 0.55), (0.8, 0.82, 0.85, 0.8, 0.82)
    parts = [*label_cells("random", 0, (FLOOR,) * 5), *label_cells("inverse_model", 20, (CEILING,) * 5)]
    parts += [*label_cells("inverse_model", 1, few), *label_cells("inverse_model", 4, more)]
    parts += [*label_cells("curved", 1, more), *label_cells("curved", 0, LOW), *label_cells("curved", 4, few[1:])]
    parts += [*label_cells("forward_model", 1, few), *label_cells("temporal_contrastive", 4, few)]
    found = {(each.method, each.count): each for each in survival.label_outcomes(Results(parts, []))}
    outcomes = {place: each.outcome for place, each in found.items()}
    assert outcomes == {
        ("inverse_model", 1): survival.NOT_BACK,
        ("inverse_model", 4): survival.BACK,
        ("curved", 1): survival.HELPS,
        ("forward_model", 1): survival.OPEN,
        ("temporal_contrastive", 4): survival.HURTS,
    }
    scale = CEILING - FLOOR
    assert found["inverse_model", 1].estimate.value == pytest.approx((np.mean(few) - FLOOR) / scale)
    assert found["curved", 1].estimate.value == pytest.approx((np.mean(more) - np.mean(few)) / scale)
    p = [ttest_rel(more, few).pvalue, ttest_rel(few, more).pvalue]
    assert found["curved", 1].p == pytest.approx(3 * p[0])  # Holm's, of three, and the other two are no less
    part = Results([cell for cell in parts if cell.labels < 20], [])  # where nothing tells what all labels give
    assert all(each.method != "inverse_model" or each.count < 4 for each in survival.label_outcomes(part))
    text = "\n\n".join(field_report.label_blocks(Results(parts, [])))
    assert "- ACRO (actions) alone, 4 labels: has the state back, 0.84 [" in text and "Curved, 4 labels" not in text
    assert "- Curved, 1 labels: helps, 0.64 [" in text
    lines = {line["method"]: line for line in field_report.label_lines(Results(parts, []))}
    assert (
        lines["Curved"]["0 labels"].startswith("-0.56 [")
        and lines["ACRO (actions) alone"]["20 labels"] == "1.00 [1.00, 1.00]"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("keeps: 0.5\n", "", "keeps is missing"),
        ("keeps: 0.5", "keeps: half", "keeps is 'half', expected a finite number"),
        ("floor: random", "floor: randm", "unknown method 'randm'"),
        ("[1, 2, 3, 4, 5]", "[1, 2]", "seeds must be at least 3"),
        ("[iid, exogenous]", "[iid, endogenous]", "unknown noise 'endogenous'"),
        ("level: 0.05", "level: 5.0", "level must lie between 0 and 1"),
    ],
)
def test_unusable_criteria_are_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "criteria.yaml"
    text = Survival.file.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=f"{path} can't be used .*{message}"):
        criteria.read_over_seeds(Survival, path)
