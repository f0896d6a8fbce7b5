"""ViZDoom in the study: stacks of frames, noise behind what moves, labels of what is seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from rlrep.experiments.video_study import doom, pixels
from rlrep.experiments.video_study.jobs import Job

pytest.importorskip("vizdoom")
NOISE: dict[str, Any] = {"num_shapes": 8, "size": 0.3, "persistence": 1.0, "background_only": True}


@pytest.fixture(autouse=True, scope="module")
def few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doom, "LABELLED", 20)
        patch.setattr(doom, "STEPS", 100)
        patch.setattr(doom, "NUM_ENVS", 1)
        doom._recording.cache_clear()
        yield
    doom._recording.cache_clear()


@pytest.fixture(params=["basic", "defend_the_center"], scope="module")
def place(request: pytest.FixtureRequest) -> doom.DoomDomain:
    return doom.DoomDomain(request.param)


def test_samples_are_the_stacks_of_a_recording_with_what_was_seen(place: doom.DoomDomain) -> None:
    settings = pixels.Settings(frames=100)
    samples, data = place.samples(None, 2, 5, held_out=True), place.record(None, settings, seed=1_000_001)
    rows = np.arange(40) * 2
    assert torch.equal(samples.observation, data.stack(rows)) and samples.noise is None
    assert data.state is not None and torch.equal(samples.state, torch.from_numpy(data.state[rows]))


def test_each_seed_has_its_own_labelled_recordings() -> None:
    places = [
        pixels.domain("vizdoom_basic", Job("vizdoom_basic", "core", "random", "none", seed).layout) for seed in (0, 1)
    ]
    states = [place.samples(None, 1, 0, held_out).state for place in places for held_out in (False, True)]
    assert len({state.numpy().tobytes() for state in states}) == 4


def test_noise_lies_behind_what_moves_and_lasts_within_a_stack(place: doom.DoomDomain) -> None:
    clean, noisy = place.samples(None, 2, 0, False), place.samples(NOISE, 2, 0, False)
    assert torch.equal(clean.state, noisy.state) and noisy.noise is not None and noisy.noise.shape == (40, 48)
    background = torch.from_numpy(doom._recording(place.scenario, 100, 1_000_000).frames[::2][:40, 3] > 0)
    changed = (clean.observation != noisy.observation).unflatten(1, (3, 3)).any(2)
    assert not changed[:, 2][~background].any() and 0.3 < changed[:, 2].float().mean() < 0.5

    def kept(persistence: float) -> float:
        """The share of the newest frame's noise that was there a frame before."""
        drawn = place.samples(NOISE | {"persistence": persistence}, 2, 0, False).observation
        covered = (clean.observation != drawn).unflatten(1, (3, 3)).any(2)
        return float(covered[:, 1][covered[:, 2]].float().mean())

    assert kept(0.0) < 0.5 < kept(1.0)
    assert 0.3 < place.coverage(NOISE) < 0.5


def test_recordings_have_uniform_actions_and_the_same_play_under_any_noise(place: doom.DoomDomain) -> None:
    settings = pixels.Settings(frames=100, horizon=2)
    clean, noisy = place.record(None, settings, 3), place.record(NOISE, settings, 3)
    assert clean.action is not None and noisy.action is not None and (clean.action == noisy.action).all()
    assert np.bincount(clean.action, minlength=3).min() > 20 and not np.array_equal(clean.frames, noisy.frames)
    assert clean.stack(np.array([5])).shape[1:] == place.shape


def test_the_oracle_sees_what_the_label_says_and_encoders_see_the_noise(place: doom.DoomDomain) -> None:
    with closing(place.environment(NOISE, oracle=True, seed=0)) as venv:
        assert np.asarray(venv.reset()).shape[1:] == place.samples(None, 1, 0, False).state.shape[1:]
    shown = []
    for noise in (NOISE, None):
        with closing(place.environment(noise, oracle=False, seed=0)) as venv:
            shown.append(np.asarray(venv.reset()))
    assert shown[0].shape[1:] == place.shape and 0.3 < (shown[0] != shown[1]).mean() < 0.5
