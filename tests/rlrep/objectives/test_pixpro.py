"""PixPro's pairs of places, propagation and momentum copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import nn

from rlrep import PixelEncoder, RandomShift, make_objective
from rlrep.augment import shift
from rlrep.objectives import pixpro as pixpro_file
from rlrep.objectives.pixpro import PixPro, agreement, same_place
from tests.rlrep.objectives.toy import SHAPE, encoder, gradients, train


def pixpro(shift: int = 2, **options: float) -> PixPro:
    small = dict(feature_dim=8, hidden_dim=16) | options
    objective = make_objective("pixpro", encoder(), None, augment=RandomShift(shift), **small)
    assert isinstance(objective, PixPro)
    return objective


def batch(rows: int = 6, seed: int = 0) -> TensorDict:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, *SHAPE), np.uint8)
    return TensorDict({"observation": torch.from_numpy(pixels)}, batch_size=[rows])


def test_the_same_place_is_where_both_views_show_the_same_pixels() -> None:
    """With a picture of numbered pixels, whose numbers at the centres identify the places."""
    objective = pixpro()
    assert objective.grid == (4, 4) and objective.centres.amax().item() == 12
    picture = torch.arange(400).view(1, 1, 20, 20)
    offsets = torch.tensor([[[6, 1]], [[2, 5]]])  # x and y of the crop; 4 is no shift
    views = [shift(picture, offset, 4)[0, 0] for offset in offsets]
    same = same_place(objective.centres, offsets[0] - offsets[1], 0.5)[0]
    assert same.sum() == 9  # moved by one cell in each direction
    for i, j in same.nonzero():
        at = [(objective.centres[each] + 4).long().tolist() for each in (i, j)]
        assert views[0][at[0][1], at[0][0]] == views[1][at[1][1], at[1][0]]


def test_the_losss_pairs_are_the_same_places_of_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """With shifts by whole cells, both views show the same pixel at the centre of each pair."""
    objective, found = pixpro(shift=4), {"shift": [], "same_place": []}

    def spied(name: str, function: Any) -> Any:
        def called(*given: Any) -> Any:
            found[name].append(function(*given))
            return found[name][-1]

        return called

    for name, function in (("shift", shift), ("same_place", same_place)):
        monkeypatch.setattr(pixpro_file, name, spied(name, function))
    draws = iter([torch.tensor([[8, 4], [0, 4]]), torch.tensor([[4, 0], [4, 8]])])
    monkeypatch.setattr(torch, "randint", lambda *given, **named: next(draws))
    objective(batch(2))
    (first, second), (same,) = found["shift"], found["same_place"]
    assert same.sum() == 18  # of each row, the 3×3 places that both views show
    for row, i, j in same.nonzero():
        at = [(objective.centres[each] + 4).long().tolist() for each in (i, j)]
        assert first[row, 0, at[0][1], at[0][0]] == second[row, 0, at[1][1], at[1][0]]


def test_pairs_are_closer_than_seven_tenths_of_a_cells_diagonal() -> None:
    objective = pixpro()
    assert objective.near == pytest.approx(0.7 * 4 * 2**0.5)
    same = same_place(objective.centres, torch.zeros(1, 2, dtype=torch.int64), objective.near)[0]
    assert torch.equal(same, (objective.centres[:, None] - objective.centres).abs().sum(2) < 4)  # only the same place
    same = same_place(objective.centres, torch.tensor([[2, 0]]), objective.near)[0]
    assert same.sum() == 16 + 12  # half a cell apart: the places left and right


def test_the_loss_is_the_mean_cosine_of_propagated_and_target_places() -> None:
    objective, given = pixpro(shift=0), batch()
    with torch.no_grad():
        for parameter in objective.target_encoder.parameters():
            parameter.mul_(0.5)
        for layer in (objective.target_projection[0], objective.target_projection[3]):
            layer.weight[:, 0].add_(0.3)
    cells = objective.encoder(given["observation"]).view(6, 8, 4, 4)
    x = F.normalize(objective.projection(cells.flatten(2).mT.reshape(96, 8)).view(6, 16, 8), dim=2)
    weights = F.cosine_similarity(x[:, :, None], x[:, None], dim=3).clamp(min=0) ** 2
    y = torch.einsum("bij,bjd->bid", weights, objective.transform(x))
    cells = objective.target_encoder(given["observation"]).view(6, 8, 4, 4)
    target = objective.target_projection(cells.flatten(2).mT.reshape(96, 8)).view(6, 16, 8)
    torch.testing.assert_close(objective(given)["loss_pixpro"], -F.cosine_similarity(y, target, dim=2).mean())


def test_only_same_places_count() -> None:
    torch.manual_seed(0)
    seen, target = (F.normalize(torch.randn(2, 3, 4), dim=2) for _ in range(2))
    same = torch.zeros(2, 3, 3)
    same[0, 1, 2] = same[1, 0, 0] = 1
    expected = (seen[0, 1] @ target[0, 2] + seen[1, 0] @ target[1, 0]) / 2
    torch.testing.assert_close(agreement(seen, target, same), expected)
    assert agreement(seen, target, 0 * same) == 0


def test_a_gradient_reaches_the_encoder_and_never_the_copies() -> None:
    objective = pixpro()
    objective(batch())["loss_pixpro"].backward()
    assert all(gradient.any() for gradient in gradients(objective))


def test_copies_follow_by_the_momentum() -> None:
    objective = pixpro(momentum=0.75)
    before = [parameter.clone() for parameter in objective.target_encoder.parameters()]
    with torch.no_grad():
        for parameter in objective.encoder.parameters():
            parameter.add_(1)
    objective.after_step()
    for old, new in zip(before, objective.target_encoder.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)


def test_learning_makes_places_agree_across_views_and_does_not_make_them_all_alike() -> None:
    objective = pixpro(shift=4)
    torch.manual_seed(0)
    before = objective(batch())["loss_pixpro"].item()
    train(objective, lambda: batch(16), 60)
    assert objective(batch())["loss_pixpro"].item() < before - 0.4
    places = objective.places(batch()["observation"], objective.encoder, objective.projection)
    assert (places @ places.mT).mean() < 0.9


def test_encoders_with_a_head_are_read_before_it_and_others_refused() -> None:
    made = PixPro(PixelEncoder(SHAPE, channels=4, strides=(2, 2), out_dim=6), feature_dim=8, hidden_dim=16)
    assert made(batch())["loss_pixpro"].isfinite()
    other = nn.Flatten()
    other.repr_dim = 400  # type: ignore[assignment]
    with pytest.raises(ValueError, match="PixPro reads the maps of a PixelEncoder, which Flatten has not"):
        PixPro(other)  # type: ignore[arg-type]


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="PixPro reads 'observation', which this batch lacks"):
        pixpro()(TensorDict({"action": torch.zeros(2)}, batch_size=[2]))
    with pytest.raises(ValueError, match="momentum must be at least 0 and less than 1"):
        pixpro(momentum=1.0)
