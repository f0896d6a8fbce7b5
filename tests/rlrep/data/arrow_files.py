"""Minari data sets in Arrow, written with pyarrow alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlrep.data import Provenance, Transitions, write_transitions

PROVENANCE = Provenance(num_actions=4)


def write_arrow(episodes: list[Transitions], folder: Path) -> None:
    """In Minari's layout: one folder and one file per episode, steps filled up to the number of frames."""
    write_transitions(episodes, folder, PROVENANCE, format="minari")
    (folder / "data/main_data.hdf5").unlink()
    path = folder / "data/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_format": "arrow"}))
    for number, episode in enumerate(episodes):
        (folder / f"data/{number}").mkdir()
        (folder / f"data/{number}/metadata.json").write_text(json.dumps({"id": number, "total_steps": len(episode)}))
        write_columns(columns(episode), folder / f"data/{number}/part-0.arrow")


def columns(episode: Transitions) -> dict[str, pa.Array]:
    last = np.arange(len(episode)) == len(episode) - 1
    steps = {"actions": episode.action, "rewards": episode.reward}
    steps |= {"terminations": last & episode.terminated, "truncations": last & (not episode.terminated)}
    padded = {name: np.concatenate([rows, np.zeros_like(rows[:1])]) for name, rows in steps.items()}
    return {name: column(rows) for name, rows in ({"observations": episode.frames} | padded).items()}


def column(rows: np.ndarray) -> pa.Array:
    """Rows (T, ...) as lists of equal length; (T,) unchanged."""
    values = pa.array(rows.reshape(-1))
    return values if rows.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, int(np.prod(rows.shape[1:])))


def write_columns(columns: dict[str, Any], path: Path, batches: int = 1, compression: str | None = None) -> None:
    batch = pa.RecordBatch.from_pydict(columns)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema, options=options) as writer:
        for _ in range(batches):
            writer.write_batch(batch)


def read_columns(path: Path) -> dict[str, pa.Array]:
    batch = pa.ipc.open_file(pa.py_buffer(path.read_bytes())).get_batch(0)
    return dict(zip(batch.schema.names, batch.columns, strict=True))
