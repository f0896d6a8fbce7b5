"""Configurations from Hydra and from files; compared when a run resumes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.yaml_files import flat, read_yaml

Config = TypeVar("Config")

# The kinds of runs, by an option that only this kind has.
KINDS = {
    "source": "a pre-training (rlrep.experiments.pretrain)",
    "dataset": "a run on offline data (rlrep.experiments.offline)",
    "": "a run in an environment (rlrep.experiments.train)",
}


def register(name: str, values: dict[str, Any], group: str | None = None) -> None:
    """Registers the defaults of options with Hydra, for the defaults list of a YAML file."""
    ConfigStore.instance().store(name, OmegaConf.create(values), group)


def typed_as(schema: type[Config], config: DictConfig) -> Config:
    """The values of `config`, checked."""
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), config)
        OmegaConf.resolve(typed)
        built = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration does not fit: {explanation(error)}") from error
    assert isinstance(built, schema)
    return built


def load_as(schema: type[Config], path: Path) -> Config:
    """The configuration in the file at `path`.

    Never imports what the file names: import classes with import paths before this call.

    Raises:
        ConfigError: if it is missing, damaged, or of another version.
    """
    if not path.exists():
        raise ConfigError(f"{path.parent} is not a run: it has no {path.name}")
    try:
        read = read_yaml(path)
        check_imported(read, path)
        check_kind(schema, read, path)
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), read))
    except ConfigError:
        raise
    except (OmegaConfBaseException, OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged or from another version: {explanation(error)}") from error
    assert isinstance(built, schema)
    return built


def check_kind(schema: type, read: dict[str, Any], path: Path) -> None:
    """Refuses the folder of an intact run of another kind."""
    ours, theirs = (kind_of(names) for names in ({each.name for each in fields(schema)}, read.keys()))
    if ours != theirs:
        raise ConfigError(f"{path.parent} holds {KINDS[theirs]}, not {KINDS[ours]}: give another folder")


def kind_of(names: Iterable[str]) -> str:
    """The option in `KINDS` that identifies the kind of a run; "" for the kind without one."""
    return next((name for name in KINDS if name in names), "")


def check_imported(read: dict[str, Any], path: Path) -> None:
    """Refuses a configuration from a file that names a class of a module that is not imported."""
    text = flat(read)
    single = ("objective", "agent.algorithm", "format", "offline.format")
    named = [*text.get("objectives", []), *(text.get(each) for each in single)]
    for name in named:
        module = name.partition(":")[0] if isinstance(name, str) and ":" in name else None
        if module is not None and module not in sys.modules:
            raise ConfigError(
                f"{path} names {name}, and what is read from a file is not imported: name its module yourself, "
                f"imports=[{module}], or --imports {module} for commands with dashes"
            )


def as_dict(config: Any) -> dict[str, Any]:
    """The values of a configuration, a dataclass, in YAML's types."""
    plain = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def explanation(error: Exception) -> str:
    """OmegaConf's error in one line: the key, and what is wrong with it."""
    first_line = str(error).partition("\n")[0]
    key = getattr(error, "full_key", None)
    return f"{key}: {first_line}" if key else first_line
