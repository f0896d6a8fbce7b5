from __future__ import annotations

import math

import pytest
import torch

from rlrep import info_nce, temporal_contrastive


def test_info_nce_by_hand() -> None:
    query, key = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 1.0], [1.0, 1.0]])
    logits = [[3.0, 1.0], [2.0, 2.0]]  # query · keyᵀ
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    loss, accuracy = info_nce(query, key)
    assert (query @ key.T).tolist() == logits
    assert loss.item() == pytest.approx(expected)
    assert accuracy.item() == 0.5  # among equal logits, the first counts as the largest
    assert info_nce(query, key, temperature=0.5)[0].item() == pytest.approx(
        (math.log(1 + math.exp(-4)) + math.log(2)) / 2
    )


def test_perfect_matches_cost_nothing_and_ignorance_costs_log_b() -> None:
    loss, accuracy = info_nce(30 * torch.eye(8), torch.eye(8))
    assert loss.item() < 1e-6 and accuracy.item() == 1
    loss, _ = info_nce(torch.zeros(8, 4), torch.randn(8, 4))
    assert loss.item() == pytest.approx(math.log(8))


def test_accuracy_counts_the_rows_that_find_their_own() -> None:
    query = torch.eye(4)[[0, 1, 3, 2]]
    assert info_nce(query, torch.eye(4))[1].item() == 0.5


def test_a_constant_on_a_row_of_logits_changes_nothing() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(6, 5), torch.randn(6, 5)
    constant = torch.randn(6, 1) * 1000
    raised = info_nce(torch.cat([query, constant], 1), torch.cat([key, torch.ones(6, 1)], 1))
    torch.testing.assert_close(raised, info_nce(query, key), rtol=1e-3, atol=1e-3)
    assert info_nce(query * 1e4, key * 1e4)[0].isfinite()


def test_gradient_draws_a_query_to_its_key_and_from_the_others() -> None:
    query, key = torch.zeros(3, 3, requires_grad=True), torch.eye(3)
    info_nce(query, key)[0].backward()
    assert query.grad is not None
    assert (query.grad.diagonal() < 0).all() and (query.grad.sum(1).abs() < 1e-6).all()


def test_temporal_contrastive_by_hand() -> None:
    early, late = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    # For each anchor: the logit of its positive, and two zeros.
    expected = (2 * math.log(1 + 2 * math.exp(-2)) + 2 * math.log(1 + 2 * math.exp(-3))) / 4
    loss, accuracy = temporal_contrastive(early, late)
    assert loss.item() == pytest.approx(expected) and accuracy.item() == 1
    normalised = math.log(1 + 2 * math.exp(-1 / 0.5))
    assert temporal_contrastive(early, late, 0.5, normalize=True)[0].item() == pytest.approx(normalised)


def test_temporal_contrastive_is_symmetric() -> None:
    torch.manual_seed(0)
    early, late = torch.randn(6, 4), torch.randn(6, 4)
    torch.testing.assert_close(temporal_contrastive(early, late), temporal_contrastive(late, early))
