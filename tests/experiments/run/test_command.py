"""Overrides as people type them: paths stay unchanged, and mistakes are reported in one line."""

import os
import shlex
import subprocess
import sys
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from rlrep.experiments import data, evaluate, offline_report, plot, study, video_theory
from rlrep.experiments.run.collection import CollectConfig
from rlrep.experiments.run.command import (
    check_effects,
    check_names,
    check_words,
    evaluation,
    for_hydra,
    help_text,
    paths_of,
)
from rlrep.experiments.run.offline_config import OfflineConfig
from rlrep.experiments.run.options import ConfigError, defaults, options_of
from rlrep.experiments.run.pretrain_config import PretrainConfig, complete
from rlrep.experiments.run.pretrained import settle_encoder
from rlrep.experiments.run.pretraining import training
from rlrep.experiments.run.train_config import TrainConfig
from rlrep.experiments.yaml_files import is_a
from rlrep.objectives import find_objective
from tests.experiments.conftest import ROOT

SCHEMAS = (TrainConfig, OfflineConfig, PretrainConfig, CollectConfig)
PATHS = [
    "2025_02_03",
    "1e6",
    "007",
    "1_000.5",
    "a=b",
    "a,b",
    "runs/é",
    "実験/一",
    "it's",
    'the "best"',
    "#1",
    "a (copy)",
    "(",
    "[a",
    "{a",
    "a]b}",
    "a b",
    " a ",
    "a:b",
    "a\\b",
    "a\\",
    "a\\'b",
    "true",
    "None",
    "nan",
    "0x10",
    "a%b@c!d?e*f&g|h;i<j>k^l`m",
    "a+b~c",
    "choice(1,2)",
    "glob(*)",
    "'",
    "''",
    "-",
    ".",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["run_dir", "encoder", "offline.data", "+init", "++offline.cache"])
def test_paths_are_taken_as_typed(name: str, path: str) -> None:
    if path == "''" or (path == "{a" and name == "encoder"):
        path = f"x{path}"  # quotes around the whole path, and sections, are for Hydra
    (rewritten,) = for_hydra([f"{name}={path}"], paths_of(TrainConfig))
    override = OverridesParser.create().parse_override(rewritten)
    assert override.value() == path and isinstance(override.value(), str)
    assert override.key_or_group == {"encoder": "encoder.path"}.get(name, name.lstrip("+"))


def test_null_and_quotes_keep_their_meaning_in_paths() -> None:
    assert for_hydra(["init=null", "run_dir='a=b'"], paths_of(TrainConfig)) == ["init=null", "run_dir='a=b'"]


