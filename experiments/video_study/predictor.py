"""Two numbers that are known before training: how much of a method's loss is about the noise.

Nothing is trained and nothing is sampled: both follow from the grid world's table and the rules of the noise. The
state S and the noise N evolve independently; a picture X shows both, the noise on dark pixels. The two pictures of
a pair are from one episode, k steps apart, k uniform in 1..K. With probability ρ^k a shape of the noise has only moved
in these k steps; otherwise it was drawn anew.

- **A forward model** is scored by its squared error in pixels, so it gains from whatever explains their variance:

      V_N = E_k mean_p Var E[X_t+k(p) | N_t],    V_S = E_k mean_p Var E[X_t+k(p) | S_t],

  where p are all pixels and channels, on the scale pixels / 255. `noise_to_state` is V_N / V_S, in [0, ∞). V_N falls
  with the area of the shapes and with ρ^2k, so forward models should fail as noise covers more *and* as it becomes
  persistent. The part of the variance that only S_t and N_t together explain is left out.
- **Temporal contrast** is scored by telling pairs from others. Its best critic is log p(x, x') / p(x) p(x'), and the
  best D features for it are the slowest functions of the pictures, the eigenfunctions of

      (T f)(x) = E[f(X_t+k) | X_t = x]

  with the D largest eigenvalues (arXiv 2106.04156, 2210.01883). As S and N are independent, an eigenfunction is a
  product of a function of S and one of each shape. `noise_share` is the share of the D that are not functions of S
  alone, in [0, 1]. No pixel occurs in it, so contrast should fail as noise becomes persistent, however little it
  covers. D is the width of the layer that the loss reads.

Both assume that all of S and N can be seen in a picture, and that training runs until the loss is at its best. Early in
training they can only predict the order in which settings fail.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlrep.envs.distractors import HUE_DRIFT, MOVE, Shapes, colour, dark
from rlrep.experiments.results.runs import Array
from rlrep.experiments.video_study.gridworld import GridDomain

NUMBERS = ("forward_model", "temporal_contrastive")
HUES = 720  # of the colour circle
FREQUENCIES = np.arange(-8.0, 9.0)  # of the functions of a shape's state: faster ones are forgotten within a step
DIGITS = 9  # by which eigenvalues are told apart


def predict(method: str, place: GridDomain, noise: dict[str, Any] | None, horizon: int, features: int) -> float | None:
    """The number for a method's kind of loss, 0 without noise; None for a method that has no number.

    Args:
        method: those of `NUMBERS` have a number.
        place: the grid world.
        noise: of `NoiseProcess`: num_shapes, size, persistence, on what is dark only.
        horizon: K, the largest gap.
        features: D, of the layer that contrast reads.
    """
    if method not in NUMBERS:
        return None
    if noise is None:
        return 0.0
    if method == "forward_model":
        return noise_to_state(place, noise, horizon)
    return noise_share(place, noise, horizon, features)


def noise_to_state(place: GridDomain, noise: dict[str, Any], horizon: int) -> float:
    """V_N / V_S: pixel variance that the noise explains, over what the state explains; see above and `predict`."""
    gaps, shapes = range(1, horizon + 1), tuple(shapes_of(noise).items())
    by_noise = sum(explained_by_noise(place, noise, gap) for gap in gaps)
    return by_noise / sum(explained_by_state(place.layout, shapes, gap) for gap in gaps)


def shapes_of(noise: dict[str, Any]) -> dict[str, Any]:
    """The options that single pictures depend on: all but the persistence."""
    return {name: value for name, value in noise.items() if name != "persistence"}


def explained_by_noise(place: GridDomain, noise: dict[str, Any], gap: int) -> float:
    """The mean variance of a pixel that N_t explains `gap` steps later, on the scale pixels / 255."""
    often = place.pairs(gap).sum(0)
    frames, bare = pictures(place)
    is_bare = np.tensordot(often, bare, 1)
    below = np.tensordot(often, frames * bare, 1) / np.maximum(is_bare, 1e-12)  # the mean where nothing covers it
    return float((is_bare**2 * layer(place, noise, gap, below)[1]).mean())


@lru_cache(maxsize=64)
def explained_by_state(layout: int, shapes: tuple[tuple[str, Any], ...], gap: int) -> float:
    """The same for S_t; it does not depend on the persistence of the noise."""
    place = GridDomain(layout)
    pairs = place.pairs(gap)
    before, after = pairs.sum(1), pairs.sum(0)
    frames, bare = pictures(place)
    on_black, on_white = layer(place, {**dict(shapes), "persistence": 0.0}, gap, np.array([0.0, 1.0]))[0]
    expected = np.where(bare, on_black + (on_white - on_black) * frames, frames).reshape(len(frames), -1)
    known = before > 0
    later = (pairs @ expected)[known] / before[known, None]
    return float((before[known] @ (later - after @ expected) ** 2).mean())


def pictures(place: GridDomain) -> tuple[Array, NDArray[np.bool_]]:
    """What is seen in each state before the goal, (states, 3, H, W) in [0, 1], and where noise may lie on it."""
    frames = place.table.frames[place.seen]
    return frames / 255, dark(frames)[:, None]


def layer(place: GridDomain, noise: dict[str, Any], gap: int, below: Array) -> tuple[Array, Array]:
    """Of a dark pixel `gap` steps later: its mean, and the variance of its mean given the noise now; shaped as `below`.

    The shapes are drawn on `below`, one on top of the other. With A the colour that the next shape shows at the pixel,
    q whether it covers it, and L what it covers, the pixel becomes A + (1 - q) L. So its expectation given the noise
    has the variance

        Var(A - q E[L]) + E[(1 - q)²] Var(L),

    as A and q do not depend on L. A shape's place is uniform on a torus, so all pixels are alike.
    """
    shape, stays = place.shape, noise["persistence"] ** (2 * gap)
    # One channel is enough: the others are the same, with the hue shifted.
    hues = colour(np.linspace(0, 1, HUES, endpoint=False, dtype=np.float32))[:, 0] / 255
    bright, blurred = float(hues.mean()), mean_square(hues, drifts(waves(HUES)) ** gap)
    moved = moves(waves(shape[1])) ** gap
    mean, variance = np.asarray(below, float), np.zeros_like(below)
    # No shape covers bright pixels, so the first shape is on top.
    for outline in reversed(Shapes(shape, **shapes_of(noise)).outlines):
        place_of = np.zeros(shape[1:])
        place_of[: len(outline), : len(outline)] = outline
        area, overlap = float(place_of.mean()), mean_square(place_of, np.outer(moved, moved))
        covers = stays * (overlap - area**2)  # the variance of q
        shows = covers * (bright - mean) ** 2 + stays * overlap * (blurred - bright**2)
        variance = shows + ((1 - area) ** 2 + covers) * variance
        mean = area * bright + (1 - area) * mean
    return mean, variance


def mean_square(values: Array, factors: Array) -> float:
    """The mean square of values on a circle or torus, after each of their frequencies is multiplied by its factor."""
    return float((np.abs(np.fft.fftn(values) * factors) ** 2).sum() / values.size**2)


def waves(count: int) -> Array:
    """(count,) the frequencies of `count` values on a circle, in the order of NumPy's transform."""
    return np.asarray(np.fft.fftfreq(count, 1 / count), float)


