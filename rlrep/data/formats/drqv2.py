"""The replay of DrQ-v2's code, an `.npz` file an episode."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rlrep.data.formats.dm_env import discounts, led_here
from rlrep.data.formats.npz import Npz, write_episodes
from rlrep.data.transitions import Provenance, Transitions

STACK = 3


class DrQv2(Npz):
    """DrQ-v2's replay: `observation` (T + 1, 9, H, W), three stacked RGB frames; row i of the other arrays led to
    observation i.
    """

    name = "drqv2"

    def write(self, episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
        """Raises: ValueError for frames that are not RGB."""
        write_episodes(episodes, folder, provenance, "{stamp}_{number:06d}_{steps}", _arrays)


def _arrays(episode: Transitions) -> dict[str, np.ndarray]:
    frames = episode.frames
    if frames.shape[1] != 3:
        raise ValueError(f"DrQ-v2's replay holds RGB frames, and {episode.name} has {frames.shape[1]} channels")
    rows = np.maximum(np.arange(len(frames))[:, None] - np.arange(STACK)[::-1], 0)
    return {
        "observation": frames[rows].reshape(len(frames), -1, *frames.shape[2:]),
        "action": led_here(episode.action),
        "reward": led_here(episode.reward)[:, None],
        "discount": discounts(episode)[:, None],
    }
