"""The phase diagram: its jobs, its scale, its verdict, its picture, and missing cells."""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from rlrep.envs.gridworld import VectorGridWorld, grid_table
from rlrep.experiments.video_study import phase, pixels, study
from rlrep.experiments.video_study.cells import Results, read_results
from rlrep.experiments.video_study.criteria import read_criteria
from rlrep.experiments.video_study.diagram import noise_examples, phase_diagram
from rlrep.experiments.video_study.jobs import Job
from rlrep.experiments.video_study.phase_report import correlation_lines, phase_blocks, return_lines, state_lines
from rlrep.experiments.video_study.verdicts import CONFIRMED, REFUTED, UNDECIDED, Verdict, verdicts
from tests.experiments.video_study.synthetic import write_phase

ASKED = read_criteria().P5


@pytest.fixture(scope="module")
def diagram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phase")
    write_phase(folder)
    return folder


def judge(results: Results) -> Verdict:
    (verdict,) = verdicts(results)
    return verdict


def but(results: Results, **changes: object) -> Results:
    """The results with changed values in the cells of the forward model."""
    cells = [replace(c, **changes) if c.method == "forward_model" else c for c in results.cells]  # type: ignore[arg-type]
    return Results(cells, [])


def test_every_setting_is_measured_after_each_length_of_training() -> None:
    jobs = list(phase.jobs(None, 1))
    for method, updates in ((m, n) for m in ASKED.methods for n in ASKED.updates):
        own = [(j.size, j.persistence) for j in jobs if (j.method, j.updates) == (method, updates)]
        assert len(own) == len(set(own)) == 20
    ends = [(j.method, j.size) for j in jobs if j.method in ("random", "supervised")]
    assert len(ends) == len(set(ends)) == 8
    assert {(j.size, j.persistence) for j in jobs if j.updates == 10_000} == {*phase.LONGEST}
    assert len(jobs) == 100 and len(list(phase.jobs(None, 3))) == 300


def test_long_trainings_come_before_those_that_they_leave_behind() -> None:
    lengths = [job.updates or 0 for job in phase.jobs(["forward_model"], 1)][8:]
    assert lengths == sorted(lengths, reverse=True)


def test_ppo_learns_on_the_cross_section_only() -> None:
    learned = [job for job in phase.jobs(None, 1) if not job.only_probes]
    assert {(j.size, j.persistence) for j in learned} == {*phase.CROSS_SECTION}
    assert {(j.method, j.updates) for j in learned} == {(method, 3_000) for method in ASKED.methods}


def test_cells_of_the_tour_count_for_the_whole_study() -> None:
    whole = {*study.core("gridworld", None, 1), *phase.jobs(None, 1), *study.field(None, 1)}
    tour = [*study.tour(None, 1)]
    assert {replace(job, ppo_runs=None) for job in tour} < whole
    assert {job.method for job in tour} == {*study.FIELD_METHODS}
    assert {(j.size, j.persistence) for j in tour if j.study == "phase" and j.updates} >= {*phase.CROSS_SECTION}
    assert all(job.only_probes for job in tour if job.study != "core")


def test_any_method_can_have_a_diagram_with_the_ends_of_its_scale(tmp_path: Path) -> None:
    jobs = list(phase.jobs(["swav"], 1))
    assert {job.method for job in jobs} == {"random", "supervised", "swav"} and len(jobs) == 8 + 2 + 40
    write_phase(tmp_path, jobs)
    figure = phase_diagram(read_results(tmp_path), ASKED, {})
    texts, hatched = drawn(figure)
    assert hatched == [0, 0] and len(texts) == 40
    assert figure is not None and figure.axes[0].get_title() == "SwAV, 1,000 updates"


