"""The command line of what Hydra composes: overrides as people type them, and mistakes told with the nearest name."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ("agent", "preset")
# Sections whose names are those of whoever takes them, which checks them itself.
OPEN = ("agent", "objective", "options", "env")


def start(main: Callable[[], Any], name: str, conf: str = "") -> None:
    """Runs Hydra's `main` on the overrides in `sys.argv`.

    Args:
        main: the decorated function.
        name: of its configuration.
        conf: the folder in experiments/conf that has it.
    """
    sys.argv[1:] = for_hydra(sys.argv[1:])
    try:
        check_choices(sys.argv[1:], conf)
        check_names(sys.argv[1:], name, conf)
    except ValueError as error:
        sys.exit(f"error: {error}")
    main()


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Overrides as people type them in the form that Hydra wants.

    ``encoder=FOLDER`` is a section with several values to it, ``options.new=1`` needs a plus, ``linear(1.0,0.1,100)``
    is a function of its own unless it is quoted, and ``1e6`` is no whole number.
    """
    rewritten = []
    for argument in arguments:
        argument = re.sub(r"^encoder=(?!\{)", "encoder.path=", argument)
        argument = re.sub(rf"^({'|'.join(OPEN)})\.", r"++\1.", argument)
        argument = re.sub(r"^stddev_schedule=((?:step_)?linear\([^']*\))$", r"stddev_schedule='\1'", argument)
        argument = re.sub(r"=(\d+(?:\.\d+)?e\+?\d+)$", lambda number: f"={float(number[1]):.0f}", argument)
        rewritten.append(argument)
    return rewritten


def check_choices(arguments: Sequence[str], conf: str = "") -> None:
    """Refuses names of agents, and of the presets in `conf`, that there are not; Hydra's own error does not suggest the
    nearest."""
    from rlrep.registry import look_up

    if brings_files(arguments):
        return
    for argument in arguments:
        group, _, choices = argument.partition("=")
        if group in GROUPS and re.fullmatch(r"\w+(,\w+)*", choices):
            folder = CONF / conf if group == "preset" else CONF
            known = {path.stem: path for path in (folder / group).glob("*.yaml")}
            for choice in choices.split(","):
                look_up(group, choice, known)


def check_names(arguments: Sequence[str], name: str, conf: str = "") -> None:
    """Refuses settings that there are not, and a single objective that is no list."""
    from omegaconf import OmegaConf

    from experiments.run.config import flat
    from rlrep.registry import unknown

    if brings_files(arguments):
        return
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / conf / f"{name}.yaml"))
    if "learning" in content["defaults"]:
        content |= OmegaConf.to_container(OmegaConf.load(CONF / "learning.yaml"))
    known = {setting for setting in {*flat(content), *content} if not setting.startswith(("hydra", "defaults"))}
    for argument in arguments:
        setting, equals, value = argument.partition("=")
        left_to_others = setting.partition(".")[0] in (*GROUPS, *OPEN, "hydra")
        if left_to_others or not (equals and re.fullmatch(r"[\w.]+", setting)):
            continue
        if setting not in known:
            raise unknown("setting", setting, known)
        if setting == "objectives" and re.fullmatch(r"\w+(,\w+)*", value):
            raise ValueError(f"objectives is a list: write objectives=[{value}]")


def brings_files(arguments: Sequence[str]) -> bool:
    """Whether there are configuration files that only Hydra knows."""
    return any(argument.startswith(("--config", "-c")) for argument in arguments)


def tell(
    train: Callable[[DictConfig], Path], composed: DictConfig, stopped: str = "stopped: resume with resume=true"
) -> None:
    """Runs `train` and reports how it ended; what users can fix without a traceback."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException
    from hydra.types import RunMode

    from experiments.run.driver import EXPECTED, Stopped

    try:
        folder = train(composed)
    except EXPECTED as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if HydraConfig.get().mode is RunMode.MULTIRUN:  # Hydra continues with the other runs, and fails at the end
            raise CompactHydraException(f"error: {error}") from error
        sys.exit(f"error: {error}")
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.exit(stopped)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several of us
        print(f"finished: {folder}")
