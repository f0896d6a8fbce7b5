"""Videos and episode files of every kind as one `EpisodeDataset`."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.arguments import as_path, checked_numbers
from rlrep.bounds import Count
from rlrep.data import cache as caches
from rlrep.data.decode import Options, decode
from rlrep.data.episodes import EpisodeDataset
from rlrep.data.formats import Format, make_format
from rlrep.data.pictures import UNKNOWN, Layout
from rlrep.data.reading import FileProgress, untold
from rlrep.data.sources import CACHE_FOLDER, Source, each_once, find, locate
from rlrep.data.unfinished import has_notes

__all__ = ["open_video"]

LEAST_FPS = 0.001


@checked_numbers
def open_video(
    source: str | Path | Sequence[str | Path],
    *,
    image_size: int = 84,
    frame_stack: int = 3,
    max_gap: int = 3,
    cache: str | Path | None = None,
    skip_corrupt: bool = False,
    seed: Count = 0,
    fps: float | None = None,
    mixed_sizes: bool = False,
    actions: bool = False,
    channels_last: bool | None = None,
    frame_channels: int | None = None,
    format: str | Format | None = None,
    progress: FileProgress = untold,
) -> EpisodeDataset:
    """Opens videos and episode files for learning without actions and rewards.

    The first call decodes everything into memory-mapped files; later calls with the same files and options open them
    without decoding. A call that is stopped or refused keeps the files that it has decoded, and the next one goes on
    with the others. Frames are resized to `image_size` square by bilinear interpolation with antialiasing; nothing is
    cut off, and the aspect ratio may change.

    Args:
        source: one of these, or a list of them:

            - a video (MP4, WebM, GIF, MKV, AVI, MOV, MPEG and others), rotated and mirrored as in a video player;
            - an `.npz` file with one episode of uint8 pictures, (T, H, W, C) or (T, C, H, W), as `observation`,
              `image`, `frames` or `obs`. Only the newest of stacked frames (DrQ-v2's replay) is read;
            - an HDF5 file in V-D4RL's layout: `observation` (N, C, H, W) and `step_type` (N,), 0 where an episode
              begins;
            - a folder of PNG or JPEG pictures whose names end in consecutive numbers, perhaps with `actions.npy`;
            - a Minari data set in HDF5 or Arrow, by its folder or its id on this machine;
            - a LeRobot data set, version 3.0; `format=LeRobot(camera=…)` chooses one of several cameras;
            - a data set that `write_transitions` or `rlrep.experiments.collect` wrote;
            - the folder of a run of `rlrep.experiments.train`, or its `replay` folder. Let the run end first;
            - a folder of any of these, with its sub-folders and links; names that begin with a dot are not read.

            Each file is read once, even if links lead to it.
        image_size: height and width of a frame, in pixels.
        frame_stack: frames in an observation.
        max_gap: the most steps between the observations of a pair, for samples without their own window. A file whose
            episodes are all shorter can't be used; short episodes beside longer ones in one file give smaller gaps.
        cache: folder of the memory-mapped files; None makes `.rlrep-cache` in the source's folder (beside a file). You
            may delete it when the data set is not in use.
        skip_corrupt: leave out files that are corrupt, truncated, without pictures or shorter than the largest gap,
            with a warning that counts and lists them; `skipped` of the data set has the reasons. Otherwise they are
            errors.
        seed: of the sampler.
        fps: the frame rate of the result. Frames are dropped: the pictures whose times are nearest to even steps are
            chosen. Without it, all videos must have the same rate, within 1 %. Videos whose steps vary are read with a
            warning.
        mixed_sizes: accept videos whose pictures differ in size or shape; all become `image_size` square.
        actions: read the actions, for an objective that needs them. Episode files have them as `action`. With one row
            fewer than frames, row i was taken at frame i. With as many rows, row i led to frame i and row 0 is zeros,
            as in DrQ-v2, Dreamer and V-D4RL.
        channels_last: whether pictures in episode files are (H, W, C) or, if False, (C, H, W). None decides by their
            shape: a picture has fewer channels than rows or columns.
        frame_channels: channels of one frame in episode files, 1 for grey and 3 for RGB, if pictures have several
            stacked frames. None treats three channels and multiples of three as RGB.
        format: the name of a format in `rlrep.data.formats`, the import path of your own class
            (``package.module:Class``), or an instance with options. None detects formats from the files.
        progress: called while files are decoded, with the number of finished files, of all files, and of frames so far.

    Raises:
        FileNotFoundError: if nothing is at `source`.
        CanNotRead: an `OSError`, if a file can't be read now (rights, locks, too many open files), even with
            `skip_corrupt`. The next call tries again.
        ModuleNotFoundError: if the package that reads it is not installed.
        OSError: if the cache can't be written.
        ValueError: for a folder without files that can be read, a file that can't be used (unless `skip_corrupt`), and
            frame rates, sizes or options that do not fit together. The message names the file.
    """
    if fps is not None and fps < LEAST_FPS:
        raise ValueError(f"fps must be at least {LEAST_FPS}, got {fps}")
    if fps is not None and actions:
        raise ValueError("fps and actions=True do not go together: dropped frames would take their actions along")
    layout = Layout(channels_last, frame_channels)
    format = None if format is None else make_format(format)
    roots = [locate(name, format) for name in ([source] if isinstance(source, (str, Path)) else source)]
    if not roots:
        raise ValueError("source is an empty list: name at least one file or folder")
    sources = each_once([found for root in roots for found in find(root, format)])
    options = Options(image_size, fps, mixed_sizes, actions, layout)
    made_from = {
        "files": [entry for one in sources for entry in one.fingerprint()],
        "formats": sorted({one.format.identity for one in sources}),
        "options": asdict(options),
    }
    folder = _cache_folder(roots, options, format, cache)
    stored = _load(folder, made_from, sources, options)
    if stored is None:
        with caches.locked(folder):
            stored = _load(folder, made_from, sources, options)  # another process may have made it
            if stored is None:
                with caches.continuing(folder, has_notes) as unfinished:
                    decode(sources, options, skip_corrupt, unfinished, made_from, progress)
                stored = caches.load(folder, made_from)
        assert stored is not None
    short = _too_short(stored.index, max_gap)
    skipped = stored.index.skipped | short
    _report(skipped, len(set(stored.index.files)) - len(short), skip_corrupt)
    dataset = EpisodeDataset(
        stored.frames,
        stored.index.lengths,
        action=stored.action,
        frame_stack=frame_stack,
        max_gap=max_gap,
        seed=seed,
    )
    if short:
        dataset = dataset.select(np.flatnonzero([file not in short for file in stored.index.files]))
    dataset.skipped = skipped
    if stored.index.remarks:
        listed = "".join(f"\n  {file}: {remark}" for file, remark in stored.index.remarks.items())
        warnings.warn(f"{len(stored.index.remarks)} of {len(sources)} files need attention:{listed}", stacklevel=3)
    return dataset


def _load(folder: Path, made_from: dict[str, Any], sources: Sequence[Source], options: Options) -> caches.Stored | None:
    """The frames stored in `folder`, unless a missing file can be read now."""
    stored = caches.load(folder, made_from)
    if stored is None and options.mixed_sizes:  # those that had one size
        stored = caches.load(folder, made_from | {"options": asdict(replace(options, mixed_sizes=False))})
    if stored is not None:
        retry = set(stored.index.retry)
        if any(one.is_supported(options.wanted) for one in sources if str(one.path) in retry):
            return None
    return stored


def _cache_folder(roots: list[Path], options: Options, format: Format | None, cache: str | Path | None) -> Path:
    """The folder of the frames of these sources with these options; `mixed_sizes` makes no difference."""
    beside = roots[0] if roots[0].is_dir() else roots[0].parent
    parent = beside / CACHE_FOLDER if cache is None else as_path(cache)
    caches.check_apart(parent, roots)
    values = {name: value for name, value in asdict(options).items() if name != "layout" or options.layout != UNKNOWN}
    values["mixed_sizes"] = False  # with it, a decoding goes on that was refused without it
    key = json.dumps([[str(root) for root in roots], values, *([] if format is None else [format.identity])])
    return parent / hashlib.sha256(key.encode()).hexdigest()[:16]


def _too_short(index: caches.Index, max_gap: int) -> dict[str, str]:
    """The files without an episode longer than the largest gap, with the reason."""
    longest: dict[str, int] = {}
    for file, length in zip(index.files, index.lengths, strict=True):
        longest[file] = max(longest.get(file, 0), length)
    return {
        file: f"it is too short: {length} frames, and a gap of up to {max_gap} steps needs {max_gap + 1}"
        for file, length in longest.items()
        if length <= max_gap
    }


def _report(skipped: dict[str, str], usable: int, skip_corrupt: bool) -> None:
    """Refuses unusable files; with `skip_corrupt`, warns of them if other files remain.

    Raises:
        ValueError: the message names the first file.
    """
    if not skipped:
        return
    file, reason = next(iter(skipped.items()))
    more = f" ({len(skipped) - 1} more like it)" if len(skipped) > 1 else ""
    if not usable:
        raise ValueError(f"{file} can't be used: {reason}{more}, and there is no other file")
    if not skip_corrupt:
        raise ValueError(f"{file} can't be used: {reason}{more}; skip_corrupt=True leaves such files out")
    listed = "".join(f"\n  {file}: {reason}" for file, reason in skipped.items())
    warnings.warn(f"skipped {len(skipped)} of {len(skipped) + usable} files:{listed}", stacklevel=4)
