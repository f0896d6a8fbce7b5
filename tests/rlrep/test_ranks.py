"""Two gloo processes with half a batch each compute what one process computes on the joined batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor

from rlrep import PixelEncoder, RandomShift, info_nce, make_objective, temporal_contrastive

BATCH, RANKS = 8, 2
SHAPE = (3, 20, 20)

# The results of a case: scalars, of which loss_* are minimised, and gradients by parameter name.
Result = dict[str, Tensor]
Contrast = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

CONTRASTS: dict[str, Contrast] = {
    "info_nce": info_nce,
    "info_nce, temperature": lambda query, key: info_nce(query, key, 0.2),
    "temporal": temporal_contrastive,
    "temporal, temperature": lambda early, late: temporal_contrastive(early, late, 0.5),
    "temporal, normalize": lambda early, late: temporal_contrastive(early, late, 0.1, normalize=True),
}
APART: dict[str, Contrast] = {
    "info_nce": lambda query, key: info_nce(query, key, all_ranks=False),
    "temporal": lambda early, late: temporal_contrastive(early, late, all_ranks=False),
}
OBJECTIVES = {
    "taco": {"feature_dim": 8, "hidden_dim": 16},
    "curl": {"feature_dim": 8},
    "forward_model": {"feature_dim": 8, "hidden_dim": 16},
    "multistage": {"feature_dim": 8, "clusters": 2},
    "swav": {"feature_dim": 8, "hidden_dim": 16, "prototypes": 4},
    "gated": {"feature_dim": 8},
    "curved": {"feature_dim": 8, "hidden_dim": 16},
    "sepclr": {},
    "autotcl": {"feature_dim": 8, "mask_channels": 4},
    "vip": {"feature_dim": 8},
}


def contrast(function: Contrast, rows: slice) -> Result:
    """A loss of features, which two shared matrices compute from the rows; its gradient passes through both sides."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(2, BATCH, 6, generator=generator)[:, rows]
    first = torch.randn(6, 5, generator=generator).requires_grad_()
    second = torch.randn(5, 5, generator=generator).requires_grad_()
    one, other = (torch.tanh(half @ first) for half in inputs)
    loss, accuracy = function(one @ second, other)
    loss.backward()
    assert first.grad is not None and second.grad is not None
    return {"loss": loss.detach(), "accuracy": accuracy, "first": first.grad, "second": second.grad}


def objective(name: str, rows: slice) -> Result:
    torch.manual_seed(4)
    encoder = PixelEncoder(SHAPE, channels=4)
    built = make_objective(name, encoder, spaces.Box(-1, 1, (2,)), augment=RandomShift(0), **OBJECTIVES[name])
    ahead = built.window.observations
    batch = TensorDict(
        {
            "observation": torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8),
            "action_sequence": torch.rand(BATCH, 3, 2) * 2 - 1,
            "future_observation": torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8),
            "next": {"reward": torch.rand(BATCH, 1)},
            "gap": torch.arange(BATCH) % 3 + 1,
            "episode": torch.arange(BATCH) % 2,
            "sequence": {"observation": torch.randint(0, 256, (BATCH, len(ahead), *SHAPE), dtype=torch.uint8)},
        },
        batch_size=[BATCH],
    )
    out = built(batch[rows])
    torch.stack([value for key, value in out.items() if key.startswith("loss_")]).sum().backward()
    gradients = {key: parameter.grad for key, parameter in built.named_parameters() if parameter.grad is not None}
    assert len(gradients) == len(list(built.parameters()))
    return {key: value.detach() for key, value in out.items()} | gradients


def compute(rows: slice) -> dict[str, Result]:
    results = {name: contrast(function, rows) for name, function in CONTRASTS.items()}
    return results | {name: objective(name, rows) for name in OBJECTIVES}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    half = BATCH // RANKS
    rows = slice(rank * half, (rank + 1) * half)
    apart = {f"{name}, apart": contrast(function, rows) for name, function in APART.items()}
    torch.save(compute(rows) | apart, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Result]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (folder,), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def of_one() -> dict[str, Result]:
    return compute(slice(None))


@pytest.mark.parametrize("name", [*CONTRASTS, *OBJECTIVES])
def test_losses_and_gradients_averaged_over_ranks_are_those_of_the_joined_batch(
    name: str, of_ranks: list[dict[str, Result]], of_one: dict[str, Result]
) -> None:
    expected = of_one[name]
    least = 1e-4 if name == "forward_model" else 1e-3  # a mean over pixels has smaller gradients
    for key, value in expected.items():
        mean = torch.stack([results[name][key] for results in of_ranks]).mean(0)
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
        assert value.isfinite().all() and ("accuracy" in key or value.abs().sum() > least), key


@pytest.mark.parametrize("name", [*CONTRASTS, "taco", "curl"])
def test_each_rank_sees_the_negatives_of_the_others(name: str, of_ranks: list[dict[str, Result]]) -> None:
    alone = compute(slice(0, BATCH // RANKS))[name]
    with_others = of_ranks[0][name]
    for key in alone:
        if key in ("loss", "loss_taco", "loss_curl"):
            assert with_others[key] > alone[key] + 0.01, key


@pytest.mark.parametrize("name", APART)
def test_ranks_may_keep_their_negatives_to_themselves(name: str, of_ranks: list[dict[str, Result]]) -> None:
    half = BATCH // RANKS
    for rank, results in enumerate(of_ranks):
        alone = contrast(CONTRASTS[name], slice(rank * half, (rank + 1) * half))
        torch.testing.assert_close(results[f"{name}, apart"], alone)
