"""Policies without learning: a checkpoint's, and the random policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gymnasium.spaces import Discrete, Space

from rlrep.experiments.run.agent import build_agent
from rlrep.experiments.run.checkpoint import fitting, load_checkpoint
from rlrep.experiments.run.config import RunConfig
from rlrep.experiments.run.evaluation import Policy
from rlrep.experiments.run.offline_config import OfflineConfig


def checkpoint_policy(config: RunConfig, checkpoint: Path, env: object) -> tuple[Policy, str]:
    """The policy of a checkpoint, and the run's progress at that checkpoint."""
    state = load_checkpoint(checkpoint, config.device)
    agent = build_agent(config, env.observation_space, env.action_space)  # type: ignore[attr-defined]
    with fitting(checkpoint):
        agent.load_state_dict(state["agent"])
    policy: Policy = lambda observation: agent.act(observation, state["step"], eval_mode=True)  # noqa: E731
    offline = isinstance(config, OfflineConfig)
    return policy, f"{state['step']:,} updates" if offline else f"{state['step'] * config.action_repeat:,} frames"


def random_policy(action_space: Space, seed: int) -> Policy:
    """Uniform actions in [-1, 1], or of the choices."""
    rng = np.random.default_rng(seed)
    if isinstance(action_space, Discrete):
        first, choices = action_space.start, action_space.n
        return lambda observation: rng.integers(first, first + choices, len(observation))
    assert action_space.shape is not None
    (action_dim,) = action_space.shape
    return lambda observation: rng.uniform(-1, 1, (len(observation), action_dim)).astype(np.float32)
