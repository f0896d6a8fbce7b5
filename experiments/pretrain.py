"""Trains an encoder on videos.

python -m rlrep.experiments.pretrain objective=temporal_contrastive source=videos/ horizon=5
python -m rlrep.experiments.pretrain objective=forward_model source=env:cheetah_run noise.kind=shapes
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from rlrep.experiments.run.command import start, tell
from rlrep.experiments.run.pretrain_config import PretrainConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="pretrain")
def main(composed: DictConfig) -> None:
    from rlrep.experiments.run.pretraining import pretrain, training

    tell(pretrain, composed, PretrainConfig, training)


if __name__ == "__main__":
    start(main, PretrainConfig)
