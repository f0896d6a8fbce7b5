"""Motion and appearance statistics: what they are, and that features tell them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from rlrep.objectives.motion import Motion, statistics
from tests.rlrep.objectives.toy import gradients, made, train, world

SMALL = dict(clip_length=3, feature_dim=32, hidden_dim=32, frame_channels=1)


def motion(**options: int) -> Motion:
    objective = made("motion", **(SMALL | options))
    assert isinstance(objective, Motion)
    return objective


def batch(rows: int = 6) -> TensorDict:
    return world(episodes=2).data.sample(rows, motion().window)


def moving(across: int, down: int, bright: float = 1.0, frames: int = 3) -> torch.Tensor:
    """A clip of a square around (18, 12), column and row, on grey, that moves by so many pixels a step."""
    clip = torch.full((1, frames, 1, 32, 32), 0.5)
    for t in range(frames):
        left, top = 15 + across * t, 9 + down * t
        clip[0, t, 0, top : top + 6, left : left + 6] = bright
    return clip


@pytest.mark.parametrize("bright", [1.0, 0.0])
@pytest.mark.parametrize(
    ("step", "direction"),
    [((1, 0), 0), ((1, 1), 1), ((0, 1), 2), ((-1, 1), 3), ((-1, 0), 4), ((-1, -1), 5), ((0, -1), 6), ((1, -1), 7)],
)
def test_the_direction_of_motion_is_that_of_bright_and_of_dark_squares(
    step: tuple[int, int], direction: int, bright: float
) -> None:
    told = statistics(moving(*step, bright), grid=2)
    assert told.motion_direction.tolist() == [direction] and told.moves.all()


def test_the_places_of_the_most_motion_and_of_the_most_colour_differ() -> None:
    clip = moving(2, 0, bright=0.6).expand(1, 3, 3, 32, 32).clone()
    clip[0, :, 0, 24:28, 0:4], clip[0, :, 0, 28:32, 0:4] = 1, 0  # still, but of two colours
    clip[0, :, 1, 24:28, 0:8] = 0.25
    told = statistics(clip, grid=4)
    assert told.motion_place.item() == 6  # row 1, column 2
    assert told.colour_place.item() == 12  # row 3, column 0
    torch.testing.assert_close(told.colour[0], torch.tensor([0.5, 0.375, 0.5]))


def test_colours_that_vary_only_over_time_count() -> None:
    clip = torch.full((1, 2, 1, 8, 8), 0.5)
    clip[0, 0, 0, :4, 4:], clip[0, 1, 0, :4, 4:] = 0, 1
    assert statistics(clip, grid=2).colour_place.item() == 1


def test_the_losses_are_cross_entropies_and_a_squared_error() -> None:
    objective, given = motion(), batch()
    first, others = objective.read(given)
    clip = torch.cat([first[:, None], others], 1)
    states = torch.cat([objective.state_projection(objective.encoder(clip[:, t])) for t in range(3)], 1)
    place, direction, colour_place, colour = objective.head(states).split([16, 8, 16, 1], 1)
    told, out = statistics(clip / 255, 4), objective(given)
    assert told.moves.all()
    torch.testing.assert_close(out["loss_motion_place"], F.cross_entropy(place, told.motion_place))
    torch.testing.assert_close(out["loss_motion_direction"], F.cross_entropy(direction, told.motion_direction))
    torch.testing.assert_close(out["loss_colour_place"], F.cross_entropy(colour_place, told.colour_place))
    torch.testing.assert_close(out["loss_colour"], F.mse_loss(colour, told.colour))


def test_a_clip_that_stands_still_has_no_part_in_the_motion() -> None:
    objective, given = motion(), batch()
    still = given.clone()
    for step in ("1", "2"):
        still["at", step] = still["observation"].clone()
    out = objective(still)
    assert out["loss_motion_place"] == out["loss_motion_direction"] == 0 < out["loss_colour_place"]
    both = objective(torch.cat([given, still]))
    torch.testing.assert_close(both["loss_motion_place"], objective(given)["loss_motion_place"])


def test_features_learn_to_tell_them() -> None:
    place, objective = world(), motion()
    before = objective(place.data.sample(200, objective.window))
    train(objective, lambda: place.data.sample(32, objective.window), 200)
    out = objective(place.data.sample(200, objective.window))
    assert all(out[name] < 0.7 * before[name] for name in objective.out_keys)
    assert all(gradient.any() for gradient in gradients(objective))


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match=r"Motion reads \('sequence', 'observation'\), which this batch lacks"):
        motion()(batch().select("observation"))
    for name in ("clip_length", "grid"):
        with pytest.raises(ValueError, match=f"{name} must be at least 2"):
            motion(**{name: 1})
