"""Checks of arguments that several environments share."""

from rlrep.arguments import whole

SMALLEST_IMAGE = 8


def at_least(smallest: int, value: int, name: str, largest: int | None = None) -> int:
    """`value` as an int.

    Raises:
        ValueError: if it is not a whole number, smaller than `smallest`, or larger than `largest`.
    """
    number = whole(name, value)
    if number < smallest:
        raise ValueError(f"{name} is {number}; expected at least {smallest}")
    if largest is not None and number > largest:
        raise ValueError(f"{name} is {number}; expected at most {largest}")
    return number


def known_render_mode(render_mode: str | None) -> str | None:
    """`render_mode` itself.

    Raises:
        ValueError: if it is neither None nor "rgb_array".
    """
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode is {render_mode!r}; expected None or 'rgb_array'")
    return render_mode
