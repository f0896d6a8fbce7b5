"""Objectives by import path, in every command; an import path in a file imports nothing."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlrep.experiments.evaluate import main as evaluate
from rlrep.experiments.run import train_config as configuration
from rlrep.experiments.run.command import for_hydra
from rlrep.experiments.run.config_file import load_as
from rlrep.experiments.run.names import as_folder
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.train_config import TrainConfig
from tests.experiments.offline_data import run_offline, write_data
from tests.experiments.own import Own
from tests.experiments.run.test_config import completed

Run = Callable[..., Path]
NAME = "tests.experiments.own:Own"
OPTIONS = (
    "objectives=[tests.experiments.own:Own]",
    "++objective.Own.scales=[0.5,2]",
)


def test_a_run_trains_resumes_and_is_evaluated_with_an_objective_of_ones_own(run: Run, tmp_path: Path) -> None:
    folder = run("agent=drqv2", *OPTIONS, "num_train_frames=1000")
    config = configuration.load(folder / "config.yaml")
    assert config.objective[NAME] == {"batch_size": None, "weight": None, "scales": [0.5, 2], "bias": 0}
    assert config.agent["name"] == "drqv2+Own"
    run("agent=drqv2", *OPTIONS, "num_train_frames=2000", "resume=true")
    assert "loss_own" in (folder / "train.csv").read_text().splitlines()[0]
    assert evaluate([str(folder), "--episodes", "1", "--device", "cpu"]) == 0


def test_an_offline_run_trains_with_an_objective_of_ones_own(tmp_path: Path) -> None:
    folder = run_offline(write_data(tmp_path / "data"), tmp_path / "run", *OPTIONS)
    assert "loss_own" in (folder / "train.csv").read_text().splitlines()[0]


def test_a_run_trains_resumes_and_is_evaluated_with_an_agent_of_ones_own(run: Run, tmp_path: Path) -> None:
    typed = for_hydra(["agent=tests.own_agent:Own", "agent.widths=[4,6]", "objectives=[taco]", "update=joint"])
    folder = run(*typed, "num_train_frames=1000")
    config = configuration.load(folder / "config.yaml")
    assert config.agent["name"] == "Own+taco" and config.agent["widths"] == [4, 6]
    assert config.agent["lr"] == config.lr and config.agent["num_expl_steps"] == 5
    run(*typed, "num_train_frames=2000", "resume=true")
    columns = (folder / "train.csv").read_text().splitlines()[0]
    assert "policy_loss" in columns and "loss_taco" in columns
    assert evaluate([str(folder), "--episodes", "1", "--device", "cpu"]) == 0


def test_its_options_are_checked_by_their_annotations() -> None:
    with pytest.raises(ConfigError, match=r"objective.tests.experiments.own:Own.scales must be .*, got 3"):
        completed("agent=drqv2", OPTIONS[0], "++objective.Own.scales=3")
    with pytest.raises(ValueError, match=r"unknown option of objective.*'scale': did you mean scales"):
        completed("agent=drqv2", OPTIONS[0], "++objective.Own.scale=[3]")
    config = completed("agent=drqv2", OPTIONS[0], "++objective.Own.batch_size=512", "++objective.Own.bias=-1.5")
    assert config.objective[NAME] == {"scales": [1.0], "bias": -1.5, "batch_size": 512, "weight": None}


def test_a_file_that_names_a_module_imports_nothing(run: Run, tmp_path: Path) -> None:
    folder = run("agent=drqv2", *OPTIONS, "num_train_frames=1000")
    module = tmp_path / "evil_module.py"
    module.write_text("raise SystemExit('imported')")
    config = folder / "config.yaml"
    text, evil = config.read_text(), "evil_module:Own"
    sys.path.insert(0, str(tmp_path))
    try:
        for old, evil in (
            ("tests.experiments.own:Own", "evil_module:Own"),
            ("format: null", "format: evil_module:Own"),
        ):
            assert old in text
            config.write_text(text.replace(old, evil))
            with pytest.raises(ConfigError, match=r"from a file is not imported: .* imports=\[evil_module\]"):
                load_as(TrainConfig, config)
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil_module" not in sys.modules


def test_an_environments_id_is_one_folder_of_a_run() -> None:
    assert as_folder("ALE/Pong-v5") == "ALE_Pong-v5"
    assert completed("task=CarRacing-v3", "agent=drqv2").run_dir == "runs/CarRacing-v3/drqv2/seed_1"


def test_imports_register_what_the_other_options_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlrep import OBJECTIVES

    (tmp_path / "registers_one.py").write_text(
        "from rlrep import OBJECTIVES\nfrom tests.experiments.own import Own\nOBJECTIVES['registered'] = Own\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        config = completed("agent=drqv2", "imports=[registers_one]", "objectives=[registered]")
        assert config.objective["registered"] == {"batch_size": None, "weight": None, "scales": [1.0], "bias": 0.0}
        assert OBJECTIVES["registered"] is Own
    finally:
        OBJECTIVES.pop("registered", None)
        sys.modules.pop("registers_one", None)
