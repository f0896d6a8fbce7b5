"""Verdicts follow the data: they change when the data do, and stay open when the data cannot tell."""

import json
from pathlib import Path

import pytest

from experiments.video_study.cells import read_results
from experiments.video_study.verdicts import CONFIRMED, REFUTED, UNDECIDED, Part, Verdict, verdicts
from tests.experiments.video_study.synthetic import THEORY, write, write_core, write_lock, write_size

NOISY = 0.35


def judge(folder: Path, prediction: str) -> Verdict:
    (verdict,) = [v for v in verdicts(read_results(folder)) if v.prediction == prediction]
    return verdict


def failing(verdict: Verdict) -> list[Part]:
    return [part for part in verdict.parts if part.outcome != CONFIRMED]


@pytest.mark.parametrize("prediction", ["P1", "P2", "P3"])
def test_prediction_that_holds_is_confirmed_with_three_seeds(tmp_path: Path, prediction: str) -> None:
    write_core(tmp_path)
    write_size(tmp_path)
    assert judge(tmp_path, prediction).outcome == CONFIRMED


@pytest.mark.parametrize(
    ("prediction", "method", "shares", "says"),
    [
        ("P1", "forward_model", (0.98, 0.7, 0.5), "forward model: at least 90 %"),
        ("P1", "random", (0.95, 0.93, 0.9), "state read far above"),
        ("P2", "temporal_contrastive", (0.98, 0.97, 0.97), "contrastive: exogenous noise"),
        ("P2", "inverse_model", (0.99, 0.9, 0.6), "ACRO"),
        ("P3", "autoencoder", (0.97, 0.96, 0.4), "autoencoder: iid noise"),
        ("P3", "vq_autoencoder", (0.97, 0.4, 0.96), "VQ autoencoder: exogenous noise"),
    ],
)
def test_one_criterion_that_fails_refutes(
    tmp_path: Path, prediction: str, method: str, shares: tuple[float, float, float], says: str
) -> None:
    write_core(tmp_path, {**THEORY, method: shares})
    write_size(tmp_path)
    verdict = judge(tmp_path, prediction)
    assert verdict.outcome == REFUTED
    assert all(says in part.criterion and part.outcome == REFUTED for part in failing(verdict))
    assert says in verdict.reason


def test_forward_model_that_rises_with_coverage_refutes(tmp_path: Path) -> None:
    write_core(tmp_path)
    write_size(tmp_path, slope=1.0)
    *_, part = failing(judge(tmp_path, "P2"))
    assert part.outcome == REFUTED
    assert part.low > 0


def test_slope_is_per_tenth_of_the_pixels_in_shares_of_the_oracle(tmp_path: Path) -> None:
    write_core(tmp_path)
    write_size(tmp_path, slope=-1.2)
    (part,) = [p for p in judge(tmp_path, "P2").parts if "covers" in p.criterion]
    assert part.estimate == pytest.approx(-0.12, abs=0.01)


@pytest.mark.parametrize("prediction", ["P1", "P2"])
def test_seeds_that_scatter_leave_it_undecided(tmp_path: Path, prediction: str) -> None:
    write_core(tmp_path, {**THEORY, "temporal_contrastive": (0.95, 0.92, 0.8)}, spread=NOISY)
    write_size(tmp_path, spread=NOISY)
    verdict = judge(tmp_path, prediction)
    assert verdict.outcome == UNDECIDED
    assert all(part.low < part.threshold < part.high for part in failing(verdict) if not part.note)


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    write_core(tmp_path, seeds=1)
    assert {part.outcome for v in verdicts(read_results(tmp_path)) for part in v.parts} == {UNDECIDED}


def test_missing_cells_leave_a_criterion_open_that_says_so(tmp_path: Path) -> None:
    write_core(tmp_path, {method: shares for method, shares in THEORY.items() if method != "forward_model"})
    verdict = judge(tmp_path, "P1")
    assert verdict.outcome == UNDECIDED
    assert {part.note for part in failing(verdict)} == {"cells are missing"}
    first, slope = failing(judge(tmp_path, "P2"))
    assert first.note == "cells are missing"
    assert "no sweep" in slope.note


def test_return_that_was_never_above_the_random_policy_cannot_fall(tmp_path: Path) -> None:
    write_core(tmp_path, {**THEORY, "autoencoder": (-0.05, -0.05, -0.05)})
    (iid, exogenous) = failing(judge(tmp_path, "P3"))
    assert iid.outcome == exogenous.outcome == UNDECIDED
    assert "not clearly above the random policy" in iid.note


def test_oracle_of_no_noise_stands_for_one_that_was_not_run_under_noise(tmp_path: Path) -> None:
    write_core(tmp_path)
    for path in (*tmp_path.glob("cells/*oracle-iid*"), *tmp_path.glob("cells/*oracle-exogenous*")):
        path.unlink()
    assert judge(tmp_path, "P1").outcome == CONFIRMED


def test_autoencoders_are_judged_at_the_largest_coverage(tmp_path: Path) -> None:
    write_core(tmp_path)
    write_size(tmp_path)
    criteria = [part.criterion for part in judge(tmp_path, "P3").parts]
    assert any(c.startswith("autoencoder: exogenous noise over 50 %") for c in criteria)
    assert any(c.startswith("autoencoder: iid noise over 25 %") for c in criteria)


