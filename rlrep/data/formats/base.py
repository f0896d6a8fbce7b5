"""What a format of episode files is: one class, which knows its files, and reads and perhaps writes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rlrep.data.episode import Episode
from rlrep.data.pictures import UNKNOWN, Layout
from rlrep.data.transitions import Provenance, Transitions

__all__ = ["Format", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """What is read of files besides their frames.

    Attributes:
        actions: where the files have them.
        rewards: with actions, rewards and ends, all of which must be there; of whole episodes alone.
        layout: how pictures are laid out, as far as users have said it.
    """

    actions: bool = False
    rewards: bool = False
    layout: Layout = UNKNOWN


class Format(ABC):
    """A format of episode files. A file or folder that `matches` is read by itself, as one source of episodes.

    What users can choose about it (a camera, say) are arguments of its constructor with defaults, kept as attributes:
    they are part of what a cache depends on. Whoever reads wraps nothing: `Unreadable` for what is wrong with a file,
    `CanNotRead` for what the system says, and neither need name the file.
    """

    name: ClassVar[str]
    """What users type, where it is in the list; what messages call it."""
    endings: ClassVar[tuple[str, ...]] = ()
    """Of its files' names, in lower case, if they tell."""
    is_store: ClassVar[bool] = False
    """Whether its folders are opened as they are, without a conversion."""

    def __init_subclass__(cls) -> None:
        if not isinstance(getattr(cls, "name", None), str):
            raise TypeError(f'the format {cls.__qualname__} has no name: give it one, name = "…"')

    def matches(self, path: Path) -> bool:
        """Whether a file, or a folder as a whole, is of this format, by its name and what is in the folder. It need not
        be readable, nor be a regular file.
        """
        return path.suffix.lower() in self.endings and not path.is_dir()

    def parts(self, path: Path) -> list[Path]:
        """The sources that a file or folder consists of, where it is this format's as a whole; else none."""
        return [path] if self.matches(path) else []

    def locate(self, name: str) -> Path | None:
        """Where a data set is kept on this machine that is known by an id, if ids of that form are this format's.

        Raises:
            FileNotFoundError: if there is none of that id, with how to get it.
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
        """Whether it is not only read."""
        return cls.write is not Format.write

    def provenance(self, path: Path) -> Provenance | None:
        """What a source says of how it was made; None if this format has no place for it."""
        return None

    def describe(self, path: Path) -> str:
        """What to call the format of a source."""
        return self.name

    @property
    def identity(self) -> str:
        """The class and its options, for caches."""
        options = ", ".join(f"{name}={value!r}" for name, value in sorted(vars(self).items()))
        return f"{type(self).__module__}:{type(self).__qualname__}({options})"
