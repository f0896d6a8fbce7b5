"""The formats of episode files: a list of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlrep.data.episode import Episode
from rlrep.data.formats.base import Format, Wanted
from rlrep.data.formats.drqv2 import DrQv2
from rlrep.data.formats.image_folder import ImageFolder
from rlrep.data.formats.lerobot import LeRobot
from rlrep.data.formats.minari import Minari
from rlrep.data.formats.npz import Npz
from rlrep.data.formats.rlrep import DataSet, RunReplay
from rlrep.data.formats.vd4rl import VD4RL64, VD4RL84
from rlrep.data.formats.video import Video
from rlrep.data.reading import Unreadable
from rlrep.registry import check_options, find_class

__all__ = ["FORMATS", "WRITTEN", "Episode", "Format", "Unreadable", "Wanted", "make_format", "named"]

FORMATS: tuple[type[Format], ...] = (
    DataSet,
    RunReplay,
    Minari,
    LeRobot,
    ImageFolder,
    VD4RL84,
    Npz,
    VD4RL64,
    DrQv2,
    Video,
)
"""The formats for reading; a file gets the first one that matches."""

WRITTEN = tuple(each for each in FORMATS if each.is_written())
"""The formats that `write_transitions` writes."""


def make_format(
    format: str | Format, formats: Sequence[type[Format]] = FORMATS, options: Mapping[str, Any] | None = None
) -> Format:
    """The format in `formats` with this name, an instance of the class at an import path ``package.module:Class``, or
    the given object.

    Args:
        format: its name or path, or the object.
        formats: the named formats.
        options: arguments of the class.

    Raises:
        ValueError: for an unknown name, a path whose module, class or base is wrong, a class that needs other
            arguments, and arguments that the class refuses.
    """
    if isinstance(format, Format):
        return format
    options = dict(options or {})
    found = find_class("format", format, {each.name: each for each in formats}, Format)  # type: ignore[type-abstract]
    check_options("format", format, found, options)
    try:
        return found(**options)
    except TypeError as error:
        raise ValueError(
            f"format {format!r} can't be made without arguments ({error}): give an object of it"
        ) from error


def named(format: str | Format | None) -> Sequence[Format]:
    """The formats to consider for files.

    Args:
        format: see `make_format`; None for all.
    """
    return [each() for each in FORMATS] if format is None else [make_format(format)]
