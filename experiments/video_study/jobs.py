"""What the study consists of: a job is one method, noise and seed; its measurements are a cell of the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

LENGTHS = (1_000, 3_000, 10_000)  # of trainings that are measured several times, in updates
NOISES = {"none": 0.0, "iid": 0.0, "exogenous": 1.0}
# Methods that are an objective with other options, and those whose objective can read actions, and gets them here.
VARIANTS = {"vq_autoencoder": "autoencoder", "spr_actions": "spr", "taco_alone": "taco", "curved_ahead": "curved"}
GIVEN_ACTIONS = ("spr_actions",)
# Weights of the losses for videos beside an inverse model's where few actions are known, chosen on a map of the tuning.
BESIDE = {"temporal_contrastive": 0.01, "forward_model": 1.0, "curved": 10.0}
UNSEEN = {"pixels": {"size": 0.25}}  # kinds of noise that no encoder is trained under, and their options


@dataclass(frozen=True)
class Job:
    """An encoder to pre-train, probe and use.

    Attributes:
        domain: "gridworld", "vizdoom_basic" or "vizdoom_defend_the_center".
        study: see `rlrep.experiments.video_study.cells.STUDIES`.
        method: see `rlrep.experiments.video_study.cells.METHODS`.
        noise: "none", "iid", "exogenous", or "persistence" for noise between the last two.
        persistence: ρ of the noise.
        num_shapes, size: of the noise, see `rlrep.envs.noise.NoiseProcess`.
        seed: of everything, the map included.
        updates: length of its pre-training; None for the domain's own.
        drift: whether the noise moves one way, see `rlrep.envs.distractors.Drift`.
        random_actions: whether the recordings are of random actions alone.
        mixed: whether every second recording has iid noise instead.
        only_probes: whether linear probes are all that is measured: no other probes, no decoder, no PPO.
        ppo_runs: how many PPO runs on its encoder; None for the domain's own number. A cell of more runs will do, too.
        labels: how many recorded frames have known actions. An inverse model reads them, beside a method that reads
            videos. None for a method alone, which knows all actions if it reads any.
        temperature: of a contrastive loss; None for its own.
        lr: step size of its pre-training; None for the domain's own.
        unseen: kind of noise that probes and PPO show to an encoder of the core, see `UNSEEN`; None for the noise that
            it was trained under.
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
    labels: int | None = None
    temperature: float | None = None
    lr: float | None = None
    unseen: str | None = None
    drift: bool = False
    random_actions: bool = False
    mixed: bool = False
    ppo_runs: int | None = None

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
        if self.labels is not None:
            parts.append(f"labels{self.labels}")
        if self.temperature is not None:
            parts.append(f"temperature{self.temperature:g}")
        if self.lr is not None:
            parts.append(f"lr{self.lr:g}")
        if self.unseen is not None:
            parts.append(f"unseen_{self.unseen}")
        parts += ["drift"] * self.drift + ["random_actions"] * self.random_actions + ["mixed"] * self.mixed
        return "-".join([*parts, f"seed{self.seed}"])

    @property
    def shorter(self) -> list[Job]:
        """The jobs whose training is the first part of this one's."""
        return [replace(self, updates=n) for n in LENGTHS if self.updates and n < self.updates]

    @property
    def trained(self) -> Job:
        """The job that trains this one's encoder, which the core shares with other studies."""
        return replace(self, study="core", unseen=None) if self.study in ("field", "transfer") else self

    @property
    def layout(self) -> int:
        """The map in the grid world, the labelled recordings in ViZDoom: each seed has its own."""
        return self.seed

    @property
    def description(self) -> dict[str, Any]:
        asked = {name: value for name, value in asdict(self).items() if name != "ppo_runs"}
        return asked | {"layout": self.layout}

    @property
    def noise_options(self) -> dict[str, Any] | None:
        """The keyword arguments of the `NoiseProcess` that its encoder is trained under; None without noise."""
        if self.noise == "none":
            return None
        kind = dict(kind="drift") if self.drift else {}
        own = dict(num_shapes=self.num_shapes, size=self.size, persistence=self.persistence, background_only=True)
        return kind | own

    @property
    def shown_noise(self) -> dict[str, Any] | None:
        """The same for the noise that probes and PPO show to the encoder."""
        if self.unseen is None:
            return self.noise_options
        return dict(kind=self.unseen, persistence=1.0, **UNSEEN[self.unseen])


@dataclass(frozen=True)
class LockJob:
    """A combination lock, to be opened with the features of an encoder."""

    method: str
    horizon: int
    seed: int
    codes: int = 2

    @property
    def study(self) -> str:
        """The lower bound is about two codes, as many as one factor has states; other numbers are a different study."""
        return "lock" if self.codes == 2 else "codes"

    @property
    def name(self) -> str:
        codes = f"-codes{self.codes}" if self.study == "codes" else ""
        return f"lock-{self.method}-horizon{self.horizon}{codes}-seed{self.seed}"

    @property
    def description(self) -> dict[str, Any]:
        return {"domain": "lock", "study": self.study, **asdict(self)}
