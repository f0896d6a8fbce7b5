"""Small data sets, and their expected samples, computed step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data import Provenance, Transitions

PROVENANCE = Provenance(
    task="cartpole_swingup",
    level="medium",
    made={"run": "runs/1", "seeds": [1, 2]},
    random_return=1.5,
    expert_return=20.0,
    num_actions=None,
)
FORMATS = ["rlrep", "vd4rl_84", "vd4rl_64", "drqv2", "minari"]


def episode(seed: int, steps: int = 7, terminated: bool = False, size: int = 8, discrete: bool = False) -> Transitions:
    rng = np.random.default_rng(seed)
    action: Any = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    if discrete:
        action = rng.integers(0, 4, steps)
    return Transitions(
        rng.integers(0, 256, (steps + 1, 3, size, size), np.uint8),
        action,
        rng.normal(size=steps).astype(np.float32),
        terminated,
        f"episode {seed}",
    )


def episodes(discrete: bool = False) -> list[Transitions]:
    """Episodes of different lengths, some of which really end."""
    return [episode(i, steps, i % 2 == 1, discrete=discrete) for i, steps in enumerate((7, 4, 9, 5))]


def assert_equal(found: Transitions, expected: Transitions) -> None:
    for name in ("frames", "action", "reward"):
        array, wanted = getattr(found, name), getattr(expected, name)
        assert array.dtype == wanted.dtype, name
        np.testing.assert_array_equal(array, wanted, err_msg=name)
    assert found.terminated is expected.terminated


def by_hand(source: Transitions, t: int, stack: int, n_step: int, discount: float, horizon: int) -> dict[str, Any]:
    """The expected sample that starts at step t."""
    steps = len(source)

    def observation(at: int) -> np.ndarray:
        return np.concatenate([source.frames[max(at - back, 0)] for back in reversed(range(stack))])

    reward, factor, at = 0.0, 1.0, t
    while at < min(t + n_step, steps):
        reward += factor * float(source.reward[at])
        factor *= discount
        at += 1
    ended = source.terminated and at == steps
    sequence = np.zeros((horizon, *source.action.shape[1:]), source.action.dtype)
    taken = source.action[t : t + horizon]
    sequence[: len(taken)] = taken
    return {
        "observation": observation(t),
        "action": source.action[t],
        "reward": reward,
        "next": observation(at),
        "terminated": ended,
        "discount": 0.0 if ended else factor,
        "future": observation(min(t + horizon, steps)),
        "sequence": sequence,
        "gap": min(horizon, steps - t),
    }


def source_path(folder: Path, format: str) -> Path:
    """The path that a user would give."""
    return folder / "data.hdf5" if format == "vd4rl_84" else folder
