"""The page's example of a user-defined objective, in our agents and in Stable-Baselines3."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict

from rlrep import OBJECTIVES, PixelEncoder, RandomShift, make_objective
from rlrep.experiments.plugins.own_objective import FrameOrder, main


def test_it_learns_which_observation_came_first() -> None:
    torch.manual_seed(0)
    objective = make_objective(
        "frame_order", PixelEncoder((3, 20, 20), channels=4), None, hidden_dim=16, augment=RandomShift(0)
    )
    assert isinstance(objective, FrameOrder)
    early = torch.randint(0, 100, (16, 3, 1, 1)).expand(16, 3, 20, 20).to(torch.uint8)
    batch = TensorDict({"observation": early, "future_observation": early + 100}, batch_size=[16])
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3)
    losses = []
    for _ in range(80):
        out = objective(batch)
        optimizer.zero_grad()
        out["loss_order"].backward()
        optimizer.step()
        losses.append(out["loss_order"].item())
    assert losses[0] == pytest.approx(2 * math.log(2), abs=0.2) and losses[-1] < 0.2 < losses[0]
    assert out["order_accuracy"] == 1
    assert all(parameter.grad.any() for parameter in objective.encoder.convolutions.parameters())


def test_it_runs_in_our_agent_and_in_stable_baselines3(capsys: pytest.CaptureFixture[str]) -> None:
    assert "frame_order" in OBJECTIVES
    main(["--steps", "2"])
    printed = capsys.readouterr().out
    assert printed.count("loss_order") == printed.count("order_accuracy") == 2
