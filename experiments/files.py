"""Writing files so that a kill or a full disk never leaves half of one."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside its place, waits for the disk, and renames it; the old one stays until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class CsvLog:
    """A table that grows by a row at a time; columns may join later.

    Args:
        path: of the file; what it holds is kept, up to `until_frame`.
        until_frame: rows with a later `frame` are dropped: they were written after the checkpoint that a run resumes
            from, and will be written again.
    """

    def __init__(self, path: Path, until_frame: int | None = None) -> None:
        self.path = path
        self.columns: list[str] = []
        self.rows: list[dict[str, Any]] = []
        if path.exists() and until_frame is not None:
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                # A line that a kill cut short has fewer cells.
                rows = [row for row in reader if None not in row.values()]
                self.columns = list(reader.fieldnames or [])
            self.rows = [row for row in rows if int(row["frame"]) <= until_frame]
        self._rewrite()

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row: `frame` and whatever else was measured."""
        row = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        if new:
            self.columns += new
            self._rewrite()
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        if self.columns:
            writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue().encode())
