"""TorchRL's DQN on the pixels of a grid world, with an objective beside its loss:

    python -m rlrep.experiments.plugins.torchrl_dqn --objective taco
    python -m rlrep.experiments.plugins.torchrl_dqn --objective none

The objective needs only the lines marked with (*); everything else is TorchRL as in its tutorials.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SliceSampler
from torchrl.envs import GymWrapper
from torchrl.modules import EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate
from torchrl.record.loggers import CSVLogger

import rlrep.envs  # noqa: F401, which registers the environments
from rlrep import OBJECTIVES, PixelEncoder, RandomShift, make_objective
from rlrep.integrations.torchrl import ObjectiveLoss
from rlrep.registry import parameters_of

HORIZON = 3


def main(arguments: Sequence[str] | None = None) -> float:
    """Trains, and returns the mean return of the last episodes."""
    parser = argparse.ArgumentParser(prog="python -m rlrep.experiments.plugins.torchrl_dqn", description=__doc__)
    parser.add_argument("--objective", default="taco", choices=["none", *OBJECTIVES])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="runs/plugins/torchrl_dqn")
    parser.add_argument("--wandb", choices=["online", "offline"], help="log to Weights & Biases")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    env = GymWrapper(gym.make("rlrep/gridworld-v0"), categorical_action_encoding=True)
    env.set_seed(options.seed)
    encoder = PixelEncoder(env.observation_spec["observation"].shape, channels=16, strides=(4, 2, 1), out_dim=128)
    network = nn.Sequential(encoder, nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, env.action_spec.n))
    policy = QValueActor(network, spec=env.action_spec, in_keys=["observation"])
    greedy = EGreedyModule(env.action_spec, eps_init=1.0, eps_end=0.05, annealing_num_steps=options.steps // 2)
    collector = Collector(
        env, TensorDictSequential(policy, greedy), frames_per_batch=64, total_frames=options.steps, init_random_frames=0
    )
    replay = ReplayBuffer(
        storage=LazyTensorStorage(20_000),
        sampler=SliceSampler(slice_len=HORIZON, end_key=("next", "done"), strict_length=True),
        batch_size=options.batch_size,
    )
    loss = DQNLoss(policy, action_space="categorical", delay_value=True, double_dqn=True)
    loss.make_value_estimator(gamma=0.95)
    target = SoftUpdate(loss, tau=0.02)

    parameters = set(loss.parameters())
    auxiliary = None
    if options.objective != "none":
        looks_ahead = {"horizon": HORIZON} if "horizon" in parameters_of(OBJECTIVES[options.objective]) else {}
        actions = gym.spaces.Discrete(env.action_spec.n)
        objective = make_objective(options.objective, encoder, actions, augment=RandomShift(0), **looks_ahead)  # (*)
        auxiliary = ObjectiveLoss(objective, slice_len=HORIZON, pixels="observation")  # (*)
        parameters |= set(auxiliary.parameters())  # (*) the encoder's are in both
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=5e-4)

    name = f"{options.objective}-seed_{options.seed}"
    logger: Any = CSVLogger(name, options.out)
    if options.wandb:
        from torchrl.record.loggers.wandb import WandbLogger

        logger = WandbLogger(name, options.wandb == "offline", save_dir=options.out, project="rlrep")
    returns: list[float] = []
    running = 0.0
    for frames, data in enumerate(collector, 1):
        for reward, done in zip(data["next", "reward"].view(-1), data["next", "done"].view(-1), strict=True):
            running += float(reward)
            if done:
                returns.append(running)
                running = 0.0
        replay.extend(data)
        greedy.step(data.numel())
        if len(replay) < 1_000:
            continue
        for _ in range(8):
            batch = replay.sample()
            losses = loss(batch)
            if auxiliary is not None:
                losses.update(auxiliary(batch))  # (*)
            total = sum(value for name, value in losses.items() if name.startswith("loss"))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            target.step()
            if auxiliary is not None:
                auxiliary.after_step()  # (*) moves momentum copies
        if frames % 16 == 0:
            recent = sum(returns[-200:]) / max(len(returns[-200:]), 1)
            logger.log_scalar("episode_return", recent, 64 * frames)
            logger.log_scalar("loss", total.item(), 64 * frames)
            print(f"{64 * frames} steps: mean return of the last {len(returns[-200:])} episodes {recent:.2f}")
    collector.shutdown()
    return sum(returns[-200:]) / max(len(returns[-200:]), 1)


if __name__ == "__main__":
    main()
