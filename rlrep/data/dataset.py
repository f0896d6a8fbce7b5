"""Finished data sets: episodes in files of any format, with the sampling of the online replay."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlrep.arguments import as_path, checked_numbers
from rlrep.bounds import Count, Share
from rlrep.data import cache as caches
from rlrep.data import replay_files
from rlrep.data.episodes import readable
from rlrep.data.formats import Format, Wanted, make_format
from rlrep.data.pictures import UNKNOWN, Layout
from rlrep.data.reading import FileProgress, Unreadable, untold
from rlrep.data.replay_files import DataSetFiles
from rlrep.data.sources import CACHE_FOLDER, Source, beside, find, locate
from rlrep.data.transition_files import TransitionFiles
from rlrep.data.transitions import ActionScale
from rlrep.replay import Episodes, ReplayError
from rlrep.replay.storage import frame_device, frame_memory
from rlrep.window import Window

__all__ = ["Dataset", "open_dataset"]

# How many frames are copied into memory at once.
COPIED_AT_ONCE = 4096


class Dataset(Episodes):
    """A finished data set, which samples like the online replay. `open_dataset` opens one.

    Args:
        files: the data set's files.
        skipped: see below.
        frame_stack: frames in an observation.
        n_step, horizon: n and K of the default window of `sample`.
        storage: where the frames are, "disk", "cpu", "cuda", …; or a function that decides from their bytes.
        options: of `Episodes`.

    Attributes:
        provenance: how it was made, as far as known.
        skipped: files, and episodes of truncated files, that were left out, with the reason.
        fingerprint: of all its data; independent of the place of storage.
        as_it_is: whether it was opened without a conversion; then options of reading and `cache` had no effect.
        action_dim, discrete: size of a continuous action, or how many choices there are.
        action_scale: converts a policy's actions to the recorded units; None if the data have these units.
    """

    as_it_is = False

    @checked_numbers
    def __init__(
        self,
        files: DataSetFiles,
        skipped: dict[str, str],
        *,
        frame_stack: int,
        n_step: int,
        horizon: Count,
        storage: str | Callable[[int], str],
        **options: Any,
    ) -> None:
        rows = {name: array if name == "frame" else np.array(array) for name, array in files.rows.items()}
        if callable(storage):
            storage = storage(sum(array.nbytes for array in rows.values()))
        frames = readable(rows.pop("frame"))
        if storage != "disk":
            mapped, frames = frames, frame_memory(tuple(frames.shape), frame_device(storage))
            for at in range(0, frames.shape[1], COPIED_AT_ONCE):
                frames[:, at : at + COPIED_AT_ONCE] = mapped[:, at : at + COPIED_AT_ONCE].to(frames.device)
        self.frames = frames
        self.warned_of = 0  # steps of the longest window whose unsampled episodes were listed
        self.provenance, self.skipped, self.fingerprint = files.provenance, skipped, files.fingerprint
        window = Window.ahead(n_step, horizon)
        if not self.provenance.rewards:
            del rows["reward"]
            window = Window.ahead(0, max(horizon, 1))
        action = rows["action"]
        self.discrete = action.dtype == np.int64
        self.action_dim = (
            max(self.provenance.num_actions or 0, int(action.max()) + 1) if self.discrete else action.shape[2]
        )
        super().__init__(frames, rows, window, frame_stack=frame_stack, **options)

    @property
    def action_scale(self) -> ActionScale | None:
        """Converts a policy's actions to the recorded units; None if the data have these units."""
        return self.provenance.action_scale

    @property
    def episode_lengths(self) -> np.ndarray:
        """(E,) steps of each episode."""
        return np.bincount(self.rows["episode"][0]) - 1

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state, and the fingerprint of its data."""
        return super().state_dict() | {"fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the sampler's state.

        Raises:
            ReplayError: if the state belongs to other data.
        """
        if state.get("fingerprint") != self.fingerprint:
            raise ReplayError("the saved state is of other episodes than these")
        super().load_state_dict(state)

    def check_lengths(self, name: str | Path) -> None:
        """Refuses a data set that cannot be sampled, and warns of episodes that are never sampled."""
        span, lengths, short = self.window.span, self.episode_lengths, self._too_short(self.window)
        needs = f"max(n_step={self.window.n_step}, horizon={self.window.actions}) = {span} steps"
        if short.all():
            raise ValueError(
                f"no episode in {name} is as long as a sample, {needs} (the longest has {lengths.max()}): "
                f"make n_step and horizon smaller"
            )
        self._warn(short, f"a sample, {needs},", name)
        self.warned_of = span

    def check(self, window: Window, learner: str, source: str = "these data", batch_size: int = 1) -> None:
        """Refuses a window that cannot be sampled, see `Episodes.check`, and warns of episodes that are never
        sampled."""
        super().check(window, learner, source, batch_size)
        window = self.resolve(window)
        steps = window.least_span + window.lookback
        if steps > self.warned_of:
            self._warn(self._too_short(window), f"what {learner} reads, {window.reach},", source)
            self.warned_of = steps

    def _too_short(self, window: Window) -> np.ndarray:
        """(E,) bool: the episodes that are too short for such a window."""
        lengths = self.episode_lengths
        ended = np.zeros(len(lengths), bool)
        ended[self.rows["episode"][0][self.rows["terminated"][0]]] = True
        return (lengths < window.least_span + window.lookback) & ~(ended & (lengths > window.lookback))

    def _warn(self, short: np.ndarray, what: str, source: str | Path) -> None:
        if short.any():
            listed = ", ".join(map(str, np.flatnonzero(short)[:10])) + (", …" if short.sum() > 10 else "")
            warnings.warn(
                f"{short.sum()} of the {len(short)} episodes in {source} are shorter than {what} and are never "
                f"sampled: {listed}",
                stacklevel=5,
            )


