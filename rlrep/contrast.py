"""Contrastive losses as plain functions of features."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor


def is_distributed() -> bool:
    """Whether this process is a rank of torch.distributed, which some builds of PyTorch lack."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def gather(local: Tensor, all_ranks: bool = True) -> tuple[Tensor, int]:
    """Gathers the rows of all ranks, and says where this rank's rows begin: (B, D) to (R·B, D) and r·B.

    Every rank must give the same number of rows. The gradient of a row is the sum over the losses of all ranks. So the
    average of the ranks' parameter gradients equals the gradient of one process on the joined batch. Without
    torch.distributed, or with `all_ranks=False`, the result is `local` itself and 0.
    """
    if not (all_ranks and is_distributed()):
        return local, 0
    rows: Tensor = _Gather.apply(local.contiguous())
    return rows, torch.distributed.get_rank() * len(local)


def check_negatives(rows: int) -> None:
    """Raises ValueError for a batch in which a row has no others to be told from: its loss would be 0."""
    if rows < 2:
        raise ValueError("a contrastive loss needs a batch of at least two rows: each is distinguished from the others")


def info_nce(
    query: Tensor,
    key: Tensor,
    temperature: float = 1.0,
    all_ranks: bool = True,
    reduction: str = "mean",
    group: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """InfoNCE (arXiv 1807.03748): row i of `query` belongs to row i of `key`, the other rows are its negatives.

    L = -1/B Σ_i log( exp(q_i·k_i / τ) / Σ_j exp(q_i·k_j / τ) )

    For a bilinear similarity q W kᵀ pass ``query @ W``.

    Args:
        query: (B, D) float.
        key: (B, D) float; row i is the positive of query i.
        temperature: τ > 0.
        all_ranks: under torch.distributed, whether the keys of all ranks are negatives: then every rank must call this,
            with the same number of rows.
        reduction: "mean", or "none" for each row's own term.
        group: (B,) int64, each row's group, if only rows of its own group are its negatives; the same on all ranks.

    Returns:
        The loss, a scalar or (B,), and the accuracy: the share of rows whose positive has the largest logit, detached.

    Raises:
        ValueError: for a single row.
    """
    keys, first = gather(key, all_ranks)
    logits = query @ keys.T / temperature
    if group is not None:
        logits = logits.masked_fill(group[:, None] != gather(group, all_ranks)[0], -torch.inf)
    return info_nce_of(logits, first, reduction)


def info_nce_of(logits: Tensor, first: int = 0, reduction: str = "mean") -> tuple[Tensor, Tensor]:
    """`info_nce` with similarities from the caller.

    Args:
        logits: (B, N) of queries and keys, divided by the temperature.
        first: the index of query 0's positive key; query i has the key `first` + i.
        reduction: as of `info_nce`.
    """
    check_negatives(logits.shape[1])
    labels = torch.arange(first, first + len(logits), device=logits.device)
    accuracy = (logits.detach().argmax(1) == labels).float().mean()
    return F.cross_entropy(logits, labels, reduction=reduction), accuracy


def temporal_contrastive(
    early: Tensor, late: Tensor, temperature: float = 1.0, normalize: bool = False, all_ranks: bool = True
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE over a batch of pairs (arXiv 2403.13765; the NT-Xent form of arXiv 2002.05709).

    Each of the 2B features is an anchor once: its positive is the other member of its pair, its negatives are the
    2B - 2 features of the other pairs.

    Args:
        early, late: (B, D) float; row i of both comes from one episode.
        temperature: τ > 0.
        normalize: compare directions (cosine similarity) rather than the features as they are.
        all_ranks: see `info_nce`.

    Returns:
        The loss, a scalar, and the accuracy, detached.

    Raises:
        ValueError: for a single pair.
    """
    if normalize:
        early, late = F.normalize(early, dim=1), F.normalize(late, dim=1)
    (all_early, first), (all_late, _) = gather(early, all_ranks), gather(late, all_ranks)
    check_negatives(len(all_early))
    logits = torch.cat([early, late]) @ torch.cat([all_early, all_late]).T / temperature
    own = torch.arange(first, first + len(early), device=logits.device)
    own = torch.cat([own, own + len(all_early)])
    labels = own.roll(len(early))
    logits = logits.scatter(1, own[:, None], -torch.inf)
    accuracy = (logits.detach().argmax(1) == labels).float().mean()
    return F.cross_entropy(logits, labels), accuracy
