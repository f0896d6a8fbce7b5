"""Bytes of a replay of stacked pixels, SB3's and ours: `python -m rlrep.experiments.plugins.sb3_memory`."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from rlrep.experiments.results.tables import markdown
from rlrep.integrations.sb3 import SequenceReplayBuffer

OBSERVATIONS = spaces.Box(0, 255, (9, 84, 84), np.uint8)
ACTIONS = spaces.Box(-1, 1, (6,))
MEASURED = 100


def bytes_held(buffer: ReplayBuffer) -> int:
    """Bytes of a buffer's arrays."""
    if isinstance(buffer, SequenceReplayBuffer):
        return buffer.nbytes
    return sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))


def replay_bytes(transitions: int) -> dict[str, int]:
    """Bytes for as many transitions of three stacked RGB frames of 84×84, scaled up from buffers of a hundred."""
    whole = ReplayBuffer(MEASURED, OBSERVATIONS, ACTIONS)
    halved = ReplayBuffer(MEASURED, OBSERVATIONS, ACTIONS, optimize_memory_usage=True, handle_timeout_termination=False)
    ours = SequenceReplayBuffer(MEASURED, OBSERVATIONS, ACTIONS)
    buffers = {"ReplayBuffer": whole, "… optimize_memory_usage=True": halved, "SequenceReplayBuffer": ours}
    return {name: bytes_held(buffer) * transitions // MEASURED for name, buffer in buffers.items()}


def main(transitions: int = 50_000) -> None:
    sizes = replay_bytes(transitions)
    ours = sizes["SequenceReplayBuffer"]
    print(f"{transitions:,} transitions, observations {OBSERVATIONS.shape} uint8\n")
    print(markdown([{"buffer": k, "GB": f"{v / 1e9:.2f}", "times ours": f"{v / ours:.1f}"} for k, v in sizes.items()]))


if __name__ == "__main__":
    main()
