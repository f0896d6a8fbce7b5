"""Names that users type: of modules, files, tasks and classes, and folders with these names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from hydra.utils import to_absolute_path

from rlrep.registry import import_module


def import_modules(names: Iterable[str]) -> None:
    """Imports modules that register objectives, agents and environments.

    Raises:
        ValueError: for a module that is not found.
    """
    for name in names:
        import_module(name, f"imports={name}")


def short_name(name: str) -> str:
    """The class name in an import path."""
    return name.rpartition(":")[2]


def as_folder(name: str) -> str:
    """A folder name for a name: ids of environments have slashes."""
    return re.sub(r"[/:]+", "_", name)


def located(name: str) -> str:
    """The absolute path of a file or folder, with `~` expanded; other names, such as a Minari id, do not change."""
    path = os.path.abspath(to_absolute_path(os.path.expanduser(name)))
    return path if os.path.exists(path) else name
