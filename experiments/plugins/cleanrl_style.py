"""SAC from pixels with DrQ's random shifts and TACO, in one file in CleanRL's style.

    python -m rlrep.experiments.plugins.cleanrl_style --objective taco --seed 1
    python -m rlrep.experiments.plugins.cleanrl_style --objective none --seed 1

The encoder, the shift, the replay and the objective come from `rlrep`; the agent is in this file.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rlrep.envs  # noqa: F401, which registers the environments
from rlrep import OBJECTIVES, PixelEncoder, RandomShift, ReplayBuffer, Window, make_objective
from rlrep.registry import parameters_of

FEATURES = 50


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--task", default="cheetah_run")
    parser.add_argument("--objective", default="taco", choices=["none", *OBJECTIVES])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--steps", type=int, default=6_000, help="of the agent, each `action_repeat` of the simulator")
    parser.add_argument("--learning-starts", type=int, default=500)
    parser.add_argument("--action-repeat", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=40)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--horizon", type=int, default=3, help="K of the objective")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--tau", type=float, default=0.01)
    parser.add_argument("--out", type=Path, default=Path("runs/plugins/cleanrl_style"))
    parser.add_argument("--wandb", choices=["online", "offline"], help="log to Weights & Biases")
    return parser.parse_args(arguments)


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, out in itertools.pairwise(sizes):
        layers += [nn.Linear(width, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Actor(nn.Module):
    def __init__(self, repr_dim: int, action_dim: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(repr_dim, FEATURES), nn.LayerNorm(FEATURES), nn.Tanh())
        self.head = mlp(FEATURES, 256, 256, 2 * action_dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A sampled action, its log-density, and the best action."""
        mean, log_std = self.head(self.trunk(features)).chunk(2, dim=1)
        normal = torch.distributions.Normal(mean, (-5 + 3.5 * (torch.tanh(log_std) + 1)).exp())
        raw = normal.rsample()
        squashing = 2 * (np.log(2) - raw - F.softplus(-2 * raw))
        return torch.tanh(raw), (normal.log_prob(raw) - squashing).sum(1, keepdim=True), torch.tanh(mean)


class Critic(nn.Module):
    def __init__(self, repr_dim: int, action_dim: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(repr_dim, FEATURES), nn.LayerNorm(FEATURES), nn.Tanh())
        self.q1, self.q2 = (mlp(FEATURES + action_dim, 256, 256, 1) for _ in range(2))

    def forward(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([self.trunk(features), action], 1)
        return self.q1(x), self.q2(x)


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Trains, and returns the returns of the training's episodes."""
    args = parse(arguments)
    torch.manual_seed(args.seed)
    env = gym.make(f"rlrep/{args.task}-v0", action_repeat=args.action_repeat, image_size=args.image_size)
    shape, action_space = env.observation_space.shape, env.action_space
    assert shape is not None and action_space.shape is not None
    action_dim = action_space.shape[0]
    action_space.seed(args.seed)
    folder = args.out / args.task / args.objective / f"seed_{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    run: Any = None
    if args.wandb:
        import wandb

        run = wandb.init(project="rlrep", mode=args.wandb, dir=folder, config=vars(args), name=args.objective)

    shift = RandomShift(2)
    encoder = PixelEncoder(shape, channels=args.channels, strides=(2, 2, 1, 1)).to(args.device)
    actor, critic, target = (cls(encoder.repr_dim, action_dim).to(args.device) for cls in (Actor, Critic, Critic))
    target.load_state_dict(critic.state_dict())
    target.requires_grad_(False)
    log_alpha = torch.full((), float(np.log(0.1)), device=args.device, requires_grad=True)
    critic_optimizer = torch.optim.Adam([*encoder.parameters(), *critic.parameters()], args.lr)
    actor_optimizer = torch.optim.Adam(actor.parameters(), args.lr)
    alpha_optimizer = torch.optim.Adam([log_alpha], args.lr)

    # The objective: a module around the same encoder, an optimizer, and a window with all that agent and objective
    # read.
    objective, window = None, Window(n_step=1)
    if args.objective != "none":
        options = {"horizon": args.horizon} if "horizon" in parameters_of(OBJECTIVES[args.objective]) else {}
        objective = make_objective(args.objective, encoder, action_space, augment=shift, **options).to(args.device)
        objective_optimizer = torch.optim.Adam(objective.parameters(), args.lr)
        window = window.join(objective.window)
    replay = ReplayBuffer(shape, action_space, args.steps, n_step=1, discount=args.gamma, device=args.device)

    rows: list[dict[str, float]] = []
    metrics: dict[str, Tensor] = {}
    episode_return, started = 0.0, time.time()
    observation, _ = env.reset(seed=args.seed)
    for step in range(1, args.steps + 1):
        if step < args.learning_starts:
            action = action_space.sample()
        else:
            with torch.no_grad():
                action = actor(encoder(torch.as_tensor(observation, device=args.device)[None]))[0][0].cpu().numpy()
        next_observation, reward, terminated, truncated, _ = env.step(action)
        replay.add(
            observation=observation,
            action=action,
            reward=float(reward),
            next_observation=next_observation,
            terminated=terminated,
            truncated=truncated,
        )
        observation, episode_return = next_observation, episode_return + float(reward)
        if terminated or truncated:
            rows.append({"step": step, "episode_return": episode_return, "seconds": time.time() - started})
            rows[-1] |= {name: float(value) for name, value in metrics.items()}
            print(f"{step} steps, {rows[-1]['seconds']:.0f} s: return {episode_return:.1f}")
            if run is not None:
                run.log(rows[-1])
            (observation, _), episode_return = env.reset(), 0.0
        if step < args.learning_starts:
            continue

        batch = replay.sample(args.batch_size, window)
        features = encoder(shift(batch["observation"]))
        alpha = log_alpha.exp().detach()
        with torch.no_grad():
            next_features = encoder(shift(batch["next", "observation"]))
            next_action, log_density, _ = actor(next_features)
            value = torch.min(*target(next_features, next_action)) - alpha * log_density
            goal = batch["next", "reward"] + batch["discount"] * value
        q1, q2 = critic(features, batch["action"])
        critic_loss = F.mse_loss(q1, goal) + F.mse_loss(q2, goal)
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()

        new_action, log_density, _ = actor(features.detach())
        actor_loss = (alpha * log_density - torch.min(*critic(features.detach(), new_action))).mean()
        actor_optimizer.zero_grad()
        actor_loss.backward()
        actor_optimizer.step()
        alpha_optimizer.zero_grad()
        (log_alpha.exp() * (action_dim - log_density.detach().mean())).backward()
        alpha_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(critic.parameters()), args.tau)
        metrics = {"critic_loss": critic_loss.detach(), "actor_loss": actor_loss.detach(), "alpha": alpha}

        if objective is not None:  # a step on the objective, on the same batch
            losses = objective(batch)
            objective_optimizer.zero_grad()
            sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
            objective_optimizer.step()
            objective.after_step()
            metrics |= {name: value.detach() for name, value in losses.items()}

    env.close()
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    torch.save({"encoder": encoder.state_dict(), "actor": actor.state_dict()}, folder / "agent.pt")
    if run is not None:
        run.finish()
    return [row["episode_return"] for row in rows]


if __name__ == "__main__":
    main()
