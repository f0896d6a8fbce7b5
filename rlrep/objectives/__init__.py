"""Representation objectives, by name."""

from __future__ import annotations

import inspect
from typing import Any

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.encoders import PixelEncoder
from rlrep.objectives.autoencoder import Autoencoder
from rlrep.objectives.autotcl import AutoTCL
from rlrep.objectives.barlow_twins import BarlowTwins
from rlrep.objectives.base import Objective, Objectives, check_declared
from rlrep.objectives.bisimulation import Bisimulation
from rlrep.objectives.curl import CURL
from rlrep.objectives.curved import Curved
from rlrep.objectives.cvrl import CVRL
from rlrep.objectives.forward_model import ForwardModel
from rlrep.objectives.gated import Gated
from rlrep.objectives.invariance import Invariance
from rlrep.objectives.inverse_model import InverseModel
from rlrep.objectives.laom import LAOM
from rlrep.objectives.lapo import LAPO
from rlrep.objectives.latent_model import LatentModel
from rlrep.objectives.masked_autoencoder import MaskedAutoencoder
from rlrep.objectives.motion import Motion
from rlrep.objectives.multistage import Multistage
from rlrep.objectives.pixpro import PixPro
from rlrep.objectives.r3m import R3M
from rlrep.objectives.sepclr import SepCLR
from rlrep.objectives.spr import SPR
from rlrep.objectives.state_space import StateSpace
from rlrep.objectives.supremix import SupReMix
from rlrep.objectives.swav import SwAV
from rlrep.objectives.taco import TACO
from rlrep.objectives.temporal_contrastive import TemporalContrastive
from rlrep.objectives.vip import VIP
from rlrep.registry import check_options, find_class, parameters_of

OBJECTIVES: dict[str, type[Objective]] = {
    "taco": TACO,
    "curl": CURL,
    "forward_model": ForwardModel,
    "autoencoder": Autoencoder,
    "temporal_contrastive": TemporalContrastive,
    "inverse_model": InverseModel,
    "barlow_twins": BarlowTwins,
    "cvrl": CVRL,
    "spr": SPR,
    "latent_model": LatentModel,
    "lapo": LAPO,
    "laom": LAOM,
    "bisimulation": Bisimulation,
    "multistage": Multistage,
    "swav": SwAV,
    "vip": VIP,
    "r3m": R3M,
    "curved": Curved,
    "gated": Gated,
    "invariance": Invariance,
    "pixpro": PixPro,
    "sepclr": SepCLR,
    "autotcl": AutoTCL,
    "masked_autoencoder": MaskedAutoencoder,
    "motion": Motion,
    "state_space": StateSpace,
    "supremix": SupReMix,
}
"""The registered objectives by name."""


def find_objective(name: str) -> type[Objective]:
    """The class of an objective.

    Args:
        name: in `OBJECTIVES`, or an import path, ``package.module:Class``.

    Raises:
        ValueError: for an unknown name, with the nearest known names, and a path that is not an `Objective`.
    """
    return find_class("objective", name, OBJECTIVES, Objective)


@checked_numbers
def make_objective(
    name: str,
    encoder: PixelEncoder,
    action_space: Any,
    *,
    augment: RandomShift | None = None,
    batch_size: int | None = None,
    weight: float | None = None,
    **options: Any,
) -> Objective:
    """Builds the objective called `name` on `encoder`.

    Args:
        name: see `find_objective`.
        encoder: the shared encoder.
        action_space: Gymnasium ``Box`` (one axis) or ``Discrete``; None without actions.
        augment, batch_size: see `Objective`; a class without the argument `augment` gets it, too.
        weight: `loss_weight` of `Objective`; None is 1. A class with an argument of this name gets it instead.
        options: keyword arguments of the objective's class.

    Raises:
        ValueError: for an unknown name or option, with the nearest known ones, and for options that the class refuses.
    """
    objective = find_objective(name)
    if list(parameters_of(objective))[1:2] != ["action_space"]:
        raise ValueError(
            f"objective {name} can't be built as {objective.__name__}(encoder, action_space): give it action_space as "
            f"its second argument, also if it does not use it"
        )
    if augment is not None and "augment" in parameters_of(objective):
        options["augment"] = augment
    if weight is not None and "weight" in parameters_of(objective):
        options["weight"], weight = weight, None
    check_options("objective", name, objective, options)
    try:
        inspect.signature(objective).bind(encoder, action_space, **options)
    except TypeError as error:
        raise ValueError(
            f"objective {name} can't be built as {objective.__name__}(encoder, action_space): {error}"
        ) from error
    try:
        made = objective(encoder, action_space, **options)
    except TypeError as error:
        raise ValueError(f"objective {name} can't be built with {options or 'its defaults'}: {error}") from error
    check_declared(made)
    made.batch_size = batch_size
    made.loss_weight = 1.0 if weight is None else weight
    if augment is not None:
        made.augment = augment
    return made


__all__ = [
    "CURL",
    "OBJECTIVES",
    "TACO",
    "Autoencoder",
    "ForwardModel",
    "InverseModel",
    "LatentModel",
    "Objective",
    "Objectives",
    "TemporalContrastive",
    "find_objective",
    "make_objective",
]
