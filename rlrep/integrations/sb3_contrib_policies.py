"""Policies of sb3-contrib with a `PixelEncoder`, also under the name "PixelPolicy"."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.type_aliases import Schedule

from rlrep.integrations.sb3_policies import ActorFollowsCritic, PixelPolicy, add_pixel_policy


class TQCPixelPolicy(ActorFollowsCritic, TQCPolicy): ...


class CrossQPixelPolicy(ActorFollowsCritic, CrossQPolicy):
    def __init__(self, observation_space: spaces.Space, *args: Any, **kwargs: Any) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise ValueError(
                "CrossQ learns from an array of pixels, not from Dict observations, which it cannot join into one "
                "batch: take TQC or SAC, or keep the pixels alone, with a wrapper of the environment"
            )
        super().__init__(observation_space, *args, **kwargs)


class QRDQNPixelPolicy(PixelPolicy, QRDQNPolicy):
    learner = "quantile_net"

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self._share_if_frozen(self.quantile_net, self.quantile_net_target)


add_pixel_policy(TQCPixelPolicy, TQC)
add_pixel_policy(CrossQPixelPolicy, CrossQ)
add_pixel_policy(QRDQNPixelPolicy, QRDQN)
