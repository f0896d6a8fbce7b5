"""Contrastive losses as plain functions of features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(query: Tensor, key: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """InfoNCE (arXiv 1807.03748): row i of `query` belongs to row i of `key`, the other rows are its negatives.

    L = -1/B Σ_i log( exp(q_i·k_i / τ) / Σ_j exp(q_i·k_j / τ) )

    For a bilinear similarity q W kᵀ pass ``query @ W``.

    Args:
        query: (B, D) float.
        key: (B, D) float; row i is the positive of query i.
        temperature: τ > 0.

    Returns:
        The loss, a scalar, and the accuracy: the share of rows whose positive has the largest logit, detached.
    """
    logits = query @ key.T / temperature
    labels = torch.arange(len(logits), device=logits.device)
    accuracy = (logits.detach().argmax(1) == labels).float().mean()
    return F.cross_entropy(logits, labels), accuracy


def temporal_contrastive(
    early: Tensor, late: Tensor, temperature: float = 1.0, normalize: bool = False
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE over a batch of pairs (arXiv 2403.13765; the NT-Xent form of arXiv 2002.05709).

    Each of the 2B features is an anchor once: its positive is the other member of its pair, its negatives are the
    2B - 2 features of the other pairs.

    Args:
        early, late: (B, D) float; row i of both comes from one episode.
        temperature: τ > 0.
        normalize: compare directions (cosine similarity) rather than the features as they are.

    Returns:
        The loss, a scalar, and the accuracy, detached.
    """
    features = torch.cat([early, late])
    if normalize:
        features = F.normalize(features, dim=1)
    logits = (features @ features.T / temperature).fill_diagonal_(-torch.inf)
    labels = torch.arange(len(features), device=features.device).roll(len(early))
    accuracy = (logits.detach().argmax(1) == labels).float().mean()
    return F.cross_entropy(logits, labels), accuracy
