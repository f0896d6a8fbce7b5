"""Checkpoints: a run's whole state except its replay's rows, in one file that is complete or absent.

A checkpoint is a ZIP file of `torch.save`. Its comment is the SHA-256 of all bytes before the comment. `torch.load`
reads it normally.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rlrep.experiments.files import write_atomically
from rlrep.replay import ReplayError

VERSION = 4
CHECKSUM = b"sha256:"
COMMENT_SIZE = len(CHECKSUM) + 2 * hashlib.sha256().digest_size

# In a run's folder.
CONFIG, CHECKPOINT = "config.yaml", "checkpoints/latest.pt"


class CheckpointError(RuntimeError):
    """A checkpoint that can't be used; the message says what to do."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state`, the format's version and a checksum."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    buffer.seek(-2, io.SEEK_END)  # a ZIP file ends with the length of its comment, and the comment
    buffer.write(COMMENT_SIZE.to_bytes(2, "little"))
    buffer.write(checksum(buffer.getbuffer()))
    write_atomically(path, buffer.getvalue())


def checksum(content: bytes | memoryview) -> bytes:
    return CHECKSUM + hashlib.sha256(content).hexdigest().encode()


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a file of `save_checkpoint`.

    Raises:
        CheckpointError: if it is missing, truncated or damaged, or if another version of rlrep wrote it.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise CheckpointError(f"there is no checkpoint at {path}: the run has not reached its first one yet")
    try:
        check_stored(path)
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} can't be read ({error.strerror})") from error
    whole = content[-COMMENT_SIZE:] == checksum(memoryview(content)[:-COMMENT_SIZE])
    if not whole and CHECKSUM in content[-COMMENT_SIZE - 1 :]:
        raise damaged(path, "checksum mismatch")
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        version = state["version"]
    except Exception as error:  # torch's readers raise many kinds of errors for a damaged file
        raise damaged(path, type(error).__name__) from error
    if version != VERSION:
        raise CheckpointError(
            f"{path} was written in format {version}, this version of rlrep reads {VERSION}: resume with the version "
            f"that wrote it, or start the run anew in another run_dir"
        )
    if not whole:
        raise damaged(path, "its checksum is missing")
    return state


def check_stored(path: Path) -> None:
    """Refuses an archive that takes more memory than its file has bytes: `torch.save` compresses nothing."""
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
    except OSError:
        raise
    except Exception as error:  # the parser raises many kinds of errors for a damaged file
        raise damaged(path, type(error).__name__) from error
    size = path.stat().st_size
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise damaged(path, "it is compressed, as no checkpoint is")


def damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated or damaged ({reason}): restore it from a copy, or start the run anew in another run_dir"
    )


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Converts errors about missing entries or other shapes in the checkpoint at `path` to a `CheckpointError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, ReplayError | CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is not a checkpoint of this run ({str(error).splitlines()[0]}): restore it from a copy, or start "
            f"the run anew in another run_dir"
        ) from error


def random_state() -> dict[str, Any]:
    """The state of torch's generators, which augmentation and exploration use."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
