"""SupReMix: labels, mixtures, and the loss against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from rlrep import Window
from rlrep.objectives.supremix import SupReMix, pick
from tests.rlrep.objectives.toy import World, gradients, made, train, world


def supremix(**options: float) -> SupReMix:
    objective = made("supremix", **(dict(feature_dim=8, horizon=3) | options))
    assert isinstance(objective, SupReMix)
    return objective


def draw(place: World, rows: int) -> TensorDict:
    """A batch whose rewards grow with the square's place."""
    batch = place.data.sample(rows, Window())
    reward = place.state[batch["index"]].float()[:, None, None]
    batch["sequence"] = TensorDict({"reward": reward, "valid": torch.ones_like(reward).bool()}, batch_size=[rows])
    return batch


def test_the_label_is_the_discounted_return_until_a_real_end() -> None:
    objective = supremix(gamma=0.5)
    seen: list[torch.Tensor] = []
    objective.contrast = lambda state, label: seen.append(label) or {}  # type: ignore[method-assign,func-returns-value]
    reward = torch.tensor([[1.0, 2, 4], [1, 2, 4]])[..., None]
    valid = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)[..., None]
    objective.losses(torch.zeros(2, 1, 20, 20, dtype=torch.uint8), reward, valid)
    assert seen[0].tolist() == [3, 2]


def test_the_loss_of_three_rows_is_that_of_the_one_in_the_middle() -> None:
    """It alone has a smaller and a larger label: one choice of the positive."""
    torch.manual_seed(0)
    state, label = F.normalize(torch.randn(3, 8), dim=1), torch.tensor([0.0, 1, 4])
    out = supremix(anchor_share=0.3, temperature=0.5).contrast(state, label)
    low, middle, high = state
    positive = F.normalize(0.75 * low + 0.25 * high, dim=0)  # 0.75 · 0 + 0.25 · 4 = 1
    top = math.exp(middle @ positive / 0.5)
    below = sum(
        weight * math.exp(F.cosine_similarity(middle, 0.3 * middle + 0.7 * other, dim=0) / 0.5)
        for weight, other in ((1 / 2, low), (3 / 2, high))
    )
    assert out["loss_supremix"].item() == pytest.approx(-math.log(top / (top + below)), rel=1e-5)
    assert out["supremix_anchors"].item() == pytest.approx(1 / 3)


def test_rows_with_the_anchors_label_are_no_negatives() -> None:
    torch.manual_seed(0)
    state, label = F.normalize(torch.randn(4, 8), dim=1), torch.tensor([0.0, 1, 4, 1])
    alone = supremix().contrast(state[:3], label[:3])["loss_supremix"]
    twice = supremix().contrast(state[[0, 1, 2, 1]], label)["loss_supremix"]
    torch.testing.assert_close(alone, twice)


def test_a_batch_of_one_label_has_no_loss_and_no_gradient() -> None:
    state = F.normalize(torch.randn(4, 8), dim=1).requires_grad_()
    loss = supremix().contrast(state, torch.zeros(4))["loss_supremix"]
    loss.backward()
    assert loss == 0 and state.grad is not None and not state.grad.any()


def test_pick_is_uniform_over_what_is_allowed() -> None:
    torch.manual_seed(0)
    allowed = torch.tensor([True, False, True, True]).expand(6000, 4)
    shares = torch.bincount(pick(allowed), minlength=4) / 6000
    torch.testing.assert_close(shares, torch.tensor([1 / 3, 0, 1 / 3, 1 / 3]), atol=0.03, rtol=0)


def test_features_take_the_order_of_the_returns() -> None:
    """Along the features' main axis, returns rise or fall."""
    place, objective = world(episodes=8), supremix(horizon=1)

    def order() -> float:
        given = draw(place, 200)
        state = F.normalize(objective.state_projection(objective.encoder(given["observation"])), dim=1).detach()
        label = given["sequence", "reward"][:, 0, 0]
        axis = (state - state.mean(0)) @ torch.linalg.svd(state - state.mean(0))[2][0]
        return abs(torch.corrcoef(torch.stack([axis, label]))[0, 1].item())

    before = order()
    train(objective, lambda: draw(place, 32), 150)
    assert order() > max(before + 0.1, 0.9)
    assert all(gradient.any() for gradient in gradients(objective))


def test_what_it_lacks_is_named() -> None:
    batch = TensorDict({"observation": torch.zeros(2, 1, 20, 20, dtype=torch.uint8)}, batch_size=[2])
    with pytest.raises(KeyError, match=r"SupReMix reads \('sequence', 'reward'\), which this batch lacks"):
        supremix()(batch)
    with pytest.raises(ValueError, match="gamma must be"):
        supremix(gamma=2)
