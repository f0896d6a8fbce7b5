"""Makes offline data from the checkpoints of a run.

python -m rlrep.experiments.collect run=runs/collected level=medium out=data/cheetah_medium steps=20000
"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from rlrep.experiments.run.collection import CollectConfig, collect
from rlrep.experiments.run.command import start, tell
from rlrep.experiments.run.inspection import learning


def after(folder: Path, _: DictConfig) -> str:
    """The command that learns from what was collected; the files say in which task."""
    return learning(folder, "its own")


@hydra.main(version_base="1.3", config_path="conf", config_name="collect")
def main(composed: DictConfig) -> None:
    tell(collect, composed, CollectConfig, after, stopped="stopped: nothing was written")


if __name__ == "__main__":
    start(main, CollectConfig)
