"""Reads users' videos for the background of environments."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from rlrep.data import open_video
from rlrep.data.sources import CACHE_FOLDER, find, locate
from rlrep.envs.distractors import Clip
from rlrep.experiments.run.options import ConfigError


def read_clips(videos: str | None, image_size: int) -> list[Clip]:
    """The episodes in a file or folder that `open_video` reads, decoded once into a cache beside it.

    Each file is opened separately, so that frame rates and sizes may differ.

    Args:
        videos: the file or folder.
        image_size: height and width of a frame, in pixels.

    Raises:
        ConfigError: if no videos are named or found, or if a file can't be used; it says which.
    """
    if videos is None:
        raise ConfigError("noise.kind=video needs videos for the background: give noise.videos=FOLDER")
    clips = []
    try:
        root = locate(videos)
        beside = root if root.is_dir() else root.parent
        cache = beside / CACHE_FOLDER
        if not (cache.exists() or os.access(beside, os.W_OK)):
            raise OSError(f"they are decoded into {cache}, which can't be written: make a folder of links to them")
        for source in find(root):
            data = open_video(source.path, image_size=image_size, max_gap=1, cache=cache)
            assert isinstance(data.frames, np.memmap)
            path = Path(str(data.frames.filename))
            clips += [Clip(path, int(first), int(end)) for first, end in data.episodes]
    except (ValueError, OSError, ModuleNotFoundError) as error:
        reason = str(error).partition("; skip_corrupt=")[0]  # not an option here
        raise ConfigError(f"noise.videos={videos}: {reason}") from error
    return clips
