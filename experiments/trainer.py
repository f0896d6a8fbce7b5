"""A run: environments, agent and replay, the loop that joins them, and its folder.

The folder (run_dir) holds config.yaml, train.csv, eval.csv, curve.png, videos/, checkpoints/ and replay/.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from agents import Agent, accelerated_update, make_agent
from envs import EnvironmentDied, OpenGLError, make_vector_env, max_episode_steps
from experiments import config as configuration
from experiments import ranks
from experiments.allocator import keep_pages
from experiments.checkpoint import (
    CHECKPOINT,
    CONFIG,
    CheckpointError,
    fitting,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from experiments.config import ConfigError, RunConfig, TrainConfig, refusals
from experiments.evaluation import (
    Policy,
    environment_options,
    evaluate,
    make_evaluation_env,
    make_evaluation_envs,
    write_video,
)
from experiments.files import locked, write_atomically
from experiments.initial_agent import load_agent, settle_agent
from experiments.log import Log, NonFiniteLoss, UpdateMetrics, check_extras
from experiments.offline_data import auto_storage, check_fit, open_data, resume_data
from experiments.pretrained import load_weights, settle_encoder
from rlrep.replay import ReplayBuffer, ReplayError

if TYPE_CHECKING:
    from tensordict import TensorDict


class TrainingError(RuntimeError):
    """Something outside the program stopped a run; the message says what to do."""


# What a person can mend; shown without a traceback.
EXPECTED = (ConfigError, ReplayError, CheckpointError, NonFiniteLoss, OpenGLError, EnvironmentDied, TrainingError)


class Trainer:
    """One run: environments, agent, replay, and the loop that joins them. `close` it at the end.

    Under torchrun each rank has its share of the environments, of the replay and of the batch, in a folder `rank_N` of
    its own, and the ranks average their gradients; the first one evaluates and writes the checkpoints.

    Args:
        config: of the run.
        folder: of the run. Where it holds a checkpoint, the run goes on from there.
    """

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.rank = ranks.rank()
        self.num_envs = ranks.share("num_envs", config.num_envs)
        self.batch_size = ranks.share("batch_size", config.batch_size)
        seed = ranks.seed(config.seed)
        own_folder = folder / f"rank_{self.rank}" if self.rank else folder
        check_extras(config.use_wandb, config.use_tb)
        checkpoint = folder / CHECKPOINT
        state = load_checkpoint(checkpoint, config.device) if checkpoint.exists() else None
        if state is not None:
            with fitting(checkpoint):
                check_ranks(state)  # before the replay, whose files would be refused for their sizes
        torch.manual_seed(config.seed)
        with ExitStack() as opened:
            self.eval_env = opened.enter_context(closing(make_evaluation_env(config, film=config.save_video)))
            episode_steps = max_episode_steps(self.eval_env)
            config.check_episode(episode_steps)
            observation_space, action_space = self.eval_env.observation_space, self.eval_env.action_space
            self.data, self.data_batch_size = None, round(self.batch_size * config.offline.share)
            if config.offline.data is not None and self.data_batch_size:
                try:
                    self.data = open_data(
                        config.offline.data, config, config.offline.cache, config.offline.skip_corrupt
                    )
                except FileNotFoundError as error:
                    advice = "say where they lie with offline.data=PATH, or learn without them: offline.share=0"
                    raise ConfigError(f"the offline data are gone, {error}: {advice}") from error
                check_fit(self.data, config.offline.data, self.eval_env, config, self.data_batch_size)
            self.agent = build_agent(config, observation_space, action_space)
            if state is None and config.encoder.path is not None:
                load_weights(self.agent.encoder, Path(config.encoder.path))
            if state is None and config.init is not None:
                load_agent(self.agent, Path(config.init))
            if self.rank:
                torch.manual_seed(seed)
            options = environment_options(config) | {"timeout": config.env_timeout}
            self.envs = opened.enter_context(closing(make_vector_env(config.task, self.num_envs, seed=seed, **options)))
            self.eval_envs = None if self.rank else make_evaluation_envs(config)
            if self.eval_envs is not None:
                opened.enter_context(closing(self.eval_envs))
            # Checkpoints wait for an episode's end, and an episode of one transition takes two rows.
            between_checkpoints = config.checkpoint_every_frames / config.action_repeat / config.num_envs
            self.replay = ReplayBuffer(
                observation_space.shape,
                action_space,
                config.replay_buffer_size // ranks.world_size(),
                frame_stack=config.frame_stack,
                n_step=config.nstep,
                discount=config.discount,
                horizon=self.agent.horizon,
                num_envs=self.num_envs,
                storage=replay_storage(config, observation_space.shape),
                path=own_folder / "replay",
                reserve=2 * int(between_checkpoints + episode_steps + 1),
                device=config.device,
                seed=seed,
            )
            self.step = self.updates = 0
            self.next_eval = self.next_checkpoint = 0
            self.next_episode: Sequence[int] = [0] * self.num_envs
            self.metrics = UpdateMetrics()
            if state is not None:
                with fitting(checkpoint):
                    self.restore(state)
            self.update_agent = accelerated_update(self.agent) if config.path == "fast" else self.agent.update
            self.log = opened.enter_context(
                closing(Log(config, own_folder, self.frame, self.next_eval, config.num_train_frames))
            )
            self.close = opened.pop_all().close

    @property
    def frame(self) -> int:
        """Simulator steps so far."""
        return self.step * self.config.action_repeat

    @property
    def finished(self) -> bool:
        """Whether the run was trained to its end and evaluated there."""
        rows = self.log.tables["eval"].rows
        evaluated = bool(rows) and int(rows[-1]["frame"]) == self.frame
        return self.frame >= self.config.num_train_frames and ranks.from_first(evaluated)

    def run(self) -> None:
        """Trains until num_train_frames, evaluates, and leaves a checkpoint.

        Raises:
            TrainingError: if an environment's process died; everything up to there is saved.
        """
        no_start = np.zeros(self.num_envs, bool)
        try:
            self.observation, _ = self.envs.reset()
            self.next_episode = self.envs.get_attr("next_episode")
            self.episode_return = np.zeros(self.num_envs)
            self.episode_length = np.zeros(self.num_envs, int)
            while self.frame < self.config.num_train_frames:
                if self.frame >= self.next_eval:
                    self.evaluate()
                done = self.advance()
                if self.frame >= self.next_checkpoint and ranks.from_first(bool(done[0])):
                    self.save(done)
            self.update()
            self.evaluate()
            self.save(no_start)
        except EnvironmentDied as error:
            if ranks.world_size() > 1:  # the other ranks wait elsewhere, and can't join in a checkpoint
                raise TrainingError(f"{error}. Training stopped at frame {self.frame}; {kept(self.folder)}") from error
            self.save(no_start)
            raise TrainingError(
                f"{error}. Training stopped at frame {self.frame}, and all is saved: go on with resume=true"
            ) from error

    def advance(self) -> np.ndarray:
        """One step of every environment; the learner makes the updates of the step before while they compute.

        Returns:
            (num_envs,) bool, which episodes ended.
        """
        action = self.act(self.observation)
        self.envs.step_async(action)
        self.update()
        next_observation, reward, terminated, truncated, infos = self.envs.step_wait()
        done = terminated | truncated
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
        self.log.advance(self.frame)

        self.episode_return += reward
        self.episode_length += 1
        metrics = self.metrics.mean() if done.any() else {}
        for i in np.flatnonzero(done):
            self.log_episode(float(self.episode_return[i]), int(self.episode_length[i]), metrics)
        self.episode_return[done] = 0
        self.episode_length[done] = 0
        return done

    def act(self, observation: np.ndarray, eval_mode: bool = False) -> np.ndarray:
        """The agent's actions.

        Raises:
            NonFiniteLoss: if they are not finite, for the loss that made them so.
        """
        action = self.agent.act(observation, self.step, eval_mode)
        if not np.isfinite(action).all():
            self.metrics.check()
            raise NonFiniteLoss(f"an action is not finite at frame {self.frame}, though every loss was")
        return action

    @property
    def steps_with_updates(self) -> int:
        """Agent steps since the seed frames, while updates are due."""
        return self.step - -(-self.config.num_seed_frames // self.config.action_repeat)

    def update(self) -> None:
        """As many updates as `update_every_steps` asks for by now."""
        if self.frame < self.config.num_seed_frames:
            return
        due = int(self.steps_with_updates / self.agent.update_every_steps) + 1
        for _ in range(due - self.updates):
            self.metrics.add(self.update_agent(self.sample(), self.step), self.frame)
            self.updates += 1

    def sample(self) -> TensorDict:
        """A batch of the replay, or of the replay and the offline data together."""
        if self.data is None:
            return self.replay.sample(self.batch_size)
        played = self.replay.sample(self.batch_size - self.data_batch_size)
        return torch.cat([played, self.data.sample(self.data_batch_size)])

    def evaluate(self) -> None:
        self.metrics.check()
        if not self.rank:
            policy = partial(self.act, eval_mode=True)
            play_evaluation(policy, self.eval_env, self.eval_envs, self.config, self.folder, self.log, self.frame)
        self.next_eval = following(self.frame, self.config.eval_every_frames)

    def log_episode(self, episode_return: float, length: int, metrics: dict[str, float]) -> None:
        row = {
            "frame": self.frame,
            "episode_return": episode_return,
            "episode_length": length,
            "updates": self.updates,
            "steps_per_update": self.steps_with_updates / self.updates if self.updates else 0.0,
            "frames_per_second": self.log.rate,
        }
        self.log.row("train", row | metrics)

    def save(self, at_episode_start: np.ndarray) -> None:
        """Writes the replay's new rows, then the checkpoint that counts them."""
        self.next_checkpoint = following(self.frame, self.config.checkpoint_every_frames)
        self.metrics.check()  # before a checkpoint with NaNs replaces a good one
        check_finite(self.agent, f"frame {self.frame}")
        self.replay.flush()
        own = {
            "replay": self.replay.state_dict(),
            "data": None if self.data is None else self.data.state_dict(),
            "random": random_state(),
            # An episode that has just begun is begun again; one that is under way can't be gone on with.
            "next_episode": (np.array(self.next_episode) - at_episode_start).tolist(),
        }
        state = {
            "step": self.step,
            "updates": self.updates,
            "next_eval": self.next_eval,
            "agent": self.agent.state_dict(),
            "ranks": ranks.to_first(own),
        }
        if self.rank:
            return
        save_checkpoint(self.folder / CHECKPOINT, state)
        if self.config.save_snapshot:
            save_checkpoint(self.folder / "checkpoints" / f"{self.frame:09d}.pt", state)

    def restore(self, state: dict[str, Any]) -> None:
        own = state["ranks"][self.rank]
        self.agent.load_state_dict(state["agent"])
        self.replay.load_state_dict(own["replay"])
        self.replay.end_episodes()
        if self.data is not None:
            resume_data(self.data, own["data"], str(self.config.offline.data))
        set_random_state(own["random"])
        self.next_episode = own["next_episode"]
        self.envs.set_attr("next_episode", self.next_episode)
        self.step, self.updates, self.next_eval = state["step"], state["updates"], state["next_eval"]
        self.next_checkpoint = following(self.frame, self.config.checkpoint_every_frames)


