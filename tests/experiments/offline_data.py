"""Tiny offline data, and runs on them: cartpole_balance in episodes of 20 agent steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from rlrep.data import Provenance, Transitions, write_transitions
from rlrep.experiments.run.offline import train_offline
from tests.experiments.conftest import ROOT

CONF = str(ROOT / "experiments" / "conf" / "offline")
PROVENANCE = Provenance(
    task="cartpole_balance", level="medium", made={"action_repeat": 50}, random_return=200.0, expert_return=1000.0
)
TINY_OFFLINE = [
    "device=cpu",
    "agent=td3_bc",
    "num_updates=12",
    "log_every_updates=4",
    "eval_every_updates=6",
    "checkpoint_every_updates=3",
    "num_eval_episodes=1",
    "batch_size=8",
    "encoder.channels=4",
    "encoder.precision=float32",
    "hidden_dim=16",
    "feature_dim=8",
    "save_video=false",
]


def episode(rng: np.random.Generator, steps: int = 20, size: int = 20, action_dim: int = 1) -> Transitions:
    return Transitions(
        frames=rng.integers(0, 256, (steps + 1, 3, size, size), np.uint8),
        action=rng.uniform(-1, 1, (steps, action_dim)).astype(np.float32),
        reward=rng.uniform(0, 1, steps).astype(np.float32),
        terminated=False,
    )


def write_data(folder: Path, provenance: Provenance = PROVENANCE, episodes: Sequence[Transitions] = ()) -> Path:
    """Four random episodes, unless others are given."""
    rng = np.random.default_rng(0)
    write_transitions(episodes or [episode(rng) for _ in range(4)], folder, provenance)
    return folder


def run_offline(data: Path, folder: Path, *overrides: str) -> Path:
    """Trains a tiny run in this process."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        return train_offline(compose("offline", [*TINY_OFFLINE, f"dataset={data}", f"run_dir={folder}", *overrides]))
