"""Where a study takes place: what a domain provides, how large a study is, and the picture that noise probes read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rlrep.data import EpisodeDataset
from rlrep.envs.noise import NoiseProcess
from rlrep.experiments.video_study.ppo import Schedule


@dataclass(frozen=True)
class Settings:
    """Sizes of a study.

    Attributes:
        frames: of video.
        horizon: K, the largest gap.
        steps, batch_size, lr: those of the pre-training.
        labels, test_labels: of each state, to fit and to score its probes.
        noise_labels: the same for the probes of the noise, which is harder to read.
        probe_steps: updates of each probe and of the decoder.
        ppo: how long reinforcement learning runs.
        ppo_seeds: how many runs on each encoder; a cell's return is their mean.
        encoder: keyword arguments of `PixelEncoder`.
    """

    frames: int = 20_000
    horizon: int = 3
    steps: int = 1_000
    batch_size: int = 128
    lr: float = 1e-3
    labels: int = 5
    test_labels: int = 3
    noise_labels: int = 20
    probe_steps: int = 300
    ppo: Schedule = field(default_factory=lambda: Schedule(steps=60_000, evaluations=5))
    ppo_seeds: int = 3
    encoder: dict[str, Any] = field(default_factory=lambda: dict(channels=16, strides=(4, 2, 1), out_dim=128))


@dataclass(frozen=True)
class Samples:
    """Labelled observations, each with its own noise.

    Attributes:
        observation: (N, C, H, W) uint8.
        state: (N,) int64, its number, or (N, T) float32.
        noise: (N, T) float32, see `noise_picture`; None without noise.
    """

    observation: Tensor
    state: Tensor
    noise: Tensor | None


class Domain(Protocol):
    """Where a study takes place.

    Attributes:
        shape: of observations.
        action_space: ``Discrete``.
        state_chance: what the state probes score without any knowledge.
        records: what its recordings can hold besides the frames: any of "action", "reward", "label", "background" and
            "demonstration", which means a player that knows the best action in each state.
    """

    shape: tuple[int, ...]
    action_space: Any
    state_chance: float
    records: tuple[str, ...]

    def record(
        self, noise: dict[str, Any] | None, settings: Settings, seed: int, rewards: bool = False
    ) -> EpisodeDataset:
        """Videos, with the actions taken; with their rewards only if `records` names them."""

    def samples(self, noise: dict[str, Any] | None, per_state: int, seed: int, held_out: bool) -> Samples:
        """Labelled observations; the states do not depend on the noise and its seed.

        Held-out observations come from other episodes. In the grid world they do not, as each of its few states has
        one picture: there only the noise differs.
        """

    def environment(self, noise: dict[str, Any] | None, oracle: bool, seed: int) -> VecEnv:
        """Environments for PPO; those of the oracle show the true state."""

    def coverage(self, noise: dict[str, Any]) -> float:
        """The share of pixels that the noise covers, on average."""


def with_background(data: EpisodeDataset, noise: dict[str, Any] | None, seed: int) -> EpisodeDataset:
    """Recordings, and before each of them one of the background: the noise alone, on black, for as many frames.

    So the background is every second episode from the first, as `SepCLR` expects it.
    """
    alone = under_noise(np.zeros_like(data.frames), data.lengths, noise, seed)
    parts = [part for start, end in data.episodes for part in (alone[start:end], data.frames[start:end])]
    return EpisodeDataset(np.concatenate(parts), np.repeat(data.lengths, 2), max_gap=data.max_gap, seed=seed)


def under_two_noises(data: EpisodeDataset, noise: dict[str, Any] | None, seed: int) -> EpisodeDataset:
    """Recordings that differ in their noise: the first and every second one after it under iid noise, the others under
    `noise`.
    """
    frames = np.empty_like(data.frames)
    for first, kind in enumerate((None if noise is None else noise | {"persistence": 0.0}, noise)):
        spans = data.episodes[first::2]
        rows = np.concatenate([np.arange(start, end) for start, end in spans])
        frames[rows] = under_noise(data.frames[rows], spans[:, 1] - spans[:, 0], kind, seed + first)
    shown = EpisodeDataset(frames, data.lengths, action=data.action, max_gap=data.max_gap, seed=seed)
    shown.rows = data.rows  # with rewards, if it has them
    return shown


def under_noise(frames: np.ndarray, lengths: np.ndarray, noise: dict[str, Any] | None, seed: int) -> np.ndarray:
    """Frames (N, C, H, W) of recordings, one after the other, each under its own noise.

    The noise does not depend on the frames.
    """
    if noise is None:
        return frames
    out, first = np.empty_like(frames), np.cumsum(lengths) - lengths
    process = NoiseProcess(len(lengths), frames.shape[1:], seed=seed, **noise)
    pictures = np.zeros((len(lengths), *frames.shape[1:]), np.uint8)
    for t in range(lengths.max()):
        going = lengths > t
        pictures[going] = frames[first[going] + t]
        out[first[going] + t] = process.draw(pictures)[going]
        process.step()
    return out


def noise_picture(process: NoiseProcess) -> Tensor:
    """The noise alone, on black, as 4×4 mean colours, (N, 48) float32.

    When several shapes overlap, no encoder's features show where single shapes are and what hue they have (R² below
    0.1), not even random features. Their joint picture can be read, so it shows which method keeps the noise.
    """
    return coarse(process.draw(np.zeros((process.num_images, *process.frame_shape), np.uint8)))


def coarse(frames: np.ndarray) -> Tensor:
    """4×4 mean colours of pictures (N, 3, H, W) uint8, (N, 48) float32 in [0, 1]."""
    return F.adaptive_avg_pool2d(torch.from_numpy(frames).float() / 255, 4).flatten(1)
