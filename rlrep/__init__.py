"""Contrastive representation learning for visual reinforcement learning.

Each name is imported at its first use, so that processes of `rlrep.envs` do not load PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "actions": ("ActionEncoder", "ActionSequenceEncoder"),
    "augment": ("RandomShift",),
    "contrast": ("info_nce", "temporal_contrastive"),
    "encoders": ("PixelDecoder", "PixelEncoder"),
    "replay": ("ReplayBuffer",),
    "window": ("Gap", "Window"),
}
_MODULE_OF = dict.fromkeys(__all__, "objectives") | {name: at for at, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