def test_autoencoder_that_survives_little_noise_refutes_nothing(tmp_path: Path) -> None:
    write_core(tmp_path, {**THEORY, "autoencoder": (0.97, 0.96, 0.4)}, coverage=0.06)
    iid, *_ = judge(tmp_path, "P3").parts
    assert iid.outcome == UNDECIDED
    assert "need not dominate" in iid.note


def test_temporal_contrast_that_outlasts_forward_modelling_refutes(tmp_path: Path) -> None:
    write_core(tmp_path, {**THEORY, "temporal_contrastive": (0.98, 0.97, 0.7)})
    write_size(tmp_path)
    for path in tmp_path.glob("cells/size-temporal_contrastive-0.1-*"):
        cell = json.loads(path.read_text())
        path.write_text(json.dumps({**cell, "return": cell["return"] + 0.6}))
    (part,) = failing(judge(tmp_path, "P2"))
    assert part.outcome == REFUTED
    assert part.criterion.startswith("contrastive: less return than the forward model")


def test_an_oracle_below_the_random_policy_is_no_unit(tmp_path: Path) -> None:
    write_core(tmp_path, {**THEORY, "oracle": (-0.5, -0.5, -0.5)})
    write_size(tmp_path)
    notes = [part.note for part in judge(tmp_path, "P2").parts if part.outcome == UNDECIDED]
    assert notes == ["the oracle is no better than the random policy"] * 2


def test_each_domain_has_its_own_verdicts(tmp_path: Path) -> None:
    write_core(tmp_path)
    write_core(tmp_path, {**THEORY, "autoencoder": (0.97, 0.96, 0.95)}, domain="vizdoom_basic")
    outcomes = {v.domain: v.outcome for v in verdicts(read_results(tmp_path)) if v.prediction == "P3"}
    assert outcomes == {"gridworld": CONFIRMED, "vizdoom_basic": REFUTED}


VIDEO = {"temporal_contrastive": 0.6, "forward_model": 0.55}


def test_exponential_from_video_and_polynomial_from_actions_confirms(tmp_path: Path) -> None:
    write_lock(tmp_path, VIDEO, seeds=20)
    verdict = judge(tmp_path, "P4")
    assert verdict.outcome == CONFIRMED
    assert verdict.parts[0].estimate == pytest.approx(0.6, abs=0.05)
    assert "unsolved" in verdict.parts[0].note


def test_video_that_does_not_grow_refutes(tmp_path: Path) -> None:
    write_lock(tmp_path, {**VIDEO, "forward_model": -0.2})
    verdict = judge(tmp_path, "P4")
    assert verdict.outcome == REFUTED
    assert "forward model: episodes grow exponentially" in verdict.reason


def test_linear_growth_is_not_taken_for_exponential(tmp_path: Path) -> None:
    write_lock(tmp_path, {}, power=1.0)
    for path in tmp_path.glob("cells/*"):
        cell = json.loads(path.read_text())
        for method in VIDEO:
            write(tmp_path, path.stem.replace("inverse_model", method), {**cell, "method": method})
    verdict = judge(tmp_path, "P4")
    assert verdict.outcome == REFUTED
    assert {part.outcome for part in verdict.parts if part.criterion.endswith("episodes grow exponentially")} == {
        REFUTED
    }
    assert not any(part.outcome == CONFIRMED for part in verdict.parts if "exponential growth fits" in part.criterion)


def test_each_seed_counts_once_for_the_growth(tmp_path: Path) -> None:
    write_lock(tmp_path, VIDEO, seeds=2)
    assert {part.seeds for part in judge(tmp_path, "P4").parts} == {2}


def test_steep_growth_from_actions_refutes(tmp_path: Path) -> None:
    write_lock(tmp_path, VIDEO, power=5.0, most=10**7)
    steep, *_ = failing(judge(tmp_path, "P4"))
    assert steep.outcome == REFUTED
    assert steep.low > 3


def test_exponential_growth_from_actions_refutes_even_if_it_is_slow(tmp_path: Path) -> None:
    write_lock(tmp_path, {**VIDEO, "inverse_model": 0.3}, seeds=20)
    (part,) = failing(judge(tmp_path, "P4"))
    assert part.criterion == "ACRO (actions): polynomial growth fits better than exponential"
    assert part.outcome == REFUTED


def test_two_horizons_decide_nothing(tmp_path: Path) -> None:
    write_lock(tmp_path, VIDEO)
    for path in tmp_path.glob("cells/lock-*"):
        if path.stem.split("-")[2] not in ("4", "6"):
            path.unlink()
    verdict = judge(tmp_path, "P4")
    assert verdict.outcome == UNDECIDED
    assert all("3 horizons" in part.note for part in verdict.parts)


def test_without_a_lock_there_is_no_verdict_on_it(tmp_path: Path) -> None:
    write_core(tmp_path)
    assert [v.prediction for v in verdicts(read_results(tmp_path))] == ["P1", "P2", "P3"]
