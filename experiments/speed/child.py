"""A child process of the benchmark: each has its own peak memory, allocator and warm caches."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from rlrep.experiments.run.allocator import keep_pages
from rlrep.experiments.speed.measure import (
    Row,
    Subject,
    Unavailable,
    act,
    peak_memory,
    reference_update,
    rendering,
    replay,
    roofline,
    sb3_update,
    update,
)
from rlrep.experiments.speed.roofline import timed


def serve(
    connection: Connection, name: str, device: str, threads: int | None, folder: str, arguments: dict[str, Any]
) -> None:
    """The main loop of a child: builds the subject, then times a call whenever the parent asks for it.

    It answers with a kind, "ready", "rows", "unavailable" or "failed", and the content. It writes files into `folder`,
    which the parent removes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
    tempfile.tempdir = folder
    if arguments.get("path", "fast") == "fast":
        keep_pages()
    if threads:
        torch.set_num_threads(threads)
    where = torch.device(device)
    try:
        built = MEASURED[name](device=where, **arguments)
        if isinstance(built, list):
            connection.send(("rows", [{"threads": torch.get_num_threads(), **row} for row in built]))
            return
        connection.send(("ready", {"threads": torch.get_num_threads(), **built.facts}))
        while True:
            call, repeats = connection.recv()
            connection.send(("ready", (timed(built.calls[call], where, repeats), peak_memory(where))))
    except (EOFError, BrokenPipeError):
        return  # the parent has its results
    except (Unavailable, ModuleNotFoundError) as error:
        connection.send(("unavailable", str(error)))
    except Exception as error:
        text = (str(error) or repr(error)).splitlines()[0]
        connection.send(("failed", f"{type(error).__name__}: {text}"))


def loop(**arguments: Any) -> list[Row]:
    from rlrep.experiments.speed.loop import measure  # only runs need it, so other children do not load it

    return measure(**arguments)


MEASURED: dict[str, Callable[..., Subject | list[Row]]] = {
    "update": update,
    "sb3": sb3_update,
    "reference": reference_update,
    "act": act,
    "replay": replay,
    "rendering": rendering,
    "loop": loop,
    "roofline": roofline,
}
