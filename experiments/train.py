"""Trains an agent from pixels: python -m experiments.train task=quadruped_run agent=taco seed=1

What a run does is in run/online.py; how its errors are reported, in run/command.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hydra

from experiments.run.command import start, tell

if TYPE_CHECKING:
    from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    from experiments.run.online import train

    tell(train, composed)


if __name__ == "__main__":
    start(main, "config")
