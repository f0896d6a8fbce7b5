"""Behaviour cloning on a frozen encoder from few demonstrations, to compare with PPO."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rlrep.encoders import mlp
from rlrep.experiments.video_study.domain import Settings
from rlrep.experiments.video_study.ppo import mean_return
from rlrep.probe import standardised

DEMONSTRATIONS = (4, 16, 64)  # episodes
HIDDEN = [128, 128]  # as PPO's policy
LR, WEIGHT_DECAY = 1e-3, 1e-2


def cloned_return(make: Callable[[int], VecEnv], episodes: int, settings: Settings, seed: int) -> float:
    """The mean return of a policy that copies a player that knows the best action in each state.

    Args:
        make: takes a seed and returns environments whose observations are features, on grid worlds.
        episodes: demonstrations, at most one of each environment.
        settings: updates of a probe, and episodes of an evaluation.
        seed: of the demonstrations, the policy and the evaluation.
    """
    with closing(make(seed + 60_000)) as venv:
        features, action = demonstrations(venv, episodes)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        policy = mlp(features.shape[1], HIDDEN, venv.action_space.n)  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    (known,) = standardised(features)
    for _ in range(settings.probe_steps):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(policy(known), action).backward()
        optimizer.step()

    @torch.no_grad()
    def act(observation: np.ndarray) -> np.ndarray:
        return policy(standardised(features, torch.from_numpy(observation).float())[1]).argmax(1).numpy()

    with closing(make(seed + 50_000)) as test:
        return mean_return(test, act, settings.ppo.episodes)


def demonstrations(venv: VecEnv, episodes: int) -> tuple[Tensor, Tensor]:
    """Features (N, D) and the best actions (N,) of the first episode of each of the first `episodes` grid worlds."""
    world: Any = venv.unwrapped.world  # type: ignore[attr-defined]
    observation, playing = np.asarray(venv.reset()), np.arange(venv.num_envs) < episodes
    features, actions = [], []
    while playing.any():
        action = world.table.optimal_action(world.state)
        features.append(observation[playing])
        actions.append(action[playing])
        following, _, done, _ = venv.step(action)
        observation = np.asarray(following)
        playing = playing & ~done
    return torch.from_numpy(np.concatenate(features)).float(), torch.from_numpy(np.concatenate(actions))
