"""Your own representation loss, in this project's agents and in Stable-Baselines3, without changes to either.

    python -m rlrep.experiments.plugins.own_objective

The method is the class and the line below it; README.md beside this file explains them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor

import rlrep.envs  # noqa: F401, which registers the environments
from rlrep import OBJECTIVES, Objective, PixelEncoder, RandomShift
from rlrep.encoders import mlp, orthogonal_init


class FrameOrder(Objective):
    """Tells which of two observations of an episode, k steps apart, came first.

    ``loss_order`` = -log σ(h(φ(x_t), φ(x_t+k))) - log σ(-h(φ(x_t+k), φ(x_t)))
    """

    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 3,
        hidden_dim: int = 256,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon = horizon
        self.in_keys = ["observation", "future_observation"]
        self.out_keys = ["loss_order", "order_accuracy"]
        self.head = mlp(2 * encoder.repr_dim, [hidden_dim], 1)
        self.head.apply(orthogonal_init)

    def losses(self, observation: Tensor, future_observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        early, late = self.encode(observation, offset=0), self.encode(future_observation, offset=self.horizon)
        forward, backward = (self.head(torch.cat(pair, 1)) for pair in ((early, late), (late, early)))
        right = torch.cat([forward > 0, backward < 0]).float().mean()
        return {"loss_order": (F.softplus(-forward) + F.softplus(backward)).mean(), "order_accuracy": right}


# A short name, in every process that has imported this file. The import path, which is
# rlrep.experiments.plugins.own_objective:FrameOrder here, needs no such line.
OBJECTIVES["frame_order"] = FrameOrder


def in_our_agent(env: gym.Env[Any, Any], steps: int) -> dict[str, float]:
    """The objective's loss and metrics after some updates of DrQ-v2 on random actions."""
    from rlrep import ReplayBuffer
    from rlrep.agents import make_agent

    shape = env.observation_space.shape
    assert shape is not None
    options: dict[str, Any] = {"encoder_options": {"channels": 16}, "hidden_dim": 256, "batch_size": 16}
    agent = make_agent("drqv2", shape, env.action_space, objectives=["frame_order"], **options)  # type: ignore[arg-type]
    replay = ReplayBuffer(shape, env.action_space, 10_000)
    observation, _ = env.reset(seed=0)
    metrics: dict[str, Tensor] = {}
    for step in range(steps + 32):
        action = env.action_space.sample()
        after, reward, terminated, truncated, _ = env.step(action)
        replay.add(
            observation=observation,
            action=action,
            reward=float(reward),
            next_observation=after,
            terminated=terminated,
            truncated=truncated,
        )
        observation = env.reset()[0] if terminated or truncated else after
        if step >= 32:
            metrics = agent.update(replay, step)
    return {name: metrics[name].item() for name in ("loss_order", "order_accuracy")}


def in_stable_baselines3(env: gym.Env[Any, Any], steps: int) -> dict[str, float]:
    """The objective's loss and metrics after some updates of SAC."""
    from stable_baselines3 import SAC

    from rlrep.integrations.sb3 import SequenceReplayBuffer, attach

    options: dict[str, Any] = dict(buffer_size=10_000, learning_starts=32, batch_size=16, seed=0)
    policy: dict[str, Any] = dict(features_extractor_kwargs=dict(channels=16))
    model = SAC("PixelPolicy", env, replay_buffer_class=SequenceReplayBuffer, policy_kwargs=policy, **options)
    attach(model, ["frame_order"])
    model.learn(steps + 32)
    return {name: model.logger.name_to_value[f"rlrep/{name}"] for name in ("loss_order", "order_accuracy")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlrep.experiments.plugins.own_objective")
    parser.add_argument("--steps", type=int, default=200, help="of each agent")
    steps = parser.parse_args(arguments).steps
    with gym.make("rlrep/cartpole_swingup-v0", image_size=40, action_repeat=8) as env:
        for name, measured in (("DrQ-v2", in_our_agent), ("SB3's SAC", in_stable_baselines3)):
            values = ", ".join(f"{key} {value:.3f}" for key, value in measured(env, steps).items())
            print(f"{name} after {steps} updates: {values}")


if __name__ == "__main__":
    main()
