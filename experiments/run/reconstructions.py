"""Pictures of a decoder's output and its targets."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from rlrep import Objective
from rlrep.experiments.files import write_atomically
from rlrep.pretrain import Pretrainer

COLUMNS = 8


def draws(objective: Objective) -> bool:
    """Whether the objective decodes pictures."""
    return hasattr(objective, "reconstruct") and getattr(objective, "decoder", None) is not None


def draw_reconstructions(trainer: Pretrainer, path: Path, title: str) -> None:
    """A PNG of held-out frames and their reconstructions, or of targets and predictions."""
    objective = trainer.objective
    with trainer.held_out() as data:
        batch = data.sample(COLUMNS).to(trainer.device)
        drawn: Tensor = objective.reconstruct(batch)  # type: ignore[operator]
    channels = drawn.shape[1]
    newest = {key: batch[key][:, -channels:] for key in ("observation", "future_observation")}
    if "future_observation" in objective.in_keys:
        gaps = [f"{k} step{'s' if k > 1 else ''} on" for k in batch["gap"].tolist()]
        rows = {"now": newest["observation"], "later": newest["future_observation"], "predicted": drawn}
    else:
        gaps = [""] * COLUMNS
        rows = {"real": newest["observation"], "reconstructed": drawn}
    error = (rows["later" if "later" in rows else "real"].float() - drawn.float()).div(255).square().mean()
    title = f"{title}: held-out frames, update {trainer.best_updates}, mean squared error {float(error):.2g}"
    write_atomically(path, png({name: pictures(images) for name, images in rows.items()}, gaps, title))


def pictures(images: Tensor) -> np.ndarray:
    """Converts (B, C, H, W) uint8 to (B, H, W, 3) for display; one channel becomes grey."""
    return images.expand(-1, 3, -1, -1).movedim(1, -1).cpu().numpy()


def png(rows: dict[str, np.ndarray], columns: list[str], title: str) -> bytes:
    """Rows of pictures (B, H, W, 3) uint8, with their names to the left and `columns` above."""
    size = (1.1 * len(columns) + 1.1, 1.12 * len(rows) + 0.35 + 0.2 * any(columns))
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # type: ignore[union-attr,call-arg]
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150)
    return buffer.getvalue()