def test_a_cell_of_the_diagram_holds_probes_and_its_number_alone(tmp_path: Path) -> None:
    job = Job("gridworld", "phase", "forward_model", "persistence", 0, 0.8, 8, 0.15, 1_000, True)
    study.run_job(job, tmp_path, quick=True)
    (cell,) = read_results(tmp_path).cells
    assert 0 < cell.state_linear <= 1 and isnan(cell.final_return) and isnan(cell.state_mlp) and not cell.pictures
    assert 0.05 < cell.predictor < 0.15 and cell.updates == 1_000


def test_a_job_trains_as_long_as_it_says() -> None:
    job = next(phase.jobs(["forward_model"], 1))
    assert pixels.settings_of(replace(job, updates=3_000)).steps == 3_000
    assert pixels.settings_of(replace(job, updates=None)).steps == 1_000
    assert pixels.settings_of(replace(job, updates=3_000), quick=True).steps == 5


def test_the_state_kept_lies_between_a_random_encoder_and_labels(diagram: Path) -> None:
    results = read_results(diagram)
    low, high = (phase.cells(results, method=m, size=0.3, seed=1)[0] for m in ("random", "supervised"))
    (cell,) = phase.cells(results, method="forward_model", size=0.3, seed=1, persistence=0.6, updates=1_000)
    middle = (low.state_linear + high.state_linear) / 2
    for state, kept in ((low.state_linear, 0.0), (middle, 0.5), (high.state_linear, 1.0), (0.0, 0.0)):
        assert phase.kept(results, replace(cell, state_linear=state), ASKED) == pytest.approx(kept)
    without = Results([c for c in results.cells if c.method != "random"], [])
    assert isnan(phase.kept(without, cell, ASKED))


def test_what_the_numbers_say_is_confirmed_by_three_seeds(diagram: Path) -> None:
    verdict = judge(read_results(diagram))
    assert (verdict.prediction, verdict.outcome, len(verdict.parts)) == ("P5", CONFIRMED, 7)
    assert {part.seeds for part in verdict.parts} == {3}
    assert verdict.parts[0].estimate < -0.9 and verdict.parts[0].unit == "rank correlation over 20 settings"


def test_a_number_that_orders_nothing_is_refuted(diagram: Path) -> None:
    results = read_results(diagram)
    rng = np.random.default_rng(0)
    shuffled = [replace(c, predictor=rng.random()) if c.predictor == c.predictor else c for c in results.cells]
    verdict = judge(Results(shuffled, []))
    assert verdict.outcome == REFUTED
    assert [part.outcome == CONFIRMED for part in verdict.parts] == [False] * 4 + [True] * 3


def test_forward_models_that_lose_nothing_are_not_ahead_of_contrast_where_it_should_be(diagram: Path) -> None:
    verdict = judge(but(read_results(diagram), state_linear=0.999))
    outcomes = {part.criterion: part.outcome for part in verdict.parts}
    (ahead,) = (outcome for name, outcome in outcomes.items() if name.startswith("contrastive: keeps more"))
    assert ahead == REFUTED


def test_seeds_that_lack_a_setting_do_not_count(diagram: Path) -> None:
    results = read_results(diagram)
    first = phase.cells(results, method="forward_model", updates=1_000, seed=0)[0]
    verdict = judge(Results([c for c in results.cells if c != first], []))
    part = verdict.parts[0]
    assert part.seeds == 2 and part.outcome == UNDECIDED and "at least 3 are asked for" in part.note
    assert verdict.outcome == UNDECIDED


def test_missing_cells_are_named(diagram: Path) -> None:
    results = read_results(diagram)
    gone = [("forward_model", 1_000, 0.15, 0.4), ("forward_model", 1_000, 0.15, 0.8), ("supervised", 1_000, 0.45, 0.0)]
    left = [c for c in results.cells if c.seed != 1 or (c.method, c.updates, c.size, c.persistence) not in gone]
    assert phase.missing(Results(left, [])) == [
        "Grid world, phase: labels of the state, 1,000 updates, seed 1: size 0.45 at ρ = 0",
        "Grid world, phase: forward model, 1,000 updates, seed 1: size 0.15 at ρ = 0.4, 0.8",
    ]
    assert phase.missing(Results([], [])) == []


