"""A run on offline data: the data, the agent, and the environment for evaluations.

The folder (run_dir) holds config.yaml, train.csv, eval.csv, curve.png, videos/ and checkpoints/.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from rlrep.data import Dataset
from rlrep.experiments.files import locked
from rlrep.experiments.run import ranks
from rlrep.experiments.run.agent import AgentRun
from rlrep.experiments.run.allocator import keep_pages
from rlrep.experiments.run.checkpoint import CONFIG
from rlrep.experiments.run.config import settle_precision
from rlrep.experiments.run.config_file import load_as
from rlrep.experiments.run.data import check_fit, open_data, resume_data
from rlrep.experiments.run.driver import claim, conduct
from rlrep.experiments.run.offline_config import OfflineConfig, completed, requested
from rlrep.experiments.run.pretrained import settle_encoder


class OfflineRun(AgentRun):
    """An agent that learns from finished data; each rank has its own sampler.

    Args:
        config, folder: see `AgentRun`.
        data: opened for the run.
    """

    counter = "update"
    longer = "num_updates"
    config: OfflineConfig

    def __init__(self, config: OfflineConfig, folder: Path, data: Dataset) -> None:
        self.data = data
        super().__init__(config, folder)

    def check_data(self) -> None:
        check_fit(self.data, self.config.dataset, self.eval_env, self.config, self.batch_size)

    def check_agent(self) -> None:
        self.agent.check(self.data, self.config.dataset)

    @property
    def count(self) -> int:
        return self.updates

    @property
    def step_of_agent(self) -> int:
        return self.updates

    @property
    def headline(self) -> str:
        config = self.config
        return (
            f"{config.agent['name']} on {config.dataset}: {config.num_updates:,} updates, evaluated on {config.task}, "
            f"{config.device}, {config.encoder.precision}, in {self.folder}"
        )

    @property
    def checkpoint_due(self) -> bool:
        return self.updates % self.config.checkpoint_every_updates == 0

    def make_step(self) -> None:
        self.metrics.add(self.agent.update(self.data, self.updates), self.updates)
        self.updates += 1
        if self.checkpoint_due or self.updates % self.config.log_every_updates == 0:
            self.write_row()
        self.log.progress.advance(self.updates)

    def write_row(self) -> None:
        """Writes the means of the metrics since the last row, if there were updates since."""
        means = self.metrics.mean()
        if means:
            self.log.row("train", {"update": self.updates, "updates_per_second": self.log.progress.rate, **means})

    def finish(self) -> None:
        self.write_row()
        self.evaluate()

    def own_state(self) -> dict[str, Any]:
        return super().own_state() | {"data": self.data.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        resume_data(self.data, state["ranks"][self.rank]["data"], self.config.dataset)
        super().restore(state)


def open_offline(composed: DictConfig, opened: ExitStack) -> OfflineRun:
    """Opens the run of a composed configuration."""
    asked = requested(composed)
    if asked.path == "fast":
        keep_pages()
    asked.device = opened.enter_context(ranks.joined(asked.device))
    data = open_data(asked.dataset, asked, files=asked)
    config = completed(asked, data.provenance, data.frame_shape[-1], data.fingerprint)
    folder = Path(to_absolute_path(config.run_dir))
    saved = load_as(OfflineConfig, folder / CONFIG) if (folder / CONFIG).exists() else None
    settle_encoder(config, saved)
    if config.agent.get("learns_from") == "play":
        print(
            f"note: nothing keeps {config.agent['name']} close to the data's actions, as bc, td3_bc, drqv2_bc, cql and "
            f"iql are kept: it was made to learn from what it plays itself",
            file=sys.stderr,
        )
    if data.action_scale is not None:
        print(
            f"note: actions of {config.dataset} were normalized, from action_low to action_high of config.yaml to "
            f"[-1, 1]; evaluations take the policy's for the bounds of {config.task}, which may be others. Its "
            f"action_scale brings them back",
            file=sys.stderr,
        )
    settle_precision(config, saved, composed)
    if not ranks.rank():
        opened.enter_context(locked(folder))
        claim(folder, config, saved)
    return opened.enter_context(closing(OfflineRun(config, folder, data)))


def train_offline(composed: DictConfig) -> Path:
    """Trains an agent on finished data; see `conduct`."""
    return conduct(open_offline, composed)