def test_the_home_is_found_in_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert for_hydra(["run_dir=~/runs"], paths_of(TrainConfig)) == ["run_dir='/home/me/runs'"]


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        (TrainConfig, {"run_dir", "noise.videos", "init", "encoder", "encoder.path", "offline.data", "offline.cache"}),
        (OfflineConfig, {"run_dir", "noise.videos", "dataset", "cache", "encoder", "encoder.path"}),
        (PretrainConfig, {"run_dir", "noise.videos", "source", "cache"}),
        (CollectConfig, {"run", "out"}),
    ],
)
def test_every_file_and_folder_is_known_as_a_path(schema: type, names: set[str]) -> None:
    assert set(paths_of(schema)) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed=1"], "options have no dashes: write seed=1"),
        (["--batch-size", "8"], "options have no dashes: write batch_size=VALUE"),
        (["-seed=1"], "options have no dashes: write seed=1"),
        (["seed", "1"], "'seed' sets nothing: options are written KEY=VALUE, without spaces"),
        (["seed", "=", "1"], "'seed' sets nothing"),
        (["run_dir="], "run_dir= is empty: give a file or folder"),
        (["run_dir=a\udcffb"], "is not UTF-8: rename the file or folder"),
    ],
)
def test_what_sets_nothing_is_refused_with_what_to_write(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_words(arguments, options_of(TrainConfig))


def test_hydras_own_switches_are_left_to_it() -> None:
    arguments = ["--multirun", "seed=1,2", "--config-dir", "elsewhere", "-cd=x", "--cfg", "job", "~noise", "-m"]
    assert check_words(arguments, options_of(TrainConfig)) == ["seed=1,2", "~noise"]


@pytest.mark.parametrize(
    ("schema", "typed", "message"),
    [
        (TrainConfig, "noise.persistence=1.0", "noise.persistence=1.0 has no effect without noise.kind"),
        (PretrainConfig, "noise.size=0.25", "without noise.kind"),
        (TrainConfig, "encoder.freeze=false", "without encoder.path=… or init=…"),
        (TrainConfig, "wandb.mode=offline", "without use_wandb=true"),
        (TrainConfig, "offline.share=0.5", "without offline.data=… or init=…"),
    ],
)
def test_a_typed_setting_that_changes_nothing_is_refused_even_if_it_is_the_default(
    schema: type, typed: str, message: str
) -> None:
    composed = OmegaConf.create(defaults(schema))
    with pytest.raises(ConfigError, match=message):
        check_effects([typed], composed, schema)


def test_a_schedule_that_the_agent_does_not_follow_is_refused() -> None:
    plain = defaults(TrainConfig) | {"agent": {"name": "sac", "lr": "${lr}"}}
    with pytest.raises(ConfigError, match="stddev_schedule has no effect: agent=sac does not follow it"):
        check_effects(["stddev_schedule=0.2"], OmegaConf.create(plain), TrainConfig)
    plain["agent"]["stddev_schedule"] = "${stddev_schedule}"
    check_effects(["stddev_schedule=0.2", "lr=1"], OmegaConf.create(plain), TrainConfig)


def test_options_of_an_objective_that_is_not_used_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    plain = defaults(TrainConfig) | {"objectives": ["taco"]}
    check_effects(["++objective.curl.feature_dim=3", "objective.taco.horizon=2"], OmegaConf.create(plain), TrainConfig)
    assert capsys.readouterr().err == "note: objective.curl.feature_dim has no effect without objectives=[curl]\n"
    plain["agent"] = {"name": "mrq", "algorithm": "mrq"}
    check_effects(["objective.latent_model.contrast=0.1"], OmegaConf.create(plain), TrainConfig)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("schema", "changes", "typed", "note"),
    [
        (TrainConfig, {}, "env_timeout=60", "without num_envs=2 or more"),
        (TrainConfig, {}, "update=joint", "without objectives=[…]"),
        (TrainConfig, {"agent": {"algorithm": "bc"}}, "nstep=5", "with agent=bc, which reads no rewards"),
        (OfflineConfig, {"agent": {"algorithm": "bc"}}, "discount=0.5", "with agent=bc, which reads no rewards"),
        (OfflineConfig, {"agent": {"algorithm": "td3_bc"}}, "++agent.stddev_schedule=1", "before the agent continues"),
        (TrainConfig, {"encoder": {"path": "e"}}, "encoder.channels=8", "with encoder=e, which has its own"),
        (TrainConfig, {"init": "run"}, "++agent.num_expl_steps=9", "with init, whose agent has explored already"),
        (TrainConfig, {"noise": {"kind": "pixels"}}, "noise.num_shapes=4", "only with noise.kind=shapes or drift"),
        (
            PretrainConfig,
            {"noise": {"kind": "pixels"}},
            "noise.background_only=true",
            "only with noise.kind=shapes or drift",
        ),
        (TrainConfig, {"noise": {"kind": "camera"}}, "noise.videos=v", "only with noise.kind=video"),
        (
            TrainConfig,
            {"noise": {"kind": "shapes"}},
            "noise.strength=1",
            "only with noise.kind=camera or color or video",
        ),
        (PretrainConfig, {"objective": "autoencoder"}, "horizon=5", "with objective=autoencoder, which reads no pairs"),
        (PretrainConfig, {"objective": "curl"}, "horizon=3", "with objective=curl, which reads no pairs"),
        (PretrainConfig, {"source": "env:x"}, "mixed_sizes=false", "with source=env:x: it is for others"),
        (CollectConfig, {"level": "random"}, "noise=0.2", "with level=random, which no policy plays"),
        (CollectConfig, {"level": "full_replay"}, "noise=0.2", "with level=full_replay, which no policy plays"),
        (CollectConfig, {"level": "medium_replay"}, "steps=7", "with level=medium_replay, which takes what the run"),
        (PretrainConfig, {"source": "videos"}, "num_frames=20000", "with source=videos: it is for others"),
    ],
)
def test_a_typed_setting_that_only_other_runs_of_a_sweep_use_is_noted(
    schema: type, changes: dict[str, Any], typed: str, note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    composed = OmegaConf.merge(OmegaConf.create(defaults(schema)), changes)
    assert isinstance(composed, DictConfig)
    check_effects([typed], composed, schema)
    printed = capsys.readouterr().err
    assert printed.startswith(f"note: {typed.lstrip('+').partition('=')[0]} has no effect ") and note in printed


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_option_has_a_default_and_help(schema: type) -> None:
    plain, listed = defaults(schema), help_text("", schema)
    for name, known in options_of(schema).items():
        reduce(getitem, name.split("."), plain)
        assert known.help or name in ("agent", "data"), name
        assert f"  {name}=" in listed or name in ("agent", "data")


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        ([1, 2], list[int], True),
        ([1, "a"], list[int], False),
        ([0.1], tuple[float, ...], True),
        (3, float, True),
        (3.5, int, False),
        (True, int, False),
        (None, int | None, True),
        ("a", list[str], False),
        ({"a": 1}, dict[str, int], True),
    ],
)
def test_values_are_of_annotated_types(value: object, hint: object, fits: bool) -> None:
    assert is_a(value, hint) is fits


