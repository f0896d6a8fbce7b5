"""Trains an agent on offline data: python -m experiments.offline agent=td3_bc objectives=[taco] dataset=PATH seed=1

What a run does stands in offline_run.py; here are the command, and how its errors are told.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import hydra

from experiments.train import check_choices, name_the_path, tell

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = "conf/offline"


@hydra.main(version_base="1.3", config_path=CONF, config_name="offline")
def main(composed: DictConfig) -> None:
    from experiments.offline_run import train_offline

    tell(train_offline, composed)


if __name__ == "__main__":
    sys.argv[1:] = name_the_path(sys.argv[1:])
    try:
        check_choices(sys.argv[1:], CONF)
    except ValueError as error:
        sys.exit(f"error: {error}")
    main()
