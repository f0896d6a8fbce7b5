"""Trains an agent on finished data.

python -m rlrep.experiments.offline agent=td3_bc objectives=[taco] dataset=data/cheetah_medium preset=cpu
python -m rlrep.experiments.offline --multirun agent=bc,td3_bc 'objectives=[],[taco]' dataset=PATH seed=1,2,3

The data are V-D4RL's HDF5 and .npz, DrQ-v2's replay, Minari, LeRobot, a run's folder, or what rlrep.experiments.collect
wrote.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from rlrep.experiments.run.command import evaluation, start, tell
from rlrep.experiments.run.offline_config import OfflineConfig


@hydra.main(version_base="1.3", config_path="conf/offline", config_name="offline")
def main(composed: DictConfig) -> None:
    from rlrep.experiments.run.offline import train_offline

    tell(train_offline, composed, OfflineConfig, evaluation)


if __name__ == "__main__":
    start(main, OfflineConfig, "offline")
