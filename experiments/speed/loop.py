"""Frames a second of whole training runs."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import closing, redirect_stderr, suppress
from functools import partial
from io import StringIO
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from rlrep.envs import OpenGLError
from rlrep.experiments.run.evaluation import evaluate
from rlrep.experiments.run.online import OnlineRun
from rlrep.experiments.run.train_config import TrainConfig, complete
from rlrep.experiments.speed.measure import EVENLY, Row, Unavailable, facts, peak_memory
from rlrep.experiments.speed.roofline import synchronize, timed

# Updates before the clock starts: the CUDA graph is captured, and caches are warm.
WARM_UP = 10


class Enough(Exception):
    """The clock has run for long enough."""


class Stopwatch(OnlineRun):
    """A run without evaluations and checkpoints, stopped after a timed stretch."""

    start: tuple[float, int, int] | None = None
    end = (0.0, 0, 0)
    seconds: float  # to time

    def evaluate(self) -> None:
        self.next_eval = sys.maxsize

    def save(self) -> None:
        self.next_checkpoint = sys.maxsize

    def update(self) -> None:
        super().update()
        if self.start is None and self.updates >= WARM_UP:
            self.start = self.now()
        elif self.start is not None and self.over(*self.start):
            self.end = self.now()
            raise Enough

    def now(self) -> tuple[float, int, int]:
        synchronize(self.agent.device)
        return time.perf_counter(), self.step, self.updates

    def over(self, start: float, step: int, _: int) -> bool:
        return time.perf_counter() >= start + self.seconds and self.step >= step + 2 * self.num_envs


def measure(
    agent: str, num_envs: int, path: str, device: torch.device, seconds: float, overrides: list[str]
) -> list[Row]:
    """Frames a second of a training run, and of its evaluations: environments, replay and learner together."""
    config = configured(agent, num_envs, path, device, overrides)
    with redirect_stderr(StringIO()):  # the run's own progress
        try:
            trainer = Stopwatch(config, Path(config.run_dir))
            trainer.seconds = seconds
        except OpenGLError as error:
            raise Unavailable(f"no OpenGL: {str(error).splitlines()[0]}") from error
        with closing(trainer):
            with suppress(Enough):
                trainer.run()
            policy = partial(trainer.act, eval_mode=True)
            evaluated = timed(lambda: evaluate(policy, trainer.eval_env, 1), device, 1)
        if trainer.start is None or not trainer.end[1]:
            raise RuntimeError(f"num_train_frames={config.num_train_frames} were over before the stretch to time")
        taken, steps, updates = (last - first for first, last in zip(trainer.start, trainer.end, strict=True))
    frames_per_second = steps * config.action_repeat / taken
    evaluations = 1e6 / config.eval_every_frames * 10 * evaluated
    return [
        {
            "seconds": taken / steps,
            "batch_size": config.batch_size,
            "task": config.task,
            "image_size": config.image_size,
            "peak_memory_bytes": peak_memory(device),
            "frames_per_second": frames_per_second,
            "agent_steps": int(steps),
            "updates": int(updates),
            "update_every_steps": trainer.agent.update_every_steps,
            "minutes_per_million_frames": 1e6 / frames_per_second / 60,
            "evaluation_episode_seconds": evaluated,
            "minutes_of_evaluation_per_million_frames": evaluations / 60,
            **facts(trainer.agent),
        }
    ]


def configured(agent: str, num_envs: int, path: str, device: torch.device, overrides: list[str]) -> TrainConfig:
    """A run whose updates begin with the first batch; it acts by its policy, not at random."""
    name, *objectives = agent.split("+")
    fixed = ["num_eval_episodes=1", "save_video=false", "agent.num_expl_steps=0"]
    fixed += [f"agent.{option}={value}" for option, value in EVENLY.get(name, {}).items()]
    if objectives:
        fixed.append(f"objectives=[{','.join(objectives)}]")
    with initialize_config_dir(version_base="1.3", config_dir=str(Path(__file__).parents[1] / "conf")):
        run_dir = f"run_dir={tempfile.mkdtemp()}"
        named = [f"agent={name}", f"num_envs={num_envs}", f"path={path}", f"device={device}", run_dir]
        config = complete(compose("config", [*named, *fixed, *overrides]))
    config.replay_buffer_size = min(config.useful_replay_size, 100_000)
    # On CUDA enough rows that the replay draws as it does in a long run; a CPU would take too long to collect them.
    seed_steps = max(config.batch_size, (280 if device.type == "cuda" else 16) * num_envs)
    config.num_seed_frames = config.action_repeat * seed_steps
    return config
