"""Names that users type: registered names, or import paths of their own classes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not in `known`: it suggests the nearest ones, or lists all."""
    known = sorted(known)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
    return ValueError(f"unknown {kind} {name!r}: {hint}")


def look_up(kind: str, name: str, known: Mapping[str, T]) -> T:
    """``known[name]``, or the error of `unknown`."""
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]


def import_module(name: str, typed: str, example: str = "my_package.my_file") -> ModuleType:
    """The module called `name`, which may register objectives, agents and environments.

    Args:
        name: the module's name, with dots.
        typed: what the user typed, for messages.
        example: a valid import path, for messages.

    Raises:
        ValueError: if there is no such module.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module itself needs a missing package
        raise ValueError(
            f"{typed}: there is no module {error.name!r} on the import path; start the command where the module can "
            f"be imported, or add its folder to PYTHONPATH"
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{typed} is not an import path such as {example}") from error


def find_class(kind: str, name: str, known: Mapping[str, type[T]], base: type[T]) -> type[T]:
    """The class called `name`: one in `known`, or the user's own class by its import path, ``package.module:Class``.

    Raises:
        ValueError: for an unknown name, for a value that is not a name, and for a path whose module, class or base is
            wrong: the error says which.
    """
    if not isinstance(name, str):
        raise ValueError(f"{kind} must be a name, got {name!r}")
    if ":" not in name:
        if name not in known and "." in name:
            raise ValueError(f"unknown {kind} {name!r}: name your own class with a colon, my_package.my_file:MyClass")
        return look_up(kind, name, known)
    module_name, _, class_name = name.partition(":")
    if module_name.endswith(".py"):
        dotted = ".".join(Path(module_name).with_suffix("").parts)
        raise ValueError(f"{kind} {name!r}: name the module, not its file: {dotted}:{class_name}")
    module = import_module(module_name, f"{kind} {name!r}", "my_package.my_file:MyClass")
    found = getattr(module, class_name, None)
    if found is None:
        values = vars(module).items()
        classes = [each for each, value in values if isinstance(value, type) and issubclass(value, base)]
        classes = [each for each in classes if getattr(module, each) is not base]
        near = f": it has {', '.join(classes)}" if classes else ""
        raise ValueError(f"{kind} {name!r}: {module_name} has no class {class_name!r}{near}")
    if not (isinstance(found, type) and issubclass(found, base) and found is not base):
        raise ValueError(f"{kind} {name!r}: {class_name} is not a subclass of {base.__module__}.{base.__name__}")
    return found


def check_options(kind: str, name: str, built: type, options: Iterable[str]) -> None:
    """Refuses keyword arguments that a class does not take, and suggests the nearest valid names.

    Raises:
        ValueError: naming the option.
    """
    takes = parameters_of(built)
    for option in options:
        if option not in takes:
            raise unknown(f"option of {kind} {name}:", option, takes)


def parameters_of(built: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class; if it passes ``**options`` to its base, the base's arguments too."""
    found: dict[str, inspect.Parameter] = {}
    for each in built.__mro__[:-1]:
        if "__init__" in vars(each):
            own = inspect.signature(each.__init__).parameters  # type: ignore[misc]
            found |= {name: value for name, value in own.items() if name != "self" and name not in found}
            hands_on = [name for name, parameter in own.items() if parameter.kind is parameter.VAR_KEYWORD]
            for name in hands_on:
                found.pop(name, None)
            if not hands_on:
                break
    return found
