"""Which files a decoding that was stopped has finished, so that the next one continues after them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.cache import FORMAT_VERSION, HEADER, Index, checksum
from rlrep.data.reading import mapped, regular_size
from rlrep.data.sources import Source
from rlrep.data.transitions import sealed, unsealed

JOURNAL, FRAMES, ACTIONS = "unfinished.json", "frames.npy", "action.npy"
INTERVAL = 10.0  # seconds between notes


@dataclass
class Decoded:
    """What was decoded of the first files.

    Attributes:
        index: of their episodes.
        first: what the first episodes set for all, by its name in messages, and their file.
        action: an array for each episode, if actions are read.
        shape: of a frame; () before the first.
        sources: how many files these are.
    """

    index: Index
    first: dict[str, tuple[Any, Path]] = field(default_factory=dict)
    action: list[np.ndarray] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    sources: int = 0

    @property
    def rows(self) -> int:
        return sum(self.index.lengths)

    def of(self, sources: Sequence[Source]) -> Decoded:
        """The part of the first files alone."""
        paths = {str(source.path) for source in sources}
        index = self.index
        count = sum(file in paths for file in index.files)
        kept: dict[str, Any] = {name: getattr(index, name)[:count] for name in ("files", "lengths", "checksums")}
        kept |= {name: {f: v for f, v in getattr(index, name).items() if f in paths} for name in ("skipped", "remarks")}
        kept["retry"] = [file for file in index.retry if file in paths]
        first = {what: found for what, found in self.first.items() if str(found[1]) in paths}
        return replace(
            self, index=replace(index, **kept), first=first, action=self.action[:count], sources=len(sources)
        )


class Journal:
    """Notes in the folder of a decoding what is finished.

    Args:
        folder: with the frames.
        sources: all files, in their order.
        options: of the decoding, as plain values.
    """

    def __init__(self, folder: Path, sources: Sequence[Source], options: dict[str, Any]) -> None:
        self.folder, self.sources = folder, sources
        self.options = json.loads(json.dumps(options | {"version": FORMAT_VERSION}))
        self.marks = json.loads(json.dumps([[one.format.identity, one.fingerprint()] for one in sources]))
        self.noted = time.monotonic()

    def resume(self, made_from: dict[str, Any]) -> Decoded:
        """What the notes in the folder and these files have in common, from the first file on; nothing if the options
        are others, or the frames are damaged.
        """
        fresh = Decoded(Index(made_from))
        try:
            regular_size(self.folder / JOURNAL)
            told = unsealed((self.folder / JOURNAL).read_text())
            if told["options"] not in (self.options, self.options | {"mixed_sizes": False}):
                return fresh
            same = [ours == theirs for ours, theirs in zip(self.marks, told["marks"], strict=False)]
            count = [*same, False].index(False)
            decoded = Decoded(
                Index(**told["index"] | {"made_from": made_from}),
                {what: (value, Path(file)) for what, (value, file) in told["first"].items()},
                shape=tuple(told["shape"]),
            )
            if self.options["actions"] and decoded.rows:
                # A copy: the file is written again. It was written before the notes, so it may hold more rows.
                action = mapped(self.folder / ACTIONS)[: decoded.rows].copy()
                if len(action) < decoded.rows:
                    return fresh
                decoded.action = np.split(action, np.cumsum(decoded.index.lengths)[:-1])
            decoded = decoded.of(self.sources[:count])
            return decoded if self.is_whole(decoded) else fresh
        except (KeyError, OSError, TypeError, ValueError):
            return fresh

    def is_whole(self, decoded: Decoded) -> bool:
        """Whether the frames have their checksums."""
        if not decoded.rows:
            return True
        regular_size(self.folder / FRAMES)
        frames = np.memmap(self.folder / FRAMES, np.uint8, "r", HEADER, (decoded.rows, *decoded.shape))
        ends = np.cumsum(decoded.index.lengths)
        parts = zip(ends - decoded.index.lengths, ends, decoded.index.checksums, strict=True)
        return all(checksum(frames[start:end]) == expected for start, end, expected in parts)

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self.noted > INTERVAL

    def note(self, decoded: Decoded) -> None:
        """Writes the notes, if a file is finished; the frames must have left this process's memory."""
        if not decoded.sources:
            self.remove()
            return
        if decoded.action:
            partial = self.folder / "partial.npy"
            np.save(partial, np.concatenate(decoded.action), allow_pickle=False)
            partial.replace(self.folder / ACTIONS)
        told = {
            "options": self.options,
            "marks": self.marks[: decoded.sources],
            "index": asdict(decoded.index) | {"made_from": {}},
            "first": {what: (_plain(value), str(file)) for what, (value, file) in decoded.first.items()},
            "shape": decoded.shape,
        }
        partial = self.folder / f"{JOURNAL}.partial"
        partial.write_text(sealed(json.loads(json.dumps(told))))
        partial.replace(self.folder / JOURNAL)
        self.noted = time.monotonic()

    def remove(self) -> None:
        (self.folder / JOURNAL).unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """A value for JSON: frame rates are fractions."""
    return value if isinstance(value, str | int) else float(value)


def has_notes(folder: Path) -> bool:
    """Whether a decoding can go on in a folder."""
    return (folder / JOURNAL).exists()
