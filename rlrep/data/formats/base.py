"""The base class of formats of episode files: recognises its files, reads them, and perhaps writes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from rlrep.data.episode import Episode
from rlrep.data.pictures import UNKNOWN, Layout
from rlrep.data.reading import Unreadable
from rlrep.data.transitions import ActionScale, Provenance, Transitions

__all__ = ["Format", "Wanted"]

ROUNDING = 1e-4  # of an action, relative to its bounds


@dataclass(frozen=True)
class Wanted:
    """The entries to read from files besides their frames.

    Attributes:
        actions: read actions if the files have them.
        rewards: read actions, rewards and ends, all of which must exist; only of whole episodes.
        layout: the layout of pictures, as far as users have given it.
    """

    actions: bool = False
    rewards: bool = False
    layout: Layout = UNKNOWN


def normalized(action: np.ndarray, scale: ActionScale, name: str, bounds: str, advice: str = "") -> np.ndarray:
    """Recorded actions (T, ...) as (T, A) float32 in [-1, 1].

    Args:
        action, scale: of these bounds.
        name: of the episode.
        bounds: where the bounds are from, for the message.
        advice: its end.

    Raises:
        Unreadable: for actions of another size, or beyond the bounds.
    """
    action = action.reshape(len(action), -1)
    low, high = np.array(scale.low), np.array(scale.high)
    if action.shape[1] != len(low):
        raise Unreadable(f"its actions have {action.shape[1]} dimensions, and those of {bounds} {len(low)}")
    slack = ROUNDING * np.maximum((high - low) / 2, np.maximum(abs(low), abs(high)))
    outside = np.argwhere(~((action >= low - slack) & (action <= high + slack)))
    if len(outside):
        row, dimension = outside[0]
        raise Unreadable(
            f"{name} has the action {action[row, dimension]:g} in dimension {dimension}, beyond its bounds in "
            f"{bounds}, {low[dimension]:g} and {high[dimension]:g}{advice}"
        )
    return scale.normalized(action)


class Format(ABC):
    """A format of episode files. A file or folder that `matches` is one source of episodes.

    User options, such as a camera, are arguments of its constructor with defaults, stored as attributes: a cache
    depends on them. Readers raise `Unreadable` for a problem with a file and `CanNotRead` for a system error, without
    the file's name.
    """

    name: ClassVar[str]
    """The name that users type if the format is in the list, and the name in messages."""
    endings: ClassVar[tuple[str, ...]] = ()
    """The endings of its files' names, in lower case, if they identify the format."""
    beside: ClassVar[tuple[str, ...]] = ()
    """The names of further files in its files' folder that are read with them."""
    is_store: ClassVar[bool] = False
    """Whether its folders are opened without a conversion."""

    def __init_subclass__(cls) -> None:
        if not isinstance(getattr(cls, "name", None), str):
            raise TypeError(f'the format {cls.__qualname__} has no name: give it one, name = "…"')

    def matches(self, path: Path) -> bool:
        """Whether a file, or a folder as a whole, has this format, by its name and the folder's content. It need not be
        readable or a regular file.
        """
        return path.suffix.lower() in self.endings and not path.is_dir()

    def parts(self, path: Path) -> list[Path]:
        """The sources in a file or folder that has this format as a whole; otherwise empty."""
        return [path] if self.matches(path) else []

    def locate(self, name: str) -> Path | None:
        """The local path of the data set with an id, if this format has such ids.

        Raises:
            FileNotFoundError: if there is no data set with this id; the message says how to get it.
        """
        return None

    @abstractmethod
    def read(self, path: Path, wanted: Wanted) -> Iterator[Episode]:
        """The episodes of a source, one at a time.

        Raises:
            Unreadable: if the source can't be used, also after some of its episodes.
            ModuleNotFoundError: if a package that reads it is not installed, with how to install it.
        """

    def write(self, episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
        """Writes episodes into an empty folder, one at a time; not overridden by formats that are only read.

        Raises:
            OSError: if it can't be written.
            ValueError: for episodes that the format can't hold.
        """
        raise NotImplementedError

    @classmethod
    def is_written(cls) -> bool:
        """Whether the format can also be written."""
        return cls.write is not Format.write

    def provenance(self, path: Path) -> Provenance | None:
        """The provenance that a source records; None if this format cannot record it."""
        return None

    def describe(self, path: Path) -> str:
        """The name of a source's format."""
        return self.name

    @property
    def identity(self) -> str:
        """The class and its options, for caches."""
        options = ", ".join(f"{name}={value!r}" for name, value in sorted(vars(self).items()))
        return f"{type(self).__module__}:{type(self).__qualname__}({options})"
