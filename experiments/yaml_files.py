"""Reads untrusted configurations as plain values, checks them, and compares them."""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Container, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlrep.registry import unknown

T = TypeVar("T")

LARGEST = 1 << 17
DEEPEST = 40
OWN_KEY = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")

WANTED = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}
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


def built(kind: type[T], values: Any, prefix: str = "", own: Container[str] = ()) -> T:
    """A dataclass from the values of a file, each of the type that it is declared with, and numbers finite.

    Args:
        kind: the dataclass; the file may leave out fields with a default.
        values: the mapping in the file.
        prefix: of the names in messages: "arms.taco.".
        own: the fields, with defaults, that the file must not have.

    Raises:
        ValueError: naming what is unknown, missing or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{prefix.rstrip('.')} must be a mapping of names, not {values!r}")
    known = {each.name: each for each in fields(kind) if each.name not in own}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise unknown("entry", f"{prefix}{name}", [f"{prefix}{each}" for each in known])
    for name, each in known.items():
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"{prefix}{name} is missing")
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not is_a(value, hints[name]) or (isinstance(value, float) and not isfinite(value)):
            raise ValueError(f"{prefix}{name} is {value!r}, expected {WANTED.get(hints[name], hints[name])}")
    return kind(**{name: float(value) if hints[name] is float else value for name, value in values.items()})


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value of a configuration file has an annotated type; whole numbers are also floats.

    Types without values in configuration files always pass.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return is_a(value, arguments[0])
    if origin in (Union, UnionType):
        return any(is_a(value, each) for each in arguments)
    if hint is Any or hint is NoneType:
        return hint is Any or value is None
    if origin is Literal:
        return value in arguments
    if hint is bool or isinstance(value, bool):
        return isinstance(value, bool) and hint is bool
    if hint in (int, float):
        return isinstance(value, int) or (hint is float and isinstance(value, float))
    if hint is str or isinstance(value, str):
        return hint is str and isinstance(value, str)
    if isinstance(value, list | tuple) and isinstance(origin, type) and issubclass(list, origin):
        return all(is_a(each, arguments[0]) for each in value) if arguments else True
    if isinstance(value, list | tuple) and origin is tuple:
        return all(is_a(each, arguments[0]) for each in value)
    return not isinstance(origin or hint, type) or isinstance(value, origin or hint)


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
