"""Collects offline data from the checkpoints of a run.

The levels are V-D4RL's (arXiv 2206.04779, appendix B):

- random: a policy of uniform actions;
- medium: the first checkpoint that is half as good as the expert;
- medium_replay: the run's replay at that checkpoint, from its first episode on;
- full_replay: the run's replay at its end;
- expert: the checkpoint with the best evaluation;
- medium_expert: half of the steps from the medium, half from the expert.

"Half as good" is the return in the middle between the random policy's and the expert's; if the random policy gets 0,
this is V-D4RL's half of the expert's return. The data record how they were made, and the returns of the random policy
and of the expert without noise, which define the scores 0 and 100.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from hydra.utils import to_absolute_path
from omegaconf import MISSING, DictConfig, OmegaConf

from rlrep.data import Provenance, Transitions, write_transitions
from rlrep.data.replay_files import episodes_of, load_rows
from rlrep.data.transition_files import check_target
from rlrep.envs import make_env
from rlrep.experiments.results.runs import read_returns
from rlrep.experiments.run.checkpoint import CONFIG
from rlrep.experiments.run.config_file import register, typed_as
from rlrep.experiments.run.device import resolve_device
from rlrep.experiments.run.evaluation import Policy, environment_options, evaluate
from rlrep.experiments.run.log import PATIENCE, Progress
from rlrep.experiments.run.names import import_modules
from rlrep.experiments.run.options import ConfigError, check, defaults, option, refusals
from rlrep.experiments.run.policy import checkpoint_policy, random_policy
from rlrep.experiments.run.train_config import TrainConfig, load

LEVELS = ("random", "medium", "medium_replay", "full_replay", "medium_expert", "expert")
PLAYED_BY = {"random": ["random"], "medium": ["medium"], "expert": ["expert"], "medium_expert": ["medium", "expert"]}

# Collected episodes differ from those of training and evaluation.
COLLECTION_SEED = 2_000_003


@dataclass
class CollectConfig:
    """The options of a collection; checked on construction."""

    run: str = option(MISSING, "folder of a run of rlrep.experiments.train with save_snapshot=true", path=True)
    level: str = option(MISSING, "what to collect", choices=LEVELS)
    out: str = option(MISSING, "folder of the data, a new one", path=True)
    format: str = option("rlrep", "rlrep (opened without a conversion), vd4rl_84, vd4rl_64, drqv2, minari")
    steps: int = option(100_000, "agent steps, in whole episodes; the replay levels take all steps of the run", least=1)
    noise: float = option(0.1, "standard deviation of the noise on the policy's actions", least=0)
    reference_episodes: int = option(
        10, "of the random policy and of the expert, for the returns at scores 0 and 100", least=1
    )
    seed: int = option(0, "of all random numbers", least=0, most=2**63 - 1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, …")
    imports: list[str] = option([], "modules to import first: those of the run's import paths")

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def idle(cls, plain: Mapping[str, Any]) -> dict[str, str]:
        """Options that have no effect at this level, with the reason; see `RunConfig.idle`."""
        level = plain["level"]
        found = {}
        if level == "random" or level.endswith("_replay"):
            found["noise"] = f"with level={level}, which no policy plays"
        if level.endswith("_replay"):
            found["steps"] = f"with level={level}, which takes what the run has played"
        return found


register("collect_options", defaults(CollectConfig))


@dataclass(frozen=True)
class Snapshot:
    """A stored checkpoint, the frame of the nearest evaluation, and the mean return there.

    Checkpoints wait for an episode's end and evaluations do not, so with several environments their frames differ.
    """

    path: Path
    frame: int
    evaluated: int
    episode_return: float


def snapshots(run: Path) -> list[Snapshot]:
    """The stored checkpoints by frame; of several with the same evaluation, only the nearest.

    Raises:
        ConfigError: without stored checkpoints.
    """
    returns = dict(zip(*(values.tolist() for values in read_returns(run / "eval.csv")), strict=True))
    kept = {int(path.stem): path for path in sorted((run / "checkpoints").glob("[0-9]*.pt"))}
    found = []
    for frame, path in kept.items():
        evaluated = nearest(frame, returns)
        if nearest(evaluated, kept) == frame:
            found.append(Snapshot(path, frame, int(evaluated), returns[evaluated]))
    if not found:
        raise ConfigError(f"{run} kept no checkpoints but its last: train it with save_snapshot=true")
    return found


def nearest(frame: float, frames: Iterable[float]) -> float:
    return min(frames, key=lambda other: abs(other - frame))


def expert_of(found: Sequence[Snapshot]) -> Snapshot:
    return max(found, key=lambda snapshot: snapshot.episode_return)


def medium_of(found: Sequence[Snapshot], random_return: float) -> Snapshot:
    """The first checkpoint that is half as good as the expert, who is better than the random policy.

    Raises:
        ConfigError: if that is the expert itself.
    """
    expert = expert_of(found)
    if expert == found[0]:
        raise ConfigError(
            f"the best checkpoint, at frame {expert.frame}, is the first that was kept: there is no medium before it; "
            f"keep more of them (eval_every_frames, checkpoint_every_frames), or train longer"
        )
    half = (random_return + expert.episode_return) / 2
    medium = next(snapshot for snapshot in found if snapshot.episode_return >= half)
    if medium == expert:
        raise ConfigError(
            f"no checkpoint before the expert's, at frame {expert.frame} with return {expert.episode_return:.1f}, gets "
            f"half of the way from the random policy's {random_return:.1f} to that: keep more of them "
            f"(eval_every_frames, checkpoint_every_frames), or train longer"
        )
    return medium


def no_better(expert: Snapshot, expert_return: float, random_return: float) -> ConfigError:
    return ConfigError(
        f"the best checkpoint, at frame {expert.frame}, gets {expert_return:.1f}, the random policy "
        f"{random_return:.1f}: scores between them would mean nothing; train longer"
    )


def lowest_random_return(run: Path, trained: TrainConfig) -> float:
    """The lowest return of a training episode in which the agent still acted at random; -inf if there was none.

    The random policy's mean is hardly lower. A lower mean would only lower the return that a medium needs.
    """
    exploring = trained.agent.get("num_expl_steps", 0) * trained.action_repeat
    frames, returns = read_returns(run / "train.csv")
    at_random = returns[frames <= exploring]
    return float(at_random.min()) if len(at_random) else -math.inf


class Collector:
    """Plays and reads the episodes of a level.

    Args:
        config: of the collection.
        run: folder of the run.
        trained: the run's configuration, on the device to use.
        env: its environment.
    """

    def __init__(self, config: CollectConfig, run: Path, trained: TrainConfig, env: Any) -> None:
        self.config, self.run, self.trained, self.env = config, run, trained, env
        self.kept = snapshots(run)
        self.expert = expert_of(self.kept)
        self.choose(lowest_random_return(run, trained))  # refuses at once what is impossible for any measured return
        self.random_return = self.reference("random")
        self.choose(self.random_return)
        self.expert_return = self.reference("expert")
        if self.expert_return <= self.random_return:
            raise no_better(self.expert, self.expert_return, self.random_return)

    def choose(self, random_return: float) -> None:
        """Refuses a level if the run lacks the checkpoints for it.

        Raises:
            ConfigError: if the expert is no better than the random policy, or there is no medium for a level that needs
                one.
        """
        if self.expert.episode_return <= random_return:
            raise no_better(self.expert, self.expert.episode_return, random_return)
        if "medium" in self.config.level:
            self.medium = medium_of(self.kept, random_return)

    def policy(self, name: str) -> Policy:
        if name == "random":
            return random_policy(self.env.action_space, self.config.seed)
        snapshot = self.expert if name == "expert" else self.medium
        return checkpoint_policy(self.trained, snapshot.path, self.env)[0]

    def reference(self, name: str) -> float:
        """The mean return of the random policy or the expert, in the first episodes of the collection."""
        count = self.config.reference_episodes
        with closing(Progress(f"scoring {name}", count, 0, "episode", PATIENCE)) as progress:
            return float(evaluate(self.policy(name), self.env, count, told=progress.advance).returns.mean())

    def episodes(self) -> Iterator[Transitions]:
        """The level's episodes, one after the other."""
        if self.config.level == "full_replay":
            yield from replayed(self.run, self.trained, None)
        elif self.config.level == "medium_replay":
            yield from replayed(self.run, self.trained, self.medium.frame)
        else:
            yield from self.played(PLAYED_BY[self.config.level])

    def played(self, names: Sequence[str]) -> Iterator[Transitions]:
        """Whole episodes of each policy, up to its share of the steps."""
        rng = np.random.default_rng(self.config.seed)
        total = self.config.steps
        progress = Progress(f"collecting {self.config.level}", total, 0, "step")
        episode = taken = 0
        for number, name in enumerate(names, 1):
            noise = 0.0 if name == "random" else self.config.noise
            policy = self.policy(name)
            while taken < total * number // len(names):
                yield (transitions := play(policy, self.env, episode, noise, rng, f"{name} {episode}"))
                episode, taken = episode + 1, taken + len(transitions)
                progress.advance(min(taken, total))
        progress.close()

    def made(self) -> dict[str, Any]:
        """The origin of the data, as plain values."""
        trained, level = self.trained, self.config.level
        used = {"expert": self.expert} | ({"medium": self.medium} if "medium" in level else {})
        by_policies = level in PLAYED_BY
        return {
            "run": str(self.run),
            "agent": trained.agent["name"],
            "action_repeat": trained.action_repeat,
            "camera": trained.camera,
            "env": trained.env,
            "image_size": trained.image_size,
            "distractors": vars(trained.noise),
            "checkpoints": {
                name: {
                    "frame": snapshot.frame,
                    "evaluation": snapshot.episode_return,
                    "evaluated_at": snapshot.evaluated,
                }
                for name, snapshot in used.items()
            },
            "policies": PLAYED_BY.get(level, ["the run's own, as it learned"]),
            "noise": self.config.noise if by_policies and level != "random" else None,
            "seed": self.config.seed if by_policies else trained.seed,
            "reference_episodes": self.config.reference_episodes,
        }


