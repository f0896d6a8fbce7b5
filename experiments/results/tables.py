"""Results as Markdown: tables, lists and pictures; and as CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlrep.experiments.files import write_atomically

Line = dict[str, str]


def markdown(lines: Sequence[Mapping[str, str]]) -> str:
    """An aligned Markdown table; "" of no lines. A column that is empty in all lines is dropped."""
    if not lines:
        return ""
    names = [name for name in lines[0] if any(line[name] for line in lines)]
    widths = [max(3, len(name), *(len(line[name]) for line in lines)) for name in names]
    cells = [names, ["-" * width for width in widths], *([line[name] for name in names] for line in lines)]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in cells
    )


def bullets(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def picture(text: str, path: Path) -> str:
    """A picture beside the page, with what it shows."""
    return f"![{text}]({path.name})"


def rounded(value: float) -> float:
    """To six digits, as runs log their numbers, if it has a fraction; nan stays nan."""
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A row for each mapping and a column for each name in any of them; None and nan are empty cells."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: "" if value is None or value != value else value for name, value in row.items()} for row in rows
    )
    write_atomically(path, text.getvalue().encode())
