"""Contrastive representation learning for visual reinforcement learning."""

from rlrep.actions import ActionEncoder, ActionSequenceEncoder
from rlrep.augment import RandomShift
from rlrep.contrast import info_nce, temporal_contrastive
from rlrep.encoders import PixelDecoder, PixelEncoder
from rlrep.objectives import (
    CURL,
    OBJECTIVES,
    TACO,
    Autoencoder,
    ForwardModel,
    InverseModel,
    LatentModel,
    Objective,
    Objectives,
    TemporalContrastive,
    make_objective,
)
from rlrep.replay import ReplayBuffer
from rlrep.window import Gap, Window

__version__ = "0.1.0"

__all__ = [
    "CURL",
    "OBJECTIVES",
    "TACO",
    "ActionEncoder",
    "ActionSequenceEncoder",
    "Autoencoder",
    "ForwardModel",
    "Gap",
    "InverseModel",
    "LatentModel",
    "Objective",
    "Objectives",
    "PixelDecoder",
    "PixelEncoder",
    "RandomShift",
    "ReplayBuffer",
    "TemporalContrastive",
    "Window",
    "info_nce",
    "make_objective",
    "temporal_contrastive",
]
