"""The latent model against its formulas, where the reference's numbers (test_conformance.py) have no case."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor

from rlrep import LatentModel, PixelEncoder, RandomShift
from rlrep.objectives.latent_model import two_hot

SHAPE, BOX, K = (3, 20, 20), spaces.Box(-1, 1, (2,)), 3
SIZES = dict(state_dim=8, state_action_dim=12, latent_action_dim=4, hidden_dim=16)


def made(space: spaces.Space = BOX, **options: Any) -> LatentModel:
    torch.manual_seed(0)
    encoder = PixelEncoder(SHAPE, channels=4, activation="elu")
    return LatentModel(encoder, space, K, augment=RandomShift(0), **(SIZES | options))


def batch(rows: int = 5, seed: int = 0, ends: dict[int, int] | None = None, choices: int = 0) -> TensorDict:
    """A random batch; `ends` has the step, counted from 0, at which a row really ends."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (rows, K + 1, *SHAPE), generator=generator).to(torch.uint8)
    terminated = torch.zeros(rows, K, 1, dtype=torch.bool)
    valid = torch.ones(rows, K, 1, dtype=torch.bool)
    for row, step in (ends or {}).items():
        terminated[row, step] = True
        valid[row, step + 1 :] = False
    actions = torch.rand(rows, K, 2, generator=generator) * 2 - 1
    if choices:
        actions = torch.randint(choices, (rows, K), generator=generator)
    sequence = {
        "observation": pixels[:, 1:],
        "reward": torch.rand(rows, K, 1, generator=generator) * 3,
        "terminated": terminated,
        "valid": valid,
    }
    entries = {"observation": pixels[:, 0], "action_sequence": actions, "sequence": sequence}
    return TensorDict(entries, batch_size=[rows])


@pytest.mark.parametrize("value", [-30000.0, -5.0, -0.3, 0.0, 1e-4, 1.0, 17.3, 22000.0, 1e9])
def test_two_hot_weights_give_the_value_back(value: float) -> None:
    bins = made().bins
    weights = two_hot(torch.tensor([[value]]), bins)[0, 0]
    assert weights.sum().item() == pytest.approx(1) and (weights >= 0).all() and (weights > 0).sum() <= 2
    assert (weights @ bins).item() == pytest.approx(
        min(max(value, bins[0].item()), bins[-1].item()), rel=1e-4, abs=1e-6
    )
    used = weights.nonzero().flatten()
    assert used[-1] - used[0] <= 1


def test_bins_are_even_under_the_symmetric_logarithm() -> None:
    bins = made().bins
    grid = bins.sign() * bins.abs().log1p()
    torch.testing.assert_close(grid, torch.linspace(-10, 10, 65), rtol=1e-5, atol=1e-5)


def test_steps_after_a_real_end_do_not_count() -> None:
    model, given = made(contrast=0.1), batch(ends={1: 0, 3: 1})
    before = {name: value.item() for name, value in model(given).items() if name.startswith("loss")}
    for row, step in ((1, 0), (3, 1)):
        given["sequence", "reward"][row, step + 1 :] += 100
        given["action_sequence"][row, step + 1 :] = 0.9
    for name in ("loss_model_prediction", "loss_model_reward", "loss_model_termination"):
        assert model(given)[name].item() == pytest.approx(before[name], rel=1e-5), name
    given["sequence", "reward"][1, 0] += 100
    assert model(given)["loss_model_reward"].item() != pytest.approx(before["loss_model_reward"], rel=1e-3)


def test_terminations_count_once_a_real_end_was_seen() -> None:
    model = made()
    assert model(batch())["loss_model_termination"].item() == 0
    assert model(batch(ends={0: 2}))["loss_model_termination"].item() > 0
    assert model(batch())["loss_model_termination"].item() > 0
    resumed = made()
    resumed.load_state_dict(model.state_dict())
    assert resumed(batch())["loss_model_termination"].item() > 0


def test_the_contrast_is_info_nce_of_cosines_with_the_other_rows() -> None:
    model, given = made(prediction=0, reward=0, termination=0, contrast=0.3, temperature=0.2), batch()
    assert model.out_keys == ["loss_model_contrast", "model_contrast_accuracy"]
    state, expected = model.embed(given["observation"]), torch.zeros(())
    for k in range(K):
        state = model.predict(state, given["action_sequence"][:, k])[0]
        target = model.embed_target(given["sequence", "observation"][:, k])
        logits = F.cosine_similarity(state[:, None], target[None], dim=2) / 0.2
        expected = expected + F.cross_entropy(logits, torch.arange(5))
    torch.testing.assert_close(model(given)["loss_model_contrast"], 0.3 * expected)


@pytest.mark.parametrize(
    "weights", [{}, {"prediction": 0.0, "contrast": 0.1}, {"contrast": 0.1}], ids=["prediction", "contrast", "both"]
)
def test_a_gradient_reaches_the_encoder_and_never_the_targets(weights: dict[str, float]) -> None:
    model = made(**weights)
    losses = model(batch())
    sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.encoder.parameters())
    targets = [*model.target_encoder.parameters(), *model.target_projection.parameters()]
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in targets)


def test_the_gradient_goes_through_the_whole_unroll() -> None:
    """The reward of the last step alone gives a gradient for the encoding of the first observation."""
    model, given = made(prediction=0, termination=0), batch()
    given["sequence", "valid"][:, :-1] = False
    model(given)["loss_model_reward"].backward()
    first = model.encoder.convolutions[0]
    assert first.weight.grad is not None and first.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert model.state_action.action.weight.grad is not None and model.state_action.action.weight.grad.any()


