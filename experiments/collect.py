"""Makes offline data from the checkpoints of a run.

python -m rlrep.experiments.collect run=runs/collected level=medium out=data/cheetah_medium steps=20000
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from rlrep.experiments.run.collection import CollectConfig, collect
from rlrep.experiments.run.command import start, tell
from rlrep.experiments.run.inspection import learning


@hydra.main(version_base="1.3", config_path="conf", config_name="collect")
def main(composed: DictConfig) -> None:
    tell(collect, composed, CollectConfig, learning, stopped="stopped: nothing was written")


if __name__ == "__main__":
    start(main, CollectConfig)
