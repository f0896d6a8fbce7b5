"""Stores played episodes in files, so that a resumed run does not play them again."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.formats.npz import load_arrays
from rlrep.data.reading import Unreadable, read_json
from rlrep.data.record import Recorded
from rlrep.experiments.files import write_atomically
from rlrep.experiments.yaml_files import differences

SETTINGS = "settings.json"


class PlayedEpisodes:
    """The frames and actions of played episodes in a folder, one file per episode, all with the same settings. Episodes
    with other settings are not read, and are removed when new ones are written.

    Args:
        folder: inside a locked folder.
        settings: all values that the episodes depend on, as plain values.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        self.are_others = (found := self._found()) != self.settings
        if self.are_others and found is not None:
            different = differences(self.settings, found).items()
            listed = ", ".join(f"{name}={old} (now {new})" for name, (new, old) in different)
            print(f"note: {folder} was played with {listed}, and is played anew", file=sys.stderr)

    def _found(self) -> dict[str, Any] | None:
        """The settings of the episodes in the folder; None if they are not stored."""
        try:
            found = read_json(self.folder / SETTINGS)
        except Unreadable:
            return None
        return found if isinstance(found, dict) else None

    def _begin_anew(self) -> None:
        for path in self.folder.glob("episode_*.npz"):
            path.unlink()
        write_atomically(self.folder / SETTINGS, json.dumps(self.settings, indent=1).encode())
        self.are_others = False

    def read(self, number: int, most: int) -> Recorded | None:
        """An episode of up to `most` frames, see `Recorder.episode`; None if it is missing or damaged."""
        if self.are_others:
            return None
        try:
            arrays, _ = load_arrays(self._path(number), (("observation",), ("action",)))
        except Unreadable:
            return None
        frames, action = arrays.get("observation", np.zeros(0)), arrays.get("action", np.zeros(0))
        if frames.dtype != np.uint8 or frames.ndim != 4 or not len(action) + 1 == len(frames) <= most:
            return None
        return {"frame": frames} | (
            {"action": np.concatenate([action, np.zeros_like(action[:1])])} if len(action) else {}
        )

    def write(self, number: int, rows: Recorded) -> None:
        """Writes an episode in a format that `open_video` also reads: without the action at the last frame."""
        if self.are_others:
            self._begin_anew()
        arrays = {"observation": rows["frame"]} | ({"action": rows["action"][:-1]} if "action" in rows else {})
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        write_atomically(self._path(number), file.getvalue())

    def _path(self, number: int) -> Path:
        return self.folder / f"episode_{number:06d}.npz"
