"""Finished data sets: episodes in files of any format, behind the samples of the online replay."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlrep.data import cache as caches
from rlrep.data import hdf5, minari_files, npz, replay_files
from rlrep.data.clips import CanNotRead, Clip, Unavailable, Unreadable
from rlrep.data.decode import is_supported
from rlrep.data.episodes import readable
from rlrep.data.pictures import UNKNOWN, Layout
from rlrep.data.replay_files import load_rows
from rlrep.data.sources import CACHE_FOLDER, Source, find, locate
from rlrep.data.transitions import Provenance, Transitions
from rlrep.replay import Episodes, ReplayError
from rlrep.replay.storage import frame_device, frame_memory
from rlrep.window import Window

__all__ = ["Dataset", "TransitionFiles", "open_dataset", "write_transitions"]

# Frames that are copied into memory in one piece.
COPIED_AT_ONCE = 4096
Writer = Callable[[Iterable[Transitions], Path, Provenance], None]
WRITERS: dict[str, Writer] = {
    "rlrep": replay_files.write_dataset,
    "vd4rl_84": hdf5.write_vd4rl_84,
    "vd4rl_64": npz.write_vd4rl_64,
    "drqv2": npz.write_drqv2,
    "minari": minari_files.write_minari,
}


class TransitionFiles:
    """The episodes in files of any format that `open_dataset` reads; each iteration reads them anew, one at a time.

    Args:
        path: of the files, see `open_dataset`.
        skip_corrupt: leave out files that can't be used; all are read once to find them.
        channels_last, frame_channels: how pictures are laid out, see `open_video`; None where their shape tells.

    Attributes:
        provenance: how the data were made, as far as the files tell.
        skipped: files left out, and why; once they were read, also what was left out of the others.
        retry: those files that can be used once something else is installed.

    Raises:
        FileNotFoundError, ModuleNotFoundError, CanNotRead, ValueError: as `open_dataset` does.
    """

    def __init__(
        self,
        path: str | Path,
        skip_corrupt: bool = False,
        *,
        channels_last: bool | None = None,
        frame_channels: int | None = None,
    ) -> None:
        self.layout = Layout(channels_last, frame_channels)
        self.root = locate(path)
        self.sources = find(self.root)
        self.skipped: dict[str, str] = {}
        self.retry: list[str] = []
        if skip_corrupt:
            for source in self.sources:
                try:
                    for _ in self._episodes(source):
                        pass
                except Unreadable as error:
                    self.skipped[str(source.path)] = str(error)
                    if isinstance(error, Unavailable):
                        self.retry.append(str(source.path))
            if len(self.skipped) == len(self.sources):
                name, reason = next(iter(self.skipped.items()))
                raise ValueError(f"none of the {len(self.sources)} files can be used; the first is {name}: {reason}")
        self.sources = [source for source in self.sources if str(source.path) not in self.skipped]
        try:
            self.provenance = _provenance(self.root, self.sources)
        except Unreadable as error:
            raise ValueError(f"{self.root} can't be used: {error}") from error

    @property
    def format(self) -> str:
        """Which formats the files have."""
        return ", ".join(sorted({_format(source) for source in self.sources}))

    def __iter__(self) -> Iterator[Transitions]:
        first: dict[str, tuple[Any, Path]] = {}
        for source in self.sources:
            try:
                for episode in self._episodes(source, self.skipped):
                    kinds = {
                        "frames (channels, height, width)": episode.frames.shape[1:],
                        "actions": (str(episode.action.dtype), episode.action.shape[1:]),
                    }
                    for what, kind in kinds.items():
                        expected, path = first.setdefault(what, (kind, source.path))
                        if kind != expected:
                            raise ValueError(
                                f"episodes with different {what}: {path} has {expected}, {source.path} has {kind} "
                                f"({episode.name}); keep the files of one task and size in a folder of their own"
                            )
                    yield episode
            except Unreadable as error:
                raise ValueError(f"{source.path} can't be used: {error}; skip_corrupt=True leaves it out") from error

    def _episodes(self, source: Source, skipped: dict[str, str] | None = None) -> Iterator[Transitions]:
        """A source's episodes; adds to `skipped` what the source has beside them, and warns of it."""
        empty = True
        try:
            for clip in source.reader(source.path, True, True, layout=self.layout):
                empty = False
                if clip.left_out and skipped is not None:
                    part = f"{source.path} (in part)"
                    if part not in skipped:
                        warnings.warn(
                            f"of {source.path} only whole episodes are kept, without {clip.left_out}", stacklevel=3
                        )
                    skipped[part] = clip.left_out
                yield _transitions(clip)
        except CanNotRead as error:
            raise CanNotRead(error.errno or errno.EIO, f"{source.path} {error.strerror}") from error
        if empty:
            raise Unreadable("it holds no whole episode")


def _transitions(clip: Clip) -> Transitions:
    frames = np.concatenate(list(clip.chunks)) if clip.reward is not None else np.zeros(0)
    assert clip.action is not None and clip.reward is not None
    try:
        return Transitions(np.ascontiguousarray(frames), clip.action[:-1], clip.reward, clip.terminated, clip.name)
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(f"{clip.name}: {error}") from error


