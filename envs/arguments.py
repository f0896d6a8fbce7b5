"""Checks of arguments that several environments share."""

import operator

SMALLEST_IMAGE = 8


def at_least(smallest: int, value: int, name: str) -> int:
    """`value` as an int.

    Raises:
        ValueError: if it is not a whole number, or smaller than `smallest`.
    """
    number = whole(value, name)
    if number < smallest:
        raise ValueError(f"{name} is {number}; expected at least {smallest}")
    return number


def whole(value: int, name: str) -> int:
    """`value` as an int; True and False are not allowed.

    Raises:
        ValueError: if it is not a whole number.
    """
    if isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; expected a whole number")
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; expected a whole number") from None


def known_render_mode(render_mode: str | None) -> str | None:
    """`render_mode` itself.

    Raises:
        ValueError: if it is neither None nor "rgb_array".
    """
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode is {render_mode!r}; expected None or 'rgb_array'")
    return render_mode
