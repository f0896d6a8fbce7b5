"""Trains an encoder on videos: python -m experiments.pretrain objective=temporal_contrastive source=videos/ horizon=5

What a run does is in run/pretraining.py; how its errors are reported, in run/command.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hydra

from experiments.run.command import start, tell

if TYPE_CHECKING:
    from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="pretrain")
def main(composed: DictConfig) -> None:
    from experiments.run.pretraining import pretrain

    tell(pretrain, composed)


if __name__ == "__main__":
    start(main, "pretrain")