def play(policy: Policy, env: Any, episode: int, noise: float, rng: np.random.Generator, name: str) -> Transitions:
    """One episode of an environment with stacked RGB frames; stores the newest frame of each stack."""
    observation, _ = env.reset(options={"episode": episode})
    frames, actions, rewards = [observation[-3:]], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        action = policy(observation[None])[0]
        action = np.clip(action + noise * rng.standard_normal(action.shape), -1, 1).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        frames.append(observation[-3:])
        actions.append(action)
        rewards.append(reward)
    return Transitions(np.stack(frames), np.stack(actions), np.array(rewards, np.float32), bool(terminated), name)


def replayed(run: Path, trained: TrainConfig, until_frame: int | None) -> Iterator[Transitions]:
    """The episodes in a run's replay that had ended by a frame, or all of them.

    Raises:
        ConfigError: if the replay has lost its beginning, or lies in several parts.
    """
    if (run / "rank_1").exists():
        raise ConfigError(
            f"{run} was trained by several processes, each with a replay of its own: collect from another"
        )
    try:
        rows = load_rows(run / "replay")
    except ValueError as error:
        raise ConfigError(f"{run / 'replay'} can't be used: {error}") from error
    lanes = len(rows["step"])
    most = np.inf if until_frame is None else until_frame / trained.action_repeat / lanes
    found: list[tuple[int, np.ndarray]] = []
    for lane in range(lanes):
        taken = 0
        for at in episodes_of(rows, lane):
            number = rows["episode"][lane, at[0]]
            if not taken and (number or rows["step"][lane, at[0]]):
                raise ConfigError(
                    f"{run} has overwritten the beginning of its replay: train it with a larger replay_buffer_size"
                )
            taken += len(at) - 1
            if taken > most:
                break
            found.append((lane, at))
    total = sum(len(at) - 1 for _, at in found)
    with closing(Progress("copying the replay", total, 0, "step", PATIENCE)) as progress:
        for lane, at in found:
            yield Transitions(
                frames=rows["frame"][lane, at],
                action=rows["action"][lane, at[:-1]],
                reward=rows["reward"][lane, at[:-1]],
                terminated=bool(rows["terminated"][lane, at[-2]]),
                name=f"environment {lane}, episode {rows['episode'][lane, at[0]]}",
            )
            progress.advance(progress.count + len(at) - 1)


