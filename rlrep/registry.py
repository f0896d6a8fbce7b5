"""Names that people type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not in `known`: it suggests the nearest ones, or lists all."""
    known = sorted(known)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return ValueError(f"unknown {kind} {name!r}: {hint}")


def look_up(kind: str, name: str, known: Mapping[str, T]) -> T:
    """``known[name]``, or the error of `unknown`."""
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]
