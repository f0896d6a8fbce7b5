"""Whole updates of two gloo processes with half a batch each, compared with one process on the joined batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from rlrep.agents import Agent
from tests.agents import test_mrq
from tests.agents.test_agents import Fixed, build, make_batch

BATCH, RANKS = 8, 2
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "taco": ("taco", {"joint": False}),
    "taco, joint": ("taco", {"joint": True}),
    "sac with taco": ("sac with taco", {"joint": False}),
    "sac with taco, joint": ("sac with taco", {"joint": True}),
}
Tensors = dict[str, Tensor]


def rows_of_shared_noise(rows: slice) -> Callable[[Tensor], Tensor]:
    """Replaces torch.randn_like: each call draws noise for the joined batch, and returns `rows` of it."""
    generator = torch.Generator().manual_seed(5)
    return lambda mean: torch.randn(BATCH, *mean.shape[1:], generator=generator)[rows]


def record_gradients(agent: Agent) -> Tensors:
    """Records the gradients of all later steps of all optimizers, by step, optimizer and parameter."""
    recorded: Tensors = {}
    names = {parameter: name for name, parameter in agent.named_parameters()}
    for optimizer_name, optimizer in agent.optimizers.items():
        steps = iter(range(100))

        def record(
            optimizer: Any, arguments: Any, options: Any, name: str = optimizer_name, steps: Any = steps
        ) -> None:
            step = next(steps)
            for parameter in optimizer.param_groups[0]["params"]:
                if parameter.grad is not None:
                    recorded[f"{step}, {name}, {names[parameter]}"] = parameter.grad.clone()

        optimizer.register_step_pre_hook(record)
    return recorded


def two_updates(case: str, rows: slice) -> dict[str, Tensors]:
    """All gradients, and the parameters before and after; without Adam, which takes large steps on tiny gradients."""
    name, options = CASES[case]
    agent = build(name, shift=0, **options)
    before = {key: parameter.detach().clone() for key, parameter in agent.named_parameters()}
    for key, optimizer in agent.optimizers.items():
        agent.optimizers[key] = torch.optim.SGD(optimizer.param_groups[0]["params"], lr=0.05)
    gradients = record_gradients(agent)
    with patch("torch.randn_like", rows_of_shared_noise(rows)):
        for step in range(2):
            agent.update(Fixed(make_batch(BATCH, seed=step)[rows]), step)
    after = {key: parameter.detach() for key, parameter in agent.named_parameters()}
    return {"before": before, "gradients": gradients, "after": after}


def own_way(case: str, seed: int) -> dict[str, Any]:
    """An unmodified agent, after updates with this rank's own batches, shifts and noise."""
    name, options = CASES[case]
    agent = build(name, **options)
    torch.manual_seed(seed)
    for step in range(3):
        agent.update(Fixed(make_batch(BATCH // RANKS, seed=100 * seed + step)), step)
    return agent.state_dict()


def mrq_on_a_replay_of_its_own(rank: int) -> dict[str, Any]:
    agent = test_mrq.build()
    torch.manual_seed(rank)
    replay = test_mrq.filled(agent, reward=1.0 + rank)
    for step in range(4):
        agent.update(replay, step)
    return agent.state_dict()


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    half = BATCH // RANKS
    rows = slice(rank * half, (rank + 1) * half)
    results = {case: {"two updates": two_updates(case, rows), "own way": own_way(case, rank)} for case in CASES}
    results["mrq"] = mrq_on_a_replay_of_its_own(rank)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (folder,), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES)
def test_an_update_is_that_of_one_process_on_the_joined_batch(case: str, of_ranks: list[dict[str, Any]]) -> None:
    expected = two_updates(case, slice(None))
    of_first, of_second = (results[case]["two updates"] for results in of_ranks)
    for part in ("before", "gradients", "after"):
        assert of_first[part].keys() == of_second[part].keys() == expected[part].keys()
        for key, value in expected[part].items():
            assert torch.equal(of_first[part][key], of_second[part][key]), key
            if part == "before":
                assert torch.equal(of_first[part][key], value), key
            torch.testing.assert_close(
                of_first[part][key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )
    assert any(not torch.equal(value, expected["before"][key]) for key, value in expected["after"].items())


def test_ranks_of_mrq_stay_one_agent_on_replays_of_their_own(of_ranks: list[dict[str, Any]]) -> None:
    first, second = (results["mrq"] for results in of_ranks)
    assert first["reward_scale"].item() == pytest.approx(1.5)
    for key in first.keys() - {"_extra_state"}:
        assert torch.equal(first[key], second[key]), key


@pytest.mark.parametrize("case", CASES)
def test_half_a_batch_alone_makes_another_update(case: str, of_ranks: list[dict[str, Any]]) -> None:
    """So the test above would notice gradients that are not averaged, or negatives that ranks do not share."""
    alone = two_updates(case, slice(0, BATCH // RANKS))["gradients"]
    together = of_ranks[0][case]["two updates"]["gradients"]
    assert max((alone[key] - together[key]).abs().max() for key in alone) > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_ranks_stay_equal_bit_for_bit_on_data_of_their_own(case: str, of_ranks: list[dict[str, Any]]) -> None:
    first, second = (results[case]["own way"] for results in of_ranks)
    assert first.keys() == second.keys()
    for key, value in first.items():
        if key != "_extra_state":
            assert torch.equal(value, second[key]), key
    for optimizer, state in first["_extra_state"].items():
        for index, values in state["state"].items():
            for key, value in values.items():
                assert torch.equal(value, second["_extra_state"][optimizer]["state"][index][key])
