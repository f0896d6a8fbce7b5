from __future__ import annotations

import math

import pytest
import torch

from rlrep import PixelEncoder
from rlrep.probe import (
    PENALTIES,
    _ridge,
    alignment,
    effective_rank,
    encode,
    probe,
    probe_folds,
    reconstruction,
    standardised,
    tolerance,
    uniformity,
)

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(8) % 2


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes in a plane; the first is on both sides of the second, so no line separates them."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (count,), generator=generator)
    side = torch.randint(2, (count,), generator=generator) * 2 - 1
    x = torch.stack([(label == 0) * side * 2.0, (label == 2) * 4.0], 1)
    return x + 0.2 * torch.randn(count, 2, generator=generator), label


def test_a_linear_probe_reads_what_is_linear_and_an_mlp_what_is_not() -> None:
    linear = probe(blobs(300, 0), blobs(300, 1))
    bent = probe(blobs(300, 0), blobs(300, 1), hidden_dim=32)
    assert linear < 0.85 and bent > 0.97


def test_values_are_scored_by_r_squared() -> None:
    torch.manual_seed(0)
    x = torch.randn(600, 5)
    y = torch.stack([3 * x[:, 0] - x[:, 1] + 100, torch.randn(600)], 1)
    known = probe((x[:400], y[:400, :1]), (x[400:], y[400:, :1]))
    unknown = probe((x[:400], y[:400, 1:]), (x[400:], y[400:, 1:]))
    assert known > 0.99 and -0.2 < unknown < 0.05
    both = probe((x[:400], y[:400]), (x[400:], y[400:]))
    assert both == pytest.approx((known + unknown) / 2, abs=0.01)


@pytest.mark.parametrize("hidden_dim", [None, 8])
def test_numbers_of_double_precision_are_probed_too(hidden_dim: int | None) -> None:
    x = torch.randn(300, 5, dtype=torch.float64)
    for target, least in ((x[:, :1] * 3, 0.9), ((x[:, 0] > 0).long(), 0.9)):
        assert probe((x[:200], target[:200]), (x[200:], target[200:]), hidden_dim=hidden_dim) > least