def _format(source: Source) -> str:
    if source.reader is replay_files.read_replay:
        return "rlrep data set" if replay_files.is_dataset(source.path) else "replay of a run"
    if source.reader is npz.read_npz:
        return npz.layout(source.path)
    names: dict[Any, str] = {hdf5.read_hdf5: "V-D4RL HDF5", minari_files.read_minari: "Minari"}
    return names.get(source.reader, "video")


def _provenance(root: Path, sources: list[Source]) -> Provenance:
    """What the files tell; nothing where they tell different things."""
    told = []
    for source in sources:
        if source.reader is replay_files.read_replay:
            told.append(replay_files.read_provenance(source.path))
        elif source.reader is minari_files.read_minari:
            told.append(minari_files.read_provenance(source.path))
        elif source.reader is hdf5.read_hdf5:
            told.append(hdf5.read_provenance(source.path))
    if (root / npz.PROVENANCE).is_file():
        told.append(npz.read_provenance(root))
    return told[0] if told and all(each == told[0] for each in told) else Provenance()


def write_transitions(
    episodes: Iterable[Transitions], folder: str | Path, provenance: Provenance | None = None, *, format: str = "rlrep"
) -> None:
    """Writes a data set, whole or not at all; episodes are taken one at a time. Nothing that is in `folder` is ever
    replaced, nor what another process puts there meanwhile.

    Args:
        episodes: at least one, of one task.
        folder: a new or empty one, or a link to such a one. It is held from before the first episode is taken.
        provenance: how they were made, recorded with them.
        format: "rlrep" (opened without a conversion), "vd4rl_84", "vd4rl_64", "drqv2" or "minari".

    Raises:
        ValueError: for an unknown format, a folder that is not empty, no episodes, or ones that the format can't hold.
        InUse: an `OSError`, if another process writes there.
        FileExistsError: if something was put into the folder meanwhile; the message says where the episodes are.
        OSError: if it can't be written.
    """
    folder = check_target(folder, format)
    with caches.locked(folder, wait=False), caches.filling(folder) as temporary:
        check_target(folder, format)  # another process may have made it before it was locked
        WRITERS[format](_at_least_one(episodes), temporary, provenance or Provenance())


def check_target(folder: str | Path, format: str) -> Path:
    """Refuses what `write_transitions` would, before there are episodes.

    Returns:
        The folder that is meant, where links lead to.

    Raises:
        ValueError: for an unknown format, and a folder that is not empty or can't be replaced.
    """
    if format not in WRITERS:
        raise ValueError(f"format must be one of {', '.join(WRITERS)}, got {format!r}")
    try:
        folder = Path(folder).expanduser().resolve()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is there already: name a new folder, or delete it")
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder} can't be written to ({error}): name a new folder") from error
    if os.path.ismount(folder):
        raise ValueError(f"{folder} is where another file system is mounted: name a new folder in it")
    return folder


def _at_least_one(episodes: Iterable[Transitions]) -> Iterator[Transitions]:
    empty = True
    for episode in episodes:
        empty = False
        yield episode
    if empty:
        raise ValueError("there are no episodes to write")


class Dataset(Episodes):
    """A finished data set; `sample` is that of the online replay.

    Attributes:
        provenance: how it was made, as far as is known.
        skipped: files, and episodes of files that were cut, left out, and why.
        fingerprint: of all that it holds; the same wherever it is stored.
        action_dim, discrete: size of a continuous action, or how many choices there are.
    """

    def __init__(
        self,
        folder: Path,
        provenance: Provenance,
        skipped: dict[str, str],
        *,
        frame_stack: int,
        n_step: int,
        horizon: int,
        storage: str,
        **options: Any,
    ) -> None:
        rows = {name: array if name == "frame" else np.array(array) for name, array in load_rows(folder).items()}
        check_whole(rows)
        frames = readable(rows.pop("frame"))
        if storage != "disk":
            mapped, frames = frames, frame_memory(tuple(frames.shape), frame_device(storage))
            for at in range(0, frames.shape[1], COPIED_AT_ONCE):
                frames[:, at : at + COPIED_AT_ONCE] = mapped[:, at : at + COPIED_AT_ONCE].to(frames.device)
        self.frames = frames
        self.warned_of = 0  # steps of the longest window whose unsampled episodes were listed
        self.provenance, self.skipped = provenance, skipped
        self.fingerprint = replay_files.fingerprint(folder)
        action = rows["action"]
        self.discrete = action.dtype == np.int64
        self.action_dim = max(provenance.num_actions or 0, int(action.max()) + 1) if self.discrete else action.shape[2]
        super().__init__(frames, rows, Window.ahead(n_step, horizon), frame_stack=frame_stack, **options)

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
                stacklevel=4,
            )


def check_whole(rows: dict[str, np.ndarray]) -> None:
    """Refuses rows that are not unbroken episodes, numbered from 0."""
    episode, step = rows["episode"][0], rows["step"][0]
    new = np.diff(episode)
    whole = np.where(new == 0, np.diff(step) == 1, (new == 1) & (step[1:] == 0)).all()
    if not whole or episode[0] or step[0]:
        raise Unreadable("it is corrupt: its rows are not whole episodes one after the other")


