"""Environments of other packages by their Gymnasium id, through every command."""

import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import av
import gymnasium as gym
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from rlrep.data import open_dataset
from rlrep.experiments.collect import collect
from rlrep.experiments.evaluate import main as evaluate
from rlrep.experiments.run import train_config as configuration
from rlrep.experiments.run.evaluation import environment_options, make_evaluation_env
from rlrep.experiments.run.offline_config import load
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.pretraining import pretrain
from rlrep.experiments.run.sources import make
from rlrep.experiments.run.train_config import complete
from tests.envs.foreign import foreign, registered
from tests.experiments.conftest import MRQ, run_in
from tests.experiments.offline_data import run_offline, write_data

CONF = Path(__file__).parents[2] / "experiments" / "conf"
TINY = "test/Tiny-v0"
SHORT = ("action_repeat=2", "num_train_frames=120", "num_seed_frames=40", "eval_every_frames=60")
SAVED = ("checkpoint_every_frames=60", "save_snapshot=true", "save_video=true", "nstep=2", "+env.bonus=0.5")
NOISE = ("noise.kind=shapes", "noise.persistence=1")


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with registered(TINY, foreign(), max_episode_steps=8):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign") / "run"
    return run_in(folder, "agent=drqv2", f"task={TINY}", *SHORT, *SAVED, *NOISE, "num_envs=2")


def composed(name: str, *overrides: str) -> object:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(name, list(overrides))


def test_a_short_name_and_its_id_are_one_run() -> None:
    configs = [complete(composed("config", f"task={task}")) for task in ("walker_walk", "rlrep/walker_walk-v0")]
    assert configs[0] == configs[1] and configs[1].nstep == 1


