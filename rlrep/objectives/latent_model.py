"""A latent forward model as a representation loss: MR.Q's (arXiv 2501.16142), with DR.Q's contrast (2605.11711)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrep.actions import action_spec, check_range
from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Count, Momentum, NonNegative
from rlrep.contrast import info_nce
from rlrep.encoders import FeatureLinear, PixelEncoder, xavier_init
from rlrep.kept import KeptEmbeddings
from rlrep.objectives.base import Objective
from rlrep.window import Window

BINS = 65
LARGEST = 10.0  # the bins are at symexp of an even grid on ±LARGEST


def two_hot(value: Tensor, bins: Tensor) -> Tensor:
    """Weights of the two bins around each value, linear between the bins, with sum 1.

    Args:
        value: (…,) float; values beyond the outer bins are clipped to them.
        bins: (N,) ascending.

    Returns:
        (…, N) float.
    """
    value = value.clamp(bins[0], bins[-1])
    upper = torch.searchsorted(bins, value.contiguous()).clamp(1, len(bins) - 1)
    share = (value - bins[upper - 1]) / (bins[upper] - bins[upper - 1])
    weights = torch.zeros(*value.shape, len(bins), device=value.device)
    weights.scatter_(-1, (upper - 1)[..., None], (1 - share)[..., None])
    return weights.scatter_(-1, upper[..., None], share[..., None])


class StateActionEncoder(nn.Module):
    """g: maps a state's embedding (B, D) and an action (B, A) to their joint embedding (B, `out_dim`)."""

    def __init__(self, state_dim: int, action_dim: int, latent_action_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.action = nn.Linear(action_dim, latent_action_dim)
        self.layers = normalized_mlp(state_dim + latent_action_dim, [hidden_dim, hidden_dim], out_dim, nn.ELU)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.layers(torch.cat([state, F.elu(self.action(action))], dim=1))


def normalized_mlp(in_dim: int, hidden_dims: list[int], out_dim: int, activation: type[nn.Module]) -> nn.Sequential:
    """Linear → LayerNorm → activation for each hidden layer, then a linear one; (B, in_dim) to (B, out_dim)."""
    layers: list[nn.Module] = []
    for hidden_dim in hidden_dims:
        layers += [nn.Linear(in_dim, hidden_dim), nn.LayerNorm(hidden_dim, elementwise_affine=False), activation()]
        in_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(in_dim, out_dim))