def drawn(figure: Figure | None) -> tuple[list[str], list[int]]:
    """For each panel with tiles: the numbers in the tiles, and how many tiles are hatched."""
    assert figure is not None
    figure.canvas.draw()
    texts, hatched = [], []
    for panel in figure.axes:
        if tiles := [patch for patch in panel.patches if isinstance(patch, Rectangle)]:
            texts += [text.get_text() for text in panel.texts if not isinstance(text, Annotation)]
            hatched.append(sum(bool(tile.get_hatch()) for tile in tiles))
    return texts, hatched


def test_picture_of_a_few_cells_has_the_lines_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "predicted", lambda place, job, sizes: 4 * job.size * job.persistence)
    write_phase(tmp_path, phase.cross_section(None, 1))
    results = read_results(tmp_path)
    numbers = phase.numbers(results, ASKED)
    assert numbers["forward_model"][1] == pytest.approx([0, 0.32, 0.48, 0.64, 0.8])  # nothing of it was measured
    assert numbers["forward_model"][2, 2] == pytest.approx(0.36)  # measured, with the number of its cell
    figure = phase_diagram(results, ASKED, numbers)
    texts, hatched = drawn(figure)
    assert hatched == [16, 16] and sorted(texts)[0] == "0.20" and len(texts) == 8
    assert figure is not None and [panel.get_title() for panel in figure.axes][:2] == [
        "forward model, 1,000 updates",
        "contrastive, 1,000 updates",
    ]


def test_picture_of_the_whole_diagram_has_a_row_a_length(diagram: Path) -> None:
    results = read_results(diagram)
    figure = phase_diagram(results, ASKED, phase.numbers(results, ASKED))
    texts, hatched = drawn(figure)
    assert hatched == [0, 0, 0, 0] and len(texts) == 80
    assert phase_diagram(Results([], []), ASKED, {}) is None


def test_the_picture_of_the_noise_shows_the_same_steps_in_each_row() -> None:
    figure = noise_examples()
    rows = np.array([panel.images[0].get_array() for panel in figure.axes]).reshape(4, 7, 56, 56, 3)
    assert np.array_equal(rows[0, 0], grid_table(0).frames[VectorGridWorld(1).state[0]].transpose(1, 2, 0))
    hidden = (rows != rows[0]).any(-1).mean((2, 3))
    assert (hidden[0] == 0).all() and (hidden[1:] > 0.05).all()
    changed = (rows[:, 1:] != rows[:, :-1]).any(-1) & (rows[0, 1:] == rows[0, :-1]).all(-1)  # by noise alone
    changed = changed.sum((1, 2, 3))
    assert changed[0] == 0 < changed[3] < changed[2] < changed[1]  # the longer it lasts, the less


def test_the_page_has_what_was_known_and_what_was_measured(diagram: Path) -> None:
    results = read_results(diagram)
    correlations = correlation_lines(results, ASKED)
    assert [(line["method"], line["updates"]) for line in correlations][:2] == [
        ("forward model", "1,000"),
        ("forward model", "3,000"),
    ]
    assert all(line["p"] == "0.0001" and line["seeds"] == "3" for line in correlations)
    states = state_lines(results, ASKED)
    assert len(states) == 2 * (4 + 4 + 1) + 2 * 2 and states[0]["method"] == "ACRO (actions)"
    assert states[0]["ρ = 0"] == "" and states[0]["ρ = 1"].startswith("0.80 [")
    assert len(return_lines(results, ASKED)) == 2 * len(phase.CROSS_SECTION)
    text = " ".join(phase_blocks(results, ASKED, phase.numbers(results, ASKED), {}))
    assert "known before training" in text and "bit for bit" in text
    assert phase_blocks(Results([], []), ASKED, {}, {}) == []