@pytest.mark.parametrize("weights", [{}, {"prediction": 0.0, "contrast": 1.0}], ids=["prediction", "contrast"])
def test_learning_predicts_what_comes(weights: dict[str, float]) -> None:
    model, given = made(**weights), batch()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)

    def distances() -> Tensor:
        state = model.embed(given["observation"])
        state = model.predict(state, given["action_sequence"][:, 0])[0]
        return 1 - F.cosine_similarity(
            state[:, None], model.embed_target(given["sequence", "observation"][:, 0])[None], dim=2
        )

    before = distances().diagonal().mean()
    for _ in range(150):
        optimizer.zero_grad()
        sum(value for name, value in model(given).items() if name.startswith("loss_")).backward()
        optimizer.step()
    after = distances()
    assert after.diagonal().mean() < 0.5 * before
    if "contrast" in weights:
        assert (after.argmin(1) == torch.arange(5)).all()


def test_targets_follow_and_can_be_held() -> None:
    model = made(momentum=0.9)
    weight, target = model.state_projection[0].weight, model.target_projection[0].weight
    with torch.no_grad():
        weight += 1
    before = target.clone()
    model.after_step()
    torch.testing.assert_close(target, before + 0.1)
    model.moves_copies = False
    model.after_step()
    torch.testing.assert_close(target, before + 0.1)
    model.restart_copies()
    torch.testing.assert_close(target, weight)


def test_choices_are_read_as_one_hot_vectors() -> None:
    model, given = made(spaces.Discrete(3)), batch(choices=3)
    as_vectors = made(spaces.Box(-1, 1, (3,)))
    as_vectors.load_state_dict(model.state_dict())
    vectors = given.clone()
    vectors["action_sequence"] = F.one_hot(given["action_sequence"], 3).float()
    for name, value in model(given).items():
        torch.testing.assert_close(value, as_vectors(vectors)[name])


def test_without_rewards_it_can_be_pretrained() -> None:
    model, given = made(reward=0, termination=0), batch()
    assert model.window.needs == ("action",)
    whole = made()(given)["loss_model_prediction"]
    del given["sequence", "reward"], given["sequence", "terminated"], given["sequence", "valid"]
    torch.testing.assert_close(model(given)["loss_model_prediction"], whole)


def test_rewards_beyond_the_bins_are_reported_once() -> None:
    model, given = made(), batch()
    given["sequence", "reward"][0, 0] = 1e6
    with pytest.warns(UserWarning, match="a reward of 1e.06 is beyond LatentModel's bins and counts as 22025"):
        assert model(given)["loss_model_reward"].isfinite()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(prediction=0, reward=0, termination=0), "no loss left"),
        (dict(contrast=-0.1), "contrast must be at least 0"),
        (dict(reward=math.inf), "reward must be finite, got inf"),
        (dict(momentum=1), "momentum"),
        (dict(temperature=0), "temperature"),
        (dict(state_dim=0), "state_dim must be at least 1"),
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_a_horizon_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        LatentModel(PixelEncoder(SHAPE, channels=4), BOX, 0)


def test_kept_targets_are_those_of_the_same_observations_until_the_targets_move() -> None:
    model, plain = made(keep=100, momentum=0.5), made(momentum=0.5)
    given = batch()
    names = torch.arange(15).view(5, 3) + 90  # some share a place in the store
    given["sequence", "name"] = names
    pixels = given["sequence", "observation"].clone()
    encoded: list[int] = []
    view = model.view
    model.view = lambda seen, *a, **k: (encoded.append(len(seen)) if k else None) or view(seen, *a, **k)  # type: ignore
    expected = plain(given)["loss_model_prediction"]
    for _ in range(2):
        torch.testing.assert_close(model(given)["loss_model_prediction"], expected)
        given["sequence", "observation"][:] = 0  # not read again
    assert encoded == [15]
    given["sequence", "observation"][:] = pixels
    other = given.clone()
    other["sequence", "name"][0] += 100  # the same places, different names
    torch.testing.assert_close(model(other)["loss_model_prediction"], expected)
    assert encoded == [15, 3]
    with torch.no_grad():
        for part in (model, plain):
            part.state_projection[0].weight += 0.1
            part.after_step()
    torch.testing.assert_close(model(given)["loss_model_prediction"], plain(given)["loss_model_prediction"])
    assert encoded[2:] == [15]
    model.restart_copies()
    model(given)
    assert encoded[3:] == [15]


def test_a_validation_neither_reads_nor_keeps_embeddings_as_its_names_are_of_other_data() -> None:
    model, other = made(keep=20), batch(seed=1)
    given = batch()
    given["sequence", "name"] = other["sequence", "name"] = torch.arange(15).view(5, 3)
    expected = made()(given)["loss_model_prediction"]
    for training in (False, True, False):
        model.train(training)
        model(given if training else other)
    model.train()
    torch.testing.assert_close(model(given)["loss_model_prediction"], expected)
    model.eval()
    torch.testing.assert_close(model(other)["loss_model_prediction"], made()(other)["loss_model_prediction"])


def test_what_is_kept_is_saved() -> None:
    model, given = made(keep=20), batch()
    given["sequence", "name"] = torch.arange(15).view(5, 3)
    model(given)
    resumed = made(keep=20)
    resumed.load_state_dict(model.state_dict())
    given["sequence", "observation"][:] = 0
    torch.testing.assert_close(resumed(given)["loss_model_prediction"], model(given)["loss_model_prediction"])


def test_a_validation_leaves_the_model_and_counts_ends_that_were_not_seen_in_training() -> None:
    objective, given = made(), batch(ends={0: 1})
    objective.eval()
    assert objective(given)["loss_model_termination"] > 0 and objective.end_seen == 0
    objective.train()
    objective(given)
    assert objective.end_seen == 1