def command(
    *arguments: str, cwd: Path = ROOT, module: str = "train", **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MUJOCO_GL": "egl"} | variables
    return subprocess.run(
        [sys.executable, "-m", f"rlrep.experiments.{module}", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_folders_of_ones_own_hide_nothing(tmp_path: Path) -> None:
    for name in ("agents", "envs", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a folder of the user')")
    done = command("--help", cwd=tmp_path)
    assert done.returncode == 0 and "num_train_frames" in done.stdout, done.stderr


def test_the_old_name_of_a_command_gives_the_new_one() -> None:
    done = subprocess.run([sys.executable, "-m", "experiments.train"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: the commands are rlrep's: python -m rlrep.experiments.train, and so on\n"


def test_a_missing_extra_is_named_with_a_command_that_works(tmp_path: Path) -> None:
    hider = "import importlib.util as util\nfind = util.find_spec\n"
    hider += "util.find_spec = lambda name, *rest: None if name == 'hydra' else find(name, *rest)\n"
    (tmp_path / "sitecustomize.py").write_text(hider)
    done = command(cwd=tmp_path, module="evaluate", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1
    said = f"error: the commands need hydra, which the extra `train` brings: run `pip install -e '{ROOT}[train]'`"
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_in_a_folder_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    done = command("--multirun", "seed=1,2", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: --multirun writes to " in done.stderr and "give hydra.sweep.dir=FOLDER" in done.stderr


@pytest.mark.parametrize(
    ("schema", "typed", "message"),
    [
        (TrainConfig, "noise=shapes", "noise has options of its own: set noise.kind, "),
        (PretrainConfig, "encoder=x", "encoder has options of its own: set encoder.channels, "),
        (OfflineConfig, "wandb=true", "wandb has options of its own: set wandb.project, wandb.mode"),
        (TrainConfig, "imports=os", r"imports is a list: write imports=\[os\]"),
    ],
)
def test_a_word_for_a_section_or_list_is_refused_with_what_to_write(schema: type, typed: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_names([typed], schema)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_effects_are_checked_without_sections_that_were_removed(schema: type) -> None:
    plain = OmegaConf.create({"objective": "curl", "imports": [], "level": "expert"})
    check_effects(["seed=1"], plain, schema)


@pytest.mark.parametrize("command", [data, evaluate, plot, offline_report, study, video_theory])
def test_an_argument_with_a_null_byte_is_refused_in_words(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["info"] if command is data else ["--report", "--out"] if command is video_theory else []
    try:
        assert command.main([*words, str(tmp_path / "a\0b")])
    except SystemExit as ended:
        assert ended.code
    assert "a path can't hold a null byte, got '" in capsys.readouterr().err


def test_a_setting_with_a_null_byte_is_refused_by_its_name() -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments/conf")):
        composed = compose("pretrain", ["device=cpu", "source=a", "run_dir='a\0b'"])
    with pytest.raises(ConfigError, match=r"run_dir can't hold a null byte, got 'a\\x00b'"):
        complete(composed)


def test_a_name_has_no_options() -> None:
    """In a pre-training, `objective` is a name; the objective's options are options.NAME."""
    with pytest.raises(ValueError, match=r"unknown setting 'objective\.horizon': did you mean"):
        check_names(["objective.horizon=3"], PretrainConfig)
    with pytest.raises(ValueError, match="objective must be a name, got"):
        find_objective({"horizon": 3})  # type: ignore[arg-type]


def composed_as(name: str, *overrides: str, conf: str = "") -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf" / conf)):
        return compose(name, for_hydra(overrides))


def test_a_runs_last_line_is_the_command_that_scores_it() -> None:
    plain = composed_as("config", "task=walker_walk", "objectives=[curl]")
    said = evaluation(Path("runs/a b"), plain)
    assert said == "python -m rlrep.experiments.evaluate 'runs/a b' --episodes 20"
    own = composed_as(
        "config", "agent=my.file:Agent", "task=theirs:Env-v0", "objectives=[my.file:Loss]", "imports=[more]"
    )
    assert evaluation(Path("run"), own).endswith(" --episodes 20 --imports more theirs my.file")
    offline = composed_as("offline", "dataset=data", conf="offline")
    assert evaluation(Path("run"), offline) == "python -m rlrep.experiments.evaluate run --episodes 20"
    read = composed_as("offline", "dataset=data", "format=my.format:Mine", conf="offline")
    assert evaluation(Path("run"), read).endswith(" --imports my.format")
    online = composed_as("config", "agent=drqv2", "offline.data=data", "offline.format=my.format:Mine")
    assert evaluation(Path("run"), online).endswith(" --imports my.format")


def test_a_pretrainings_last_line_is_the_command_that_uses_the_encoder(tmp_path: Path) -> None:
    from rlrep import PixelEncoder
    from rlrep.experiments.run.train_config import complete as complete_run

    PixelEncoder((6, 40, 40), channels=4, strides=(2, 2)).save_pretrained(tmp_path / "a b" / "encoder")
    own = composed_as("pretrain", "source=env:walker_walk", "image_size=40", "frame_stack=2", "objective=curl")
    said = training(tmp_path / "a b", own)
    python, _, module, *words = shlex.split(said)
    assert (python, module) == ("python", "rlrep.experiments.train")
    config = complete_run(composed_as("config", *for_hydra(words, paths_of(TrainConfig))))
    settle_encoder(config, None)
    assert (config.task, config.encoder.channels, config.action_repeat) == ("walker_walk", 4, 2)
    typed = composed_as("pretrain", "source=env:walker_walk", "objective=curl", "+env.action_repeat=8")
    assert "action_repeat=8" in training(tmp_path, typed)
    other = composed_as("pretrain", "source=env:CarRacing-v3", "objective=curl")
    assert "action_repeat=1" in training(tmp_path, other)
    assert "task=TASK" in training(tmp_path, composed_as("pretrain", "source=videos", "objective=curl"))
