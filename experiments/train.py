"""Trains an agent from pixels.

python -m rlrep.experiments.train preset=cpu task=cheetah_run agent=taco seed=1
python -m rlrep.experiments.train task=quadruped_run agent=sac objectives=[taco] resume=true
python -m rlrep.experiments.train --multirun task=walker_walk,cheetah_run seed=1,2,3
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from rlrep.experiments.run.command import evaluation, start, tell
from rlrep.experiments.run.train_config import TrainConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    from rlrep.experiments.run.online import train

    tell(train, composed, TrainConfig, evaluation)


if __name__ == "__main__":
    start(main, TrainConfig)
