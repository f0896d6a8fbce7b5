"""Downstream reinforcement learning: Stable-Baselines3's PPO on what a frozen encoder sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from rlrep import PixelEncoder
from rlrep.envs.gridworld import VectorGridWorld

Curve = list[tuple[int, float]]


class FrozenEncoder(VecEnvWrapper):
    """A vector environment seen through an encoder that does not learn: (N, C, H, W) uint8 to (N, D) float32."""

    def __init__(self, venv: VecEnv, encoder: PixelEncoder) -> None:
        self.encoder = encoder
        super().__init__(venv, gym.spaces.Box(-np.inf, np.inf, (encoder.repr_dim,), np.float32))

    def reset(self) -> np.ndarray:
        return self.features(np.asarray(self.venv.reset()))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        observation, reward, done, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = self.features(info["terminal_observation"][None])[0]
        return self.features(np.asarray(observation)), reward, done, infos

    @torch.no_grad()
    def features(self, observation: np.ndarray) -> np.ndarray:
        return self.encoder(torch.from_numpy(observation)).numpy()


class GridVecEnv(VecEnv):
    """`VectorGridWorld` by the protocol of Stable-Baselines3.

    Args:
        world: the grid worlds.
        oracle: observe the true state, one-hot, instead of pixels.
    """

    def __init__(self, world: VectorGridWorld, oracle: bool = False) -> None:
        self.world = world
        self.one_hot = np.eye(len(world.table.states), dtype=np.float32) if oracle else None
        space = gym.spaces.Box(0, 1, (len(world.table.states),), np.float32) if oracle else world.observation_space
        super().__init__(world.num_envs, space, world.action_space)
        self.actions = np.zeros(world.num_envs, np.int64)

    def observe(self) -> np.ndarray:
        return self.world.observe() if self.one_hot is None else self.one_hot[self.world.state]

    def reset(self) -> np.ndarray:
        self.world.reset()
        return self.observe()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        reward, terminated, truncated = self.world.step(self.actions)
        # The time limit is a part of this task: 12 moves, and no reward after; so values are not bootstrapped there.
        infos: list[dict] = [{} for _ in range(self.num_envs)]
        return self.observe(), reward, terminated | truncated, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.world, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


@dataclass
class Schedule:
    """How long PPO learns, and how often it is scored.

    Attributes:
        steps: environment steps in all.
        evaluations: how many, evenly spread, the last at the end.
        episodes: how many in each evaluation.
    """

    steps: int
    evaluations: int = 10
    episodes: int = 200


class _Scores(BaseCallback):
    def __init__(self, schedule: Schedule, evaluate: Callable[[PPO], float]) -> None:
        super().__init__()
        self.evaluate, self.every = evaluate, schedule.steps / schedule.evaluations
        self.curve: Curve = []

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.every * len(self.curve):
            self.curve.append((self.num_timesteps, self.evaluate(self.model)))  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return True


def mean_return(venv: VecEnv, act: Callable[[np.ndarray], np.ndarray], episodes: int) -> float:
    """The mean return of at least `episodes` episodes, as many in each environment, or short ones would count more."""
    each = -(-episodes // venv.num_envs)
    returns, played = np.zeros(venv.num_envs), np.zeros(venv.num_envs, int)
    observation = np.asarray(venv.reset())
    while (playing := played < each).any():
        after, reward, done, _ = venv.step(act(observation))
        observation = np.asarray(after)
        returns += reward * playing
        played += done
    return float(returns.mean() / each)


def learn(venv: VecEnv, test_venv: VecEnv, schedule: Schedule, seed: int) -> Curve:
    """PPO on `venv`, scored on `test_venv` with its best actions; both are standardised by what `venv` has shown.

    Some encoders' features differ little between states, others' much. Without standardisation, and with rollouts half
    as long, some policies stay in a local optimum (temporal contrast) or never move (random), depending on the seed.

    Args:
        venv, test_venv: of features.
        schedule: how long.
        seed: of PPO.

    Returns:
        (environment steps, mean return), from before the first update to after the last.
    """
    test_venv = VecNormalize(test_venv, training=False, norm_reward=False)
    venv = VecNormalize(venv, norm_reward=False)
    test_venv.obs_rms = venv.obs_rms
    model = PPO(
        "MlpPolicy",
        venv,
        n_steps=2048 // venv.num_envs,
        batch_size=256,
        n_epochs=6,
        learning_rate=lambda left: 1e-3 * left,
        gamma=0.95,
        ent_coef=0.02,
        policy_kwargs=dict(net_arch=[128, 128]),
        device="cpu",
        seed=seed,
    )
    act = lambda observation: model.predict(observation, deterministic=True)[0]  # noqa: E731
    scores = _Scores(schedule, lambda _: mean_return(test_venv, act, schedule.episodes))
    model.learn(schedule.steps, callback=scores)
    return [*scores.curve, (model.num_timesteps, mean_return(test_venv, act, schedule.episodes))]
