"""The notebook runs at a tiny size, and its stored outputs are from one run of its cells."""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "notebook.ipynb"
SMALL = {"FRAMES": 240, "STEPS": 2, "LABELLED": 150}


def cells() -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("minigrid")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    matplotlib.use("Agg")
    found: dict[str, Any] = {}
    for cell in cells():
        source = "".join(cell["source"])
        for name, value in SMALL.items():
            source = re.sub(rf"^{name} = [\d_]+", f"{name} = {value}", source, flags=re.MULTILINE)
        source = source.replace("folds=3)", "folds=3, steps=3)")
        exec(compile(source, NOTEBOOK.name, "exec"), found)
    assert {name: found[name] for name in SMALL} == SMALL
    assert len(found["scores"]) == 6 and all(0 <= score.mean <= 1 for score in found["scores"].values())
    assert found["again"].repr_dim == 128 and "parameters" in capsys.readouterr().out


def test_its_outputs_are_those_of_one_run_from_top_to_bottom() -> None:
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    outputs = [output for cell in cells() for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert NOTEBOOK.stat().st_size < 400_000
