"""MR.Q (arXiv 2501.16142) from pixels, after the paper; with options for what DR.Q (arXiv 2605.11711) changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import LatentModel, Objective, PixelEncoder, Window
from rlrep.agents.base import Agent, Metrics, Replay, Space, mean_over_ranks
from rlrep.arguments import checked_numbers
from rlrep.bounds import Count, NonNegative, Rate
from rlrep.encoders import xavier_init
from rlrep.kept import KeptEmbeddings
from rlrep.momentum import ema_, momentum_copy
from rlrep.objectives.latent_model import normalized_mlp
from rlrep.optimizers import adam

GUMBEL_TEMPERATURE = 10.0
PRIORITY_POWER = 0.4  # α of LAP
SMALLEST_SCALE = 1e-8


class Value(nn.Module):
    """Q₁ and Q₂ of state–action embeddings (B, D), (B, 1) each."""

    def __init__(self, state_action_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.q1, self.q2 = (normalized_mlp(state_action_dim, [hidden_dim] * 3, 1, nn.ELU) for _ in range(2))
        self.apply(xavier_init)

    def forward(self, state_action: Tensor) -> tuple[Tensor, Tensor]:
        return self.q1(state_action), self.q2(state_action)


class MRQ(Agent):
    """MR.Q: a `LatentModel` trains the embeddings in bursts; between bursts, value and policy learn from them.

    With f and g the model's embeddings of a state and of a state and action, f̄, ḡ, Q̄, π̄ copies that are fixed
    between bursts, and r̄, r̄' the mean |reward| of the replay at the last burst and at the previous one, an update is

    - value: mean over k = 1, 2 of the smooth L1 of Q_k(g(f(s), a)) - y, with
      y = (Σ γⁱ r + γⁿ r̄' min_k Q̄_k(ḡ(f̄(s'), a'))) / r̄ and a' = clip(π̄(f̄(s')) + ε), f and g without gradient;
    - policy: -mean_k Q_k(g(f(s), π(f(s)))) + λ x², x the policy's output before its tanh;
    - priority of each row: max(1, max_k |Q_k - y|)^0.4 (LAP, arXiv 2007.06049).

    Every `target_every` updates, starting with the first, the copies are renewed, and then the same number of steps on
    the objectives' losses follow in a row. Other objectives are added to the model's loss. Continuous actions are
    tanh(x). Discrete actions are vectors: Gumbel-softmax(x) for the policy's gradient, and the one-hot vector of the
    largest entry for acting.

    Args:
        encoder: the shared encoder; for the paper's initial weights, ``encoder.apply(rlrep.encoders.xavier_init)``.
        action_space: ``Box`` of one axis with values in [-1, 1], or ``Discrete``.
        objectives: built around `encoder`, one of them a `LatentModel`.
        lr: step size for encoder, model and other objectives; 3e-4 in DR.Q.
        value_lr: step size for value and policy.
        weight_decay: of AdamW; 0.01 in DR.Q.
        hidden_dim: width of the value's and policy's hidden layers.
        target_every: updates between two bursts, and steps of a burst.
        noise: standard deviation of ε and of the exploration, for actions in [-1, 1]; half of it for discrete actions.
        noise_clip: bound of ε, halved in the same way.
        pre_activation_weight: λ; 0 in DR.Q.
        value_grad_clip: bound of the norm of the value's gradient; 0 for none, as in DR.Q.
        scale_rewards: divide by r̄; False in DR.Q.
        prioritized: sample by priority, which needs a replay with ``prioritized=True``.
        fade: weight of a row after n further ones, max(0.1, fadeⁿ); 0.9999 in DR.Q, 1 for none.
        num_expl_steps, update_every_steps, options: of `Agent`.

    Raises:
        ValueError: for impossible numbers, and without a `LatentModel`.
    """

    takes_choices = True
    waits_for_exploration = True
    own_objectives = ("latent_model",)
    initial_weights = staticmethod(xavier_init)

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Sequence[Objective] = (),
        *,
        lr: float = 1e-4,
        value_lr: float = 3e-4,
        weight_decay: NonNegative = 1e-4,
        hidden_dim: int = 512,
        target_every: int = 250,
        noise: NonNegative = 0.2,
        noise_clip: NonNegative = 0.3,
        pre_activation_weight: NonNegative = 1e-5,
        value_grad_clip: NonNegative = 20.0,
        scale_rewards: bool = True,
        prioritized: bool = True,
        fade: Rate = 1.0,
        num_expl_steps: Count = 10_000,
        update_every_steps: float = 1,
        **options: Any,
    ) -> None:
        options |= dict(lr=lr, num_expl_steps=num_expl_steps, update_every_steps=update_every_steps)
        super().__init__(encoder, action_space, objectives, **options)
        if self.joint:
            raise ValueError(
                "MRQ trains its objectives in bursts, apart from the value: leave out joint (update=joint)"
            )
        if fade < 1 and not prioritized:
            raise ValueError("fade is a part of the priorities: it needs prioritized=true")
        self.model = _latent_model(objectives)
        self.model.moves_copies = False  # each burst renews them
        self.target_every, self.updates = target_every, 0
        scale = 0.5 if self.discrete else 1.0
        self.noise, self.noise_clip = noise * scale, noise_clip * scale
        self.pre_activation_weight, self.value_grad_clip = pre_activation_weight, value_grad_clip
        self.scale_rewards, self.prioritized, self.fade = scale_rewards, prioritized, fade
        self.same_every_update = self.model.same_every_update
        self.window = self.own_window(self.n_step)
        self.shared_window = self.objectives.window.with_n_step(self.n_step)

        state_action_dim = self.model.head.in_features
        self.value = Value(state_action_dim, hidden_dim)
        self.policy = normalized_mlp(self.model.state_dim, [hidden_dim] * 2, self.action_dim, nn.ReLU)
        self.policy.apply(xavier_init)
        self.value_target, self.policy_target = momentum_copy(self.value), momentum_copy(self.policy)
        self.state_action_target = momentum_copy(self.model.state_action)
        self.kept_states = KeptEmbeddings(self.model.kept_targets.size, self.model.state_dim)
        self.register_buffer("reward_scale", torch.ones(()))
        self.register_buffer("target_reward_scale", torch.ones(()))
        self.reward_scale: Tensor
        self.target_reward_scale: Tensor
        self.to(self.device)

        decayed: list[tuple[str, Iterable[nn.Parameter], float]] = [
            ("objectives", self.objectives.parameters(), lr),
            ("value", self.value.parameters(), value_lr),
            ("policy", self.policy.parameters(), value_lr),
        ]
        self.optimizers = {name: adam(parameters, step, weight_decay) for name, parameters, step in decayed}

    def own_window(self, n_step: int) -> Window:
        return Window(n_step, names=_latent_model(self.objectives).window.names)

    @property
    def replay_options(self) -> dict[str, Any]:
        return {"prioritized": True, "fade": self.fade} if self.prioritized else {}

    def activate(self, raw: Tensor) -> Tensor:
        """Converts the policy's output (B, A) to actions."""
        return F.gumbel_softmax(raw, tau=GUMBEL_TEMPERATURE) if self.discrete else torch.tanh(raw)

    def perturbed(self, action: Tensor, bound: float | None = None) -> Tensor:
        """Actions (B, A) with noise clipped to ±`bound`, in the environment's range."""
        noise = torch.randn_like(action) * self.noise
        action = action + (noise if bound is None else noise.clamp(-bound, bound))
        return F.one_hot(action.argmax(1), self.action_dim).float() if self.discrete else action.clamp(-1, 1)

    def select_action(self, features: Tensor, step: int, eval_mode: bool) -> Tensor:
        raw = self.policy(self.model.state_projection(features))
        if self.discrete:
            return (raw if eval_mode else self.perturbed(self.activate(raw))).argmax(1)
        return torch.tanh(raw) if eval_mode else self.perturbed(torch.tanh(raw))

    def update(self, replay: Replay, step: int) -> Metrics:
        metrics = {}
        if self.updates % self.target_every == 0:
            self.renew_targets(replay)
            metrics = self.burst(replay, step)
        self.updates += 1
        batch = replay.sample(self.batch_size, self.window)
        metrics |= self.learn(batch, step)
        priority = metrics.pop("priority")
        if self.prioritized:
            replay.update_priority(batch["index"], priority)
        return metrics

    def renew_targets(self, replay: Replay) -> None:
        """f̄, ḡ, Q̄, π̄ ← f, g, Q, π; r̄' ← r̄, and r̄ is measured again."""
        self.model.restart_copies()
        self.kept_states.forget()
        ema_(self.state_action_target, self.model.state_action, 1.0)
        ema_(self.value_target, self.value, 1.0)
        ema_(self.policy_target, self.policy, 1.0)
        if self.scale_rewards:
            self.target_reward_scale.copy_(self.reward_scale)
            size = mean_over_ranks(replay.mean_absolute_reward(), self.device)
            if size:  # all rewards zero so far: the paper's r̄ of 1e-8 would multiply the first targets by 1e8
                self.reward_scale.fill_(max(size, SMALLEST_SCALE))

    def burst(self, replay: Replay, step: int) -> Metrics:
        """Makes `target_every` steps on the objectives' losses; returns the mean losses."""
        sums: Metrics = {}
        for _ in range(self.target_every):
            shared = replay.sample(self.batch_size, self.shared_window)
            metrics = self.step_objectives(self.objectives_batches(shared, replay), step)
            sums = {name: value + sums[name] if sums else value.clone() for name, value in metrics.items()}
        return {name: value / self.target_every for name, value in sums.items()}

    def learn(self, batch: TensorDict, step: int) -> Metrics:
        state = self.kept_states.of(batch["observation"], batch.get(("name", "0"), None), self.model.embed)
        next_name = batch.get(("name", str(self.n_step)), None)
        next_state = self.model.embed_target(batch["next", "observation"], next_name)
        metrics = self.update_value(batch, state, next_state)
        return metrics | self.update_policy(state)

    def update_value(self, batch: TensorDict, state: Tensor, next_state: Tensor) -> Metrics:
        """One step of the value on embeddings (B, D); the metric `priority` (B,) is that of each row."""
        with torch.no_grad():
            next_action = self.perturbed(self.activate(self.policy_target(next_state)), self.noise_clip)
            next_value = torch.min(*self.value_target(self.state_action_target(next_state, next_action)))
            target = batch["next", "reward"] + batch["discount"] * self.target_reward_scale * next_value
            target = target / self.reward_scale
            state_action = self.model.state_action(state, self.model.as_vector(batch["action"]))
        q1, q2 = self.value(state_action)
        loss = 0.5 * (F.smooth_l1_loss(q1, target) + F.smooth_l1_loss(q2, target))
        self.step("value", loss, max_norm=self.value_grad_clip)
        error = torch.max((q1 - target).detach().abs(), (q2 - target).detach().abs())
        return {
            "value_loss": loss.detach(),
            "value_q1": q1.detach().mean(),
            "value_q2": q2.detach().mean(),
            "value_target": target.mean(),
            "reward_scale": self.reward_scale.clone(),
            "batch_reward": batch["next", "reward"].mean(),
            "priority": error.clamp(min=1).pow(PRIORITY_POWER),
        }

    def update_policy(self, state: Tensor) -> Metrics:
        """One step of the policy on embeddings (B, D)."""
        raw = self.policy(state)
        q1, q2 = self.value(self.model.state_action(state, self.activate(raw)))
        loss = -0.5 * (q1 + q2).mean() + self.pre_activation_weight * raw.square().mean()
        self.step("policy", loss)
        return {"policy_loss": loss.detach()}

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "updates": self.updates}

    def set_extra_state(self, state: Any) -> None:
        super().set_extra_state(state)
        self.updates = state["updates"]


def _latent_model(objectives: Iterable[Objective]) -> LatentModel:
    for objective in objectives:
        if isinstance(objective, LatentModel):
            return objective
    raise ValueError("MRQ learns on the embeddings of a LatentModel: give one among its objectives")
