"""Stable-Baselines3's SAC on a DeepMind Control task from pixels, with or without an objective on its encoder.

    python -m rlrep.experiments.plugins.sb3_sac --objective taco --seed 1
    python -m rlrep.experiments.plugins.sb3_sac --objective none --seed 1
    python -m rlrep.experiments.plot runs/plugins/sb3_sac --out curve.png
    python -m rlrep.experiments.plugins.sb3_sac --objective taco --time    # what the objective adds to one train step

A run takes ten to twenty minutes on one core. Its folder, OUT/TASK/OBJECTIVE/seed_N, holds `config.yaml` and `eval.csv`
as `rlrep.experiments.plot` reads them, Stable-Baselines3's log `progress.csv`, and the model, `model.zip`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from omegaconf import OmegaConf
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, configure

from rlrep import OBJECTIVES
from rlrep.experiments.files import CsvLog, write_atomically
from rlrep.extras import install
from rlrep.integrations.sb3 import SequenceReplayBuffer, attach

TIMED_STEPS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        with make_env(options) as env:
            if options.time:
                print(timing(options, env))
            else:
                learn(build(options, env), options)
    except (ValueError, gym.error.Error) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rlrep.experiments.plugins.sb3_sac", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--task", default="cheetah_run", help="of dm_control (default: %(default)s)")
    parser.add_argument("--objective", default="taco", choices=["none", *OBJECTIVES])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6_000, help="of the agent (default: %(default)s)")
    parser.add_argument("--action-repeat", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=40)
    parser.add_argument("--eval-every", type=int, default=1_000, help="agent steps (default: %(default)s)")
    parser.add_argument("--eval-episodes", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/plugins/sb3_sac"))
    parser.add_argument("--wandb", choices=["online", "offline"], help="log to Weights & Biases")
    parser.add_argument("--time", action="store_true", help="only time a train step, with and without the objective")
    return parser


def make_env(options: argparse.Namespace) -> gym.Env[Any, Any]:
    task = f"rlrep.envs:rlrep/{options.task}-v0"
    return gym.make(task, image_size=options.image_size, action_repeat=options.action_repeat)


def build(options: argparse.Namespace, env: gym.Env[Any, Any]) -> SAC:
    """Builds the model: the code of a user's own script, and two more lines."""
    model = SAC(
        "PixelPolicy",
        env,
        policy_kwargs=dict(features_extractor_kwargs=dict(channels=16, strides=(2, 2, 1, 1))),
        replay_buffer_class=SequenceReplayBuffer,
        buffer_size=options.steps + 1_000,
        learning_starts=min(500, options.steps // 2),
        batch_size=64,
        learning_rate=3e-4,
        ent_coef="auto_0.1",
        tau=0.01,
        seed=options.seed,
    )
    if options.objective != "none":
        attach(model, [options.objective], lr=3e-4)
    return model


def learn(model: SAC, options: argparse.Namespace) -> None:
    folder = options.out / options.task / options.objective / f"seed_{options.seed}"
    logger = configure(str(folder), ["csv"])
    if options.wandb:
        logger.output_formats.append(Wandb(options, folder))
    model.set_logger(logger)
    name = "SAC" if options.objective == "none" else f"SAC + {options.objective}"
    config = dict(task=options.task, seed=options.seed, agent=dict(name=name), steps=options.steps)
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(config).encode())
    with make_env(options) as env:
        model.learn(options.steps, callback=Evaluations(env, options, folder), log_interval=1)
    model.save(folder / "model")
    logger.close()
    print(f"{folder} holds eval.csv, progress.csv and model.zip")
    print(f"next: python -m rlrep.experiments.plot {shlex.quote(str(options.out))} --out curve.png")


class Evaluations(BaseCallback):
    """Writes the mean return of the deterministic policy to `eval.csv`, every so many steps and at the end."""

    def __init__(self, env: gym.Env[Any, Any], options: argparse.Namespace, folder: Path) -> None:
        super().__init__()
        self.env, self.options = env, options
        self.log, self.start = CsvLog(folder / "eval.csv"), time.monotonic()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.options.eval_every == 0 or self.num_timesteps == self.options.steps:
            self.evaluate()
        return True

    def evaluate(self) -> None:
        returns = [self.episode(seed) for seed in range(self.options.eval_episodes)]
        minutes = (time.monotonic() - self.start) / 60
        row = dict(frame=self.num_timesteps * self.options.action_repeat, episode_return=float(np.mean(returns)))
        self.log.append(row | dict(minutes=minutes))
        self.logger.record("eval/episode_return", row["episode_return"])
        print(f"frame {row['frame']}: return {row['episode_return']:.1f} after {minutes:.1f} minutes", flush=True)

    def episode(self, seed: int) -> float:
        observation, _ = self.env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action, _ = self.model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = self.env.step(action)
            total, over = total + float(reward), terminated or truncated
        return total


class Wandb(KVWriter):
    """Stable-Baselines3's log as a run of Weights & Biases."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"--wandb needs wandb: {install('wandb')}") from error
        name = "-".join(folder.parts[-3:])
        config = {key: str(value) for key, value in vars(options).items()}
        self.run = wandb.init(project="rlrep", mode=options.wandb, dir=folder, name=name, config=config)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.run.log(key_values, step=step)

    def close(self) -> None:
        self.run.finish()


def timing(options: argparse.Namespace, env: gym.Env[Any, Any]) -> str:
    """The median time of one `train` step, with the objective and without, in turns."""
    models = {}
    for objective in ("none", options.objective):
        models[objective] = model = build(argparse.Namespace(**vars(options) | dict(objective=objective)), env)
        model.learning_starts = 200
        model.set_logger(configure(format_strings=[]))
        model.learn(200)  # fills the replay without training
    seconds: dict[str, list[float]] = {objective: [] for objective in models}
    for _ in range(TIMED_STEPS):
        for objective, model in models.items():
            start = time.perf_counter()
            model.train(gradient_steps=1, batch_size=model.batch_size)
            seconds[objective].append(time.perf_counter() - start)
    without, with_objective = (1e3 * float(np.median(seconds[name])) for name in models)
    return (
        f"SAC's train step takes {without:.0f} ms, with {options.objective} {with_objective:.0f} ms: "
        f"{with_objective / without:.2f} times"
    )


if __name__ == "__main__":
    sys.exit(main())