def moves(frequency: Array) -> Array:
    """The factor by which a move of a shape shrinks a wave along one axis: the mean of cos(2π f d) over moves d."""
    low, high = (2 * np.pi * frequency * end for end in MOVE)
    still = high == low
    return np.where(still, 1.0, (np.sin(high) - np.sin(low)) / np.where(still, 1.0, high - low))


def drifts(frequency: Array) -> Array:
    """The same for the colour circle."""
    return np.sinc(2 * HUE_DRIFT * frequency)


def noise_share(place: GridDomain, noise: dict[str, Any], horizon: int, features: int) -> float:
    """The share of the slowest `features` functions that are not of the state alone; see above and `predict`."""
    pairs = [place.pairs(gap) for gap in range(1, horizon + 1)]
    pairs = [(joint + joint.T) / 2 for joint in pairs]  # either picture of a pair may be the query
    often = np.mean(pairs, axis=0).sum(1)
    scale = np.sqrt(np.where(often > 0, often, np.inf))
    of_noise = np.unique(shape_products(noise["num_shapes"], noise["persistence"], features), return_counts=True)
    slowness: list[tuple[float, int, bool]] = []  # eigenvalue, number of its functions, whether noise is in them
    for rate, count, noisy in [(1.0, 1, False), *((*both, True) for both in zip(*of_noise, strict=True))]:
        operator = np.mean([rate**gap * joint for gap, joint in enumerate(pairs, 1)], axis=0)
        values = np.linalg.eigvalsh(operator / np.outer(scale, scale))[::-1]
        # The constant distinguishes nothing. An inner product of features has no negative eigenvalues.
        slowness += [(value, count, noisy) for value in values[not noisy :] if value > 0]
    left, taken = features, 0
    for _, count, noisy in sorted(slowness, reverse=True):
        taken += min(count, left) * noisy
        left -= min(count, left)
    return float(taken / features)


def shape_products(num_shapes: int, persistence: float, most: int) -> Array:
    """(up to most,) the largest eigenvalues of one step of all shapes together, without the constant's 1.

    The eigenvalues of one shape are ρ times those of its moves: of waves along both axes and the colour circle. Those
    of all shapes are products. Each feature has one of them, so more than `most` are never used.
    """
    along, around = moves(FREQUENCIES), drifts(FREQUENCIES)
    each = persistence * np.multiply.outer(np.multiply.outer(along, along), around)
    each[(len(FREQUENCIES) // 2,) * 3] = 1.0
    each = np.sort(each.ravel())[::-1][: most + 1]
    together = np.ones(1)
    for _ in range(num_shapes):
        together = np.sort(np.outer(each, together).ravel())[::-1][: most + 1]
    lasting = np.round(together[1:], DIGITS)
    return lasting[lasting > 0]
