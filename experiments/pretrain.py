"""Trains an encoder on videos: python -m experiments.pretrain objective=temporal_contrastive source=videos/ horizon=5

What a run does stands in pretrain_run.py; here are the command, and how its errors are told.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import hydra

if TYPE_CHECKING:
    from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="pretrain")
def main(composed: DictConfig) -> None:
    from experiments.pretrain_run import EXPECTED, pretrain

    try:
        folder = pretrain(composed)
    except EXPECTED as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: go on with resume=true")
    print(f"finished: {folder}")


if __name__ == "__main__":
    main()
