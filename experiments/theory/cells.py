"""What the study consists of: one cell is one method, noise and seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

METHODS = (
    "random",
    "autoencoder",
    "vq_autoencoder",
    "forward_model",
    "temporal_contrastive",
    "inverse_model",
    "oracle",
)
NOISES = {"none": 0.0, "iid": 0.0, "exogenous": 1.0}


@dataclass(frozen=True)
class Cell:
    """One run of the study.

    Attributes:
        domain: "gridworld", "vizdoom_basic" or "vizdoom_defend_the_center".
        study: "core", "size" or "persistence".
        method: one of `METHODS`.
        noise: "none", "iid", "exogenous", or "persistence" for what lies between.
        persistence: ρ of the noise.
        num_shapes, size: of the noise, see `envs.noise.NoiseProcess`.
        seed: of everything.
    """

    domain: str
    study: str
    method: str
    noise: str
    seed: int
    persistence: float = 0.0
    num_shapes: int = 8
    size: float = 0.3

    @property
    def name(self) -> str:
        """The name of the cell's file, without its ending."""
        parts = [self.domain, self.study, self.method, self.noise]
        if self.study == "persistence":
            parts.append(f"rho{self.persistence:g}")
        if self.study == "size":
            parts.append(f"size{self.size:g}")
        return "-".join([*parts, f"seed{self.seed}"])

    @property
    def description(self) -> dict[str, Any]:
        return asdict(self)


def noise_options(cell: Cell) -> dict[str, Any] | None:
    """The keyword arguments of the cell's `NoiseProcess`; None without noise."""
    if cell.noise == "none":
        return None
    return dict(num_shapes=cell.num_shapes, size=cell.size, persistence=cell.persistence)