def test_targets_that_never_change_do_not_count() -> None:
    torch.manual_seed(0)
    x = torch.randn(600, 5)
    y = torch.stack([x[:, 0], torch.ones(600), torch.arange(600) // 400], 1)
    assert probe((x[:400], y[:400]), (x[400:], y[400:])) > 0.99
    with pytest.raises(ValueError, match="no target varies"):
        probe((x[:400], y[:400, 1:]), (x[400:], y[400:, 1:]))


def test_the_score_is_of_held_out_data() -> None:
    torch.manual_seed(0)
    features, noise_label = torch.randn(40, 200), torch.randint(4, (40,))
    assert probe((features, noise_label), (features, noise_label)) == 1
    assert probe((features, noise_label), (torch.randn(400, 200), torch.randint(4, (400,)))) < 0.4


def test_features_and_targets_must_fit() -> None:
    with pytest.raises(ValueError, match="test needs features"):
        probe((torch.zeros(4, 2), torch.zeros(4).long()), (torch.zeros(4, 2), torch.zeros(3).long()))


def test_a_probe_leaves_the_random_stream_and_the_features_alone() -> None:
    train, test = blobs(30, 0), blobs(30, 1)
    before, copy = torch.get_rng_state(), train[0].clone()
    assert probe(train, test, steps=3) == probe(train, test, steps=3)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(train[0], copy)


def readable(count: int = 600, dim: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=generator)
    return x, (x @ torch.randn(dim, 2, generator=generator)) + 0.005 * torch.randn(count, 2, generator=generator)


# The value of one more feature in one row of the training part and in one row of the test part; it is 0 elsewhere.
ODD: dict[str, tuple[float, float]] = {
    "never, then once": (0, 1),
    "never, then hugely": (0, 1e6),
    "negligibly, then once": (1e-7, 1),
    "negligibly, then hugely": (1e-7, 1e6),
    "once, then hugely": (1, 1e6),
    "once, then never": (1, 0),
    "hugely, then hugely the other way": (1e6, -1e6),
}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("hidden_dim", [None, 32])
def test_a_feature_that_hardly_ever_fires_does_not_spoil_the_probe(what: str, hidden_dim: int | None) -> None:
    x, y = readable()
    label, odd = (y[:, 0] > 0).long(), torch.zeros(600, 1)
    odd[[7, 500], 0] = torch.tensor(ODD[what], dtype=torch.float32)
    for target, least in ((y, 0.99), (label, 0.9)):
        scores = [
            probe((z[:400], target[:400]), (z[400:], target[400:]), hidden_dim, steps=100)
            for z in (x, torch.cat([x, odd], 1))
        ]
        assert scores[0] > least and scores[1] > scores[0] - 0.05  # the row with the odd feature may be wrong


def test_sparse_features_of_any_scale_give_scores_near_those_of_the_mean_at_worst() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(400, 300, generator=generator) - 2.5).relu() * 10 ** torch.randn(300, generator=generator)
    x[:, 0] = torch.randn(400, generator=generator)
    known, unknown = x[:, :1] * 2 + 1, torch.randn(400, 1, generator=generator)
    assert probe((x[:300], known[:300]), (x[300:], known[300:])) > 0.9
    assert probe((x[:300], unknown[:300]), (x[300:], unknown[300:])) > -0.5


@pytest.mark.parametrize("shape", [(20, 4), (20, 20), (20, 60)])
def test_ridge_equals_leaving_each_row_out_and_trying_every_penalty(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = standardised(torch.randn(shape))[0].double()
    y = x[:, :3] @ torch.randn(3, 2).double() + torch.randn(len(x), 2)
    y -= y.mean(0)
    x -= x.mean(0)
    test, expected = torch.randn(7, shape[1]).double(), []

    def fit(rows: torch.Tensor, targets: torch.Tensor, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
        center = rows.mean(0), targets.mean(0)
        rows, targets = rows - center[0], targets - center[1]
        weight = torch.linalg.solve(rows.T @ rows + penalty * torch.eye(rows.shape[1]), rows.T @ targets)
        return weight, center[1] - center[0] @ weight

    for t in range(2):
        errors = []
        for penalty in PENALTIES:
            error = 0.0
            for i in range(len(x)):
                others = torch.arange(len(x)) != i
                weight, bias = fit(x[others], y[others, t : t + 1], penalty * len(x))
                error += float((x[i] @ weight + bias - y[i, t]) ** 2)
            errors.append(error)
        weight, bias = fit(x, y[:, t : t + 1], PENALTIES[errors.index(min(errors))] * len(x))
        expected.append(test @ weight + bias)
    torch.testing.assert_close(_ridge(x, y, test), torch.cat(expected, 1), rtol=1e-5, atol=1e-5)


def test_a_target_that_hardly_varies_in_one_part_does_not_count() -> None:
    x, y = readable()
    y[:400, 1] *= 1e-8
    assert probe((x[:400], y[:400]), (x[400:], y[400:])) > 0.99
    x, y = readable()
    y[400:, 1] *= 1e-8
    assert probe((x[:400], y[:400]), (x[400:], y[400:])) > 0.99


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(part: int, value: float) -> None:
    data = readable(20)
    data[part][3, 1] = value
    with pytest.raises(ValueError, match="those of test are not"):
        probe(readable(20), data)
    with pytest.raises(ValueError, match="those of train are not"):
        probe(data, readable(20))


def test_values_of_one_axis_are_refused() -> None:
    x, y = readable(20)
    with pytest.raises(ValueError, match=r"\(N, T\) values"):
        probe((x, y[:, 0]), (x, y[:, 0]))


def test_folds_tell_the_noise_of_a_score() -> None:
    x, y = readable(100)
    noisy = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    score, exact = probe_folds(x, noisy, folds=5), probe_folds(x, y, folds=5)
    assert len(score.scores) == 5 and score.mean == pytest.approx(sum(score.scores) / 5)
    assert exact.std < 1e-3 < score.std < 0.3 and str(exact) == "1.000 ± 0.000"
    assert probe_folds(x, noisy, seed=1) != score == probe_folds(x, noisy)


def test_rows_of_one_group_are_never_in_both_parts() -> None:
    torch.manual_seed(0)
    group = torch.arange(20).repeat_interleave(5) * 3
    features = torch.nn.functional.one_hot(group).float()  # identifies the group, and nothing else
    label = torch.randint(2, (20,)).repeat_interleave(5)
    assert probe_folds(features, label, steps=50).mean == 1
    assert probe_folds(features, label, group, steps=50).mean < 0.8
    with pytest.raises(ValueError, match=r"2\.\.20, the number of groups, got 21"):
        probe_folds(features, label, group, folds=21)
    with pytest.raises(ValueError, match="of one length"):
        probe_folds(features, label, group[1:])


def test_alignment_and_uniformity_of_known_points() -> None:
    axes = torch.eye(4)
    assert alignment(axes, 3 * axes) == pytest.approx(0, abs=1e-6)
    assert alignment(axes, axes.roll(1, 0)) == pytest.approx(2)
    assert uniformity(axes) == pytest.approx(-4)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-5)


def test_effective_rank_counts_directions() -> None:
    torch.manual_seed(0)
    assert effective_rank(torch.randn(2000, 1) * torch.ones(1, 8)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.randn(2000, 8)) == pytest.approx(8, rel=0.01)
    values = torch.cat([torch.eye(2), -torch.eye(2)]) * torch.tensor([3.0, 1.0])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(values) == pytest.approx(math.exp(entropy), rel=1e-4)


def test_encoding_in_parts_changes_nothing() -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder((3, 20, 20), 4)
    pixels = torch.randint(0, 256, (7, 3, 20, 20), dtype=torch.uint8)
    torch.testing.assert_close(encode(encoder, pixels, 3), encoder(pixels).detach())


def test_reconstructions_show_what_the_features_hold() -> None:
    torch.manual_seed(0)
    level = torch.rand(200)
    frames = (level[:, None, None, None] * 255).expand(200, 1, 16, 16).to(torch.uint8)
    known, images = reconstruction(
        (level[:150, None], frames[:150]), (level[150:, None], frames[150:]), 4, 150, 32, 3e-3
    )
    unknown, _ = reconstruction((torch.rand(150, 1), frames[:150]), (torch.rand(50, 1), frames[150:]), 4, 150, 32, 3e-3)
    assert images.dtype == torch.uint8 and images.shape == (50, 1, 16, 16)
    assert known < 0.02 < 0.05 < unknown
    error = ((images.float() - frames[150:].float()) / 255).square().mean().item()
    assert error == pytest.approx(known, abs=0.005)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ((X, CLASSES.int()), (X, CLASSES.int()), "int64 classes, got torch.float32 and torch.int32"),
        ((X, CLASSES.bool()), (X, CLASSES.bool()), "int64 classes, got torch.float32 and torch.bool"),
        ((X.long(), X), (X.long(), X), "float features, .* got torch.int64"),
        ((X, X), (X, CLASSES), "in both parts float values or int64 classes"),
        ((X, X), (X[:, :2], X), r"\(3,\) and \(3,\) in train, \(2,\) and \(3,\) in test"),
        ((X, X), (X, X[:, :2]), r"\(3,\) and \(2,\) in test"),
        ((X[:, :0], X), (X[:, :0], X), "at least one"),
        ((X, -CLASSES), (X, CLASSES), "classes are numbered from 0 on, train has -1"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_what_they_are(
    train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        probe(train, test)


def test_measures_of_what_they_cannot_measure_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(8, 3\) and \(1, 3\)"):
        alignment(X, X[:1])
    with pytest.raises(ValueError, match="at least 2 rows of features, got 1"):
        uniformity(X[:1])
    with pytest.raises(ValueError, match="must be finite"):
        effective_rank(X / 0)
    frames = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match="those of test are not"):
        reconstruction((X, frames), (X / 0, frames), steps=1)
    with pytest.raises(ValueError, match=r"got \(8, 3\) and \(8, 3, 16, 16\) torch.float32"):
        reconstruction((X, frames.float()), (X, frames.float()), steps=1)


def test_classes_may_have_any_numbers() -> None:
    """A class with number 10⁹ takes no more memory than one with number 1."""
    features = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    target = (features[:, 0] > 0).long()
    far = torch.tensor([7, 10**9])[target]
    assert probe((features, far), (features, far)) == probe((features, target), (features, target)) > 0.9
    assert probe((features, far), (features, target)) == 0.0, "classes that were never seen"


def test_tolerance_is_the_mean_cosine_of_pairs_of_one_label() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [-1.0, 0.0], [-5.0, 0.0], [0.0, -1.0]])
    label = torch.tensor([7, 7, 7, 2, 2, 4])
    cosines = [0.0, math.sqrt(0.5), math.sqrt(0.5), 1.0]
    assert tolerance(features, label) == pytest.approx(sum(cosines) / 4, abs=1e-6)
    with pytest.raises(ValueError, match="all 2 rows have different labels"):
        tolerance(features[:2], torch.tensor([0, 1]))


def test_a_probe_in_the_middle_of_a_training_leaves_the_gpus_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeded(seed: int) -> None:
        raise AssertionError("the GPUs were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    before = torch.get_rng_state()
    probe((X, CLASSES), (X, CLASSES), hidden_dim=4, steps=2)
    frames = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    reconstruction((X, frames), (X, frames), steps=2)
    assert torch.equal(torch.get_rng_state(), before)
