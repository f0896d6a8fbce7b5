"""Trains an agent on offline data: python -m experiments.offline agent=td3_bc objectives=[taco] dataset=PATH seed=1

What a run does stands in offline_run.py; how its errors are told, in command.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hydra

from experiments.command import start, tell

if TYPE_CHECKING:
    from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf/offline", config_name="offline")
def main(composed: DictConfig) -> None:
    from experiments.offline_run import train_offline

    tell(train_offline, composed)


if __name__ == "__main__":
    start(main, "offline", "offline")
