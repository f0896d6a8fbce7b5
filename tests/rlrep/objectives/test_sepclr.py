"""SepCLR against its formulas, and what it separates in a world whose background has no agent."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from rlrep import Window
from rlrep.data import EpisodeDataset
from rlrep.objectives.sepclr import SepCLR, log_mean
from tests.rlrep.objectives.toy import World, gradients, made, readable, train, world


def sepclr(**options: float) -> SepCLR:
    objective = made("sepclr", **(dict(feature_dim=8, horizon=1) | options))
    assert isinstance(objective, SepCLR)
    return objective


def with_background(episodes: int = 32, length: int = 12) -> World:
    """A world whose even episodes lack the square that actions move."""
    place = world(episodes, length)
    frames = place.data.frames.copy().reshape(episodes, length, *place.data.frames.shape[1:])
    frames[::2, ..., 4:8, :] = 0
    data = EpisodeDataset(frames.reshape(place.data.frames.shape), [length] * episodes)
    return World(data, place.state, place.noise)


def batch(rows: int = 12) -> TensorDict:
    return with_background(8).data.sample(rows, sepclr().window)


def test_the_losses_are_the_formulas() -> None:
    objective, given = sepclr(joint=0.3, temperature=0.4), batch()
    views = [objective.encoder(given[key]) for key in objective.in_keys[:2]]
    (c, later_c), (s, later_s) = (
        [F.normalize(part(view), dim=1) for view in views] for part in (objective.common, objective.salient)
    )
    constant = torch.eye(8)[:1]
    background = given["episode"] % 2 == 0
    assert 1 < background.sum() < 11

    def uniformity(*parts: torch.Tensor) -> torch.Tensor:
        count = len(parts[0])
        kernels = [
            torch.stack([(-(part[i] - part[j]).square().sum() / 0.4).exp() for part in parts]).prod()
            for i in range(count)
            for j in range(count)
            if i != j
        ]
        return torch.stack(kernels).mean().log()

    def alignment(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first - second).square().sum(1).mean() / 0.4

    out, data = objective(given), ~background
    torch.testing.assert_close(out["loss_sepclr_common"], alignment(c, later_c) + uniformity(c))
    salient = alignment(s[data], later_s[data]) + uniformity(torch.cat([s[data], constant]))
    torch.testing.assert_close(out["loss_sepclr_salient"], salient)
    torch.testing.assert_close(out["loss_sepclr_background"], alignment(s[background], constant))
    torch.testing.assert_close(out["loss_sepclr_joint"], 0.3 * uniformity(c[data], s[data]))


@pytest.mark.parametrize(
    "name", ["loss_sepclr_common", "loss_sepclr_salient", "loss_sepclr_background", "loss_sepclr_joint"]
)
def test_a_gradient_reaches_the_encoder_from_each_loss(name: str) -> None:
    objective = sepclr()
    objective(batch())[name].backward()
    assert all(gradient.any() for gradient in gradients(objective))


@pytest.mark.parametrize("episode", [0, 1])
def test_batches_of_one_kind_alone_have_finite_losses(episode: int) -> None:
    objective, given = sepclr(), batch()
    given["episode"] = torch.full((12,), episode)
    out = objective(given)
    sum(out.values()).backward()
    assert all(value.isfinite() for value in out.values())
    gradients(objective)
    assert log_mean(torch.full((2, 2), 0.5), torch.tensor([1.0, 0.0])) == 0


def test_the_joint_loss_prefers_parts_that_say_different_things() -> None:
    objective = sepclr()
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    first, second = (F.one_hot(column, 8).float() for column in grid.T)

    def joint(common: torch.Tensor, salient: torch.Tensor) -> torch.Tensor:
        return log_mean(objective.kernel(common) * objective.kernel(salient), torch.ones(16))

    assert joint(first, second) < joint(first, first) - 0.5


def test_learning_makes_the_salient_part_constant_on_the_background_and_tell_the_state_elsewhere() -> None:
    place, objective = with_background(), sepclr()
    train(objective, lambda: place.data.sample(64, objective.window), 150)
    given = place.data.sample(800, Window(episode=True))
    _, salient = objective.parts(objective.encoder(given["observation"]))
    background = given["episode"] % 2 == 0
    away = (salient - objective.constant).norm(dim=1)
    assert 2 * away[background].mean() < away[~background].mean()
    assert readable(salient[~background], place.state[given["index"]][~background]) > 0.8


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="SepCLR reads 'episode', which this batch lacks"):
        sepclr()(with_background(4).data.sample(5, Window(observations=sepclr().window.observations)))
    with pytest.raises(ValueError, match="background_every must be at least 2, got 1"):
        sepclr(background_every=1)
    with pytest.raises(ValueError, match="joint must be at least 0"):
        sepclr(joint=-1)


def test_episodes_of_offline_data_count_as_in_their_own_data() -> None:
    """`Mixture` makes their numbers negative."""
    objective, given = sepclr(), batch()
    expected = objective(given)
    other = objective(given.clone().update({"episode": -1 - given["episode"]}))
    torch.testing.assert_close(dict(other), dict(expected))