@checked_numbers
def open_dataset(
    path: str | Path,
    *,
    frame_stack: int = 3,
    n_step: int = 3,
    discount: Share = 0.99,
    horizon: Count = 0,
    cache: str | Path | None = None,
    skip_corrupt: bool = False,
    storage: str | Callable[[int], str] = "disk",
    device: torch.device | str | None = None,
    seed: Count = 0,
    channels_last: bool | None = None,
    frame_channels: int | None = None,
    format: str | Format | None = None,
    progress: FileProgress = untold,
) -> Dataset:
    """Opens recorded episodes as a read-only replay.

    The first call converts the files, and stores each frame once; later calls map the converted files into memory. Data
    sets in this project's format are not converted. The first opening of a copied or changed file compares its frames
    with their checksums, some seconds for 100,000 frames.

    Args:
        path: one of these:

            - a folder that `write_transitions` or `rlrep.experiments.collect` wrote;
            - the folder of a run of `rlrep.experiments.train`, or its `replay` folder. Let the run end first. An
              episode whose beginning was overwritten is left out;
            - V-D4RL's 84-pixel HDF5 files, one or a folder of them;
            - a folder of V-D4RL's 64-pixel `.npz` files, or of DrQ-v2's replay;
            - a Minari data set of pixels in HDF5 or Arrow, by its folder or its id on this machine. Its actions are
              normalized by the bounds of their space, see `action_scale`;
            - a LeRobot data set, version 3.0. Its actions are normalized by their statistics, see `action_scale`. If it
              has no rewards, use learners that read none, such as behaviour cloning;
            - a folder of any of these, its sub-folders included.
        frame_stack, n_step, discount, horizon, device, seed: of `ReplayBuffer`. Without rewards n_step has no effect.
        storage: of `ReplayBuffer`, or a function that chooses it by the size of the data in bytes. With "disk" the
            frames stay in their files; "memory" and a device copy them.
        cache: folder of the converted files; None makes `.rlrep-cache` in `path` (beside a file).
        skip_corrupt: leave out files that can't be used, with a warning that lists them; `skipped` has the reasons.
        channels_last, frame_channels: the layout of pictures, see `open_video`; None detects it from their shape.
        format: of the files, see `open_video`; None detects it from the files.
        progress: called while files are converted, see `TransitionFiles`.

    Raises:
        FileNotFoundError: if nothing is at `path`.
        CanNotRead: an `OSError`, if a file can't be read now (rights, locks, too many open files), even with
            `skip_corrupt`. The next call tries again.
        ModuleNotFoundError: if the package that reads it is not installed.
        OSError: if the cache can't be written.
        ReplayError: if the frames do not fit into `storage`.
        ValueError: for files that can't be used or do not fit together, and if all episodes are shorter than a sample.
            The message names the file.
    """
    layout = Layout(channels_last, frame_channels)
    format = None if format is None else make_format(format)
    root = locate(path, format)
    sources = find(root, format)
    skipped: dict[str, str] = {}
    as_it_is = len(sources) == 1 and sources[0].format.is_store
    if as_it_is:
        files = _opened(sources[0].path)
    else:
        folder = _cache_folder(root, format, cache)
        files, skipped = _converted(root, sources, folder, skip_corrupt, layout, progress)
    dataset = Dataset(
        files,
        skipped,
        frame_stack=frame_stack,
        n_step=n_step,
        discount=discount,
        horizon=horizon,
        storage=storage,
        device=device,
        seed=seed,
    )
    dataset.check_lengths(root)
    dataset.as_it_is = as_it_is
    return dataset


