"""The loop: updates during environment steps, their number, and all ways of updating."""

import csv
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from os import kill
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rlrep.agents import Agent, DrQV2
from rlrep.agents.eager import EagerEncoder
from rlrep.envs import make_vector_env
from rlrep.experiments.run import train_config as configuration
from rlrep.experiments.run.checkpoint import load_checkpoint
from rlrep.experiments.run.online import OnlineRun
from rlrep.experiments.run.options import ConfigError
from tests.experiments.conftest import ROOT, TINY

Run = Callable[..., Path]
Start = Callable[..., subprocess.Popen[str]]
CHECKPOINT = "checkpoints/latest.pt"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Agent]:
    """A list that gets the agent of each run."""
    from rlrep.experiments.run import agent

    agents: list[Agent] = []
    build = agent.build_agent

    def keep(*arguments: object) -> Agent:
        agents.append(build(*arguments))  # type: ignore[arg-type]
        return agents[-1]

    monkeypatch.setattr(agent, "build_agent", keep)
    return agents


@pytest.mark.parametrize("agent", ["agent=taco", "agent=sac objectives=[taco]"])
def test_a_joint_run_trains_and_goes_on(run: Run, built: list[Agent], agent: str) -> None:
    overrides = (*agent.split(), "update=joint")
    folder = run(*overrides, "num_train_frames=2000")
    assert built[0].joint and "objectives" not in built[0].optimizers
    last = table(folder / "train.csv")[-1]
    assert all(float(last[name]) != 0 for name in ("critic_loss", "loss_taco", "loss_curl", "loss_reward"))
    run(*overrides, "num_train_frames=3000", "resume=true")
    assert load_checkpoint(folder / CHECKPOINT)["step"] == 60
    with pytest.raises(ConfigError, match=r"update=separate \(the run has joint\)"):
        run(*agent.split(), "num_train_frames=4000", "resume=true")


@pytest.mark.parametrize("num_envs", [1, 2])
def test_actions_are_kept_only_for_the_episode_that_a_checkpoint_repeats(tmp_path: Path, num_envs: int) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
        config = configuration.complete(compose("config", [*TINY, "agent=drqv2", f"num_envs={num_envs}"]))
    with closing(OnlineRun(config, tmp_path / "run")) as trainer:
        trainer.begin()
        before = trainer.taken
        lengths = []
        for _ in range(22):  # an episode has 20 steps
            trainer.make_step()
            lengths.append(len(trainer.taken))
        assert trainer.taken is before, "a copy for each step takes quadratic time"
    assert lengths == ([*range(1, 20), 0, 1, 2] if num_envs == 1 else [0] * 22)


def test_a_run_is_separate_and_fast_unless_told_otherwise(finished: Path) -> None:
    config = configuration.load(finished / "config.yaml")
    assert (config.update, config.path) == ("separate", "fast")


def test_an_eager_run_trains_and_goes_on(run: Run, built: list[Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlrep.experiments.run.config.supports_bfloat16", lambda device: True)
    overrides = ("agent=taco", "path=eager", "encoder.precision=auto")
    folder = run(*overrides, "num_train_frames=2000")
    assert type(built[0].encoder) is EagerEncoder
    assert configuration.load(folder / "config.yaml").encoder.precision == "float32"  # auto with path=eager
    run(*overrides, "num_train_frames=3000", "resume=true")
    assert load_checkpoint(folder / CHECKPOINT)["step"] == 60


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("path=eagr", "unknown path 'eagr': did you mean eager"),
        ("update=jiont", "unknown update 'jiont': did you mean joint"),
        ("path=eager encoder.precision=bfloat16", "path=eager is float32 throughout, not encoder.precision=bfloat16"),
    ],
)
def test_impossible_ways_of_updating_are_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, overrides: str, message: str
) -> None:
    monkeypatch.setattr("rlrep.experiments.run.config.supports_bfloat16", lambda device: True)
    with pytest.raises(ConfigError, match=message):
        run("agent=drqv2", *overrides.split())
    assert not (tmp_path / "run").exists()