def open_dataset(
    path: str | Path,
    *,
    frame_stack: int = 3,
    n_step: int = 3,
    discount: float = 0.99,
    horizon: int = 0,
    cache: str | Path | None = None,
    skip_corrupt: bool = False,
    storage: str = "disk",
    device: torch.device | str | None = None,
    seed: int = 0,
    channels_last: bool | None = None,
    frame_channels: int | None = None,
) -> Dataset:
    """Opens recorded episodes as a replay that is only read.

    The first call converts the files, each frame stored once; later ones map what was converted into memory. Data sets
    of our own format are not converted. Frames are compared with their checksums when files that were copied or changed
    are opened for the first time, some seconds for 100,000.

    Args:
        path: one of these:

            - a folder that `write_transitions` or `experiments.collect` wrote;
            - the folder of a run of `experiments.train`, or its `replay` folder. Let the run end first. An episode
              whose beginning was written over is left out;
            - V-D4RL's 84-pixel HDF5 files, one or a folder of them;
            - a folder of V-D4RL's 64-pixel `.npz` files, or of DrQ-v2's replay;
            - a Minari data set of pixels, by its folder or the id it has on this machine.
        frame_stack, n_step, discount, horizon, storage, device, seed: of `ReplayBuffer`. Opened with "disk" the frames
            stay in their files; "memory" and a device copy them.
        cache: folder of the converted files; None makes `.rlrep-cache` in `path` (beside a file).
        skip_corrupt: leave out files that can't be used, with a warning that lists them; `skipped` has the reasons.
        channels_last, frame_channels: how pictures are laid out, see `open_video`; None where their shape tells.

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
    root = locate(path)
    options: dict[str, Any] = dict(n_step=n_step, discount=discount, horizon=horizon)
    options |= dict(storage=storage, device=device, seed=seed)
    if replay_files.is_dataset(root):
        try:
            provenance = replay_files.read_provenance(root)
            replay_files.check_frames(root)
            dataset = Dataset(root, provenance, {}, frame_stack=frame_stack, **options)
        except Unreadable as error:
            raise ValueError(f"{root} can't be used: {error}: restore it from a copy") from error
    else:
        layout = Layout(channels_last, frame_channels)
        folder, provenance, skipped = _converted(root, cache, skip_corrupt, layout)
        dataset = Dataset(folder, provenance, skipped, frame_stack=frame_stack, **options)
    dataset.check_lengths(root)
    return dataset


def _converted(
    root: Path, cache: str | Path | None, skip_corrupt: bool, layout: Layout
) -> tuple[Path, Provenance, dict[str, str]]:
    """The folder of the converted files, their provenance, and what was left out; converts where it must."""
    sources = find(root)
    parent = (root if root.is_dir() else root.parent) / CACHE_FOLDER if cache is None else Path(cache).expanduser()
    folder = parent / f"transitions-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}"
    made_from = json.loads(json.dumps([entry for source in sources for entry in source.fingerprint()]))
    if layout != UNKNOWN:
        made_from.append(vars(layout))
    paths = {str(source.path) for source in sources}
    warned: Set[str] = set()

    def cached() -> dict[str, Any] | None:
        found = _cached(folder, made_from, paths, skip_corrupt)
        retry = set() if found is None else set(found.get("retry", ()))
        return None if any(is_supported(one, layout) for one in sources if str(one.path) in retry) else found

    found = cached()
    if found is None:
        with caches.locked(folder):
            found = cached()  # another process may have made it
            if found is None:
                files = TransitionFiles(root, skip_corrupt, **vars(layout))
                about = dict(made_from=made_from, skipped=files.skipped, retry=files.retry)
                with caches.replacing(folder) as temporary:
                    replay_files.write_dataset(files, temporary, files.provenance, **about)
                found = replay_files.description(folder)
                warned = found["skipped"].keys() - paths  # while they were read
    skipped = {name: reason for name, reason in found["skipped"].items() if name not in warned}
    if skipped:
        listed = "".join(f"\n  {name}: {reason}" for name, reason in skipped.items())
        whole = len(paths & skipped.keys())
        what = f"{whole} of {len(sources)} files" if whole else "parts of files"
        warnings.warn(f"skipped {what}:{listed}", stacklevel=3)
    return folder, Provenance(**found["provenance"]), found["skipped"]


def _cached(folder: Path, made_from: list[Any], paths: Set[str], skip_corrupt: bool) -> dict[str, Any] | None:
    """What is recorded of the converted files in `folder`; None if they are missing, damaged, of other files, or lack
    some of `paths` and none is to be left out.
    """
    try:
        found = replay_files.description(folder)
        replay_files.load_rows(folder)
        replay_files.check_frames(folder)
    except Unreadable:
        return None
    return (
        found if found.get("made_from") == made_from and (skip_corrupt or not paths & found["skipped"].keys()) else None
    )
