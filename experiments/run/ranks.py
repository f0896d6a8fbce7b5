"""The processes of a run under torchrun on several accelerators, or the single process of other runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from rlrep.contrast import is_distributed

# Ranks wait for the first one's evaluations.
PATIENCE = timedelta(hours=2)


def launched_by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Joins the ranks that torchrun started, and gives this rank's device: each rank uses its own GPU."""
    if not launched_by_torchrun():
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)
        yield device
        return
    cuda = device.startswith("cuda")
    if cuda:
        local_rank, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= found:
            raise ValueError(
                f"torchrun started more than one process a GPU: there are {found}, --nproc-per-node={found}"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    yield device
    # Not after an error: it would wait for ranks that wait for this one; torchrun ends them after this one has ended.
    dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def share(name: str, total: int) -> int:
    """This rank's part of a number in the configuration for all ranks.

    Raises:
        ValueError: if it can't be divided evenly.
    """
    if total % world_size():
        raise ValueError(
            f"{name}={total} can't be shared by {world_size()} processes: make it a multiple of {world_size()}"
        )
    return total // world_size()


def seed(of_run: int) -> int:
    """This rank's seed: the run's seed on the first rank, a different one on each other rank."""
    return int(np.random.SeedSequence([of_run, rank()]).generate_state(1)[0]) if rank() else of_run


def from_first(value: Any) -> Any:
    """The value that rank 0 has."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def to_first(value: Any) -> list[Any]:
    """On rank 0 the values of all ranks in order; on other ranks an empty list."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size() if rank() == 0 else []
    dist.gather_object(value, values or None, dst=0)
    return values
