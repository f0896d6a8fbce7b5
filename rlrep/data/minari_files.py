"""Minari data sets of pixels, to read and to write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.clips import (
    PICTURE_KEYS,
    Clip,
    Unreadable,
    aligned,
    in_chunks,
    missing_extra,
    pick,
    reported_as_unreadable,
    rewards_of,
)
from rlrep.data.pictures import UNKNOWN, Layout, newest_frames
from rlrep.data.transitions import Provenance, Transitions

PROVENANCE = "rlrep_provenance"


def read_minari(path: Path, actions: bool = False, rewards: bool = False, layout: Layout = UNKNOWN) -> Iterator[Clip]:
    """A Minari data set with pictures as observations, or under one of the usual names in a dictionary of them."""
    minari = _minari()
    with reported_as_unreadable():
        episodes = minari.MinariDataset(path / "data").iterate_episodes()
        for number, episode in enumerate(episodes):
            seen = episode.observations
            frames = newest_frames(pick(seen, *PICTURE_KEYS) if isinstance(seen, dict) else seen, layout)
            clip = Clip(f"{path.name}, episode {number}", in_chunks(frames))
            if actions or rewards:
                clip.action = aligned(np.asarray(episode.actions), len(frames))
            if rewards:
                clip.reward = rewards_of({"reward": episode.rewards}, len(frames))
                clip.terminated = _check_ends(episode, len(frames) - 1, clip.name)
            yield clip


def _check_ends(episode: Any, steps: int, name: str) -> bool:
    ends = [np.asarray(marks, bool) for marks in (episode.terminations, episode.truncations)]
    if any(marks.shape != (steps,) or marks[:-1].any() for marks in ends):
        raise Unreadable(f"{name} has terminations and truncations that are not those of one episode")
    return bool(ends[0][-1])


def _minari() -> Any:
    try:
        import minari
    except ModuleNotFoundError as error:
        raise missing_extra("Minari", "Minari data sets") from error
    return minari


def read_provenance(path: Path) -> Provenance:
    """What `write_minari` recorded, else the task and the choices that Minari knows of."""
    with reported_as_unreadable():
        metadata = json.loads((path / "data" / "metadata.json").read_text())
        if PROVENANCE in metadata:
            return Provenance.from_json(metadata[PROVENANCE])
        space = json.loads(metadata.get("action_space", "{}"))
        environment = json.loads(metadata.get("env_spec", "{}"))
        return Provenance(task=environment.get("id"), num_actions=space.get("n"))


def write_minari(episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
    """A Minari data set, frames as they are: (C, H, W) observations, not compressed by JPEG."""
    _minari()
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    storage = None
    for number, episode in enumerate(episodes):
        if storage is None:
            pictures = spaces.Box(0, 255, episode.frames.shape[1:], np.uint8)
            if episode.discrete and provenance.num_actions is None:
                raise ValueError("Minari must know how many choices there are: give them as num_actions")
            acts: Any = (
                spaces.Discrete(provenance.num_actions or 1)
                if episode.discrete
                else spaces.Box(-1, 1, episode.action.shape[1:], np.float32)
            )
            storage = MinariStorage.new(folder / "data", pictures, acts, data_format="hdf5", jpeg_encoding=False)
            name = "-".join(part.lower() for part in (provenance.task, provenance.level) if part) or "data"
            storage.update_metadata(
                {
                    "dataset_id": f"rlrep/{name.replace('_', '-')}-v0",
                    "minari_version": _minari().__version__,
                    PROVENANCE: provenance.to_json(),
                }
            )
        last = np.arange(len(episode)) == len(episode) - 1
        buffer = EpisodeBuffer(
            id=number,
            observations=episode.frames,
            actions=episode.action,
            rewards=episode.reward,
            terminations=last & episode.terminated,
            truncations=last & (not episode.terminated),
        )
        storage.update_episodes([buffer])
