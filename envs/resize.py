"""Pictures at another size."""

import math

import numpy as np
import numpy.typing as npt


class AreaResize:
    """Resizes pictures (C, height, width) uint8 to (C, new_height, new_width) uint8.

    Each new pixel is the mean of the area that it covers. The aspect ratio may change: nothing is cut off or added.

    Args:
        height, width: of the pictures, in pixels.
        new_height, new_width: the size wanted, in pixels.
    """

    def __init__(self, height: int, width: int, new_height: int, new_width: int) -> None:
        self._new_size = new_height, new_width
        self._rows = _covered(height, new_height)
        self._columns = _covered(width, new_width)

    def __call__(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        # Products with two matrices, which are mostly zeros, took five times as long.
        channels, (height, width) = len(picture), self._new_size
        short = np.zeros((channels, height, picture.shape[2]), np.float32)
        for row, share in self._rows:
            short += share[:, None] * picture[:, row]
        small = np.zeros((channels, height, width), np.float32)
        for column, share in self._columns:
            small += share * short[:, :, column]
        return np.rint(small).astype(np.uint8)


def _covered(length: int, size: int) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """The first old pixels (size,) that the new ones of a line cover, and their shares (size,); the second ones; ..."""
    edges = np.linspace(0, length, size + 1)
    first = np.floor(edges[:-1]).astype(np.int64)
    covered = []
    for old in first + np.arange(math.ceil(length / size) + 1)[:, None]:
        overlap = np.minimum(edges[1:], old + 1) - np.maximum(edges[:-1], old)
        share = (overlap.clip(min=0) * size / length).astype(np.float32)
        if share.any():
            covered.append((old.clip(max=length - 1), share))
    return covered
