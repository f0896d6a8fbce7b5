"""Plays episodes without exploration, and films one."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rlrep.agents import find_agent
from rlrep.envs import make_env, make_vector_env
from rlrep.experiments.files import write_atomically
from rlrep.experiments.run.config import RunConfig, check_env
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.train_config import TrainConfig

# The seed of evaluation episodes differs from training's; all evaluations of a run play the same episodes.
EVALUATION_SEED = 1_000_003

Policy = Callable[[np.ndarray], np.ndarray]
Told = Callable[[int], object]


@dataclass
class Evaluation:
    """Returns of episodes, and the pictures (T, H, W, 3) uint8 of the first if it was filmed."""

    returns: np.ndarray
    film: list[np.ndarray]
    frames_per_second: float

    @property
    def row(self) -> dict[str, Any]:
        # Division by a power of two is exact: the sum of finite values may overflow, their mean does not.
        exponent = np.frexp(np.abs(self.returns).max())[1]
        scaled = np.ldexp(self.returns, -exponent)
        return {
            "episode_return": float(np.ldexp(scaled.mean(), exponent)),
            "episode_return_std": float(np.ldexp(scaled.std(), exponent)),
            "episode_return_min": float(self.returns.min()),
            "episode_return_max": float(self.returns.max()),
            "episodes": len(self.returns),
        }


def evaluate(
    policy: Policy, env: Any, episodes: int, film: bool = False, envs: Any = None, told: Told = lambda _: None
) -> Evaluation:
    """Plays episodes 0 to `episodes` - 1 of an environment made by `make_evaluation_env`.

    Args:
        policy: from (N, F·C, H, W) uint8 to (N, A) actions.
        env: the environment.
        episodes: how many.
        film: keep the pictures of the first.
        envs: the same environment several times, side by side: plays all but the filmed one, faster.
        told: called after each step with the number of ended episodes.
    """
    alone = episodes if envs is None else int(film)
    returns, pictures = np.zeros(episodes), []
    for episode in range(alone):
        observation, _ = env.reset(options={"episode": episode})
        done = False
        while not done:
            if film and episode == 0:
                pictures.append(env.render())
            observation, reward, terminated, truncated, _ = env.step(policy(observation[None])[0])
            returns[episode] += reward
            done = terminated or truncated
            told(episode + done)
    if alone < episodes:
        returns[alone:] = play_side_by_side(policy, envs, range(alone, episodes), told)
    return Evaluation(returns, pictures, env.metadata["render_fps"])


def play_side_by_side(policy: Policy, envs: Any, episodes: range, told: Told) -> np.ndarray:
    """The returns of `episodes`, at least one per environment; each environment plays consecutive ones."""
    stretches = np.array_split(np.array(episodes), envs.num_envs)
    returns = np.zeros(episodes.stop)
    envs.set_attr("next_episode", [int(stretch[0]) for stretch in stretches])
    observation, _ = envs.reset()
    episode = np.array([stretch[0] for stretch in stretches])
    last = np.array([stretch[-1] for stretch in stretches])
    while (playing := episode <= last).any():
        envs.step_async(policy(observation))
        observation, reward, terminated, truncated, _ = envs.step_wait()
        returns[episode[playing]] += reward[playing]
        episode += playing & (terminated | truncated)
        told(episodes.stop - int((last + 1 - episode).sum()))
    return returns[episodes.start :]


def environment_options(config: RunConfig) -> dict[str, Any]:
    """The keyword arguments of `envs` from a configuration.

    Raises:
        ConfigError: for a setting given as an argument of the environment, and videos that can't be read.
    """
    names = ("image_size", "action_repeat", "frame_stack", "camera", "rendering")
    settings = {name: getattr(config, name) for name in names} | {"noise": config.noise.options(config.image_size)}
    check_env(config.env, settings.keys())
    return settings | config.env


def make_evaluation_env(config: RunConfig, film: bool = False) -> Any:
    """The environment that a run is evaluated in; with `film` it can render.

    Raises:
        ConfigError: if our agents do not support its actions.
    """
    options = environment_options(config) | ({"render_mode": "rgb_array"} if film else {})
    env = make_env(config.task, seed=config.seed + EVALUATION_SEED, **options)
    continuous = isinstance(env.action_space, Box) and len(env.action_space.shape) == 1
    choices = isinstance(env.action_space, Discrete) and find_agent(config.agent["algorithm"]).takes_choices
    if not continuous and not choices:
        actions = env.action_space
        env.close()
        raise ConfigError(
            f"the actions of {config.task} are {actions}, and agent={config.agent['algorithm']} needs continuous ones, "
            f"a Box of one axis. For discrete actions, use agent=mrq, or train Stable-Baselines3's DQN on "
            f"rlrep.envs.make_env({config.task!r}), with the losses by rlrep.integrations.sb3.attach (README, 'The "
            f"losses in your own agent')"
        )
    return env


def make_evaluation_envs(config: TrainConfig) -> Any:
    """One evaluation environment for each of the run's; None for a single one, or for too few episodes."""
    count = min(config.num_envs, config.num_eval_episodes - config.save_video)
    if count < 2:
        return None
    with ExitStack() as opened:
        options = environment_options(config) | {"timeout": config.env_timeout}
        envs = make_vector_env(config.task, count, seed=config.seed, **options)
        opened.enter_context(closing(envs))
        envs.reset(seed=[config.seed + EVALUATION_SEED] * count)
        opened.pop_all()
    return envs


def write_video(path: Path, pictures: list[np.ndarray], frames_per_second: float) -> None:
    """An MP4 (H.264) of pictures (H, W, 3) uint8; without their last row or column if there is an odd number."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=max(1, round(frames_per_second)))
        stream.height, stream.width = (side // 2 * 2 for side in pictures[0].shape[:2])
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            even = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    write_atomically(path, buffer.getvalue())
