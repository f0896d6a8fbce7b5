"""The report: its contents, what is missing, and that it needs no other files."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from rlrep.experiments import video_theory
from rlrep.experiments.results import pictures
from rlrep.experiments.video_study import figures, phase
from rlrep.experiments.video_study import report as report_module
from rlrep.experiments.video_study.cells import (
    CORE_METHODS,
    FIELD,
    METHODS,
    Cell,
    Results,
    by_setting,
    missing,
    read_results,
    select,
    sweep,
)
from rlrep.experiments.video_study.criteria import read_criteria
from rlrep.experiments.video_study.figures import COLOUR, draw
from rlrep.experiments.video_study.jobs import Job, LockJob
from rlrep.experiments.video_study.report import interval, write_report
from rlrep.experiments.video_study.study import STUDIES
from tests.experiments.video_study.synthetic import (
    THEORY,
    write_core,
    write_field,
    write_lock,
    write_pictures,
    write_size,
    write_study,
)

FEW = {method: THEORY[method] for method in ("oracle", "temporal_contrastive", "random")}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study and, in `out`, its report. The pictures are small, because drawing takes most of the time."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    write_pictures(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "WIDTH", 320)
        write_report(folder, folder / "out")
    return folder


def test_report_has_all_verdicts_and_every_picture_that_it_names(study: Path) -> None:
    report = (study / "out" / "report.md").read_text()
    assert all(f"| {prediction}. " in report for prediction in ("P1", "P2", "P3", "P4", "P5"))
    named = set(re.findall(r"!\[.+\]\((.+)\)", report))
    assert named == {path.name for path in (study / "out").glob("*.png")}
    assert {name.split("_")[0].removesuffix(".png") for name in named} == {
        "returns",
        "probes",
        "reconstructions",
        "size",
        "persistence",
        "noise",
        "phase",
        "lock",
    }
    assert "python -m rlrep.experiments.video_theory" in report


def test_csv_has_a_row_a_cell_with_its_numbers(study: Path) -> None:
    with (study / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(study.glob("cells/*.json")))
    cell = json.loads((study / "cells" / "gridworld-core-forward_model-iid-1.json").read_text())
    key = ("core", "forward_model", "iid", "1")
    (row,) = [r for r in rows if (r["study"], r["method"], r["noise"], r["seed"]) == key]
    assert float(row["return"]) == cell["return"]
    assert row["horizon"] == ""


def test_a_folder_of_studies_has_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, method in (("one", "taco"), ("two", "curl")):
        job = Job("gridworld", "field", method, "exogenous", 1, 1.0, only_probes=True)
        write_field(tmp_path / name, [job])
    write_lock(tmp_path / "two", seeds=1)
    assert video_theory.main(["--report", "--out", str(tmp_path)]) == 0
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(tmp_path.glob("*/cells/*.json")))
    assert [(row["folder"], row["method"]) for row in rows if row["study"] == "field"] == [
        ("one", "taco"),
        ("two", "curl"),
    ]
    assert not (tmp_path / "report.md").exists()
    assert video_theory.main(["--report", "--out", str(tmp_path / "none")]) == 1
    assert "has no cells" in capsys.readouterr().err


def test_persistence_table_says_where_each_method_breaks(study: Path) -> None:
    report = (study / "out" / "report.md").read_text()
    table = report[report.index("loses over 10 % from") :]
    broken = dict(re.findall(r"\| (contrastive|ACRO \(actions\)) +\| (ρ = [\d.]+|not shown)", table))
    assert broken == {"contrastive": "ρ = 0.8", "ACRO (actions)": "not shown"}


def test_report_says_by_which_criteria_it_judges_and_which_cells_are_no_test_of_them(study: Path) -> None:
    report = (study / "out" / "report.md").read_text()
    assert read_criteria().source in report
    assert re.search(r"- Grid world: (\d+) of \1 cells made before cells noted their criteria\.\n", report)
    table = report[: report.index("A criterion holds")]
    assert table.count("| exploratory |") == 5 and "| test " not in table


def test_partial_study_is_reported_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "draw", lambda *_: {})
    write_core(tmp_path, FEW)
    (tmp_path / "cells" / "gridworld-core-temporal_contrastive-iid-2.json").unlink()
    write_report(tmp_path, tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    lines = report[report.index("## What is missing") :].splitlines()[2:]
    assert lines[: lines.index("")] == [
        "- Grid world, core: contrastive, iid noise: seed 2"
    ]  # of the study that was run


def test_whole_study_misses_nothing(study: Path) -> None:
    results = read_results(study)
    assert missing(results) == phase.missing(results) == []


def test_vizdoom_lacks_nothing_without_noise_as_only_the_oracle_runs_there(tmp_path: Path) -> None:
    write_field(tmp_path, study_jobs("vizdoom_basic", CORE_METHODS, 2))
    lines = [line for line in missing(read_results(tmp_path)) if line.startswith("ViZDoom Basic")]
    assert lines == []


def test_sweeps_take_their_missing_points_from_the_core(tmp_path: Path) -> None:
    write_core(tmp_path)
    write_size(tmp_path)
    results = read_results(tmp_path)
    cells = sweep(results, "gridworld", "size", method="forward_model", noise="exogenous", seed=0)
    assert sorted(c.size for c in cells) == [0.15, 0.3, 0.45]
    assert not sweep(results, "gridworld", "size", method="random")


def test_no_noise_is_a_setting_of_its_own(tmp_path: Path) -> None:
    write_core(tmp_path, FEW, num_shapes=5, size=0.2)
    cells = select(read_results(tmp_path).cells, method="temporal_contrastive")
    assert sorted({c.noise for c in group}.pop() for group in by_setting(cells)) == ["exogenous", "iid", "none"]


def test_divergence_and_collapse_are_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "draw", lambda *_: {})
    write_core(tmp_path, FEW)
    for name, change in (("iid-2", {"diverged": 400}), ("none-1", {"effective_rank": 1.04})):
        path = tmp_path / "cells" / f"gridworld-core-temporal_contrastive-{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    write_report(tmp_path, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "- Grid world, core: contrastive, iid noise, seed 2: diverged after 400 updates, measured as it" in report
    assert "- Grid world, core: contrastive, no noise, seed 1: collapsed, effective rank 1.0\n" in report
    assert report.count("diverged after") + report.count(": collapsed, ") == 2
    phase_cell = Cell("gridworld", "phase", "vip", "persistence", 0.4, 8, 0.3, 0.2, 0, effective_rank=1.0)
    (line,) = report_module.collapsed_lines(Results([phase_cell], []))
    assert line == "Grid world, phase: VIP, ρ = 0.4, 8 shapes of size 0.3, seed 0: collapsed, effective rank 1.0"


def test_lock_alone_makes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "WIDTH", 320)
    write_lock(tmp_path, {"temporal_contrastive": 0.6})
    write_report(tmp_path, tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| > 1,000 " in report
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"lock.png"}


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the field, of two seeds."""
    folder = tmp_path_factory.mktemp("field")
    few = ("random", "inverse_model", "temporal_contrastive", "sepclr")
    jobs = [job for name in ("core", "field", *FIELD, "codes") for job in study_jobs(name, few, 2)]
    write_field(folder, jobs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "WIDTH", 320)
        write_report(folder, folder / "out")
    return folder / "out"


