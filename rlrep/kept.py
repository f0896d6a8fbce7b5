"""A cache of embeddings, valid while their encoder does not change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

NOBODY = torch.iinfo(torch.int64).min  # the name of no observation


class KeptEmbeddings(nn.Module):
    """A cache of observations' embeddings by name; each is computed once until the cache is cleared.

    An observation is stored at its name modulo `size`, and replaces the previous entry. Checkpoints hold the cache.

    Args:
        size: the number of entries, 4·`dim` bytes each. With 0 nothing is stored.
        dim: D, size of an embedding.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("names", torch.full((size,), NOBODY))
        self.register_buffer("values", torch.zeros(size, dim))
        self.names: Tensor
        self.values: Tensor

    @torch.no_grad()
    def of(self, observation: Tensor, name: Tensor | None, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """Embeddings (B, D) without gradient; `embed` computes those with a new name (B,), or all without names."""
        if name is None or not self.size:
            return embed(observation)
        place = name % self.size
        out = self.values[place]
        new = (self.names[place] != name).nonzero().flatten()
        if len(new):
            out[new] = embed(observation[new])
            # A place that several rows claim takes the last one, so that a run on several threads can be repeated.
            places, claimed = place[new].unique(return_inverse=True)
            order = torch.arange(len(new), device=new.device)
            last = new[torch.zeros_like(places).scatter_reduce_(0, claimed, order, "amax")]
            self.names[places], self.values[places] = name[last], out[last]
        return out

    def forget(self) -> None:
        """Clears the cache."""
        self.names.fill_(NOBODY)


def forget_embeddings(module: nn.Module) -> None:
    """Clears all caches within a module."""
    for part in module.modules():
        if isinstance(part, KeptEmbeddings):
            part.forget()
