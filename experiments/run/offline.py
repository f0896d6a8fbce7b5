"""A run on offline data: data, agent, the loop that joins them, and the environment that the agent is evaluated in.

The folder (run_dir) holds config.yaml, train.csv, eval.csv, curve.png, videos/ and checkpoints/.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from agents import accelerated_update
from experiments.files import locked
from experiments.run import ranks
from experiments.run.allocator import keep_pages
from experiments.run.checkpoint import (
    CHECKPOINT,
    CONFIG,
    fitting,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from experiments.run.config import check_precision, load_as, refusals
from experiments.run.data import check_fit, open_data, resume_data
from experiments.run.evaluation import make_evaluation_env
from experiments.run.log import Log, NonFiniteLoss, UpdateMetrics, check_extras
from experiments.run.offline_config import FREE_ON_RESUME, OfflineConfig, completed, requested
from experiments.run.online import (
    advising,
    build_agent,
    check_finite,
    check_folder,
    check_ranks,
    following,
    play_evaluation,
    write_config,
)
from experiments.run.pretrained import load_weights, settle_encoder
from rlrep.data import Dataset


class OfflineRun:
    """One run: data, agent, and the loop that joins them. `close` it at the end.

    Under torchrun each rank draws its share of the batch from the same data by a sampler of its own, and the ranks
    average their gradients; the first one evaluates and writes the checkpoints.

    Args:
        config: of the run.
        folder: of the run. Where it holds a checkpoint, the run goes on from there.
        data: opened for the run.
    """

    def __init__(self, config: OfflineConfig, folder: Path, data: Dataset) -> None:
        self.config, self.folder, self.data = config, folder, data
        self.rank = ranks.rank()
        self.batch_size = ranks.share("batch_size", config.batch_size)
        check_extras(config.use_wandb, config.use_tb)
        checkpoint = folder / CHECKPOINT
        state = load_checkpoint(checkpoint, config.device) if checkpoint.exists() else None
        torch.manual_seed(config.seed)
        with ExitStack() as opened:
            self.env = opened.enter_context(closing(make_evaluation_env(config, film=config.save_video)))
            check_fit(data, config.dataset, self.env, config, self.batch_size)
            self.agent = build_agent(config, self.env.observation_space, self.env.action_space)
            if state is None and config.encoder.path is not None:
                load_weights(self.agent.encoder, Path(config.encoder.path))
            if self.rank:
                torch.manual_seed(ranks.seed(config.seed))
            self.updates = self.next_eval = 0
            self.metrics = UpdateMetrics("update")
            if state is not None:
                with fitting(checkpoint):
                    self.restore(state)
            self.update_agent = accelerated_update(self.agent) if config.path == "fast" else self.agent.update
            own_folder = folder / f"rank_{self.rank}" if self.rank else folder
            log = Log(config, own_folder, self.updates, self.next_eval, config.num_updates, "update")
            self.log = opened.enter_context(closing(log))
            self.close = opened.pop_all().close

    @property
    def finished(self) -> bool:
        """Whether the run was trained to its end and evaluated there."""
        rows = self.log.tables["eval"].rows
        evaluated = bool(rows) and int(rows[-1]["update"]) == self.updates
        return self.updates >= self.config.num_updates and ranks.from_first(evaluated)

    def run(self) -> None:
        """Trains until num_updates, evaluates, and leaves a checkpoint.

        Raises:
            NonFiniteLoss: if a loss is not finite; the last good checkpoint is kept.
        """
        config = self.config
        while self.updates < config.num_updates:
            if self.updates >= self.next_eval:
                self.evaluate()
            self.metrics.add(self.update_agent(self.data.sample(self.batch_size), self.updates), self.updates)
            self.updates += 1
            saving = self.updates % config.checkpoint_every_updates == 0
            if saving or self.updates % config.log_every_updates == 0:
                self.write_row()
            if saving:
                self.save()
            self.log.advance(self.updates)
        self.write_row()
        self.evaluate()
        self.save()

    def write_row(self) -> None:
        """The means of the metrics since the last row; nothing if there was no update since."""
        means = self.metrics.mean()
        if means:
            self.log.row("train", {"update": self.updates, "updates_per_second": self.log.rate, **means})

    def act(self, observation: np.ndarray) -> np.ndarray:
        action = self.agent.act(observation, self.updates, eval_mode=True)
        if not np.isfinite(action).all():
            raise NonFiniteLoss(f"an action is not finite at update {self.updates}, though every loss was")
        return action

    def evaluate(self) -> None:
        self.metrics.check()
        if not self.rank:
            play_evaluation(self.act, self.env, None, self.config, self.folder, self.log, self.updates)
        self.next_eval = following(self.updates, self.config.eval_every_updates)

    def save(self) -> None:
        check_finite(self.agent, f"update {self.updates}")
        own = {"data": self.data.state_dict(), "random": random_state()}
        state = {
            "step": self.updates,
            "updates": self.updates,
            "next_eval": self.next_eval,
            "agent": self.agent.state_dict(),
            "ranks": ranks.to_first(own),
        }
        if not self.rank:
            save_checkpoint(self.folder / CHECKPOINT, state)

    def restore(self, state: dict[str, Any]) -> None:
        check_ranks(state)
        own = state["ranks"][self.rank]
        resume_data(self.data, own["data"], self.config.dataset)
        self.agent.load_state_dict(state["agent"])
        set_random_state(own["random"])
        self.updates, self.next_eval = state["updates"], state["next_eval"]


def train_offline(composed: DictConfig) -> Path:
    """Runs what a composed configuration asks for; returns the run's folder.

    Raises:
        ConfigError, ReplayError, CheckpointError, OpenGLError: before anything starts.
        NonFiniteLoss: if the run diverged; the last good checkpoint is kept.
        TrainingError: if the disk is full; what was written before is whole.
    """
    with ExitStack() as opened:
        with refusals():
            asked = requested(composed)
            if asked.path == "fast":
                keep_pages()
            asked.device = opened.enter_context(ranks.joined(asked.device))
            data = open_data(asked.dataset, asked, asked.cache, asked.skip_corrupt)
            config = completed(asked, data.provenance, data.frame_shape[-1], data.fingerprint)
            folder = Path(to_absolute_path(config.run_dir))
            saved = load_as(OfflineConfig, folder / CONFIG) if (folder / CONFIG).exists() else None
            settle_encoder(config, saved)
            if saved is None:
                check_precision(config)
            elif composed.encoder.precision == "auto":
                config.encoder.precision = saved.encoder.precision
            if not ranks.rank():
                opened.enter_context(locked(folder))
                check_folder(config, saved, folder, FREE_ON_RESUME)
            run = opened.enter_context(closing(OfflineRun(config, folder, data)))
        if run.finished:
            print(f"nothing to do: the run has made {run.updates} updates already; to go on, raise num_updates")
            return folder
        if not run.rank:
            write_config(config, folder)
        with advising(folder, lambda: f"update {run.updates}"):
            run.run()
    return folder
