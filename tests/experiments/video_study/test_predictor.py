"""The numbers known before training, compared with the simulator and with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlrep.envs.noise import NoiseProcess
from rlrep.experiments.results.runs import Array
from rlrep.experiments.video_study import predictor
from rlrep.experiments.video_study.gridworld import GridDomain
from rlrep.experiments.video_study.pixels import Settings
from rlrep.experiments.video_study.predictor import (
    explained_by_noise,
    explained_by_state,
    layer,
    noise_share,
    noise_to_state,
    predict,
    shapes_of,
)

DRAWS = 2_000


def noise(size: float = 0.3, persistence: float = 1.0, num_shapes: int = 8) -> dict[str, Any]:
    return dict(num_shapes=num_shapes, size=size, persistence=persistence, background_only=True)


def futures(options: dict[str, Any], seeds: tuple[int, int], gap: int) -> list[NoiseProcess]:
    """The noise twice, `gap` steps after the start with these seeds."""
    found = []
    for number, seed in enumerate(seeds):
        process = NoiseProcess(DRAWS, GridDomain.shape, seed=seed, **options)
        process.rng = np.random.default_rng([seed, number])
        for _ in range(gap):
            process.step()
        found.append(process)
    return found


def covariance(first: Array, second: Array) -> float:
    """The mean over pixels; of two pictures with independent futures, what their common past explains (Sobol)."""
    first, second = (pictures.reshape(DRAWS, -1) / np.float32(255) for pictures in (first, second))
    return float(((first - first.mean(0)) * (second - second.mean(0))).mean())


def test_variance_that_noise_explains_is_what_two_futures_of_it_share() -> None:
    """On black, with shapes so large that it matters which is on top."""
    options, black = noise(0.45), np.zeros((DRAWS, *GridDomain.shape), np.uint8)
    first, second = (process.draw(black) for process in futures(options, (1, 1), 2))
    _, variance = layer(GridDomain(), options, 2, np.zeros(GridDomain.shape))
    assert variance.mean() == pytest.approx(covariance(first, second), rel=0.025)


@pytest.mark.parametrize("shared", ["noise", "state"])
def test_explained_variance_is_what_two_futures_share(shared: str) -> None:
    place, options, rng = GridDomain(), noise(), np.random.default_rng(0)
    pairs = place.pairs(1)
    starts = [rng.choice(len(pairs), DRAWS, p=pairs.sum(1)) for _ in range(2)]
    if shared == "state":
        starts[1] = starts[0]
    follow = (pairs / np.maximum(pairs.sum(1, keepdims=True), 1e-12)).cumsum(1)
    drawn = []
    for start, process in zip(starts, futures(options, (1, 1) if shared == "noise" else (1, 2), 1), strict=True):
        later = (rng.random(DRAWS)[:, None] < follow[start]).argmax(1)
        drawn.append(process.draw(place.table.frames[place.seen[later]]))
    if shared == "state":
        found = explained_by_state(place.layout, tuple(shapes_of(options).items()), 1)
    else:
        found = explained_by_noise(place, options, 1)
    assert found == pytest.approx(covariance(*drawn), rel=0.05)


def test_pairs_are_as_often_in_the_recordings() -> None:
    place = GridDomain(2)
    data = place.record(None, Settings(frames=20_000), seed=0)
    number = {frame.tobytes(): i for i, frame in enumerate(place.table.frames[place.seen])}
    state = np.array([number[frame.tobytes()] for frame in data.frames])
    counted = np.zeros((len(place.seen), len(place.seen)))
    for first, end in data.episodes:
        np.add.at(counted, (state[first : end - 2], state[first + 2 : end]), 1)
    pairs, counted = place.pairs(2), counted / counted.sum()
    assert pairs.sum() == pytest.approx(1) and not counted[pairs == 0].any()
    assert np.corrcoef(counted.sum(1), pairs.sum(1))[0, 1] > 0.97
    likely = pairs > 1e-3
    assert counted[likely].sum() == pytest.approx(pairs[likely].sum(), rel=0.05)


def test_noise_that_is_drawn_afresh_predicts_nothing() -> None:
    place = GridDomain()
    assert noise_to_state(place, noise(persistence=0.0), 1) == 0.0
    assert noise_share(place, noise(persistence=0.0), 3, 64) == 0.0


@pytest.mark.parametrize("method", ["forward_model", "temporal_contrastive", "inverse_model"])
def test_without_noise_both_numbers_are_0_and_other_methods_have_none(method: str) -> None:
    assert predict(method, GridDomain(), None, 3, 64) == (None if method == "inverse_model" else 0.0)


def test_noise_that_stands_still_is_explained_entirely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "MOVE", (0.0, 0.0))
    monkeypatch.setattr(predictor, "HUE_DRIFT", 0.0)
    place, black = GridDomain(), np.zeros((DRAWS, 3, 56, 56), np.uint8)
    drawn = NoiseProcess(DRAWS, place.shape, seed=0, **noise()).draw(black) / 255
    mean, variance = layer(place, noise(), 3, np.zeros((3, 56, 56)))
    assert mean.mean() == pytest.approx(drawn.mean(), rel=0.03)
    assert variance.mean() == pytest.approx(drawn.var(0).mean(), rel=0.03)
    assert noise_share(place, noise(), 3, 64) == 1.0


def test_one_number_grows_with_area_and_memory_the_other_with_memory_alone() -> None:
    place = GridDomain()
    small, large, afresh = noise(0.15), noise(0.3), noise(0.3, 0.6)
    ratios = [noise_to_state(place, options, 1) for options in (small, large, afresh)]
    assert max(ratios[0], ratios[2]) < ratios[1]
    shares = [noise_share(place, options, 3, 64) for options in (small, large, afresh)]
    assert 0 < shares[2] < shares[0] == shares[1] <= 1
    assert noise_share(place, noise(persistence=0.8, num_shapes=1), 3, 64) < noise_share(place, noise(0.3, 0.8), 3, 64)


def test_eigenvalues_of_the_noise_are_those_of_its_steps() -> None:
    """For one shape that changes only its colour, whose steps are a small matrix."""
    rho, hues = 0.9, 41
    step = np.fft.ifft(predictor.drifts(np.fft.fftfreq(hues, 1 / hues)) * rho).real + (1 - rho) / hues
    exact = np.linalg.eigvalsh([np.roll(step, shift) for shift in range(hues)])[::-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "moves", lambda frequency: (frequency == 0).astype(float))
        np.testing.assert_allclose(predictor.shape_products(1, rho, 8), exact[1:9], atol=1e-6)
        two = predictor.shape_products(2, rho, 400)
    together = np.sort(np.outer(exact, exact).ravel())[::-1]
    np.testing.assert_allclose(two[:20], together[1:21], atol=1e-6)