def collect(composed: DictConfig) -> Path:
    """Makes the collection of a composed configuration; returns the folder of the data.

    Raises:
        ConfigError, CheckpointError, OpenGLError: for errors that users can fix.
    """
    for name, hint in (("run", "run=FOLDER"), ("level", f"level={'|'.join(LEVELS)}"), ("out", "out=FOLDER")):
        if OmegaConf.is_missing(composed, name):
            raise ConfigError(f"{name} is missing: give {hint}")
    with refusals():
        config = typed_as(CollectConfig, composed)
        run, out = Path(to_absolute_path(config.run)), Path(to_absolute_path(config.out))
        check_target(out, config.format)
        import_modules(config.imports)
        trained = load(run / CONFIG)
        trained.device = resolve_device(config.device)
        torch.manual_seed(config.seed)
        env = make_env(trained.task, seed=config.seed + COLLECTION_SEED, **environment_options(trained))
        with closing(env):
            if isinstance(env.action_space, Discrete):
                raise ConfigError(
                    f"the actions of {trained.task} are {env.action_space.n} choices, and data are collected of "
                    f"actions that are numbers: collect from a run of another task"
                )
            collector = Collector(config, run, trained, env)
            provenance = Provenance(
                task=trained.task,
                level=config.level,
                made=collector.made(),
                random_return=collector.random_return,
                expert_return=collector.expert_return,
            )
            write_transitions(collector.episodes(), out, provenance, format=config.format)
    print(
        f"{trained.task} {config.level}: the random policy gets {collector.random_return:.1f}, the expert "
        f"{collector.expert_return:.1f}; see python -m rlrep.experiments.data info {shlex.quote(str(out))}"
    )
    return out
