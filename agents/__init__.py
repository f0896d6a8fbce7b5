"""Agents that learn from pixels, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rlrep import PixelEncoder, RandomShift, make_objective
from rlrep.agents.base import Agent, Space
from rlrep.agents.bc import BC
from rlrep.agents.cql import CQL
from rlrep.agents.drqv2 import DrQV2
from rlrep.agents.drqv2_bc import DrQV2BC
from rlrep.agents.eager import EagerEncoder, GridSampleShift, plain_adam
from rlrep.agents.graph import accelerate
from rlrep.agents.iql import IQL
from rlrep.agents.mrq import MRQ
from rlrep.agents.sac import SAC
from rlrep.agents.td3_bc import TD3BC
from rlrep.arguments import checked_numbers
from rlrep.bounds import Count
from rlrep.registry import find_class, look_up

if __name__ != "rlrep.agents":
    raise ImportError(f"{__name__} is rlrep.agents")

AGENTS: dict[str, type[Agent]] = {
    "drqv2": DrQV2,
    "sac": SAC,
    "bc": BC,
    "td3_bc": TD3BC,
    "drqv2_bc": DrQV2BC,
    "cql": CQL,
    "iql": IQL,
    "mrq": MRQ,
}
"""The registered agents by name."""
PATHS: dict[str, tuple[type[PixelEncoder], type[RandomShift]]] = {
    "fast": (PixelEncoder, RandomShift),
    "eager": (EagerEncoder, GridSampleShift),
}
"""The encoder and the augmentation of each path: "fast", or "eager" without accelerations."""


def find_agent(name: str) -> type[Agent]:
    """The class of an agent.

    Args:
        name: in `AGENTS`, or an import path, ``package.module:Class``.

    Raises:
        ValueError: for an unknown name, with the nearest known names, and a path that is not an `Agent`.
    """
    return find_class("agent", name, AGENTS, Agent)


@checked_numbers
def make_agent(
    name: str,
    observation_shape: Sequence[int],
    action_space: Space,
    *,
    objectives: Sequence[str] = (),
    objective_options: Mapping[str, Mapping[str, Any]] | None = None,
    encoder: PixelEncoder | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    freeze_encoder: bool = False,
    shift: Count = 4,
    device: torch.device | str = "cpu",
    path: str = "fast",
    **options: Any,
) -> Agent:
    """Builds an agent with its encoder and objectives.

    Args:
        name: of the agent, see `find_agent`.
        observation_shape: (F·C, H, W).
        action_space: ``Box`` of one axis with values in [-1, 1]; also ``Discrete`` for agents with discrete actions.
        objectives: names or import paths, see `rlrep.objectives.find_objective`; the agent's own objectives come first.
        objective_options: keyword arguments of each objective by name, `batch_size` and `weight` included.
        encoder: a pre-trained one; None builds a new one. Parameters that require no gradient stay as they are.
        encoder_options: keyword arguments of `PixelEncoder`, for a new one.
        freeze_encoder: the encoder gets no gradient and no optimizer step.
        shift: largest random shift in pixels, for the agent and its objectives.
        device: of the agent and its objectives.
        path: "fast", or "eager": the same in float32 without accelerations, for comparison.
        options: keyword arguments of the agent.

    Raises:
        ValueError: for unknown names, options that the classes refuse, and an encoder of other observations.
    """
    agent_class = find_agent(name)
    encoder_class, shift_class = look_up("path", path, PATHS)
    if encoder is None:
        encoder = encoder_class(observation_shape, **(encoder_options or {}))
        if agent_class.initial_weights is not None:
            encoder.apply(agent_class.initial_weights)
    elif encoder_options:
        raise ValueError("encoder_options are of a new encoder: leave them out, or leave out encoder")
    elif encoder.observation_shape != tuple(observation_shape):
        raise ValueError(
            f"the encoder reads observations of shape {encoder.observation_shape}, and these have shape "
            f"{tuple(observation_shape)}"
        )
    if freeze_encoder:
        encoder.requires_grad_(False)
    augment = shift_class(shift)
    built = [
        make_objective(
            objective, encoder, action_space, augment=augment, **(objective_options or {}).get(objective, {})
        )
        for objective in dict.fromkeys((*agent_class.own_objectives, *objectives))
    ]
    for module in (encoder, *built):
        module.to(device)
    agent = agent_class(encoder, action_space, built, augment=augment, **options)
    if path == "eager":
        agent.optimizers = {name: plain_adam(optimizer) for name, optimizer in agent.optimizers.items()}
    return agent


__all__ = [
    "AGENTS",
    "BC",
    "CQL",
    "IQL",
    "MRQ",
    "PATHS",
    "SAC",
    "TD3BC",
    "Agent",
    "DrQV2",
    "DrQV2BC",
    "accelerate",
    "find_agent",
    "make_agent",
]
