from __future__ import annotations

from typing import Any

import pytest
import torch
from gymnasium import spaces

from rlrep import ActionEncoder, ActionSequenceEncoder
from rlrep.actions import action_spec


def box(action_dim: int) -> spaces.Box:
    return spaces.Box(-1, 1, (action_dim,))


@pytest.mark.parametrize(("action_dim", "latent_dim"), [(1, 2), (2, 3), (4, 6), (6, 8), (12, 16), (38, 48)])
def test_latent_size_of_the_paper(action_dim: int, latent_dim: int) -> None:
    assert ActionEncoder(box(action_dim)).latent_dim == latent_dim
    assert ActionEncoder(spaces.Discrete(action_dim)).latent_dim == latent_dim


def test_continuous_actions_go_through_the_layers_of_the_paper() -> None:
    encoder = ActionEncoder(box(2))
    first, _, second = encoder.layers
    action = torch.rand(4, 3, 2) * 2 - 1
    expected = torch.tanh(action @ first.weight.T + first.bias) @ second.weight.T + second.bias
    assert expected.shape == (4, 3, 3)
    torch.testing.assert_close(encoder(action), expected)


def test_discrete_actions_are_read_as_choices() -> None:
    encoder = ActionEncoder(spaces.Discrete(5), latent_dim=7)
    action = torch.tensor([[0, 4], [4, 2]])
    out = encoder(action)
    assert out.shape == (2, 2, 7)
    assert torch.equal(out[0, 1], out[1, 0]) and not torch.equal(out[0, 0], out[0, 1])
    out.sum().backward()
    table = encoder.layers[0].weight.grad
    assert [bool(row.any()) for row in table] == [True, False, True, False, True]


def test_sequence_keeps_the_order_of_the_actions() -> None:
    encoder = ActionSequenceEncoder(latent_dim=3, horizon=4)
    actions = torch.randn(2, 4, 3)
    out = encoder(actions)
    assert out.shape == (2, encoder.out_dim) == (2, 12)
    assert out.abs().max() < 1
    assert not torch.allclose(out, encoder(actions.flip(1)))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(-1, 1, ()),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.Discrete(3, start=1),
        spaces.Dict({"a": spaces.Discrete(2)}),
    ],
    ids=str,
)
def test_other_spaces_are_refused(space: Any) -> None:
    with pytest.raises(ValueError, match="wrapper"):
        ActionEncoder(space)


def test_impossible_latent_size_is_refused() -> None:
    with pytest.raises(ValueError, match="latent_dim must be at least 1, got 0"):
        ActionEncoder(box(2), latent_dim=0)


def test_spec() -> None:
    assert action_spec(box(3)) == (3, False)
    assert action_spec(spaces.Discrete(5)) == (5, True)
