"""Pages of headings, text, tables and pictures: as Markdown, and as HTML with the pictures in it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlrep.experiments.results import tables
from rlrep.experiments.video_study.verdicts import CONFIRMED, REFUTED, UNDECIDED

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2; margin: 2em 0 .6em; break-after: avoid }
h1 { margin-top: 0 }
img { width: 100%; break-inside: avoid }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; margin: 1em 0 }
th, td { text-align: left; vertical-align: top; padding: .3em .6em; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888 }
tr { break-inside: avoid }
pre { background: #f4f4f4; padding: .6em 1em; overflow-x: auto }
.confirmed, .refuted, .undecided { font-weight: 600; white-space: nowrap }
.confirmed { color: #00704f } .refuted { color: #b34700 } .undecided { color: #666 }
@media print {
  body { margin: 0; max-width: none; font-size: 11pt }
  table { font-size: 8.5pt }
  h2 { break-before: page }
}
"""

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


def as_html(blocks: Sequence[Block]) -> str:
    title = html.escape(blocks[0].text)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(map(markup, blocks))
    head += f"<style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def markup(block: Block) -> str:
    text = html.escape(block.text)
    if block.kind in ("h1", "h2", "h3"):
        return f"<{block.kind}>{text}</{block.kind}>"
    if block.kind == "list":
        return f"<ul>{''.join(f'<li>{html.escape(item)}</li>' for item in block.items)}</ul>"
    if block.kind == "code":
        return f"<pre>{text}</pre>"
    if block.kind == "table":
        return tables.as_html(block.lines, (CONFIRMED, REFUTED, UNDECIDED))
    if block.picture:
        content = base64.b64encode(block.picture.read_bytes()).decode()
        return f'<img alt="{text}" src="data:image/png;base64,{content}">'
    return f"<p>{text}</p>"
