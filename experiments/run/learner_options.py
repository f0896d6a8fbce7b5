"""The options of agents and objectives: the arguments of their classes, with types and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

from rlrep import OBJECTIVES, Objective, bounds
from rlrep.bounds import Bounds
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.yaml_files import is_a
from rlrep.registry import look_up, parameters_of

# Arguments of agents and objectives that are not options.
GIVEN_BY_US = {"encoder", "action_space", "objectives", "joint", "augment", "batch_size", "n_step"}

# Options that the run also has; they take the run's value.
SHARED = ("feature_dim", "hidden_dim", "lr")


def objective_defaults() -> dict[str, dict[str, Any]]:
    """The options of every objective, with its class's defaults; the sizes of heads come from the run."""
    return {name: defaults_of(kind) for name, kind in OBJECTIVES.items()}


def defaults_of(built: type) -> dict[str, Any]:
    """The options of an objective's or agent's class with their defaults; options in `SHARED` take the run's value."""
    hints = arguments_of(built)
    # Without a size, an objective uses its owner's batch; without a weight, it counts as it is.
    out: dict[str, Any] = {"batch_size": None, "weight": None} if issubclass(built, Objective) else {}
    for name, parameter in parameters_of(built).items():
        if name in GIVEN_BY_US or name == "frame_channels" or parameter.default is parameter.empty:
            continue
        out[name] = f"${{{name}}}" if name in SHARED and hints[name] in (int, float) else parameter.default
    return out


def check_options(section: str, options: Mapping[str, Any], built: type) -> None:
    """Refuses keyword arguments that the class `built` does not take, of another type, or out of bounds.

    Args:
        section: where the options are, for the message.
        options: the keyword arguments.
        built: the class that takes them. In our own classes, numbers without bounds must be positive; users' classes
            may take any.

    Raises:
        ConfigError: naming the option, its value and the allowed values.
    """
    hints = {name: hint for name, hint in arguments_of(built).items() if name not in GIVEN_BY_US}
    if issubclass(built, Objective):
        hints = {"weight": float | None, **hints, "batch_size": int | None}
    ours = built.__module__.startswith("rlrep.")
    for name, value in options.items():
        hint = look_up(f"option of {section}", name, hints)
        if not is_a(value, hint):
            raise ConfigError(f"{section}.{name} must be {getattr(hint, '__name__', hint)}, got {value!r}")
        number = isinstance(value, int | float) and not isinstance(value, bool) and not is_a("", hint)
        allowed = bounds.of(hint, None if ours else Bounds())
        if number and not allowed.fits(value):
            raise ConfigError(f"{section}.{name} must be {allowed.bounds or 'a number'}, got {value}")


def arguments_of(built: type) -> dict[str, Any]:
    """The arguments of a class and their types; if it passes on `**options`, its base's too."""
    taken = parameters_of(built)
    hints: dict[str, Any] = dict.fromkeys(taken, Any)
    for each in reversed(built.__mro__):
        if "__init__" in vars(each):
            own = get_type_hints(each.__init__, include_extras=True)  # type: ignore[misc]
            hints |= {name: hint for name, hint in own.items() if name in taken}
    return hints
