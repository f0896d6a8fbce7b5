"""Embeddings are kept by name; of two rows of a batch with one place, the last one is kept."""

import torch
from torch import nn

from rlrep.kept import KeptEmbeddings, forget_embeddings


def test_of_several_rows_for_one_place_the_last_one_is_kept() -> None:
    kept = KeptEmbeddings(4, 2)
    names = torch.tensor([1, 5, 2, 1, 2, 1])  # 1 and 5 have one place
    numbered = torch.arange(12.0).view(6, 2)
    torch.testing.assert_close(kept.of(numbered, names, lambda rows: rows), numbered)
    asked = torch.tensor([1, 2, 5])
    again = kept.of(torch.full((3, 2), -1.0), asked, lambda rows: rows)
    torch.testing.assert_close(again, torch.stack([numbered[5], numbered[4], torch.full((2,), -1.0)]))


def test_all_caches_within_a_module_are_cleared() -> None:
    whole = nn.ModuleDict({"one": KeptEmbeddings(4, 2), "two": nn.Sequential(KeptEmbeddings(4, 2))})
    names, old, new = torch.tensor([3]), torch.zeros(1, 2), torch.ones(1, 2)
    parts = [part for part in whole.modules() if isinstance(part, KeptEmbeddings)]
    for part in parts:
        part.of(old, names, lambda rows: rows)
        assert (part.of(new, names, lambda rows: rows) == old).all()
    forget_embeddings(whole)
    assert all((part.of(new, names, lambda rows: rows) == new).all() for part in parts)
