"""Notes the criteria and code that a folder's cells are made with, and refuses a folder of different ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlrep.experiments.files import write_atomically
from rlrep.experiments.video_study.cells import read_content
from rlrep.experiments.video_study.criteria import OverSeeds, read_criteria
from rlrep.experiments.yaml_files import differences, read_yaml

FILE = "made_by.json"
PACKAGE = Path(__file__).parents[2]  # rlrep, which holds agents, envs and experiments as links, or installed
# The files that compute a cell; the study's other files choose jobs, judge and draw.
OTHERS = ("agents", "experiments")
FILES = (
    "cloning",
    "domain",
    "doom",
    "gridworld",
    "jobs",
    "labels",
    "lock",
    "pixels",
    "ppo",
    "predictor",
    "supervised",
)
SHOWN = 5  # how many differing files an error names


@lru_cache
def code() -> dict[str, str]:
    """The files that compute a cell, relative to the folder of rlrep, and a digest of each."""
    own = [Path(__file__).with_name(f"{name}.py") for name in FILES]
    places = [path for path in sorted(PACKAGE.iterdir()) if path.name not in OTHERS]
    paths = [*places, *(path for place in places if place.is_dir() for path in sorted(place.rglob("*.py")))]
    files = [*own, *(path for path in paths if path.suffix == ".py")]
    return {path.relative_to(PACKAGE).as_posix(): digest(path.read_bytes()) for path in files}


def digest(content: bytes) -> str:
    """12 hexadecimal digits of SHA-256."""
    return hashlib.sha256(content).hexdigest()[:12]


def stamp() -> dict[str, str]:
    """The origin that a cell made now notes, see `cells.Cell`."""
    return {
        "criteria": read_criteria().digest,
        "code": digest(json.dumps(code(), sort_keys=True).encode()),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def claim(folder: Path) -> None:
    """Notes the criteria and the code with which a new folder's cells are made.

    Raises:
        ValueError: for a folder whose cells were made by other criteria or other code, or that does not note them; the
            message names what differs.
    """
    further = {kind.file.name: dict(read_yaml(kind.file)) for kind in OverSeeds.__subclasses__()}
    ours: dict[str, Any] = {"criteria": dict(read_criteria().content), "further_criteria": further, "code": code()}
    path = folder / FILE
    if not any((folder / "cells").glob("*.json")):
        write_atomically(path, json.dumps(ours, indent=1).encode())
        return
    if not path.exists():
        raise ValueError(
            f"{folder} holds cells but no {FILE}, so what made them is not known: choose another folder with --out "
            f"(--report reports on them, as exploratory)"
        )
    theirs = read_content(path)
    found = [*changed(theirs.get("criteria", {}), ours["criteria"])]
    for name, content in (theirs.get("further_criteria") or {}).items():  # an older folder notes none, or fewer
        found += changed(content, further.get(name, {}), name)
    if names := other(theirs.get("code", {}), ours["code"]):
        more = f" and {len(names) - SHOWN} more files" if len(names) > SHOWN else ""
        found.append(f"code ({', '.join(names[:SHOWN])}{more})")
    if found:
        raise ValueError(
            f"{folder} was made by other {' and other '.join(found)}: choose another folder with --out, or go back to "
            f"what it was made by (--report reports on its cells, and says which are exploratory)"
        )


def changed(theirs: Any, ours: Mapping[str, Any], name: str = "criteria") -> list[str]:
    """The criteria of a file that differ, in words; empty if none does."""
    if not isinstance(theirs, dict):
        return [name]
    found = differences(ours, theirs)
    told = [f"{key} is {there} there and {here} here" for key, (here, there) in found.items()]
    return [f"{name} ({', '.join(told)})"] if told else []


def other(theirs: Any, ours: Mapping[str, str]) -> list[str]:
    """The files that differ or are missing on one side."""
    theirs = theirs if isinstance(theirs, dict) else {}
    return sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
