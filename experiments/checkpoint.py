"""Checkpoints: everything of a run but its replay's rows, in one file that is whole or not there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from experiments.files import write_atomically
from rlrep.replay import ReplayError

VERSION = 2

# In a run's folder.
CONFIG, CHECKPOINT = "config.yaml", "checkpoints/latest.pt"


class CheckpointError(RuntimeError):
    """A checkpoint that can't be used; the message says what to do."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` and the format's version."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `save_checkpoint` wrote.

    Raises:
        CheckpointError: if there is none, it is truncated or damaged, or another version of rlrep wrote it.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise CheckpointError(f"there is no checkpoint at {path}: the run has not reached its first one yet")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        version = state["version"]
    except Exception as error:  # torch raises whatever its readers meet in a damaged file
        raise CheckpointError(
            f"{path} is truncated or damaged ({type(error).__name__}): restore it from a copy, or start the run anew "
            f"in another run_dir"
        ) from error
    if version != VERSION:
        raise CheckpointError(
            f"{path} was written in format {version}, this version of rlrep reads {VERSION}: go on with the version "
            f"that wrote it, or start the run anew in another run_dir"
        )
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Makes a `CheckpointError` of what a run finds missing or of other shapes in the checkpoint at `path`."""
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
    """The state of torch's generators, on which augmentation and exploration draw."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
