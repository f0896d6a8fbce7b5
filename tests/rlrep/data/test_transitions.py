"""The properties of a data set in addition to its episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlrep.data import ActionScale, Provenance


def test_normalized_actions_come_back() -> None:
    scale = ActionScale((-2.0, 5.0, 0.0), (2.0, 5.0, 1e-3))
    action = np.array([[-2, 5, 0], [1, 5, 1e-3]])
    np.testing.assert_allclose(scale.normalized(action), [[-1, 0, -1], [0.5, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(scale.restored(scale.normalized(action)), action, atol=1e-6)
    assert scale.normalized(action).dtype == np.float32
    with pytest.raises(ValueError, match=r"must have 3 dimensions, got the shape \(2, 1\)"):
        scale.restored(action[:, :1])


def test_a_provenance_keeps_the_bounds_of_actions() -> None:
    told = Provenance(rewards=False, action_low=[-2.0, 0.5], action_high=[2.0, 1.0])
    assert Provenance.from_json(told.to_json()) == told
    assert told.action_scale == ActionScale((-2.0, 0.5), (2.0, 1.0))
    assert Provenance().action_scale is None and Provenance().rewards


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(action_low=[0.0]), "both action_low and action_high"),
        (dict(action_low=[0.0], action_high=[1.0, 2.0]), "finite numbers, one a dimension"),
        (dict(action_low=[float("nan")], action_high=[1.0]), "finite numbers"),
        (dict(action_low=["0"], action_high=["1"]), "finite numbers"),
        (dict(action_low=[2.0], action_high=[1.0]), "below the upper ones"),
        (dict(action_low=0.0, action_high=1.0), "action_low of a data set's provenance can't be 0.0"),
        (dict(rewards=None), "rewards of a data set's provenance can't be None"),
    ],
)
def test_invalid_bounds_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Provenance(**values)
