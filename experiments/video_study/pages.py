"""Pages of headings, text, tables and pictures, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlrep.experiments.results import tables

Line = dict[str, str]


@dataclass(frozen=True)
class Block:
    """A piece of the report: a heading of a level, text, a list, a command, a table or a picture."""

    kind: str
    text: str = ""
    lines: Sequence[Line] = ()
    items: Sequence[str] = ()
    picture: Path | None = None


def as_markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(map(markdown, blocks)) + "\n"


def markdown(block: Block) -> str:
    if block.kind in ("h1", "h2", "h3"):
        return f"{'#' * int(block.kind[1])} {block.text}"
    if block.kind == "list":
        return "\n".join(f"- {item}" for item in block.items)
    if block.kind == "code":
        return f"```\n{block.text}\n```"
    if block.kind == "table":
        return tables.markdown(block.lines)
    if block.picture:
        return f"![{block.text}]({block.picture.name})"
    return block.text
