"""Representation objectives, by name."""

from __future__ import annotations

from typing import Any

from rlrep.encoders import PixelEncoder
from rlrep.objectives.autoencoder import Autoencoder
from rlrep.objectives.base import Objective
from rlrep.objectives.curl import CURL
from rlrep.objectives.forward_model import ForwardModel
from rlrep.objectives.inverse_model import InverseModel
from rlrep.objectives.taco import TACO
from rlrep.objectives.temporal_contrastive import TemporalContrastive
from rlrep.registry import look_up

OBJECTIVES: dict[str, type[Objective]] = {
    "taco": TACO,
    "curl": CURL,
    "forward_model": ForwardModel,
    "autoencoder": Autoencoder,
    "temporal_contrastive": TemporalContrastive,
    "inverse_model": InverseModel,
}


def make_objective(name: str, encoder: PixelEncoder, action_space: Any, **options: Any) -> Objective:
    """The objective called `name` around `encoder`; `options` are its own keyword arguments.

    Raises:
        ValueError: for an unknown name, with the nearest known ones.
    """
    return look_up("objective", name, OBJECTIVES)(encoder, action_space, **options)


__all__ = [
    "CURL",
    "OBJECTIVES",
    "TACO",
    "Autoencoder",
    "ForwardModel",
    "InverseModel",
    "Objective",
    "TemporalContrastive",
    "make_objective",
]