def test_a_run_in_bfloat16_can_be_read_where_the_processor_has_none(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlrep.experiments.run.config.supports_bfloat16", lambda device: False)
    text = (finished / "config.yaml").read_text()
    assert text.count("precision: float32") == 1
    (tmp_path / "config.yaml").write_text(text.replace("precision: float32", "precision: bfloat16"))
    assert configuration.load(tmp_path / "config.yaml").encoder.precision == "bfloat16"


def test_a_run_in_bfloat16_goes_on_where_the_processor_has_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlrep.experiments.run.config.supports_bfloat16", lambda device: True)
    overrides = ("agent=drqv2", "encoder.precision=auto")
    folder = run(*overrides, "num_train_frames=1000")
    assert configuration.load(folder / "config.yaml").encoder.precision == "bfloat16"
    monkeypatch.setattr("rlrep.experiments.run.config.supports_bfloat16", lambda device: False)
    run(*overrides, "num_train_frames=2000", "resume=true")
    assert load_checkpoint(folder / CHECKPOINT)["step"] == 40


def test_bfloat16_is_refused_where_the_processor_has_none(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rlrep.experiments.run.config.supports_bfloat16", lambda device: False)
    expected = r"bfloat16, but cpu here .* AMX or AVX512-BF16.*: use encoder.precision=auto or float32"
    with pytest.raises(ConfigError, match=expected):
        run("agent=drqv2", "encoder.precision=bfloat16")
    assert not (tmp_path / "run").exists()
    folder = run("agent=drqv2", "encoder.precision=auto", "num_train_frames=1000")
    assert configuration.load(folder / "config.yaml").encoder.precision == "float32"


@pytest.mark.parametrize(
    ("every", "num_envs"),
    [(2, 1), (0.5, 3), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(1, 1), (0.5, 1), (1, 3), (2, 3)])],
)
def test_the_ratio_of_steps_to_updates_is_as_configured_and_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch, every: float, num_envs: int
) -> None:
    monkeypatch.setattr("rlrep.experiments.run.online.make_vector_env", partial(make_vector_env, processes=False))
    total = 2000 * num_envs
    folder = run(
        "agent=drqv2",
        f"num_envs={num_envs}",
        f"agent.update_every_steps={every}",
        f"num_train_frames={total}",
        "eval_every_frames=100000",
    )
    rows = table(folder / "train.csv")
    assert [int(row["frame"]) for row in rows] == [1000 * num_envs * i for i in (1, 2) for _ in range(num_envs)]
    for row in rows:
        steps, updates = int(row["frame"]) // 50 - 10, int(row["updates"])  # minus the first 10 agent steps
        # The updates of an episode's last step are made during the next step.
        assert updates == (steps - num_envs) // every + 1
        assert float(row["steps_per_update"]) == pytest.approx(steps / updates, rel=1e-5)
        assert abs(steps / updates - every) <= max(num_envs, every) / updates
        assert float(row["critic_loss"]) > 0  # in every row, although three episodes end at the same time
    state = load_checkpoint(folder / CHECKPOINT)
    assert state["updates"] == (state["step"] - 10) // every + 1 and state["step"] >= total // 50


def test_an_update_is_made_while_the_environments_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two halves of a step, except for the last."""
    order: list[str] = []
    update = DrQV2.update

    def made(*arguments: object, **options: object) -> object:
        envs = make_vector_env(*arguments, **options, processes=False)  # type: ignore[arg-type]
        for name in ("step_async", "step_wait"):
            monkeypatch.setattr(envs, name, noted(name, getattr(envs, name)))
        return envs

    def noted(name: str, method: Callable[..., object]) -> Callable[..., object]:
        return lambda *arguments: (order.append(name), method(*arguments))[1]

    monkeypatch.setattr("rlrep.experiments.run.online.make_vector_env", made)
    monkeypatch.setattr(DrQV2, "update", noted("update", update))
    run("agent=drqv2", "num_train_frames=1000", "agent.update_every_steps=1")
    assert order == ["step_async", "step_wait"] * 10 + ["step_async", "update", "step_wait"] * 10 + ["update"]


def workers(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "how"),
    [
        (signal.SIGKILL, r"died: killed by signal 9 \(SIGKILL\).*"),
        (signal.SIGSTOP, r"has not answered for 10 s: it is stopped.*"),
    ],
)
def test_a_run_whose_environment_dies_or_stops_saves_and_goes_on(
    run: Run, start: Start, tmp_path: Path, sent: signal.Signals, how: str
) -> None:
    folder = tmp_path / "run"
    overrides = ("agent=drqv2", "num_envs=2", "eval_every_frames=1000000", "env_timeout=10")
    process = start(*overrides, "num_train_frames=1000000")
    while not (folder / "train.csv").exists() or len(table(folder / "train.csv")) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    victim = workers(process)[1]
    kill(victim, sent)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 40
    assert process.returncode == 1 and "Traceback" not in errors
    told = re.search(
        rf"error: environment 1 \(cartpole_balance, process {victim}\) {how}\. "
        rf"Training stopped at frame (\d+), and all is saved: resume with resume=true",
        errors,
    )
    assert told, errors
    state = load_checkpoint(folder / CHECKPOINT)
    assert state["step"] == int(told[1]) // 50  # nothing is lost
    assert sum(state["ranks"][0]["replay"]["head"]) > state["step"]

    total = state["step"] * 50 + 2000
    run(*overrides, f"num_train_frames={total}", "resume=true")
    assert load_checkpoint(folder / CHECKPOINT)["step"] == total // 50
    rows = [int(row["frame"]) for row in table(folder / "train.csv")]
    assert rows == sorted(rows) and rows[-1] == total