def _opened(folder: Path) -> DataSetFiles:
    """Opens a data set in this project's format, which cannot be converted again."""
    try:
        return DataSetFiles.open(folder)
    except Unreadable as error:
        raise ValueError(f"{folder} can't be used: {error}: restore it from a copy") from error


def _cache_folder(root: Path, format: Format | None, cache: str | Path | None) -> Path:
    """The folder of the converted files."""
    parent = (root if root.is_dir() else root.parent) / CACHE_FOLDER if cache is None else as_path(cache)
    caches.check_apart(parent, [root])
    key = os.fsencode(root) + (b"" if format is None else b"\0" + os.fsencode(format.identity))
    return parent / f"transitions-{hashlib.sha256(key).hexdigest()[:16]}"


def _converted(
    root: Path, sources: Sequence[Source], folder: Path, skip_corrupt: bool, layout: Layout, progress: FileProgress
) -> tuple[DataSetFiles, dict[str, str]]:
    """The converted files in `folder`, and what was left out; converts if necessary."""
    made_from = json.loads(json.dumps([entry for source in sources for entry in source.fingerprint()]))
    made_from += [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in beside(sources)]
    made_from += [caches.FORMAT_VERSION, sorted({source.format.identity for source in sources})]
    if layout != UNKNOWN:
        made_from.append(vars(layout))
    paths = {str(source.path) for source in sources}
    wanted = Wanted(actions=True, rewards=True, layout=layout)
    warned: Set[str] = set()

    def cached() -> DataSetFiles | None:
        """None if they are missing, damaged, made from other files, or lack a file that can now be read or is
        required."""
        try:
            found = DataSetFiles.open(folder)
        except Unreadable:
            return None
        about = found.about
        if about.get("made_from") != made_from or (not skip_corrupt and paths & about["skipped"].keys()):
            return None
        retry = set(about["retry"])
        return None if any(one.is_supported(wanted) for one in sources if str(one.path) in retry) else found

    found = cached()
    if found is None:
        with caches.locked(folder):
            found = cached()  # another process may have made it
            if found is None:
                files = TransitionFiles.of(root, sources, skip_corrupt, layout, progress)
                about = dict(made_from=made_from, skipped=files.skipped, retry=files.retry)
                with caches.replacing(folder) as temporary:
                    replay_files.write_dataset(files, temporary, files.provenance, about)
                found = DataSetFiles.open(folder)
                warned = found.about["skipped"].keys() - paths  # while they were read
    skipped: dict[str, str] = found.about["skipped"]
    unsaid = {name: reason for name, reason in skipped.items() if name not in warned}
    if unsaid:
        listed = "".join(f"\n  {name}: {reason}" for name, reason in unsaid.items())
        whole = len(paths & unsaid.keys())
        what = f"{whole} of {len(sources)} files" if whole else "parts of files"
        warnings.warn(f"skipped {what}:{listed}", stacklevel=4)
    return found, skipped
