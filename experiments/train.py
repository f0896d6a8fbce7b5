"""Trains an agent from pixels: python -m experiments.train task=quadruped_run agent=taco seed=1

What a run does stands in trainer.py; here are the command, and how its errors are told.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_choices(arguments: Sequence[str], conf: str = "conf") -> None:
    """Refuses names of agents, and of the presets in `conf`, that there are not; Hydra's own error does not suggest the
    nearest."""
    from rlrep.registry import look_up

    if any(argument.startswith(("--config", "-c")) for argument in arguments):
        return
    for argument in arguments:
        group, _, choices = argument.partition("=")
        if group in ("agent", "preset") and re.fullmatch(r"\w+(,\w+)*", choices):
            folder = conf if group == "preset" else "conf"
            known = {path.stem: path for path in (Path(__file__).parent / folder / group).glob("*.yaml")}
            for choice in choices.split(","):
                look_up(group, choice, known)


def name_the_path(arguments: Sequence[str]) -> list[str]:
    """`encoder=FOLDER` as `encoder.path=FOLDER`: to Hydra, `encoder` is a section with several values."""
    return [re.sub(r"^encoder=(?!\{)", "encoder.path=", argument) for argument in arguments]


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    from experiments.trainer import train

    tell(train, composed)


def tell(
    train: Callable[[DictConfig], Path], composed: DictConfig, stopped: str = "stopped: go on with resume=true"
) -> None:
    """Runs `train` and tells how it ended; what a person can mend without a traceback."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException
    from hydra.types import RunMode

    from experiments.trainer import EXPECTED

    try:
        folder = train(composed)
    except EXPECTED as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if HydraConfig.get().mode is RunMode.MULTIRUN:  # Hydra goes on with the other runs, and fails at the end
            raise CompactHydraException(f"error: {error}") from error
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(stopped)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several of us
        print(f"finished: {folder}")


if __name__ == "__main__":
    sys.argv[1:] = name_the_path(sys.argv[1:])
    try:
        check_choices(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    main()