class LatentModel(Objective):
    """Predicts the target encoder's embeddings, the rewards and the end of the next K steps, unrolled in latent space.

    With embeddings z = f(x), ẑ_0 = z_t and (ẑ_k+1, r̂_k, d̂_k) = head(g(ẑ_k, a_t+k)), the target copy f̄, and m_k = 0
    after a real end (the encoder's loss of MR.Q's paper; the last term is DR.Q's):

    - ``loss_model_prediction`` = λ Σ_k m_k |ẑ_k+1 - f̄(x_t+k+1)|² / D;
    - ``loss_model_reward`` = ρ Σ_k m_k CE(r̂_k, two-hot of r_t+k over 65 bins, which are even under a symmetric
      logarithm);
    - ``loss_model_termination`` = δ Σ_k m_k (d̂_k - d_t+k)², once a real end has been seen;
    - ``loss_model_contrast`` = κ Σ_k m_k InfoNCE of cos(ẑ_k+1, f̄(x_t+k+1)) / τ, the other rows as negatives.

    Each is a mean over the batch. The gradient goes through the whole unroll. With ρ = δ = 0 it reads no rewards, and
    can be pre-trained on frames and actions; m_k is then 1, and after an end the last observation stays. MR.Q's value
    and policy read `embed` and `state_action`; with other agents it is a loss on their encoder, like other objectives.

    Args:
        encoder: the shared encoder; f is the encoder and one layer of size `state_dim`.
        action_space: Gymnasium ``Box`` (one axis) or ``Discrete``, which is read as one-hot vectors.
        horizon: K ≥ 1.
        prediction: λ ≥ 0; 0 leaves the loss out.
        reward: ρ ≥ 0.
        termination: δ ≥ 0.
        contrast: κ ≥ 0; 0.1 in DR.Q.
        temperature: τ > 0 of the contrast.
        state_dim: D, size of an embedding.
        state_action_dim: size of g's output.
        latent_action_dim: size of an embedded action.
        hidden_dim: width of g's two hidden layers; 750 in DR.Q.
        momentum: m in [0, 1) of the target: target ← m target + (1 - m) online, after each step. MR.Q copies it
            between bursts instead.
        keep: size of a cache of target embeddings, 4·D bytes each, valid until the targets move; 0 for none. It saves
            encoding an observation again, which helps if the targets stay fixed for long, as in MR.Q. MR.Q also caches
            as many embeddings of its states. A cached observation keeps one shift until the encoder moves, instead of a
            new shift in each batch.
        augment: the image augmentation; a random shift by 4 pixels if None. Every image has its own.

    Raises:
        ValueError: for numbers out of range, and if no loss is left.
    """

    needs_actions = True

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any,
        horizon: int = 5,
        *,
        prediction: NonNegative = 1.0,
        reward: NonNegative = 0.1,
        termination: NonNegative = 0.1,
        contrast: NonNegative = 0.0,
        temperature: float = 0.1,
        state_dim: int = 512,
        state_action_dim: int = 512,
        latent_action_dim: int = 256,
        hidden_dim: int = 512,
        momentum: Momentum = 0.99,
        keep: Count = 0,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        weights = dict(prediction=prediction, reward=reward, termination=termination, contrast=contrast)
        self.weights = {name: weight for name, weight in weights.items() if weight}
        if not self.weights:
            raise ValueError(f"LatentModel has no loss left: one of {', '.join(weights)} must be greater than 0")
        self.horizon = horizon
        self.temperature = temperature
        reads_rewards = bool(reward or termination)
        ahead = tuple(range(1, horizon + 1))
        rewards, self.same_every_update = horizon if reads_rewards else 0, not keep
        self.window = Window(observations=ahead, actions=horizon, rewards=rewards, names=bool(keep))
        self.in_keys = ["observation", ("sequence", "observation"), "action_sequence"]
        self.in_keys += [("sequence", "name")] if keep else []
        if reads_rewards:
            self.in_keys += [("sequence", name) for name in ("reward", "terminated", "valid")]
        self.out_keys = [f"loss_model_{name}" for name in self.weights]
        self.out_keys += ["model_contrast_accuracy"] if contrast else []

        self.action_dim, self.discrete = action_spec(action_space)
        self.state_dim = state_dim
        layer = FeatureLinear(encoder.repr_dim, state_dim)
        self.state_projection = nn.Sequential(layer, nn.LayerNorm(state_dim, elementwise_affine=False), nn.ELU())
        self.state_action = StateActionEncoder(
            state_dim, self.action_dim, latent_action_dim, hidden_dim, state_action_dim
        )
        self.head = nn.Linear(state_action_dim, 1 + state_dim + BINS)  # termination, next embedding, reward
        for part in (self.state_projection, self.state_action, self.head):
            part.apply(xavier_init)
        self.target_encoder = self.momentum_copy(encoder, momentum)
        self.target_projection = self.momentum_copy(self.state_projection, momentum)
        self.kept_targets = KeptEmbeddings(keep, state_dim)
        grid = torch.linspace(-LARGEST, LARGEST, BINS)
        self.register_buffer("bins", grid.sign() * grid.abs().expm1())
        self.register_buffer("end_seen", torch.zeros(()))
        self.told_of_rewards = False
        self.bins: Tensor
        self.end_seen: Tensor

    def embed(self, observation: Tensor, offset: int | None = None) -> Tensor:
        """f of an augmented view: (B, C, H, W) uint8 to (B, D); `offset` as in `view`."""
        return self.state_projection(self.view(observation, offset))

    @torch.no_grad()
    def embed_target(self, observation: Tensor, name: Tensor | None = None) -> Tensor:
        """f̄ of an augmented view: (B, C, H, W) uint8 to (B, D); with names (B,), from the cache where possible."""
        return self.kept_targets.of(
            observation, name, lambda pixels: self.target_projection(self.view(pixels, encoder=self.target_encoder))
        )

    def after_step(self) -> None:
        super().after_step()
        if self.moves_copies:
            self.kept_targets.forget()

    def restart_copies(self) -> None:
        super().restart_copies()
        self.kept_targets.forget()

    def as_vector(self, action: Tensor) -> Tensor:
        """Actions (…, A) float32 unchanged, and discrete ones (…,) as one-hot vectors (…, A)."""
        return F.one_hot(action.long(), self.action_dim).float() if self.discrete else action.float()

    def predict(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From embeddings (B, D) and action vectors (B, A), the next embedding (B, D), reward logits (B, 65) and the
        termination (B, 1)."""
        termination, following, reward = self.head(self.state_action(state, action)).split([1, self.state_dim, BINS], 1)
        return following, reward, termination

    def losses(  # type: ignore[override]
        self,
        observation: Tensor,
        following: Tensor,
        action_sequence: Tensor,
        *rest: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of observations (B, C, H, W), the K next ones (B, K, C, H, W), actions (B, K, A) or (B, K), with
        `keep` the names of the next ones (B, K), and for each step the reward, whether the episode really ended, and
        whether the step was taken, (B, K, 1)."""
        given = {key[1]: value for key, value in zip(self.in_keys[3:], rest, strict=True)}
        none = torch.zeros(len(observation), self.horizon, 1, device=observation.device)
        reward, terminated = given.get("reward", none), given.get("terminated", none.bool())
        valid = given.get("valid", none == 0)
        # A validation's names are of other data.
        names = given["name"].flatten() if "name" in given and self.training else None
        targets = self.embed_target(following.flatten(0, 1), names).view(len(observation), self.horizon, -1)
        if self.training:
            self.end_seen.copy_(torch.maximum(self.end_seen, terminated.any().float()))
        self._tell_of_rewards(reward)
        if not self.discrete:
            check_range(action_sequence)
        action = self.as_vector(action_sequence)
        state, steps = self.embed(observation, offset=0), []
        for k in range(self.horizon):
            steps.append(self.predict(state, action[:, k]))
            state = steps[-1][0]
        predicted, logits, ends = (torch.stack(values, 1) for values in zip(*steps, strict=True))
        each = self.step_losses(logits, ends, reward, terminated)
        each["prediction"] = (predicted - targets).square().mean(2)
        accuracy = None
        if "contrast" in self.weights:
            each["contrast"], accuracy = self.contrast(predicted, targets)
        out = {}
        for loss, weight in self.weights.items():
            out[f"loss_model_{loss}"] = weight * (each[loss] * valid[..., 0]).sum(1).mean()
        return out if accuracy is None else out | {"model_contrast_accuracy": accuracy}

    def step_losses(self, logits: Tensor, ends: Tensor, reward: Tensor, terminated: Tensor) -> dict[str, Tensor]:
        """Losses (B, K) of each unrolled step: reward logits (B, K, 65) and terminations (B, K, 1) against the data."""
        expected = two_hot(reward[..., 0], self.bins)
        return {
            "reward": -(expected * logits.log_softmax(2)).sum(2),
            "termination": (ends - terminated.float()).square()[..., 0] * (self.end_seen if self.training else 1.0),
        }

    def contrast(self, predicted: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """InfoNCE of each step of each row, (B, K), with the same step of the other rows, and the accuracy."""
        query, key = F.normalize(predicted, dim=2), F.normalize(targets, dim=2)
        steps = [
            info_nce(query[:, k], key[:, k], self.temperature, all_ranks=self.all_ranks, reduction="none")
            for k in range(self.horizon)
        ]
        losses, accuracies = zip(*steps, strict=True)
        return torch.stack(losses, 1), torch.stack(accuracies).mean()

    def _tell_of_rewards(self, reward: Tensor) -> None:
        """Warns once of rewards beyond the bins; checks only on the CPU, where the check makes nothing wait."""
        if self.told_of_rewards or reward.device.type != "cpu" or torch.compiler.is_compiling():
            return
        largest = reward.abs().max()
        if largest > self.bins[-1]:
            self.told_of_rewards = True
            warnings.warn(
                f"a reward of {largest:g} is beyond LatentModel's bins and counts as {self.bins[-1]:g}: scale the "
                f"rewards down",
                stacklevel=2,
            )
