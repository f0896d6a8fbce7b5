"""`PixelEncoder` as the features extractor of Stable-Baselines3's policies, under the name "PixelPolicy"."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.encoders import PixelEncoder, orthogonal_init, projection


def pixel_space(space: spaces.Space, key: str | None = None) -> tuple[str | None, spaces.Box]:
    """The space of the pixels: (None, the space) or (the key, that part of a ``Dict`` space).

    Raises:
        ValueError: without pixels, (channels, height, width) uint8, or with several and no `key`.
    """

    def is_pixels(part: spaces.Space) -> bool:
        return isinstance(part, spaces.Box) and part.dtype == "uint8" and len(part.shape) == 3

    if not isinstance(space, spaces.Dict):
        if key is not None:
            raise ValueError(f"pixel_key={key!r} is for Dict observations, got {space}: leave it out")
        if isinstance(space, spaces.Box) and is_pixels(space):
            return None, space
        raise ValueError(
            f"objectives read pixels, uint8 in 0..255 of shape (height, width, channels) or (channels, height, width), "
            f"the environment shows {space}: leave pixels as they are drawn, or draw them with a wrapper such as "
            f"gymnasium.wrappers.AddRenderObservation"
        )
    found = [name for name, part in space.spaces.items() if is_pixels(part)]
    chosen = [name for name in found if key in (None, name)]
    if len(chosen) != 1:
        raise ValueError(
            f"of the observation's keys {', '.join(space.spaces)} these hold pixels (uint8 of three axes): "
            f"{', '.join(found) or 'none'}; choose one of them with policy_kwargs="
            f"dict(features_extractor_kwargs=dict(pixel_key=...)) and replay_buffer_kwargs=dict(pixel_key=...), "
            f"got {key!r}"
        )
    pixels = space.spaces[chosen[0]]
    assert isinstance(pixels, spaces.Box)
    return chosen[0], pixels


class PixelFeatures(BaseFeaturesExtractor):
    """A `PixelEncoder` and DrQ-v2's trunk on it: Linear → LayerNorm → Tanh. Objectives share `encoder`, not the trunk.

    Input: (B, C, H, W) pixels in 0..255, of any type, or a dictionary of them and vectors. Output: (B, features_dim)
    float32, followed by the unchanged vectors.

    Args:
        observation_space: of the environment, pixels as (C, H, W) uint8, or ``Dict``.
        features_dim: size of the trunk's output.
        channels, strides, precision: of a new `PixelEncoder`; None is its default, and float32.
        pixel_key: which key of ``Dict`` observations holds the pixels; None if only one does.
        encoder: a trained encoder to start from. It is copied and keeps its weights under every algorithm, and its own
            `channels`, `strides` and `precision`. To freeze it, call ``encoder.requires_grad_(False)`` before handing
            it over, on the CPU; it then stays in evaluation mode. ("PixelPolicy" then has one encoder for all networks.
            Under another policy, the targets' copies change in their last bits, since Stable-Baselines3 averages what
            is equal.)

    Raises:
        ValueError: without pixels, for an encoder that reads another shape or is not on the CPU, or options of a new
            one beside an encoder; in `forward`, for pixels that the policy has scaled to 1 already.
        TypeError: for an `encoder` that is no module with a `repr_dim` and an `observation_shape`.
    """

    @checked_numbers
    def __init__(
        self,
        observation_space: spaces.Space,
        features_dim: int = 50,
        channels: int | None = None,
        strides: Sequence[int] | None = None,
        precision: str | None = None,
        pixel_key: str | None = None,
        encoder: PixelEncoder | None = None,
    ) -> None:
        own = {"channels": channels, "strides": strides, "precision": precision}
        given = {name: value for name, value in own.items() if value is not None}
        if encoder is not None and given:
            raise ValueError(
                f"{', '.join(f'{name}={value!r}' for name, value in given.items())} would have no effect beside "
                f"encoder, which has its own: leave {'it' if len(given) == 1 else 'them'} out"
            )
        key, pixels = pixel_space(observation_space, pixel_key)
        others = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
        vectors = {name: get_flattened_obs_dim(part) for name, part in others.items() if name != key}
        super().__init__(observation_space, features_dim + sum(vectors.values()))
        if encoder is not None and not all(hasattr(encoder, name) for name in ("repr_dim", "observation_shape")):
            raise TypeError(
                f"encoder must be a PixelEncoder, or a module with its repr_dim and observation_shape, got "
                f"{type(encoder).__name__}: load a saved one with PixelEncoder.from_pretrained(folder)"
            )
        if encoder is not None and tuple(encoder.observation_shape) != pixels.shape:
            raise ValueError(
                f"the encoder reads observations of shape {encoder.observation_shape}, the environment's are "
                f"{pixels.shape}: choose an encoder that fits, or make the environment by "
                f"rlrep.envs.make_env(ID, image_size=…, frame_stack=…)"
            )
        self.pixel_key, self.vector_keys = key, list(vectors)
        if encoder is None:
            encoder = PixelEncoder(pixels.shape, **{"precision": "float32", **given})  # type: ignore[arg-type]
        elsewhere = {each.device.type for each in encoder.parameters()} - {"cpu"}
        if elsewhere:
            raise ValueError(
                f"the encoder is on {elsewhere.pop()}, and the model's zip holds it as it was handed over: give "
                f"encoder.cpu(), the model moves its copy"
            )
        self.encoder = copy.deepcopy(encoder)
        if self.frozen:
            self.encoder.eval()
        self.trunk = projection(self.encoder.repr_dim, features_dim)
        self.trunk.apply(orthogonal_init)
        self.follows = False

    @property
    def frozen(self) -> bool:
        """Whether no parameter of the encoder is trained."""
        return not any(parameter.requires_grad for parameter in self.encoder.parameters())

    def train(self, mode: bool = True) -> PixelFeatures:
        """As for any module, except that a frozen encoder stays in evaluation mode: its running averages are frozen,
        too."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def follow(self, encoder: PixelEncoder) -> None:
        """From now on, reads another module's encoder without gradient; keeps its own trunk."""
        del self.encoder
        self.__dict__["encoder"] = encoder  # not a submodule: only one module owns its parameters
        self.follows = True

    def apply(self, fn: Callable[[nn.Module], None]) -> PixelFeatures:
        """As for any module, except that Stable-Baselines3's initialisation has no effect here.

        PPO and A2C apply it to the features extractor of any policy class after it is built (``ortho_init``), which
        would replace a trained encoder's weights with random ones.
        """
        if getattr(getattr(fn, "func", fn), "__name__", None) == "init_weights":
            return self
        return super().apply(fn)

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Features (B, features_dim) float32 of pixels, followed by the vectors."""
        pixels = observations[self.pixel_key or ""] if isinstance(observations, dict) else observations
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.follows):
            features = self.encoder(pixels)
        vectors = [observations[name].flatten(1) for name in self.vector_keys]  # type: ignore[index]
        return torch.cat([self.trunk(features), *vectors], dim=1)


class PixelPolicy:
    """Defaults of the policies below; a user's `policy_kwargs` take precedence."""

    learner: ClassVar[str]  # the model's attribute with the network that trains the encoder

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        extractor = kwargs.get("features_extractor_class", PixelFeatures)
        if kwargs.get("normalize_images") and issubclass(extractor, PixelFeatures):
            raise ValueError("PixelPolicy's encoder scales pixels itself: leave normalize_images out")
        super().__init__(*args, **{"features_extractor_class": PixelFeatures, "normalize_images": False, **kwargs})

    def _share_if_frozen(self: Any, *networks: nn.Module) -> None:
        """Gives all networks one encoder, which the policy owns, if it is frozen.

        Copies in target networks would change in their last bits: τ·w + (1 - τ)·w is not w in floating point.
        """
        extractors: list[Any] = [network.features_extractor for network in networks]
        if not all(isinstance(features, PixelFeatures) and features.frozen for features in extractors):
            return
        self.encoder = extractors[0].encoder
        for features in extractors:
            features.follow(self.encoder)


