"""The checks of whole numbers and paths that users give."""

from __future__ import annotations

import functools
import inspect
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

ONE = ("int", "int | None", "Count", "Several")
SEVERAL = ("Sequence[int]", "tuple[int, ...]")


def whole(name: str, value: Any) -> int:
    """A whole number of any type, NumPy's for one, as Python's.

    Raises:
        ValueError: for other values; truth values and floats are no whole numbers.
    """
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    hint = f": write {value:.0f}" if isinstance(value, float) and value.is_integer() else ""
    raise ValueError(f"{name} must be a whole number, got {value!r}{hint}")


def whole_numbers(function: F) -> F:
    """Lets a function check its arguments that are annotated as whole numbers, one or several, and gives it Python's.

    Raises:
        ValueError: when the function is called with another value, naming the argument.
    """
    signature = inspect.signature(function)
    kinds = {name: parameter.annotation for name, parameter in signature.parameters.items()}

    @functools.wraps(function)
    def checked(*given: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(*given, **named)
        except TypeError:
            return function(*given, **named)  # whose own error it is
        for name, value in bound.arguments.items():
            if kinds[name] in ONE and not (value is None and kinds[name] == "int | None"):
                bound.arguments[name] = whole(name, value)
            elif kinds[name] in SEVERAL:
                bound.arguments[name] = several(name, value)
        return function(*bound.args, **bound.kwargs)

    return cast(F, checked)


def as_path(value: str | Path) -> Path:
    """A path as users give it; `~` is the home, if there is one.

    Raises:
        ValueError: for one with a null byte, which no file can have in its name.
    """
    if "\0" in os.fspath(value):
        raise ValueError(f"a path can't hold a null byte, got {str(value)!r}")
    return Path(os.path.expanduser(value))


def several(name: str, values: Any) -> tuple[int, ...]:
    """Whole numbers, each as `whole` has it.

    Raises:
        ValueError: for anything else.
    """
    try:
        return tuple(whole(name, value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be whole numbers, got {values!r}") from None
