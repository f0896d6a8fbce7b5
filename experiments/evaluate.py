"""Scores a run's checkpoint, or the random policy on its task: python -m experiments.evaluate RUN --episodes 20"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from envs import OpenGLError
from experiments.files import write_atomically
from experiments.run import config as configuration
from experiments.run.agent import build_agent
from experiments.run.checkpoint import CHECKPOINT, CONFIG, CheckpointError, fitting, load_checkpoint
from experiments.run.config import ConfigError, RunConfig, refusals
from experiments.run.evaluation import Evaluation, Policy, evaluate, make_evaluation_env, write_video
from experiments.run.offline_config import OfflineConfig, load


def checkpoint_policy(config: RunConfig, checkpoint: Path, env: object) -> tuple[Policy, str]:
    """The policy of a checkpoint, and how far the run was when it was saved."""
    state = load_checkpoint(checkpoint, config.device)
    agent = build_agent(config, env.observation_space, env.action_space)  # type: ignore[attr-defined]
    with fitting(checkpoint):
        agent.load_state_dict(state["agent"])
    policy: Policy = lambda observation: agent.act(observation, state["step"], eval_mode=True)  # noqa: E731
    offline = isinstance(config, OfflineConfig)
    return policy, f"{state['step']:,} updates" if offline else f"{state['step'] * config.action_repeat:,} frames"


def random_policy(action_dim: int, seed: int) -> Policy:
    """Uniform actions in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return lambda observation: rng.uniform(-1, 1, (len(observation), action_dim)).astype(np.float32)


def write_returns(path: Path, evaluation: Evaluation) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("episode", "episode_return"))
    writer.writerows(enumerate(f"{value:.6g}" for value in evaluation.returns))
    write_atomically(path, text.getvalue().encode())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, or one of the checkpoints in it")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--random", action="store_true", help="score the random policy instead of the checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="added to the seed that evaluation episodes are drawn from")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument(
        "--import",
        dest="packages",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="that registers the run's task",
    )
    parser.add_argument("--video", type=Path, help="where the MP4 goes; RUN/videos/evaluate.mp4 by default")
    options = parser.parse_args(arguments)
    if options.episodes < 1:
        parser.error(f"--episodes must be at least 1, got {options.episodes}")
    is_file = options.run.suffix == ".pt"
    folder, checkpoint = (options.run.parents[1], options.run) if is_file else (options.run, options.run / CHECKPOINT)
    stem = "random" if options.random else "evaluate"
    video = options.video or folder / "videos" / f"{stem}.mp4"
    try:
        with refusals():
            configuration.import_modules(options.packages)
            config = load(folder / CONFIG)
            config.device = configuration.resolve_device(options.device)
            torch.manual_seed(options.seed)
            config.seed += options.seed
            env = make_evaluation_env(config, film=True)
        with closing(env):
            if options.random:
                policy, name = random_policy(env.action_space.shape[0], config.seed), "random"
            else:
                policy, trained_for = checkpoint_policy(config, checkpoint, env)
                name = f"{config.agent['name']} after {trained_for}"
            evaluation = evaluate(policy, env, options.episodes, film=True)
        with refusals():
            write_video(video, evaluation.film, evaluation.frames_per_second)
            write_returns(folder / f"{stem}.csv", evaluation)
    except (ConfigError, CheckpointError, OpenGLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    row = evaluation.row
    print(
        f"{config.task}, {name}: return {row['episode_return']:.1f} ± {row['episode_return_std']:.1f} over "
        f"{row['episodes']} episodes ({row['episode_return_min']:.1f} to {row['episode_return_max']:.1f}); {video}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
