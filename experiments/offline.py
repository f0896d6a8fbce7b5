"""Trains an agent on offline data: python -m experiments.offline agent=td3_bc objectives=[taco] dataset=PATH seed=1

What a run does is in run/offline.py; how its errors are reported, in run/command.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hydra

from experiments.run.command import start, tell

if TYPE_CHECKING:
    from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf/offline", config_name="offline")
def main(composed: DictConfig) -> None:
    from experiments.run.offline import train_offline

    tell(train_offline, composed)


if __name__ == "__main__":
    start(main, "offline", "offline")
