"""Which methods survive which noise: the scale, the classes, and what is said with too few seeds."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from rlrep.experiments.video_study import field_report, pixels, survival
from rlrep.experiments.video_study.cells import CORE_METHODS, METHODS, Cell, Results, read_results
from rlrep.experiments.video_study.criteria import FIELD_FILE, read_survival
from rlrep.experiments.video_study.domain import Settings
from rlrep.experiments.video_study.pages import as_markdown
from rlrep.experiments.video_study.survival import BREAKS, OPEN, SURVIVES, kept, shares

FLOOR, CEILING = 0.4, 0.9


def cells(method: str, states: list[float], noise: str = "exogenous", study: str = "field") -> list[Cell]:
    return [
        Cell("gridworld", study, method, noise, 1.0, 8, 0.3, 0.2, seed, state_linear=state)
        for seed, state in enumerate(states)
    ]


def results(*groups: list[Cell], noise: str = "exogenous", seeds: int = 5) -> Results:
    ends = [*cells("random", [FLOOR] * seeds, noise), *cells("supervised", [CEILING] * seeds, noise)]
    return Results([*ends, *(cell for group in groups for cell in group)], [])


@pytest.mark.parametrize(
    ("states", "outcome"),
    [
        ([0.8, 0.85, 0.9, 0.82, 0.84], SURVIVES),
        ([0.1, 0.2, 0.05, 0.15, 0.1], BREAKS),
        ([0.5, 0.8, 0.6, 0.7, 0.65], OPEN),
        ([0.8, 0.85, 0.9, 0.82], ""),
    ],
)
def test_a_method_survives_if_the_whole_interval_lies_above(states: list[float], outcome: str) -> None:
    found = kept(results(cells("taco", states)), "gridworld", "taco", "exogenous")
    assert found is not None and (found.outcome, found.seeds) == (outcome, len(states))
    assert found.estimate.value == pytest.approx((np.mean(states) - FLOOR) / (CEILING - FLOOR))


def test_ends_are_of_the_same_seed_and_noise_and_less_than_a_random_encoder_has_is_below_0() -> None:
    ends = [*cells("random", [0.2, 0.4]), *cells("supervised", [0.6, 0.9, 0.8])]
    others = results(noise="iid").cells
    found = shares(
        Results([*ends, *others, *cells("spr", [0.4, 0.3, 0.7])], []), "gridworld", "spr", "exogenous", read_survival()
    )
    assert found == pytest.approx([0.5, -0.2])
    assert kept(Results(cells("spr", [0.5]), []), "gridworld", "spr", "exogenous") is None


def test_cells_of_the_core_are_measured_too() -> None:
    found = kept(results(cells("inverse_model", [0.8] * 5, study="core")), "gridworld", "inverse_model", "exogenous")
    assert found is not None and found.outcome == SURVIVES


def test_report_says_which_survive_by_what_and_whether_it_is_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [cells("taco", [0.1, 0.2, 0.05, 0.15, 0.1]), cells("laom", [0.8, 0.85, 0.9, 0.82, 0.84])]
    text = as_markdown(field_report.survival_blocks(results(*made), "gridworld"))
    assert "- exogenous noise, survives: LAOM 0.88" in text and "- exogenous noise, breaks: TACO -0.56" in text
    assert "iid noise" not in text.replace("exogenous noise", "") and FIELD_FILE.name in text
    assert "Exploratory: 20 of 20 cells made before cells noted their date" in text
    frozen = replace(read_survival(), frozen=datetime(2026, 11, 27, tzinfo=timezone.utc), commit="abc123")
    for module in (survival, field_report):
        monkeypatch.setattr(module, "read_survival", lambda: frozen)
    for later, said in ((1, "older than all cells"), (-1, "Exploratory: 20 of 20 cells made before the criteria were")):
        time = (frozen.frozen + timedelta(seconds=later)).isoformat()  # type: ignore[operator]
        dated = Results([replace(cell, made=time) for cell in results(*made).cells], [])
        assert said in as_markdown(field_report.survival_blocks(dated, "gridworld"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kept: 0.5", "keeps: 0.5", "kept is missing"),
        ("kept: 0.5", "kept: half", "kept is 'half', expected float"),
        ("floor: random", "floor: randm", "unknown method 'randm'"),
        ("seeds: 5", "seeds: 2", "seeds must be at least 3"),
        ("[iid, exogenous]", "[iid, endogenous]", "unknown noise 'endogenous'"),
    ],
)
def test_unusable_criteria_are_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "criteria.yaml"
    path.write_text(FIELD_FILE.read_text().replace(old, new))
    with pytest.raises(ValueError, match=f"{path} can't be used .*{message}"):
        read_survival(path)


