"""Invariance across recordings: the episodes of rows, the penalty, and which information it drops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from rlrep import Objectives, Window, info_nce
from rlrep.objectives.invariance import Invariance, risk_over
from rlrep.replay import Mixture
from tests.rlrep.objectives.toy import gradients, made, picture, readable, train, world


def invariance(**options: float) -> Invariance:
    objective = made("invariance", **(dict(feature_dim=8) | options))
    assert isinstance(objective, Invariance)
    return objective


def batch(rows: int = 12) -> TensorDict:
    return world(episodes=3).data.sample(rows, invariance().window)


def test_batches_say_which_episode_rows_are_from_where_the_window_asks() -> None:
    data = world(episodes=3, length=24).data
    given = data.sample(50, Window(episode=True))
    assert torch.equal(given["episode"], given["index"] // 24)
    assert "episode" not in data.sample(5, Window())
    assert Window(episode=True).join(Window()).episode and not Window().entries["episode"]
    mixed = Mixture(data, world(episodes=3).data, 0.5).sample(60, Window(episode=True))["episode"]
    assert (mixed[:30] >= 0).all() and (mixed[30:] < 0).all()  # no number is of both
    assert Objectives([invariance()]).window.episode


def test_the_risks_mean_and_variance_are_over_recordings() -> None:
    mean, variance = risk_over(torch.tensor([7, 7, 7, -2]), torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert mean == 4 and variance == 4
    mean, variance = risk_over(torch.tensor([5, 5]), torch.tensor([1.0, 2.0]))
    assert mean == 1.5 and variance == 0


@pytest.mark.parametrize("groups", [0, 2])
def test_the_loss_is_the_mean_risk_and_the_penalty(groups: int) -> None:
    objective, given = invariance(penalty=0.7, groups=groups), batch()
    z = [F.normalize(objective.state_projection(objective.encoder(given[key])), dim=1) for key in objective.in_keys[:2]]
    both = [info_nce(*pair, 0.1, reduction="none")[0] for pair in (z, z[::-1])]
    each = (both[0] + both[1]) / 2
    recording = given["episode"] % 2 if groups else given["episode"]
    own = objective(given.clone().update({"episode": -1 - given["episode"]}))  # as rows of a `Mixture`'s data
    torch.testing.assert_close(own["loss_invariance"], objective(given)["loss_invariance"])
    risks = torch.stack([each[recording == number].mean() for number in recording.unique()])
    assert len(risks) == (2 if groups else 3)
    torch.testing.assert_close(objective(given)["loss_invariance"], risks.mean() + 0.7 * risks.var(correction=0))


def test_a_gradient_reaches_the_encoder_from_the_penalty_too() -> None:
    found = []
    for penalty in (0.0, 5.0):
        objective = invariance(penalty=penalty)
        objective(world(episodes=3).data.sample(12, objective.window))["loss_invariance"].backward()
        found.append(gradients(objective))
    assert all(gradient.any() for gradient in found[0])
    assert not any(torch.allclose(*pair) for pair in zip(*found, strict=True))


def test_the_penalty_makes_recordings_as_hard_as_each_other() -> None:
    """In half of the recordings the noise identifies pairs; in the others the second frame has new noise."""

    def draw(rows: int = 64) -> TensorDict:
        nonlocal state
        state, noise, fresh = rng.integers(0, 5, (3, rows))
        recording = np.arange(rows) % 2
        late = np.where(recording == 0, noise, fresh)
        frames = [np.concatenate([picture(*each) for each in zip(state, seen, strict=True)]) for seen in (noise, late)]
        names = ("observation", "future_observation")
        pixels = {name: torch.from_numpy(frame) for name, frame in zip(names, frames, strict=True)}
        return TensorDict(pixels | {"episode": torch.from_numpy(recording)}, batch_size=[rows])

    state = np.zeros(0, np.int64)
    variances = []
    for penalty in (0.0, 3.0):
        rng, objective = np.random.default_rng(0), invariance(penalty=penalty)
        train(objective, draw, 100)
        given = draw(400)
        variances.append(objective(given)["invariance_variance"].item())
        z = objective.state_projection(objective.encoder(given["observation"]))
        assert readable(z, torch.from_numpy(state)) > 0.9
    assert variances[1] < 0.1 * variances[0]


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match=r"Invariance reads 'episode', which this batch lacks.*objective\.window"):
        invariance()(world(episodes=3).data.sample(5, Window(observations=invariance().window.observations)))
    with pytest.raises(ValueError, match="penalty must be at least 0"):
        invariance(penalty=-1)