class ActorFollowsCritic(PixelPolicy):
    """The critic's loss trains the encoder; the actor reads it without gradient, through its own trunk, as in DrQ-v2.
    (Stable-Baselines3's share_features_extractor does the reverse: the actor's loss trains it.)"""

    learner = "critic"

    def _build(self: Any, lr_schedule: Schedule) -> None:
        if self.share_features_extractor:
            raise ValueError("PixelPolicy has the actor read the critic's encoder: leave share_features_extractor out")
        super()._build(lr_schedule)  # type: ignore[misc]
        targets = [self.critic_target] if hasattr(self, "critic_target") else []
        self._share_if_frozen(self.critic, *targets)
        self.actor.features_extractor.follow(self.critic.features_extractor.encoder)
        if hasattr(self, "actor_target"):
            self.actor_target.features_extractor.follow(self.critic_target.features_extractor.encoder)
        self.actor.optimizer = self.optimizer_class(self.actor.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


class SACPixelPolicy(ActorFollowsCritic, SACPolicy): ...


class TD3PixelPolicy(ActorFollowsCritic, TD3Policy): ...


class DQNPixelPolicy(PixelPolicy, DQNPolicy):
    learner = "q_net"

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self._share_if_frozen(self.q_net, self.q_net_target)


class PPOPixelPolicy(PixelPolicy, ActorCriticPolicy):
    """One encoder for policy and value, which both losses train."""

    learner = "policy"


# The algorithms with "PixelPolicy", to which objectives can be attached.
PIXEL_POLICIES: dict[type[BaseAlgorithm], type[PixelPolicy]] = {}


def add_pixel_policy(policy: Any, *algorithms: type[BaseAlgorithm]) -> None:
    """Makes "PixelPolicy" a name of `policy`, as Stable-Baselines3 itself names "CnnPolicy"."""
    for algorithm in algorithms:
        algorithm.policy_aliases["PixelPolicy"] = policy
        PIXEL_POLICIES[algorithm] = policy


add_pixel_policy(SACPixelPolicy, SAC)
add_pixel_policy(TD3PixelPolicy, TD3, DDPG)
add_pixel_policy(DQNPixelPolicy, DQN)
add_pixel_policy(PPOPixelPolicy, PPO, A2C)
