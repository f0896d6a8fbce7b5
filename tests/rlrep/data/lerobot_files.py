"""LeRobot data sets of version 3.0, written with pyarrow and PyAV alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

FPS, SIZE, STEP = 10, 32, 6
LENGTHS = (12, 9, 11)
TOP, WRIST = "observation.images.top", "observation.images.wrist"
LOW, HIGH = np.array([-3.0, 5.0, 0.0]), np.array([3.0, 5.0, 200.0])  # the second dimension never changes
PATHS = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


def actions() -> np.ndarray:
    """Actions (T, 3) float32 of all episodes; they reach both bounds."""
    share = np.linspace(0, 1, sum(LENGTHS))[:, None]
    return (LOW + share * (HIGH - LOW)).astype(np.float32)


def write_lerobot(folder: Path, kind: str = "video", cameras: tuple[str, ...] = (TOP, WRIST), **columns: Any) -> Path:
    """Writes three episodes in one file of rows, and with videos one file per camera: picture i of camera c is grey,
    STEP * i + 3 * c. Further `columns` of the rows are values or arrays; None leaves a column out.
    """
    rows = sum(LENGTHS)
    ends = np.cumsum(LENGTHS)
    starts = ends - LENGTHS
    episode = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    place = np.arange(rows) - starts[episode]
    table: dict[str, Any] = {
        "action": lists(actions()),
        "action.full": lists(np.zeros((rows, 5), np.float32)),
        "timestamp": (place / FPS).astype(np.float32),
        "frame_index": place,
        "episode_index": episode,
        "index": np.arange(rows),
        "task_index": np.zeros(rows, np.int64),
    }
    features = {name: {"dtype": "float32", "shape": [3]} for name in ("action", "action.full", "timestamp")}
    features |= {name: {"dtype": kind, "shape": [SIZE, SIZE, 3]} for name in cameras}
    listed: dict[str, Any] = {
        "episode_index": np.arange(len(LENGTHS)),
        "tasks": [["reach"]] * len(LENGTHS),
        "length": list(LENGTHS),
        "dataset_from_index": starts,
        "dataset_to_index": ends,
        "data/chunk_index": [0] * len(LENGTHS),
        "data/file_index": [0] * len(LENGTHS),
    }
    for number, camera in enumerate(cameras):
        shades = STEP * np.arange(rows) + 3 * number
        if kind == "image":
            table[camera] = pa.array([{"bytes": png(shade), "path": f"frame-{shade}.png"} for shade in shades])
            continue
        write_video(folder / f"videos/{camera}/chunk-000/file-000.mp4", shades)
        listed |= {f"videos/{camera}/{name}_index": [0] * len(LENGTHS) for name in ("chunk", "file")}
        listed |= {f"videos/{camera}/from_timestamp": starts / FPS, f"videos/{camera}/to_timestamp": ends / FPS}
    table = {name: each for name, each in (table | columns).items() if each is not None}
    features |= {name: {"dtype": "float32", "shape": [1]} for name in columns.keys() & table.keys() - features.keys()}
    write_table(folder / "data/chunk-000/file-000.parquet", table)
    write_table(folder / "meta/episodes/chunk-000/file-000.parquet", listed)
    info = {"codebase_version": "v3.0", "robot_type": "so101", "fps": FPS, "total_episodes": len(LENGTHS)}
    write_json(folder / "meta/info.json", info | {"features": features} | PATHS)
    write_json(folder / "meta/stats.json", {"action": {"min": LOW.tolist(), "max": HIGH.tolist()}})
    return folder


def lists(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (int(shade),) * 3).save(file, "PNG")
    return file.getvalue()


def write_video(path: Path, shades: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for shade in shades:
            picture = np.full((SIZE, SIZE, 3), shade, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def write_table(path: Path, columns: dict[str, Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, **options)


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def read_table(path: Path) -> pa.Table:
    return parquet.read_table(path)


def change_table(path: Path, **columns: Any) -> None:
    """Rewrites a table with changed columns; None leaves a column out."""
    held = read_table(path)
    columns = dict(zip(held.column_names, held.columns, strict=True)) | columns
    write_table(path, {name: each for name, each in columns.items() if each is not None})


def change_json(path: Path, **values: Any) -> None:
    write_json(path, json.loads(path.read_text()) | values)
