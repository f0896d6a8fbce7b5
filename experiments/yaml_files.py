"""Reads untrusted configurations as plain values, and compares them."""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

LARGEST = 1 << 17
DEEPEST = 40
OWN_KEY = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")

_ABSENT = object()


class UnusableYaml(ValueError):
    """A file that can't be read as a configuration."""


def read_yaml(path: Path, resolve: bool = True) -> dict[str, Any]:
    """The mapping in an untrusted YAML file.

    Aliases are refused, because nested aliases unpack without bound. A value `${key}` means the plain value of a key of
    the same file; other interpolations are refused, because resolvers such as `${oc.env:X}` read data outside the file.
    Without `resolve`, all interpolations stay texts, which OmegaConf must not get.

    Raises:
        OSError: if it can't be opened.
        UnusableYaml: if it is not a regular file, larger than 128 KiB, nested deeper than 40 levels, with null bytes,
            not YAML, or not a mapping.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST:
        raise UnusableYaml(f"it is not a regular file of at most {LARGEST} bytes")
    try:
        text = path.read_text(encoding="utf-8")
        _check_events(text)
        plain: Any = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
        if not isinstance(plain, dict) or not all(isinstance(name, str) for name in plain):
            raise UnusableYaml("it must be a mapping of names")
        found: dict[str, Any] = _resolved(plain, plain) if resolve else plain
        return found
    except UnusableYaml:
        raise
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise UnusableYaml(str(error)) from error


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Converts `{"a": {"b": 1}}` to `{"a.b": 1}`, the names in overrides."""
    out: dict[str, Any] = {}
    for name, value in nested.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return out


def value_of(config: Any, key: str, default: Any = None) -> Any:
    """The value of a dotted key in a configuration, nested mappings or dataclasses; `default` without such a key."""
    for name in key.split("."):
        if isinstance(config, Mapping):
            config = config.get(name, _ABSENT)
        else:
            config = getattr(config, name, _ABSENT) if is_dataclass(config) else _ABSENT
        if config is _ABSENT:
            return default
    return config


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], free: Iterable[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """The settings that differ between two configurations, with both values, without `free` ones."""
    new, old, ignored = flat(ours), flat(theirs), set(free)
    return {
        name: (new.get(name), old.get(name))
        for name in new | old
        if not {name, name.partition(".")[0]} & ignored and new.get(name) != old.get(name)
    }


def _check_events(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise UnusableYaml(f"it holds the alias *{event.anchor}: write the values out")
        if isinstance(event, yaml.ScalarEvent) and "\0" in event.value:
            raise UnusableYaml(f"it holds a null byte, in {event.value[:80]!r}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UnusableYaml(f"it is nested deeper than {DEEPEST} levels")


def _resolved(value: Any, root: Any) -> Any:
    """A copy without interpolations."""
    if isinstance(value, dict):
        return {_plain(key): _resolved(entry, root) for key, entry in value.items()}
    if isinstance(value, list):
        return [_resolved(entry, root) for entry in value]
    match = OWN_KEY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return _plain(value)
    found = root
    for key in match[1].split("."):
        found = found.get(key, value) if isinstance(found, dict) else value
    if isinstance(found, dict | list):
        raise UnusableYaml(f"{value} stands for more than one value")
    return _plain(found)


def _plain(value: Any) -> Any:
    if isinstance(value, str) and "${" in value:
        raise UnusableYaml(f"{value!r} stands for something else than the value of another key of the file")
    return value