def following(count: int, every: int) -> int:
    """The next multiple of `every` after `count`."""
    return (count // every + 1) * every


def check_finite(agent: Agent, when: str) -> None:
    if not all(parameter.isfinite().all() for parameter in agent.parameters()):
        raise NonFiniteLoss(f"a parameter is not finite at {when}, though every loss was")


def play_evaluation(policy: Policy, env: Any, envs: Any, config: RunConfig, folder: Path, log: Log, count: int) -> None:
    """Plays a run's evaluation episodes at `count` and keeps what they gave: a row, a film, the curve so far."""
    evaluation = evaluate(policy, env, config.num_eval_episodes, config.save_video, envs)
    log.row("eval", {log.counter: count, **evaluation.row})
    if config.save_video:
        path = folder / "videos" / f"{count:09d}.mp4"
        write_video(path, evaluation.film, evaluation.frames_per_second)
        log.video(path)
    from experiments.plot import draw_run  # Matplotlib takes its time, and only the first rank draws

    draw_run(folder, folder / "curve.png")


def check_ranks(state: dict[str, Any]) -> None:
    """Refuses a checkpoint of another number of processes: each has a replay or sampler of its own."""
    saved, started = len(state["ranks"]), ranks.world_size()
    if saved != started:
        raise CheckpointError(
            f"the run was trained by {saved} process{'es' if saved > 1 else ''}, and now there are {started}: go on "
            f"with torchrun --nproc-per-node={saved}"
        )


def build_agent(config: RunConfig, observation_space: Any, action_space: Any) -> Agent:
    return make_agent(
        config.agent["algorithm"],
        observation_space.shape,
        action_space,
        objectives=config.objectives,
        objective_options=config.objective,
        encoder_options=config.encoder.options,
        freeze_encoder=config.encoder.freeze,
        shift=config.shift,
        device=config.device,
        path=config.path,
        joint=config.update == "joint",
        **config.agent_options,
    )


def replay_storage(config: TrainConfig, observation_shape: tuple[int, ...]) -> str:
    if config.replay_storage != "auto":
        return config.device if config.replay_storage == "cuda" else config.replay_storage
    size = config.replay_buffer_size * int(np.prod(observation_shape)) // config.frame_stack // ranks.world_size()
    return auto_storage(config.device, size)


def check_folder(config: RunConfig, saved: RunConfig | None, folder: Path, free: Set[str]) -> None:
    """Refuses a folder that holds a run, `saved`, but for one of the same configuration that is to be resumed.

    Raises:
        ConfigError: with what differs, but for what is `free`.
    """
    if saved is None:
        if (folder / CHECKPOINT).exists():
            raise ConfigError(f"{folder} holds a checkpoint but no {CONFIG}: put it back, or choose another run_dir")
        return
    if not config.resume:
        raise ConfigError(f"{folder} already holds a run: go on with resume=true, choose another run_dir, or delete it")
    configuration.check_same(config, saved, folder, free)


def fit_to_folder(config: TrainConfig, saved: TrainConfig | None, folder: Path) -> None:
    """Checks a configuration against the run that the folder may hold, and settles the size of the replay.

    Raises:
        ConfigError: as `check_folder` does.
    """
    size = config.replay_buffer_size
    if saved is not None:
        config.replay_buffer_size = min(size, saved.replay_buffer_size)
    check_folder(config, saved, folder, configuration.FREE_ON_RESUME)
    if saved is None:
        config.replay_buffer_size = configuration.useful_replay_size(config, size)
    elif saved.replay_buffer_size < configuration.useful_replay_size(config, size):
        print(
            f"the replay keeps the {saved.replay_buffer_size} frames that it was made for with "
            f"num_train_frames={saved.num_train_frames}; older ones will be overwritten",
            file=sys.stderr,
        )


def train(composed: DictConfig) -> Path:
    """Runs what a composed configuration asks for; returns the run's folder.

    Raises:
        ConfigError, ReplayError, CheckpointError, OpenGLError: before anything starts.
        NonFiniteLoss: if the run diverged; the last good checkpoint is kept.
        TrainingError: if the disk is full or an environment's process died; what was written before is whole.
    """
    with ExitStack() as opened:
        with refusals():
            config = configuration.complete(composed)
            if config.path == "fast":
                keep_pages()
            folder = Path(to_absolute_path(config.run_dir))
            saved = configuration.load(folder / CONFIG) if (folder / CONFIG).exists() else None
            settle_encoder(config, saved)
            settle_agent(config, saved)
            if saved is None:
                configuration.check_precision(config)
            elif composed.encoder.precision == "auto":
                config.encoder.precision = saved.encoder.precision
            config.device = opened.enter_context(ranks.joined(config.device))
            if ranks.rank() == 0:
                opened.enter_context(locked(folder))
                fit_to_folder(config, saved, folder)
            config.replay_buffer_size = ranks.from_first(config.replay_buffer_size)
            trainer = opened.enter_context(closing(Trainer(config, folder)))
        with advising(folder, lambda: f"frame {trainer.frame}"):
            run(trainer)
    return folder


def headline(config: TrainConfig, folder: Path) -> str:
    """What begins, in a line, before the first evaluation has anything to tell."""
    slow = config.device == "cpu" and config.image_size >= 64 and config.num_train_frames > 100_000
    return (
        f"{config.task}, {config.agent['name']}: {config.num_train_frames:,} frames, pictures of "
        f"{config.image_size}x{config.image_size}, {config.device}, {config.encoder.precision}, in {folder}"
        + ("; without a GPU this takes days, preset=cpu takes minutes" if slow else "")
    )


def run(trainer: Trainer) -> None:
    if trainer.finished:
        print(f"nothing to do: the run is at frame {trainer.frame} already; to go on, raise num_train_frames")
        return
    if trainer.rank == 0:
        write_config(trainer.config, trainer.folder)
        print(headline(trainer.config, trainer.folder), file=sys.stderr, flush=True)
    trainer.run()


@contextmanager
def advising(folder: Path, where: Callable[[], str]) -> Iterator[None]:
    """Tells what to do when a run diverges or fills the disk; `where` says how far it is.

    Raises:
        NonFiniteLoss, TrainingError: in their place, with the advice.
    """
    try:
        yield
    except NonFiniteLoss as error:
        raise NonFiniteLoss(
            f"{error}. Training stopped; {kept(folder)}. Try a smaller lr, or encoder.precision=float32, "
            f"in another run_dir"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TrainingError(
            f"the disk is full, at {where()}: free space where {folder} is, then go on with resume=true; {kept(folder)}"
        ) from error


def write_config(config: RunConfig, folder: Path) -> None:
    write_atomically(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(configuration.as_dict(config))).encode())


def kept(folder: Path) -> str:
    checkpoint = folder / CHECKPOINT
    return f"the last good checkpoint is kept in {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"
