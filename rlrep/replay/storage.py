"""The storage of a replay's rows: one ring per lane in memory, mirrored to files that survive a kill."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT_VERSION = 1
Field = tuple[tuple[int, ...], str]


class ReplayError(RuntimeError):
    """An operation that a replay cannot do; the message says what to do instead."""


class Files:
    """One `.npy` file per field, each (lanes, length, *shape), mapped into memory; `replay.json` describes them.

    The constructor reserves the whole size, so that a disk that is too small is detected at the start.

    Raises:
        ReplayError: if the disk has no room, or the folder holds a replay of other sizes or a corrupt one.
    """

    def __init__(self, folder: Path, fields: Mapping[str, Field], lanes: int, length: int) -> None:
        self.folder = folder
        spec: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "lanes": lanes,
            "length": length,
            "fields": {name: [list(shape), dtype] for name, (shape, dtype) in fields.items()},
        }
        description = folder / "replay.json"
        if description.exists():
            self._check(description, spec)
        else:
            self._create(description, spec)
        self.arrays: dict[str, np.ndarray] = {}
        for name, (shape, dtype) in fields.items():
            try:
                np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)  # "r+" would extend a truncated file
                array = np.load(folder / f"{name}.npy", mmap_mode="r+", allow_pickle=False)
            except Exception as error:  # NumPy's parsers raise many kinds of errors for a damaged file
                raise ReplayError(
                    f"{folder / f'{name}.npy'} is missing or damaged ({error}): {self._advice}"
                ) from error
            if array.shape != (lanes, length, *shape) or array.dtype != np.dtype(dtype):
                raise ReplayError(f"{folder / f'{name}.npy'} is not as replay.json describes it: {self._advice}")
            self.arrays[name] = array

    @property
    def frames(self) -> torch.Tensor:
        """The frames, without copying."""
        return torch.from_numpy(self.arrays["frame"])

    @property
    def written(self) -> bool:
        """Whether the files hold rows."""
        return bool(self.arrays["step"].any())

    def forget_row(self, lane: int, at: int) -> None:
        """Marks a row, until it is rewritten, as continuing no other row: after a kill, its frame may be newer than the
        rest of the row.
        """
        self.arrays["step"][lane, at] = -2  # not -1, because a row that was never written has 0 and would continue -1

    def flush(self) -> None:
        for array in self.arrays.values():
            assert isinstance(array, np.memmap)
            array.flush()

    @property
    def _advice(self) -> str:
        return f"start with another folder, or delete {self.folder} to begin with an empty replay"

    def _check(self, description: Path, spec: dict[str, Any]) -> None:
        try:
            found = dict(json.loads(description.read_text()))
        except (OSError, TypeError, ValueError) as error:
            raise ReplayError(f"{description} is damaged ({error}): {self._advice}") from error
        different = sorted(key for key in spec if found.get(key) != spec[key])
        if different:
            raise ReplayError(
                f"{self.folder} holds a replay with other {', '.join(different)} "
                f"({', '.join(f'{key}={found.get(key)}' for key in different)}): {self._advice}"
            )

    def _create(self, description: Path, spec: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, (shape, dtype) in spec["fields"].items():
                full_shape = (spec["lanes"], spec["length"], *shape)
                path = self.folder / f"{name}.npy"
                np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=full_shape)
                with path.open("r+b") as file:
                    if hasattr(os, "posix_fallocate"):  # not on macOS
                        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            aside = description.with_suffix(".partial")
            aside.write_text(json.dumps(spec))
            os.replace(aside, description)  # it exists only if the files are complete
        except OSError as error:
            size = sum(np.dtype(d).itemsize * int(np.prod(s)) for s, d in spec["fields"].values())
            size *= spec["lanes"] * spec["length"]
            for path in (description, *(self.folder / f"{name}.npy" for name in spec["fields"])):
                with contextlib.suppress(OSError):
                    path.unlink()
            raise ReplayError(
                f"can't make a replay of {size / 1e9:.2f} GB in {self.folder} ({error.strerror}): free space, choose "
                f"another folder, or make the replay smaller (replay_buffer_size)"
            ) from error


def frame_device(storage: str) -> torch.device:
    """The device of the frames; files are mapped into host memory."""
    try:
        return torch.device("cpu" if storage in ("memory", "disk") else storage)
    except RuntimeError:
        raise ValueError(
            f"storage must be 'memory', 'disk' or a torch device such as 'cuda', got {storage!r}"
        ) from None


def frame_memory(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Allocates memory for frames, `shape` uint8 on `device`.

    Raises:
        ReplayError: if they do not fit, saying how large they are.
    """
    size = int(np.prod(shape))
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = _available_memory(size)
    if size > free:
        other = "the host's ('memory') or a disk's ('disk')" if device.type == "cuda" else "a disk's ('disk')"
        raise ReplayError(
            f"the replay's frames take {size / 1e9:.2f} GB, and {device} has {free / 1e9:.2f} GB free: use {other} as "
            f"storage (replay_storage), or make the replay smaller (replay_buffer_size)"
        )
    return torch.empty(shape, dtype=torch.uint8, device=device)


def _available_memory(unknown: int) -> int:
    """Bytes of host memory available without swapping, caches included; `unknown` if the system does not say."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return unknown if found is None else int(found[1]) * 1024
