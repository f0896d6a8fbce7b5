"""Names that people type: of modules, files, tasks and classes, and the folders that are named after them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from hydra.utils import to_absolute_path

from rlrep.registry import import_module


def import_modules(names: Iterable[str]) -> None:
    """Imports what registers objectives, agents and environments.

    Raises:
        ValueError: for a module that is not found.
    """
    for name in names:
        import_module(name, f"imports={name}")


def short_name(name: str) -> str:
    """The class alone, of an import path."""
    return name.rpartition(":")[2]


def as_folder(name: str) -> str:
    """A name as one folder: the ids of environments have slashes."""
    return re.sub(r"[/:]+", "_", name)


def located(name: str) -> str:
    """A file or folder by its absolute path, `~` included; what is neither, such as the id of a Minari data set, as it
    is."""
    path = os.path.abspath(to_absolute_path(os.path.expanduser(name)))
    return path if os.path.exists(path) else name
