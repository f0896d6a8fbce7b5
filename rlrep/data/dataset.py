"""Finished data sets: episodes in files of any format, behind the samples of the online replay."""

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
from rlrep.data.sources import CACHE_FOLDER, Source, find, locate
from rlrep.data.transition_files import TransitionFiles
from rlrep.data.transitions import ActionScale
from rlrep.replay import Episodes, ReplayError
from rlrep.replay.storage import frame_device, frame_memory
from rlrep.window import Window

__all__ = ["Dataset", "open_dataset"]

# Frames that are copied into memory in one piece.
COPIED_AT_ONCE = 4096


class Dataset(Episodes):
    """A finished data set; `sample` is that of the online replay. `open_dataset` makes it.

    Args:
        files: that hold it.
        skipped: see below.
        frame_stack: frames in an observation.
        n_step, horizon: n and K of the window that `sample` serves unless asked for another.
        storage: "disk", "cpu", "cuda", …: where the frames are; or a function that says so of their bytes.
        options: of `Episodes`.

    Attributes:
        provenance: how it was made, as far as is known.
        skipped: files, and episodes of files that were cut, left out, and why.
        fingerprint: of all that it holds; the same wherever it is stored.
        as_it_is: whether it was opened without a conversion: how files are read, and `cache`, had no effect.
        action_dim, discrete: size of a continuous action, or how many choices there are.
        action_scale: brings a policy's actions to the units of the recorded ones; None where these are the data's.
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
        """What brings a policy's actions to the units of the recorded ones; None where these are the data's."""
        return self.provenance.action_scale

    @property
    def episode_lengths(self) -> np.ndarray:
        """(E,) steps of each episode."""
        return np.bincount(self.rows["episode"][0]) - 1

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state, and the fingerprint of the data that it is a state of."""
        return super().state_dict() | {"fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues to draw where `state` was saved.

        Raises:
            ReplayError: if the state is of other data.
        """
        if state.get("fingerprint") != self.fingerprint:
            raise ReplayError("the saved state is of other episodes than these")
        super().load_state_dict(state)

    def check_lengths(self, name: str | Path) -> None:
        """Refuses a data set that can't be sampled, and warns of the episodes that never are."""
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
        """Refuses a window that can't be sampled, see `Episodes.check`, and warns of the episodes that never are."""
        super().check(window, learner, source, batch_size)
        window = self.resolve(window)
        steps = window.least_span + window.lookback
        if steps > self.warned_of:
            self._warn(self._too_short(window), f"what {learner} reads, {window.reach},", source)
            self.warned_of = steps

    def _too_short(self, window: Window) -> np.ndarray:
        """(E,) bool: the episodes in which no such window can start."""
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
    """Opens recorded episodes as a replay that is only read.

    The first call converts the files, each frame stored once; later ones map what was converted into memory. Data sets
    of our own format are not converted. Frames are compared with their checksums when files that were copied or changed
    are opened for the first time, some seconds for 100,000.

    Args:
        path: one of these:

            - a folder that `write_transitions` or `rlrep.experiments.collect` wrote;
            - the folder of a run of `rlrep.experiments.train`, or its `replay` folder. Let the run end first. An
              episode whose beginning was written over is left out;
            - V-D4RL's 84-pixel HDF5 files, one or a folder of them;
            - a folder of V-D4RL's 64-pixel `.npz` files, or of DrQ-v2's replay;
            - a Minari data set of pixels in HDF5 or Arrow, by its folder or the id it has on this machine;
            - a LeRobot data set, version 3.0. Its actions are normalized by their statistics, see `action_scale`; one
              without rewards serves learners that read none, such as behaviour cloning;
            - a folder of any of these, its sub-folders included.
        frame_stack, n_step, discount, horizon, device, seed: of `ReplayBuffer`. Without rewards n_step has no effect.
        storage: of `ReplayBuffer`, or what chooses it by the bytes that the data take. With "disk" the frames stay in
            their files; "memory" and a device copy them.
        cache: folder of the converted files; None makes `.rlrep-cache` in `path` (beside a file).
        skip_corrupt: leave out files that can't be used, with a warning that lists them; `skipped` has the reasons.
        channels_last, frame_channels: how pictures are laid out, see `open_video`; None where their shape tells.
        format: of the files, see `open_video`; None where the files tell.
        progress: called while files are converted, see `TransitionFiles`.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        CanNotRead: an `OSError`, if a file can't be read now (rights, locks, too many open files), whatever
            `skip_corrupt` says. Nothing is remembered of it.
        ModuleNotFoundError: if the package that reads it is not installed.
        OSError: if the cache can't be written.
        ReplayError: if the frames do not fit where `storage` wants them.
        ValueError: for files that can't be used or do not fit together, and episodes that are all shorter than a
            sample. The message names the file.
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
    """A data set of our own format, which can't be made anew."""
    try:
        return DataSetFiles.open(folder)
    except Unreadable as error:
        raise ValueError(f"{folder} can't be used: {error}: restore it from a copy") from error


def _cache_folder(root: Path, format: Format | None, cache: str | Path | None) -> Path:
    """Where the converted files are kept."""
    parent = (root if root.is_dir() else root.parent) / CACHE_FOLDER if cache is None else as_path(cache)
    key = os.fsencode(root) + (b"" if format is None else b"\0" + os.fsencode(format.identity))
    return parent / f"transitions-{hashlib.sha256(key).hexdigest()[:16]}"


def _converted(
    root: Path, sources: Sequence[Source], folder: Path, skip_corrupt: bool, layout: Layout, progress: FileProgress
) -> tuple[DataSetFiles, dict[str, str]]:
    """The converted files in `folder`, and what was left out; converts where it must."""
    made_from = json.loads(json.dumps([entry for source in sources for entry in source.fingerprint()]))
    made_from.append(sorted({source.format.identity for source in sources}))
    if layout != UNKNOWN:
        made_from.append(vars(layout))
    paths = {str(source.path) for source in sources}
    wanted = Wanted(actions=True, rewards=True, layout=layout)
    warned: Set[str] = set()

    def cached() -> DataSetFiles | None:
        """None if they are missing, damaged, of other files, or lack some that is not to be left out or can be read."""
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
