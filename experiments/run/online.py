"""A run in an environment: environments, agent, replay, and their loop.

The folder (run_dir) holds config.yaml, train.csv, eval.csv, curve.png, videos/, checkpoints/ and replay/.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from rlrep.data import Dataset
from rlrep.envs import EnvironmentDied, make_vector_env, max_episode_steps
from rlrep.experiments.files import locked
from rlrep.experiments.run import ranks
from rlrep.experiments.run.agent import AgentRun
from rlrep.experiments.run.allocator import keep_pages
from rlrep.experiments.run.checkpoint import CHECKPOINT, CONFIG, CheckpointError, save_checkpoint
from rlrep.experiments.run.config import settle_precision
from rlrep.experiments.run.data import auto_storage, check_fit, format_of, open_data, resume_data
from rlrep.experiments.run.driver import NothingToDo, TrainingError, claim, conduct, following, kept
from rlrep.experiments.run.evaluation import environment_options, make_evaluation_envs
from rlrep.experiments.run.initial_agent import load_agent, settle_agent
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.pretrained import settle_encoder
from rlrep.experiments.run.stop import signals_blocked
from rlrep.experiments.run.train_config import TrainConfig, complete, load
from rlrep.replay import Mixture, ReplayBuffer
from rlrep.replay.episodes import host

GB = 1_000_000_000


class OnlineRun(AgentRun):
    """An agent that acts in environments and learns from them.

    Under torchrun, each rank has its share of the environments and of the replay.
    """

    counter = "frame"
    longer = "num_train_frames"
    config: TrainConfig

    def check_data(self) -> None:
        config = self.config
        self.num_envs = ranks.share("num_envs", config.num_envs)
        self.episode_steps = max_episode_steps(self.eval_env)
        self.data: Dataset | None = None
        count = round(self.batch_size * config.offline.share)
        if config.offline.data is None or not count:
            return
        try:
            self.data = open_data(config.offline.data, config, files=config.offline)
        except FileNotFoundError as error:
            advice = "give their path with offline.data=PATH, or learn without them: offline.share=0"
            raise ConfigError(f"the offline data are missing, {error}: {advice}") from error
        check_fit(self.data, config.offline.data, self.eval_env, config, count)

    def check_agent(self) -> None:
        self.config.check_episode(self.episode_steps, {name: window for name, window, _ in self.agent.learners})

    def initialize(self) -> None:
        super().initialize()
        if self.config.init is not None:
            load_agent(self.agent, Path(self.config.init))

    def open(self, opened: ExitStack) -> None:
        config, shape = self.config, self.eval_env.observation_space.shape
        options = environment_options(config) | {"timeout": config.env_timeout}
        with signals_blocked():
            self.envs = opened.enter_context(
                closing(make_vector_env(config.task, self.num_envs, seed=self.seed, **options))
            )
            self.eval_envs = None if self.rank else make_evaluation_envs(config)
            if self.eval_envs is not None:
                opened.enter_context(closing(self.eval_envs))
        capacity = config.replay_buffer_size // ranks.world_size()
        # Checkpoints wait for an episode's end; an episode of one transition takes two rows.
        between_checkpoints = config.checkpoint_every_frames / config.action_repeat / config.num_envs
        reserve = 2 * int(between_checkpoints + self.episode_steps + 1)
        files = self.own_folder / "replay"
        size = (capacity + reserve * self.num_envs) * int(np.prod(shape)) // config.frame_stack
        if size >= GB and not files.exists():
            print(
                f"the replay takes {size / GB:.1f} GB of disk in {files}, reserved now: replay_buffer_size={capacity} "
                f"frames",
                file=sys.stderr,
                flush=True,
            )
        self.replay = ReplayBuffer(
            shape,
            self.eval_env.action_space,
            capacity,
            frame_stack=config.frame_stack,
            n_step=config.nstep,
            discount=config.discount,
            num_envs=self.num_envs,
            reset_steps=False,
            **self.agent.replay_options,
            storage=replay_storage(config, shape),
            path=files,
            reserve=reserve,
            device=config.device,
            seed=self.seed,
        )
        if not (self.folder / CHECKPOINT).exists():
            self.replay.empty()  # of a run that was killed before its first checkpoint
        self.memory = self.replay if self.data is None else Mixture(self.replay, self.data, config.offline.share)
        self.agent.check(self.memory, "the replay")
        self.step = self.next_checkpoint = 0
        self.done = np.zeros(self.num_envs, bool)
        self.next_episode: Sequence[int] = [0] * self.num_envs
        self.taken: list[np.ndarray] = []  # actions of the single environment's current episode
        self.playing: dict[str, Any] | None = None  # that episode in a checkpoint
        self.is_cut = False

    @property
    def count(self) -> int:
        """Simulator steps so far."""
        return self.step * self.config.action_repeat

    def check_files(self, state: dict[str, Any]) -> None:
        files, count = self.own_folder / "replay", state["step"] * self.config.action_repeat
        if files.exists():
            return
        if state["finished"] and count >= self.total:
            raise NothingToDo(self, count)
        raise CheckpointError(
            f"{files} is missing, from which the run would go on: put it back, or start a run in another run_dir with "
            f"init={self.folder}, which goes on with its agent and an empty replay"
        )

    @property
    def step_of_agent(self) -> int:
        return self.step

    @property
    def headline(self) -> str:
        config = self.config
        slow = config.device == "cpu" and config.image_size >= 64 and config.num_train_frames > 100_000
        return (
            f"{config.task}, {config.agent['name']}: {config.num_train_frames:,} frames, pictures of "
            f"{config.image_size}x{config.image_size}, {config.device}, {config.encoder.precision}, in {self.folder}"
            + ("; without a GPU this takes days, preset=cpu takes minutes" if slow else "")
        )

    @property
    def checkpoint_due(self) -> bool:
        return self.count >= self.next_checkpoint and ranks.from_first(bool(self.done[0]))

    def run(self) -> None:
        """Trains until num_train_frames, evaluates, and leaves a checkpoint.

        Raises:
            TrainingError: if an environment's process died; everything before is saved.
        """
        try:
            self.begin()
            super().run()
        except EnvironmentDied as error:
            if ranks.world_size() > 1:  # the other ranks wait elsewhere, and cannot join a checkpoint
                raise TrainingError(f"{error}. Training stopped at frame {self.count}; {kept(self.folder)}") from error
            self.cut()
            self.save()
            raise TrainingError(
                f"{error}. Training stopped at frame {self.count}, and all is saved: resume with resume=true"
            ) from error

    def begin(self) -> None:
        """Starts the next episodes. A single environment replays the checkpoint's actions up to its state."""
        self.observation, _ = self.envs.reset()
        self.episode_return = np.zeros(self.num_envs)
        self.episode_length = np.zeros(self.num_envs, int)
        self.is_cut = False
        if self.playing is None or not self.repeat(self.playing):
            self.replay.end_episodes()
        self.next_episode = self.envs.get_attr("next_episode")

    def repeat(self, playing: dict[str, Any]) -> bool:
        """Plays the beginning of an episode again; if the result differs, starts the next episode and returns False."""
        actions = host(playing["actions"])  # a checkpoint is loaded on the agent's device
        for action in actions:
            self.observation = self.envs.step(action)[0]
        if len(actions) and not np.array_equal(self.observation, host(playing["observation"])):
            print(
                f"the environment does not repeat the episode that the run was stopped in: the episode is cut at frame "
                f"{self.count}, and the run continues with the next one",
                file=sys.stderr,
            )
            self.observation, _ = self.envs.reset()
            return False
        self.taken = list(actions)
        self.episode_return[:], self.episode_length[:] = playing["return"], len(actions)
        return True

    def cut(self) -> None:
        """Drops the episodes in progress: a resumed run starts the next ones."""
        self.is_cut = True

    def make_step(self) -> None:
        """One step of every environment; meanwhile, the learner makes the updates of the previous step."""
        action = self.act(self.observation)
        self.envs.step_async(action)
        self.update()
        next_observation, reward, terminated, truncated, infos = self.envs.step_wait()
        self.check_rewards(reward)
        self.done = done = terminated | truncated
        last_observation = next_observation
        if done.any():
            last_observation = next_observation.copy()
            for i in np.flatnonzero(done):
                last_observation[i] = infos["final_obs"][i]
            self.next_episode = self.envs.get_attr("next_episode")
        self.replay.add(
            observation=self.observation,
            action=action,
            reward=reward,
            next_observation=last_observation,
            terminated=terminated,
            truncated=truncated,
        )
        self.observation = next_observation
        self.step += self.config.num_envs
        self.log.progress.advance(self.count)

        if done[0]:
            self.taken.clear()
        elif self.num_envs == 1:
            self.taken.append(action)
        self.episode_return += reward
        self.episode_length += 1
        metrics = self.metrics.mean() if done.any() else {}
        for i in np.flatnonzero(done):
            self.log_episode(float(self.episode_return[i]), int(self.episode_length[i]), metrics)
        self.episode_return[done] = 0
        self.episode_length[done] = 0

    def check_rewards(self, reward: np.ndarray) -> None:
        """Refuses rewards that are not finite.

        Raises:
            TrainingError: naming the environment and its reward.
        """
        if not np.isfinite(reward).all():
            lane = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise TrainingError(
                f"{self.config.task} gave the reward {reward[lane]} in environment {lane}, after frame {self.count}: "
                f"rewards must be finite. Training stopped; {kept(self.folder)}"
            )

    @property
    def steps_with_updates(self) -> int:
        """Agent steps since the seed frames that count for updates."""
        return self.step - -(-self.config.num_seed_frames // self.config.action_repeat)

    def update(self) -> None:
        """Makes all updates that are due by `update_every_steps`."""
        if self.count < self.config.num_seed_frames:
            return
        due = int(self.steps_with_updates / self.agent.update_every_steps) + 1
        for _ in range(due - self.updates):
            self.metrics.add(self.agent.update(self.memory, self.step), self.count)
            self.updates += 1

    def finish(self) -> None:
        self.update()
        self.evaluate()
        self.cut()

    def play_evaluation(self, envs: Any = None) -> None:
        super().play_evaluation(self.eval_envs)

    def log_episode(self, episode_return: float, length: int, metrics: dict[str, float]) -> None:
        row = {
            "frame": self.count,
            "episode_return": episode_return,
            "episode_length": length,
            "updates": self.updates,
            "steps_per_update": self.steps_with_updates / self.updates if self.updates else 0.0,
            "frames_per_second": self.log.progress.rate,
        }
        self.log.row("train", row | metrics)
        self.log.name_random_policy(self.agent.num_expl_steps * self.config.action_repeat)

    def state(self) -> dict[str, Any] | None:
        """Writes the replay's new rows for the next checkpoint, and returns the run's state."""
        self.next_checkpoint = following(self.count, self.config.checkpoint_every_frames)
        return super().state()

    def own_state(self) -> dict[str, Any]:
        self.replay.flush()
        next_episode, playing = np.array(self.next_episode), None
        if not self.is_cut and self.num_envs == 1:
            next_episode = next_episode - 1
            actions = (
                np.stack(self.taken) if self.taken else np.zeros((0, 1, *self.eval_env.action_space.shape), np.float32)
            )
            playing = {
                "actions": torch.from_numpy(actions),
                "observation": torch.from_numpy(self.observation.copy()),
                "return": float(self.episode_return[0]),
            }
        elif not self.is_cut:
            next_episode = next_episode - (self.episode_length == 0)  # a new episode is restarted
        return super().own_state() | {
            "replay": self.replay.state_dict(),
            "data": None if self.data is None else self.data.state_dict(),
            "next_episode": next_episode.tolist(),
            "playing": playing,
        }

    def write(self, state: dict[str, Any]) -> None:
        if self.config.save_snapshot:  # first: a run that is killed in between resumes from the previous checkpoint
            save_checkpoint(self.folder / "checkpoints" / f"{self.count:09d}.pt", state)
        super().write(state)

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        own = state["ranks"][self.rank]
        self.replay.load_state_dict(own["replay"])
        if (own["data"] is None) != (self.data is None):
            had, has = ("finished data" if data else "none" for data in (own["data"], self.data))
            raise CheckpointError(
                f"the run was saved with {had} beside its replay, and now offline.data gives {has}: give it as before, "
                f"or start the run anew in another run_dir"
            )
        if self.data is not None:
            resume_data(self.data, own["data"], str(self.config.offline.data))
        self.next_episode, self.playing = own["next_episode"], own["playing"]
        self.envs.set_attr("next_episode", self.next_episode)
        self.step = state["step"]
        # Checkpoints follow ends of episodes; a stop inside an episode does not move them.
        played = 0 if self.playing is None else len(self.playing["actions"])
        began = self.count - played * self.config.num_envs * self.config.action_repeat
        # All ranks write a checkpoint together, though their episodes have begun at different steps.
        self.next_checkpoint = ranks.from_first(following(began, self.config.checkpoint_every_frames) if began else 0)


def replay_storage(config: TrainConfig, observation_shape: tuple[int, ...]) -> str:
    if config.replay_storage != "auto":
        return config.device if config.replay_storage == "cuda" else config.replay_storage
    size = config.replay_buffer_size * int(np.prod(observation_shape)) // config.frame_stack // ranks.world_size()
    return auto_storage(config.device, size)


def settle_replay(config: TrainConfig, saved: TrainConfig | None, folder: Path) -> None:
    """Checks a configuration against a run in the folder, if any, and sets the size of the replay; in place.

    Raises:
        ConfigError: as `claim` does.
    """
    useful = config.useful_replay_size
    if saved is not None:
        config.replay_buffer_size = min(config.replay_buffer_size, saved.replay_buffer_size)
    claim(folder, config, saved)
    if saved is None:
        config.replay_buffer_size = useful
    elif saved.replay_buffer_size < useful:
        print(
            f"the replay keeps the {saved.replay_buffer_size} frames that it was made for with "
            f"num_train_frames={saved.num_train_frames}; older ones will be overwritten",
            file=sys.stderr,
        )


def open_online(composed: DictConfig, opened: ExitStack) -> OnlineRun:
    """Opens the run of a composed configuration."""
    config = complete(composed)
    if config.path == "fast":
        keep_pages()
    folder = Path(to_absolute_path(config.run_dir))
    format_of(config.offline)  # imports the module that it may name, as typed
    saved = load(folder / CONFIG) if (folder / CONFIG).exists() else None
    settle_encoder(config, saved)
    settle_agent(config, saved)
    settle_precision(config, saved, composed)
    config.device = opened.enter_context(ranks.joined(config.device))
    if ranks.rank() == 0:
        opened.enter_context(locked(folder))
        settle_replay(config, saved, folder)
    config.replay_buffer_size = ranks.from_first(config.replay_buffer_size)
    return opened.enter_context(closing(OnlineRun(config, folder)))


def train(composed: DictConfig) -> Path:
    """Trains an agent in an environment; see `conduct`."""
    return conduct(open_online, composed)
