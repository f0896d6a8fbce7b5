"""Folders of numbered pictures, one episode each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np

from rlrep.data.episode import Episode
from rlrep.data.formats.base import Format, Wanted
from rlrep.data.formats.npz import load_array
from rlrep.data.pictures import Layout, newest_frames
from rlrep.data.reading import (
    AT_ONCE,
    Unreadable,
    check_unpacked,
    missing_extra,
    regular_size,
    reported_as_unreadable,
)

NUMBERED = re.compile(r"(?s:.*?)(\d{1,18})\.(?:png|jpe?g)", re.IGNORECASE)
ACTIONS = "actions.npy"
ORIENTATION, SIDEWAYS = 0x0112, range(5, 9)  # of EXIF: the tag, and its values that swap width and height
MOST = 0.8  # of a folder's content that must be numbered pictures: others may have a few, such as previews of videos
BESIDE = (".txt", ".md", ".json", ".csv", ".yaml", ".yml", ".xml", ".log")  # notes, which are not read


class ImageFolder(Format):
    """A folder of PNG or JPEG pictures whose names end in consecutive numbers (`frame_0001.png`, ...), and perhaps
    `actions.npy`: (T, A) or (T,), row i taken at picture i, or T - 1 rows. Four fifths of it must be such pictures.
    Notes, such as text and JSON files, are passed over; anything else beside them is an error, which names it.
    """

    name = "image_folder"

    def matches(self, path: Path) -> bool:
        try:
            names = _content(path)
        except OSError:  # not a folder, or not readable, which the search of folders reports
            return False
        pictures = sum(bool(NUMBERED.fullmatch(name)) for name in names)
        return pictures > 1 and pictures > MOST * len(names)

    def read(self, path: Path, wanted: Wanted) -> Iterator[Episode]:
        with reported_as_unreadable():
            episode = Episode(path.name, _decoded(_in_order(path), wanted.layout), rows="taken at")
            actions = path / ACTIONS
            if wanted.actions and os.path.lexists(actions):
                size = regular_size(actions)
                with actions.open("rb") as file:
                    episode.action = load_array(file, ACTIONS, size)
        yield episode


def _content(folder: Path) -> list[str]:
    """The names in a folder, without hidden files, actions and notes."""
    names = (name for name in os.listdir(folder) if not name.startswith(".") and name != ACTIONS)
    return sorted(name for name in names if not name.lower().endswith(BESIDE))


def _in_order(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their numbers."""
    found: dict[int, Path] = {}
    for name in _content(folder):
        parts, path = NUMBERED.fullmatch(name), folder / name
        if parts is None:
            raise Unreadable(f"{name} is not one of the numbered pictures: move it to another folder")
        other = found.setdefault(int(parts[1]), path)
        if other != path:
            raise Unreadable(f"{other.name} and {name} have one number")
    for before, after in pairwise(sorted(found)):
        if after != before + 1:
            raise Unreadable(f"the pictures between {found[before].name} and {found[after].name} are missing")
    return [found[number] for number in sorted(found)]


def _decoded(pictures: list[Path], layout: Layout) -> Iterator[np.ndarray]:
    decode = PictureDecoder()
    for at in range(0, len(pictures), AT_ONCE):
        with reported_as_unreadable():
            chunk = [decode(path, regular_size(path)) for path in pictures[at : at + AT_ONCE]]
            yield newest_frames(np.stack(chunk), replace(layout, channels_last=True))


class PictureDecoder:
    """Decodes PNG and JPEG pictures of one size and kind, upright by their EXIF orientation.

    Raises:
        ModuleNotFoundError: if Pillow is not installed.
    """

    def __init__(self) -> None:
        try:
            from PIL import Image, ImageOps
        except ModuleNotFoundError as error:
            raise missing_extra("Pillow", "pictures") from error
        self._open, self._upright, self._first = Image.open, ImageOps.exif_transpose, ""

    def __call__(self, file: Path | BytesIO, size: int) -> np.ndarray:
        """(H, W, C) uint8, of a file of `size` bytes.

        Raises:
            Unreadable: for a picture that is neither RGB nor grey, unlike the first, or far larger than its file.
        """
        with self._open(file, formats=["PNG", "JPEG"]) as picture:  # nothing is unpacked so far
            orientation = picture.getexif().get(ORIENTATION, 1)
            width, height = picture.size[:: -1 if orientation in SIDEWAYS else 1]
            kind = f"{width}x{height} {picture.mode}"
            self._first = self._first or kind
            if kind != self._first or picture.mode not in ("L", "RGB"):
                raise Unreadable(f"its pictures must be RGB or grey and alike, got {self._first} and {kind}")
            bytes_each = width * height * len(picture.getbands())
            check_unpacked(f"pictures ({AT_ONCE} of them)", AT_ONCE * bytes_each, size)
            return np.asarray(picture if orientation == 1 else self._upright(picture)).reshape(height, width, -1)
