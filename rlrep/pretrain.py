"""Training an encoder with one objective on pairs of observations, without an agent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.contrast import is_distributed
from rlrep.objectives import Objective, Objectives
from rlrep.optimizers import adam
from rlrep.replay import Episodes

if TYPE_CHECKING:
    from tensordict import TensorDict

__all__ = ["Pretrainer", "pretrain"]

VALIDATION_SEED = 0


class Pretrainer:
    """Minimises the sum of an objective's losses, and stores the weights of the best validation.

    Each validation draws the same pairs and the same augmentation, in evaluation mode (no dropout; running averages are
    used and not changed), and does not change the training's random numbers. Where an objective's losses are not
    `comparable`, the last validation counts as the best. Augmentation uses torch's global generator: for an exact
    resume, save that generator's state beside `state_dict`.

    Args:
        objective: the objective to minimise, on the training device; its encoder is `objective.encoder`.
        train: training pairs.
        validation: held-out pairs.
        steps: updates, at least 1.
        batch_size: pairs in an update, unless the objective has a `batch_size` of its own.
        lr: Adam's step size.
        validate_every: updates between two validations.
        validation_batches: batches that a validation averages over.
        patience: training ends after this many validations in a row without a better one; None never stops early, nor
            does an objective that is not `comparable`.

    Attributes:
        updates: made so far.
        best_loss, best_updates: of the best validation so far; inf and 0 before the first.
        validation_start: state of the sampler of `validation` that every validation starts from.

    Raises:
        ValueError: for invalid numbers, data of another shape, and data that lack what the objective's window reads,
            such as video without actions; under torch.distributed, if the objective takes negatives from all ranks,
            because each rank trains a separate encoder here.

    Example:
        >>> train, validation = open_video("videos/").split()
        >>> objective = make_objective("temporal_contrastive", PixelEncoder(train.observation_shape), None, horizon=3)
        >>> pretrain(objective, train, validation, steps=10_000).objective.encoder.save_pretrained("encoder")
    """

    @checked_numbers
    def __init__(
        self,
        objective: Objective,
        train: Episodes,
        validation: Episodes,
        *,
        steps: int,
        batch_size: int = 256,
        lr: float = 1e-3,
        validate_every: int = 200,
        validation_batches: int = 4,
        patience: int | None = None,
    ) -> None:
        for data in (train, validation):
            check_data(objective, data, objective.batch_size or batch_size)
        if objective.all_ranks and is_distributed():
            raise ValueError("pre-training is one process's: set objective.all_ranks = False to train one in each rank")
        self.objective, self.train, self.validation = objective, train, validation
        self.objectives = Objectives([objective])
        self.steps, self.batch_size, self.patience = steps, objective.batch_size or batch_size, patience
        self.validate_every, self.validation_batches = validate_every, validation_batches
        self.optimizer = adam(objective.parameters(), lr, capturable=False)
        self.updates = 0
        self.best_loss, self.best_updates = math.inf, 0
        self._stale = 0
        self._best: dict[str, Tensor] = {}
        self.validation_start = Episodes.state_dict(validation)
        objective.train()

    @property
    def device(self) -> torch.device:
        """The objective's device."""
        return next(self.objective.parameters()).device

    @property
    def finished(self) -> bool:
        """Whether all updates are made, or `patience` is used up."""
        return self.updates >= self.steps or (self.patience is not None and self._stale >= self.patience)

    @property
    def validation_due(self) -> bool:
        """Whether a validation must follow the last update."""
        return self.updates > 0 and (self.updates % self.validate_every == 0 or self.updates == self.steps)

    def step(self) -> dict[str, Tensor]:
        """One update; the losses and metrics stay tensors on the device."""
        loss, metrics = self.losses(self.train)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.objectives.after_step()
        self.updates += 1
        return metrics

    def losses(self, data: Episodes) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the losses on a batch, and all losses and metrics, detached."""
        batch = self.sample(data)
        return self.objectives(batch, own={self.batch_size: batch})

    def sample(self, data: Episodes) -> TensorDict:
        """A batch of the objective's window."""
        return data.sample(self.batch_size, self.objective.window).to(self.device, non_blocking=True)

    @contextmanager
    def held_out(self) -> Iterator[Episodes]:
        """Yields `validation`, whose first samples are then those of every validation, with the objective in evaluation
        mode. Afterwards both are as before."""
        data = self.validation
        # The sampler alone: a `ReplayBuffer` would load its rows, too. The training data may be the same object.
        before = Episodes.state_dict(data)
        Episodes.load_state_dict(data, self.validation_start)
        self.objective.eval()
        try:
            yield data
        finally:
            self.objective.train()
            Episodes.load_state_dict(data, before)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The mean of losses and metrics on held-out pairs, and `loss`, the losses' sum; stores the weights if it is
        the best.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with self.held_out() as data, torch.random.fork_rng(devices):
            torch.manual_seed(VALIDATION_SEED)
            rows = [self.losses(data)[1] for _ in range(self.validation_batches)]
        means = {name: float(torch.stack([row[name] for row in rows]).mean()) for name in rows[0]}
        loss = sum(value for name, value in means.items() if name.startswith("loss_"))
        if not math.isfinite(loss):
            raise FloatingPointError(f"the validation loss is {loss} after {self.updates} updates: try a smaller lr")
        self._compare(loss)
        return {"loss": loss, **means}

    def _compare(self, loss: float) -> None:
        if self.objective.comparable and loss >= self.best_loss:
            self._stale += 1
            return
        self._stale = 0
        self.best_loss, self.best_updates = loss, self.updates
        self._best = {name: value.clone() for name, value in self.objective.state_dict().items()}

    def load_best(self) -> None:
        """Gives the objective and its encoder the weights of the best validation so far."""
        if self._best:
            self.objective.load_state_dict(self._best)

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs for an exact resume, except torch's generator."""
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "train": self.train.state_dict(),
            "validation_start": self.validation_start,
            "updates": self.updates,
            "best": {"weights": self._best, "loss": self.best_loss, "updates": self.best_updates},
            "stale": self._stale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.train.load_state_dict(state["train"])
        self.validation_start = state["validation_start"]
        self.updates, self._stale = state["updates"], state["stale"]
        best = state["best"]
        self._best, self.best_loss, self.best_updates = best["weights"], best["loss"], best["updates"]


@checked_numbers
def pretrain(objective: Objective, train: Episodes, validation: Episodes, *, steps: int, **options: Any) -> Pretrainer:
    """Trains to the end, and loads the best validation's weights into the objective and its encoder.

    Args:
        objective, train, validation, steps, options: see `Pretrainer`.
    """
    trainer = Pretrainer(objective, train, validation, steps=steps, **options)
    while not trainer.finished:
        trainer.step()
        if trainer.validation_due:
            trainer.validate()
    trainer.load_best()
    return trainer


def check_data(objective: Objective, data: Episodes, batch_size: int) -> None:
    """Refuses data that the objective can't learn from, before anything is trained."""
    expected = getattr(objective.encoder, "observation_shape", data.observation_shape)  # an encoder of the user's
    if data.observation_shape != expected:
        raise ValueError(
            f"the encoder reads observations of shape {expected}, the data has {data.observation_shape}: build both "
            f"with the same image_size and frame_stack"
        )
    data.check(objective.window, type(objective).__name__, batch_size=batch_size)
