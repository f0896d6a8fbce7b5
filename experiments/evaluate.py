"""Evaluates a run's checkpoint, or the random policy: python -m rlrep.experiments.evaluate RUN --episodes 20"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing

import torch

from rlrep.envs import OpenGLError
from rlrep.experiments.files import as_path, check_writable
from rlrep.experiments.results.tables import rounded, write_csv
from rlrep.experiments.run.checkpoint import CHECKPOINT, CONFIG, CheckpointError
from rlrep.experiments.run.device import resolve_device
from rlrep.experiments.run.evaluation import evaluate, make_evaluation_env, write_video
from rlrep.experiments.run.log import PATIENCE, Progress
from rlrep.experiments.run.names import import_modules
from rlrep.experiments.run.offline_config import load
from rlrep.experiments.run.options import ConfigError, refusals
from rlrep.experiments.run.policy import checkpoint_policy, random_policy


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rlrep.experiments.evaluate", description=__doc__)
    parser.add_argument("run", type=as_path, help="folder of a run, or one of the checkpoints in it")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--random", action="store_true", help="score the random policy instead of the checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="added to the seed that evaluation episodes are drawn from")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--imports", nargs="*", default=[], help="modules to import first: those that the run names")
    parser.add_argument("--video", type=as_path, help="where the MP4 goes; RUN/videos/evaluate.mp4 by default")
    options = parser.parse_args(arguments)
    if options.episodes < 1:
        parser.error(f"--episodes must be at least 1, got {options.episodes}")
    is_file = options.run.suffix == ".pt"
    folder = options.run.absolute().parent.parent if is_file else options.run
    checkpoint = options.run if is_file else options.run / CHECKPOINT
    stem = "random" if options.random else "evaluate"
    video = options.video or folder / "videos" / f"{stem}.mp4"
    if video.suffix.lower() != ".mp4":
        parser.error(f"--video takes the name of an MP4 file, got {video}")
    try:
        with refusals():
            import_modules(options.imports)
            config = load(folder / CONFIG)
            config.device = resolve_device(options.device)
            torch.manual_seed(options.seed)
            config.seed += options.seed
            for place in (video.parent, folder):
                check_writable(place)
            env = make_evaluation_env(config, film=True)
        with closing(env):
            if options.random:
                policy, name = random_policy(env.action_space, config.seed), "random"
            else:
                policy, trained_for = checkpoint_policy(config, checkpoint, env)
                name = f"{config.agent['name']} after {trained_for}"
            with closing(Progress(f"evaluating {name}", options.episodes, 0, "episode", PATIENCE)) as progress:
                evaluation = evaluate(policy, env, options.episodes, film=True, told=progress.advance)
        with refusals():
            returns = [{"episode": i, "episode_return": rounded(each)} for i, each in enumerate(evaluation.returns)]
            write_csv(folder / f"{stem}.csv", returns)
            write_video(video, evaluation.film, evaluation.frames_per_second)
    except (ConfigError, CheckpointError, OpenGLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    row = evaluation.row
    print(
        f"{config.task}, {name}: return {row['episode_return']:.1f} ± {row['episode_return_std']:.1f} over "
        f"{row['episodes']} episodes ({row['episode_return_min']:.1f} to {row['episode_return_max']:.1f}); {video}"
    )
    if not (options.random or (folder / "random.csv").exists()):
        print("next: the same command with --random, to compare with")
    return 0


if __name__ == "__main__":
    sys.exit(main())