def test_a_run_learns_evaluates_and_films_any_environment(finished: Path) -> None:
    config = configuration.load(finished / "config.yaml")
    assert config.task == TINY and config.env == {"bonus": 0.5}
    with (finished / "eval.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["episode_return"]) for row in rows] == [12.0] * len(rows)  # 8 steps of 1.5
    with av.open(str(sorted((finished / "videos").glob("*.mp4"))[-1])) as video:
        frames = list(video.decode(video=0))
        assert len(frames) == 4 and (frames[0].height, frames[0].width) == (30, 70)  # the noise beside the picture
        assert video.streams.video[0].average_rate == 10


def test_a_run_resumes(tmp_path: Path) -> None:
    overrides = ("agent=drqv2", f"task={TINY}", *SHORT, *SAVED, "save_video=false")
    run_in(tmp_path / "run", *overrides, "num_train_frames=64")
    run_in(tmp_path / "run", *overrides, "resume=true")
    assert torch.load(tmp_path / "run" / "checkpoints" / "latest.pt", weights_only=True)["step"] == 60


def test_its_checkpoint_is_scored_collected_from_and_learned_from_offline(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([str(finished), "--episodes", "2", "--device", "cpu"]) == 0
    assert f"{TINY}, drqv2 after 120 frames: return 12.0" in capsys.readouterr().out

    out = tmp_path / "data"
    overrides = (f"run={finished}", "level=full_replay", f"out={out}", "reference_episodes=1", "device=cpu")
    with pytest.raises(ConfigError, match="scores between them would mean nothing"):  # every policy gets 12
        collect(composed("collect", *overrides))
    data = open_dataset(finished)
    assert data.observation_shape == (9, 20, 20) and data.action_dim == 2


def test_offline_data_name_a_task_by_its_id(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_offline(finished, tmp_path / "offline", "+env.bonus=1.5", "nstep=1")
    assert "made with env={'bonus': 0.5}; evaluations make it with env={'bonus': 1.5}" in capsys.readouterr().err
    config = load(folder / "config.yaml")
    assert config.task == TINY and config.action_repeat == 2 and config.noise.kind == "shapes"
    assert float(list(csv.DictReader((folder / "eval.csv").open()))[-1]["episode_return"]) == 20.0  # 8 steps of 2.5


def test_a_package_of_ones_own_is_imported_where_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_package.py").write_text(
        "import gymnasium\nfrom tests.envs.foreign import foreign\n"
        "gymnasium.register('Theirs-v0', entry_point=foreign(), max_episode_steps=8)\n"
    )
    forget = lambda: (gym.registry.pop("Theirs-v0", None), sys.modules.pop("their_package", None))  # noqa: E731
    try:
        folder = run_in(tmp_path / "run", "agent=drqv2", "task=their_package:Theirs-v0", *SHORT, "nstep=2")
        forget()
        assert evaluate([str(folder), "--episodes", "1"]) == 1
        assert "unknown task 'Theirs-v0'" in capsys.readouterr().err
        assert evaluate([str(folder), "--episodes", "1", "--imports", "their_package"]) == 0
        forget()
        collecting = (f"run={folder}", "level=random", f"out={tmp_path}/data", "device=cpu")
        with pytest.raises(ConfigError, match="unknown task 'Theirs-v0'"):
            collect(composed("collect", *collecting))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="kept no checkpoints"):
            collect(composed("collect", *collecting, "imports=[their_package]"))  # type: ignore[arg-type]
    finally:
        forget()


def test_data_never_name_a_package_to_import(finished: Path) -> None:
    config = configuration.load(finished / "config.yaml")
    config.task = "antigravity:Thing-v0"
    with pytest.raises(ValueError, match="unknown task 'antigravity:Thing-v0'"):
        make_evaluation_env(config)


def test_an_encoder_is_pretrained_on_any_environment(tmp_path: Path) -> None:
    overrides = (f"source=env:{TINY}", "image_size=20", "num_frames=60", "steps=2", "batch_size=4", "shift=2")
    network = ("encoder.channels=4", "encoder.precision=float32", "validate_every=1", "device=cpu")
    folder = pretrain(
        composed("pretrain", *overrides, *network, "objective=inverse_model", *NOISE, f"run_dir={tmp_path}/run")  # type: ignore[arg-type]
    )
    assert (folder / "encoder" / "config.json").exists()


def test_pretraining_takes_the_environments_own_arguments_and_noise() -> None:
    from rlrep.experiments.run.pretrain_config import complete

    config = complete(composed("pretrain", f"source=env:{TINY}", "+env.bonus=2", "image_size=24", *NOISE))  # type: ignore[arg-type]
    with closing(make(TINY, config)) as env:
        observation, info = env.reset(seed=0)
        assert observation.shape == (3, 24, 24) and "noise" in info
        assert env.step(np.zeros(2, np.float32))[1] == 3.0


@pytest.mark.parametrize("argument", ["task=Other-v0", "render_mode=rgb_array", "noise=1"])
def test_pretraining_refuses_arguments_that_it_sets_itself(argument: str) -> None:
    from rlrep.experiments.run.pretrain_config import complete

    config = complete(composed("pretrain", f"source=env:{TINY}", f"+env.{argument}"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"env.{argument.partition('=')[0]} is "):
        make(TINY, config)


@pytest.mark.parametrize(
    ("space", "overrides", "message"),
    [
        (
            gym.spaces.Discrete(3),
            (),
            r"actions of test/Other-v0 are Discrete\(3\).*agent=mrq.*Baselines3's DQN.*attach",
        ),
        (gym.spaces.MultiDiscrete([2, 3]), (), r"MultiDiscrete.*Stable-Baselines3's DQN"),
        (gym.spaces.Box(-1, 1, (2, 3)), (), r"a Box of one axis"),
        (gym.spaces.Box(0, np.inf, (2,)), (), r"without a lower and a higher bound"),
        (None, ("camera=1",), "no choice of cameras"),
        (None, ("rendering=fast",), "rendering is 'fast', but test/Other-v0"),
        (None, ("env.action_repeat=4",), r"env.action_repeat is a setting of the run itself: give action_repeat="),
        (None, ("env.seed=4",), "env.seed is set by the run itself: leave it out"),
        (None, ("env.colour=4",), "refuses its options .*colour"),
        (None, ("env_timeout=0",), "env_timeout must be greater than 0"),
        (None, ("env.max_episode_steps=-1",), "has no time limit: .* env.max_episode_steps="),
    ],
)
def test_what_our_agents_cannot_do_is_refused_at_the_start(
    run: Callable[..., Path], tmp_path: Path, space: gym.Space | None, overrides: tuple[str, ...], message: str
) -> None:
    with (
        registered("test/Other-v0", foreign(action_space=space), max_episode_steps=8) as name,
        pytest.raises(ConfigError, match=message),
    ):
        run("agent=drqv2", f"task={name}", *(f"+{each}" if "env." in each else each for each in overrides))
    assert not (tmp_path / "run").exists()


def test_an_environment_refuses_through_the_command_without_a_traceback(start: Callable[..., object]) -> None:
    process = start("agent=drqv2", "task=CartPole-v1")
    _, errors = process.communicate(timeout=120)  # type: ignore[attr-defined]
    assert process.returncode == 1 and "Traceback" not in errors  # type: ignore[attr-defined]
    assert "error: the actions of CartPole-v1 are Discrete(2)" in errors and "Stable-Baselines3's DQN" in errors


def test_every_setting_of_a_run_reaches_the_environment(finished: Path) -> None:
    config = configuration.load(finished / "config.yaml")
    options = environment_options(config)
    assert {"image_size": 20, "action_repeat": 2, "frame_stack": 3, "bonus": 0.5}.items() <= options.items()
    assert options["noise"]["kind"] == "shapes"


def test_choices_are_learned_by_an_agent_that_takes_them(tmp_path: Path) -> None:
    task = "test/Choices-v0"
    with registered(task, foreign(action_space=gym.spaces.Discrete(3)), max_episode_steps=8):
        folder = run_in(tmp_path / "run", *MRQ, f"task={task}", *SHORT)
        run_in(tmp_path / "run", *MRQ, f"task={task}", *SHORT, "num_train_frames=160", "resume=true")
        assert evaluate([str(folder), "--random", "--episodes", "1", "--device", "cpu"]) == 0
        with pytest.raises(ConfigError, match=r"Choices-v0 are 3 choices, and data are collected of actions that are"):
            collect(composed("collect", f"run={folder}", "level=random", f"out={tmp_path}/out"))
        data = f"offline.data={write_data(tmp_path / 'data')}"
        with pytest.raises(ConfigError, match=r"is 1 numbers, one of test/Choices-v0 is one of 3 choices: "):
            run_in(tmp_path / "mixed", *MRQ, f"task={task}", *SHORT, data)
    with (folder / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["frame"] == "160" and float(rows[-1]["loss_model_prediction"]) > 0
    assert np.load(folder / "replay" / "action.npy").dtype == np.int64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "task", "agent"),
    [
        ("minigrid", "MiniGrid-Empty-5x5-v0", MRQ),
        ("ale_py", "ALE/Pong-v5", MRQ),
        ("Box2D", "CarRacing-v3", ("agent=drqv2", "nstep=2")),
    ],
)
def test_an_agent_learns_in_environments_of_other_packages(
    tmp_path: Path, package: str, task: str, agent: tuple[str, ...]
) -> None:
    pytest.importorskip(package)
    noise = ("noise.kind=camera", "noise.persistence=0.5")
    folder = run_in(tmp_path / "run", *agent, f"task={task}", *SHORT, *noise, "+env.max_episode_steps=20")
    with (folder / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == ["20", "40", "60", "80", "100", "120"] and int(rows[-1]["updates"]) > 0
