"""The report: its contents, what is missing, and that it needs no other files."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rlrep.experiments.results import pictures
from rlrep.experiments.video_study import figures, phase
from rlrep.experiments.video_study import report as report_module
from rlrep.experiments.video_study.cells import METHODS, missing, read_results, select, settings, sweep
from rlrep.experiments.video_study.criteria import read_criteria
from rlrep.experiments.video_study.figures import COLOUR, draw
from rlrep.experiments.video_study.report import interval, write_report
from tests.experiments.video_study.synthetic import (
    THEORY,
    write_core,
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
        "phase",
        "lock",
    }
    assert "python -m rlrep.experiments.video_theory" in report


def test_page_is_self_contained_and_says_the_same(study: Path) -> None:
    page, report = ((study / "out" / name).read_text() for name in ("report.html", "report.md"))
    sources: list[str] = []
    words: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            sources.extend(value or "" for name, value in attrs if name in ("src", "href"))

        def handle_data(self, data: str) -> None:
            words.append(data)

    Reader().feed(page)
    assert len(sources) == report.count("![")
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    cells = {c.strip() for line in report.splitlines() if line.startswith("| ") for c in line.split("|")}
    assert {c for c in cells if c and set(c) != {"-"}} <= set(words)


def test_csv_has_a_row_a_cell_with_its_numbers(study: Path) -> None:
    with (study / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(study.glob("cells/*.json")))
    cell = json.loads((study / "cells" / "gridworld-core-forward_model-iid-1.json").read_text())
    key = ("core", "forward_model", "iid", "1")
    (row,) = [r for r in rows if (r["study"], r["method"], r["noise"], r["seed"]) == key]
    assert float(row["return"]) == cell["return"]
    assert row["horizon"] == ""


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
    assert "- Grid world, core: contrastive, iid noise: seed 2\n" in report
    assert "- Grid world, core: forward model: not run\n" in report
    assert "- Grid world, persistence: not run\n" in report
    assert "- Grid world, phase: not run\n" in report
    assert "- Combination lock: not run\n" in report


def test_whole_study_misses_only_the_other_domains(study: Path) -> None:
    results = read_results(study)
    assert missing(results) == ["ViZDoom Basic: not run", "ViZDoom Defend the Center: not run"]
    assert phase.missing(results) == []


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
    assert sorted({c.noise for c in group}.pop() for group in settings(cells)) == ["exogenous", "iid", "none"]


def test_lock_alone_makes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "WIDTH", 320)
    write_lock(tmp_path, {"temporal_contrastive": 0.6})
    write_report(tmp_path, tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| > 1,000 " in report
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"lock.png"}


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