def test_costs_maps_and_command_are_those_of_a_study_without_its_first_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "draw", lambda *_: {})
    jobs = [job for job in study_jobs("arrow", ("curved", "random"), 4) if job.seed > 0]
    write_field(tmp_path, jobs)
    write_report(tmp_path, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert len(jobs) == 12 and re.search(r"\| Grid world, arrow \| 12 +\| 3 +\| 1\.8 ", report)  # 9 s a training
    assert "video_theory arrow --seeds 3 --first-seed 1\n" in report
    (line,) = report_module.setup_lines(read_results(tmp_path), quick=False)
    assert (line["maps"], line["PPO"]) == ("3", "")
    assert not re.search("What was tried|The verdicts in detail|## Grid world", report)


@pytest.mark.parametrize("name", ["replication", "longer"])
def test_the_command_is_that_of_a_study_of_further_seeds(name: str, tmp_path: Path) -> None:
    jobs = study_jobs(name, ("curved", "random"), 3)
    explored = [replace(job, seed=6) for job in jobs if name == "longer"]
    write_field(tmp_path, [*jobs, *explored])
    assert report_module.command(read_results(tmp_path)) == f"python -m rlrep.experiments.video_theory {name} --seeds 3"


def study_jobs(name: str, methods: tuple[str, ...], seeds: int) -> list[Job | LockJob]:
    return list(STUDIES[name](methods, seeds))


def test_field_is_reported_with_its_pictures(field: Path) -> None:
    report = (field / "report.md").read_text()
    headings = re.findall("### (.+)", report[report.index("## The field") : report.index("## Grid world")])
    assert headings == [
        "Step sizes",
        "Every method",
        "Action labels",
        "Temperature",
        "Unseen noise",
        "Few demonstrations",
        "More codes for the lock",
    ]
    assert {"field_gridworld.png", "labels.png", "temperature.png"} <= {path.name for path in field.glob("*.png")}
    assert re.search(r"\| SepCLR +\| 0\.3 \(0\.20\) +\| 0\.3 \(0\.20\) +\| 0\.3 \(0\.20\) +\|", report)
    assert re.search(r"\| SepCLR +\| video and its background \|", report)
    assert re.search(r"\| ACRO \(actions\) alone +\| +(\| 0\.\d+ +){3}\| 1\.00 ", report)
    assert "codes 4" not in report and re.search(r"\| ACRO \(actions\) +\| 4 +\| 4 +\| 6 ", report)
    assert "field: not run" not in report and "codes: not run" not in report


def test_a_lock_of_more_codes_is_no_test_of_the_lower_bound(field: Path) -> None:
    results = read_results(field.parent)
    assert {cell.codes for cell in results.lock} == {2} and {cell.codes for cell in results.codes} == {3, 4}


def test_many_methods_leave_the_cores_pictures_to_the_core(tmp_path: Path) -> None:
    write_field(tmp_path, study_jobs("core", tuple(METHODS), 1))
    cells = read_results(tmp_path).cells
    assert figures.methods_of(cells) == list(figures.CORE_METHODS)
    assert figures.methods_of(select(cells, method="taco")) == ["taco"]


def test_scores_below_nothing_are_drawn_on_the_axis() -> None:
    panel = Figure().subplots()
    cell = Cell("gridworld", "core", "curl", "iid", 0.0, 8, 0.3, 0.2, 0, noise_linear=-0.4, noise_mlp=-7.0)
    figures.bars(panel, [cell], "noise", "", "")
    drawn = np.concatenate([line.get_xdata() for line in panel.lines])
    low, high = panel.get_xlim()
    assert low < np.nanmin(drawn) and np.nanmax(drawn) < high
    assert [text.get_text() for text in panel.texts] == ["-0.40"]


def test_few_seeds_are_drawn_one_by_one() -> None:
    """Their interval, with two degrees of freedom or so, would be several times wider than they are apart."""
    for seeds in (3, 5):
        panel, x = Figure().subplots(), np.arange(4.0)
        figures.band(panel, x, np.random.default_rng(0).random((seeds, 4)), "curl")
        low, high = panel.dataLim.intervaly
        assert len(panel.lines) == (4 if seeds == 3 else 3) and (seeds == 5 or (low >= 0 and high <= 1))


def test_names_of_levels_lie_beside_the_panel() -> None:
    panel = Figure().subplots()
    panel.plot([0, 0.25], [0.9, 0.9])
    end = figures.level(panel, 0.91, "black")
    figures.label_lines(panel, {"inverse_model": (0.25, 0.9), "oracle": end})
    assert all(text.xyann[0] > 1 for text in panel.texts) and len(panel.texts) == 2


def test_every_method_has_its_own_colour() -> None:
    assert len({COLOUR[method] for method in METHODS}) == len(METHODS)


def test_one_seed_is_drawn_without_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "WIDTH", 320)
    write_core(tmp_path, FEW, seeds=1)
    assert set(draw(read_results(tmp_path), tmp_path, read_criteria().P5, {})) == {
        "returns_gridworld",
        "probes_gridworld",
    }
    assert interval(np.array([0.5])) == "0.5"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "JSON object"),
        ('{"domain": "gridworld"}', "no cell of the study"),
        ('{"domain": "maze"}', "no cell of the study"),
    ],
)
def test_damaged_cell_is_named(tmp_path: Path, content: str, says: str) -> None:
    write_core(tmp_path, FEW, seeds=1)
    (tmp_path / "cells" / "broken.json").write_text(content)
    with pytest.raises(ValueError, match=f"broken.json.*{says}.*move it away"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "change", [{"method": "magic"}, {"noise": "loud"}, {"study": "other"}, {"return": None}, {"coverage": "much"}]
)
def test_unknown_name_or_missing_number_is_refused(tmp_path: Path, change: dict) -> None:
    write_core(tmp_path, FEW, seeds=1)
    path = next(tmp_path.glob("cells/*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=path.name):
        read_results(tmp_path)


def test_folder_without_cells_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="video_theory"):
        write_report(tmp_path, tmp_path / "out")


def test_damaged_pictures_are_named(tmp_path: Path) -> None:
    write_core(tmp_path, FEW, seeds=1)
    write_pictures(tmp_path)
    path = next(tmp_path.glob("pictures/*.npz"))
    path.write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match=path.name):
        figures.reconstructions(read_results(tmp_path), "gridworld")


def test_a_study_without_probes_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "WIDTH", 320)
    write_core(tmp_path, {"oracle": THEORY["oracle"]}, seeds=1, state_linear=None, state_mlp=None)
    write_report(tmp_path, tmp_path)
    assert "returns_gridworld" in (tmp_path / "report.md").read_text()
