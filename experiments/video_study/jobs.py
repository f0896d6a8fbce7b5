"""What the study consists of: a job is one method, noise and seed; what it measured is a cell of the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

LENGTHS = (1_000, 3_000, 10_000)  # of trainings that are measured more than once, in updates
NOISES = {"none": 0.0, "iid": 0.0, "exogenous": 1.0}


@dataclass(frozen=True)
class Job:
    """An encoder to pre-train, probe and use.

    Attributes:
        domain: "gridworld", "vizdoom_basic" or "vizdoom_defend_the_center".
        study: "core", "size", "persistence" or "phase".
        method: see `rlrep.experiments.video_study.cells.METHODS`.
        noise: "none", "iid", "exogenous", or "persistence" for what lies between.
        persistence: ρ of the noise.
        num_shapes, size: of the noise, see `rlrep.envs.noise.NoiseProcess`.
        seed: of everything, the map included.
        updates: of its pre-training; None for as many as the domain has.
        only_probes: whether linear probes are all that is measured: no other probes, no decoder, no PPO.
    """

    domain: str
    study: str
    method: str
    noise: str
    seed: int
    persistence: float = 0.0
    num_shapes: int = 8
    size: float = 0.3
    updates: int | None = None
    only_probes: bool = False

    @property
    def name(self) -> str:
        """The name of its cell's file, without the ending."""
        parts = [self.domain, self.study, self.method, self.noise]
        if self.study in ("persistence", "phase"):
            parts.append(f"rho{self.persistence:g}")
        if self.study in ("size", "phase"):
            parts.append(f"size{self.size:g}")
        if self.updates:
            parts.append(f"updates{self.updates}")
        return "-".join([*parts, f"seed{self.seed}"])

    @property
    def shorter(self) -> list[Job]:
        """The jobs whose training is the beginning of this one's."""
        return [replace(self, updates=n) for n in LENGTHS if self.updates and n < self.updates]

    @property
    def layout(self) -> int:
        """The map: each seed has its own in the grid world; ViZDoom has one."""
        return self.seed if self.domain == "gridworld" else 0

    @property
    def description(self) -> dict[str, Any]:
        return asdict(self) | {"layout": self.layout}

    @property
    def noise_options(self) -> dict[str, Any] | None:
        """The keyword arguments of the job's `NoiseProcess`; None without noise."""
        if self.noise == "none":
            return None
        black = self.domain == "gridworld"  # what it shows lies on black
        return dict(num_shapes=self.num_shapes, size=self.size, persistence=self.persistence, background_only=black)


@dataclass(frozen=True)
class LockJob:
    """A combination lock to open on what an encoder keeps of it."""

    method: str
    horizon: int
    seed: int

    @property
    def name(self) -> str:
        return f"lock-{self.method}-horizon{self.horizon}-seed{self.seed}"

    @property
    def description(self) -> dict[str, Any]:
        return {"domain": "lock", "study": "lock", **asdict(self)}
