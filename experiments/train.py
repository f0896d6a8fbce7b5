"""Trains an agent from pixels: python -m experiments.train task=quadruped_run agent=taco seed=1

What a run does stands in trainer.py; how its errors are told, in command.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hydra

from experiments.command import start, tell

if TYPE_CHECKING:
    from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    from experiments.trainer import train

    tell(train, composed)


if __name__ == "__main__":
    start(main, "config")
