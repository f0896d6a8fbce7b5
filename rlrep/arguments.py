"""Checks numbers and paths that users give."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from rlrep import bounds
from rlrep.bounds import Bounds

F = TypeVar("F", bound=Callable[..., Any])

SEVERAL = ("Sequence[int]", "tuple[int, ...]")


def whole(name: str, value: Any) -> int:
    """Converts a whole number of any type, such as NumPy's, to Python's int.

    Raises:
        ValueError: for other values; booleans and floats are not whole numbers.
    """
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    hint = f": write {value:.0f}" if isinstance(value, float) and value.is_integer() else ""
    raise ValueError(f"{name} must be a whole number, got {value!r}{hint}")


def real(name: str, value: Any) -> float:
    """Converts a number of any type to Python's float.

    Raises:
        ValueError: for other values; booleans and texts are not numbers.
    """
    if not isinstance(value, bool | str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise ValueError(f"{name} must be a number, got {value!r}")


def checked_numbers(function: F) -> F:
    """A decorator that checks arguments annotated as numbers, and converts them to Python's numbers.

    Annotations are ``int``, ``float``, those of `rlrep.bounds`, ``… | None``, and ``Sequence[int]``. Numbers without
    bounds are greater than 0.

    Raises:
        ValueError: when the function is called with another value, naming the argument.
    """
    signature = inspect.signature(function)
    kinds = {name: kind for name, parameter in signature.parameters.items() if (kind := kind_of(parameter.annotation))}

    @functools.wraps(function)
    def checked(*given: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(*given, **named)
        except TypeError:
            return function(*given, **named)  # raises its own error
        for name, value in bound.arguments.items():
            if name in kinds:
                bound.arguments[name] = kinds[name](name, value)
        return function(*bound.args, **bound.kwargs)

    return cast(F, checked)


def as_path(value: str | Path) -> Path:
    """A user's text as a path; `~` is the home folder, if it exists.

    Raises:
        ValueError: for a path with a null byte, which no file name can have.
    """
    if "\0" in os.fspath(value):
        raise ValueError(f"a path can't hold a null byte, got {str(value)!r}")
    return Path(os.path.expanduser(value))


def kind_of(annotation: Any) -> Callable[[str, Any], Any] | None:
    """The check for an annotation, a function of an argument's name and value; None if it annotates no number."""
    if annotation in SEVERAL:
        return several
    word, _, rest = str(annotation).partition(" | ")
    hint = {"int": int, "float": float}.get(word) or vars(bounds).get(word)
    number = (get_args(hint) or (hint,))[0]
    if number not in (int, float) or rest not in ("", "None"):
        return None
    return functools.partial(within, bounds.of(hint), whole if number is int else real, rest == "None")


def within(allowed: Bounds, parse: Callable[[str, Any], float], optional: bool, name: str, value: Any) -> Any:
    if value is None and optional:
        return None
    number = parse(name, value)
    if not allowed.fits(number):
        raise ValueError(f"{name} must be {allowed.bounds if math.isfinite(number) else 'finite'}, got {number}")
    return number


def several(name: str, values: Any) -> tuple[int, ...]:
    """Several whole numbers, each converted by `whole`.

    Raises:
        ValueError: for anything else.
    """
    try:
        return tuple(whole(name, value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be whole numbers, got {values!r}") from None
