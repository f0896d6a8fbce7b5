"""Options of a command: the type, default, bounds and help of each in one line of a dataclass."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, get_type_hints

from omegaconf import MISSING

from rlrep.bounds import Bounds
from rlrep.experiments.yaml_files import value_of
from rlrep.registry import look_up

HELP_COLUMN = 34


class ConfigError(ValueError):
    """An invalid configuration; the message says what to change."""


@contextmanager
def refusals() -> Iterator[None]:
    """Converts errors while the parts of a run are built to a `ConfigError`, which users can fix."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise ConfigError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Option(Bounds):
    """The properties of an option besides its name and type.

    Attributes:
        default: its default value, or a function that makes it.
        help: its line in the list of options.
        choices: the allowed words.
        path: it is a file or folder, taken as typed.
        needs: it has no effect without at least one of these options.
        free: a resumed run may change it; a change of other options makes the checkpoint invalid.
        referenced: it has an effect only through options that refer to it, such as the agent's.
    """

    default: Any
    help: str
    choices: tuple[str, ...] = ()
    path: bool = False
    needs: tuple[str, ...] = ()
    free: bool = False
    referenced: bool = False


def option(default: Any, help: str, **known: Any) -> Any:
    """A dataclass field for an option; `known` has the other attributes of `Option`.

    The dataclass itself has no defaults, so that a file with a missing option is detected.
    """
    return field(metadata={"option": Option(default=default, help=help, **known)})


def section(needs: tuple[str, ...] = ()) -> Any:
    """A field with a dataclass of options; without at least one of `needs`, the others have no effect."""
    return field(metadata={"needs": needs})


def options_of(schema: type, prefix: str = "") -> dict[str, Option]:
    """All options by the names that users type: ``encoder.channels``."""
    hints = get_type_hints(schema)
    found: dict[str, Option] = {}
    for each in fields(schema):
        if "option" in each.metadata:
            found[f"{prefix}{each.name}"] = each.metadata["option"]
        elif is_dataclass(hints[each.name]):
            inside = options_of(hints[each.name], f"{prefix}{each.name}.")
            needs = each.metadata["needs"]
            found |= {
                name: known if known.needs or name in needs else replace(known, needs=needs)
                for name, known in inside.items()
            }
    return found


def defaults(schema: type) -> dict[str, Any]:
    """The default of every option, in nested dictionaries."""
    hints = get_type_hints(schema)
    out: dict[str, Any] = {}
    for each in fields(schema):
        if "option" in each.metadata:
            default = each.metadata["option"].default
            out[each.name] = default() if callable(default) else deepcopy(default)
        elif is_dataclass(hints[each.name]):
            out[each.name] = defaults(hints[each.name])
    return out


def check(config: Any) -> None:
    """Checks the values of a configuration: bounds, choices, and that each has an effect.

    Raises:
        ConfigError: naming the option, its value and the allowed values.
    """
    for name, known in options_of(type(config)).items():
        value = value_of(config, name)
        if known.choices and value is not None:
            look_up(name, value, dict.fromkeys(known.choices))
        if known.path and "\0" in str(value):
            raise ConfigError(f"{name} can't hold a null byte, got {value!r}")
        if isinstance(value, int | float) and not isinstance(value, bool) and not known.fits(value):
            raise ConfigError(f"{name} must be {known.bounds or 'a number'}, got {value}")
        if known.needs and value != known.default and not any(value_of(config, need) for need in known.needs):
            raise without_effect(f"{name}={value}", known)


def without_effect(typed: str, known: Option) -> ConfigError:
    needed = " or ".join(f"{need}={'true' if need.startswith('use_') else '…'}" for need in known.needs)
    return ConfigError(f"{typed} has no effect without {needed}: give that too, or leave {typed.partition('=')[0]} out")


def describe(schema: type) -> Iterator[str]:
    """A line for each option: its text and its meaning."""
    indent = " " * HELP_COLUMN
    for name, known in options_of(schema).items():
        default = known.default() if callable(known.default) else known.default
        typed = f"  {name}={'…' if default == MISSING else shown(default)}"
        notes = [known.help] if known.help else []
        notes += [" | ".join(known.choices)] if known.choices else []
        notes += [known.bounds] if known.bounds else []
        first = f"{typed:<{HELP_COLUMN - 1}} " if len(typed) < HELP_COLUMN else f"{typed}\n{indent}"
        yield first + textwrap.fill("; ".join(notes), 118 - HELP_COLUMN).replace("\n", f"\n{indent}")


def shown(value: Any) -> str:
    """A value as users type it."""
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
