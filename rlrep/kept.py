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
            self.names[place[new]] = name[new]  # of two names with one place, either
            stored = new[self.names[place[new]] == name[new]]
            self.values[place[stored]] = out[stored]
        return out

    def forget(self) -> None:
        self.names.fill_(NOBODY)
