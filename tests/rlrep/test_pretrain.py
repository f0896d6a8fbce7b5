"""Pre-training of an encoder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrep import Gap, Objective, PixelEncoder, ReplayBuffer, Window
from rlrep.data import EpisodeDataset
from rlrep.pretrain import Pretrainer, pretrain

SHAPE = (3, 20, 20)


class Brightness(Objective):
    """The features predict the brightness of the picture; dropout and a running mean behave as in any module."""

    def __init__(self, encoder: PixelEncoder, keys: tuple[str, ...] = ("observation",), horizon: int = 2) -> None:
        super().__init__(encoder)
        self.in_keys, self.out_keys, self.horizon = list(keys), ["loss_brightness", "brightness"], horizon
        self.head = nn.Sequential(nn.Linear(encoder.repr_dim, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 1))

    def losses(self, observation: Tensor, *_: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        brightness = observation.float().mean((1, 2, 3)) / 255
        predicted = self.head(self.encode(observation))[:, 0]
        return {"loss_brightness": (predicted - brightness).square().mean(), "brightness": brightness.mean()}


def videos(episodes: int = 8, length: int = 6, seed: int = 0, **options: Any) -> EpisodeDataset:
    """Videos, each of one shade of grey."""
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 256, (episodes, 1, 1, 1, 1), np.uint8)
    frames = np.broadcast_to(grey, (episodes, length, *SHAPE)).reshape(-1, *SHAPE)
    return EpisodeDataset(frames, [length] * episodes, **({"max_gap": 2} | options))


def build(seed: int = 0, **options: Any) -> Pretrainer:
    torch.manual_seed(seed)
    train, validation = videos().split(0.25)
    objective = Brightness(PixelEncoder(SHAPE, channels=4))
    return Pretrainer(objective, train, validation, **({"steps": 20, "batch_size": 8, "validate_every": 5} | options))


def weights(trainer: Pretrainer) -> list[Tensor]:
    return [value.clone() for value in trainer.objective.state_dict().values()]


class OwnEncoder(nn.Sequential):
    """A user's encoder, which does not say what pictures it reads."""

    repr_dim = 6

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 20 * 20, 6))

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels.float() / 255)


def test_an_encoder_of_ones_own_is_trained() -> None:
    encoder: Any = OwnEncoder()
    before = encoder[1].weight.clone()
    pretrain(Brightness(encoder), *videos().split(0.25), steps=5, batch_size=8)
    assert not torch.equal(encoder[1].weight, before)


def test_training_moves_the_encoder_and_lowers_the_validation_loss() -> None:
    trainer = build(steps=60, lr=3e-3)
    at_first, before = trainer.validate()["loss"], weights(trainer)
    while not trainer.finished:
        trainer.step()
    assert trainer.validate()["loss"] < 0.5 * at_first
    moved = [not torch.equal(old, new) for old, new in zip(before, weights(trainer), strict=True)]
    assert all(moved)


def test_metrics_stay_tensors() -> None:
    metrics = build().step()
    assert set(metrics) == {"loss_brightness", "brightness"}
    assert all(isinstance(value, Tensor) and not value.requires_grad for value in metrics.values())


def test_validations_are_comparable_and_change_nothing() -> None:
    trainer, undisturbed = build(), build()
    before = weights(trainer)
    random = torch.get_rng_state()
    first, second = trainer.validate(), trainer.validate()
    assert first == second and first["loss"] == first["loss_brightness"]
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(old, new) for old, new in zip(before, weights(trainer), strict=True))
    torch.manual_seed(1)
    ours = trainer.step()
    torch.manual_seed(1)
    assert torch.equal(ours["loss_brightness"], undisturbed.step()["loss_brightness"])


def test_a_replay_validates_without_a_change_to_its_rows(tmp_path: Path) -> None:
    """Its own state is that of its files: rows that are not flushed yet would be lost."""
    rng, stores = np.random.default_rng(0), []
    for name in ("train", "validation"):
        store = ReplayBuffer(SHAPE, spaces.Box(-1, 1, (1,)), 100, frame_stack=1, path=str(tmp_path / name))
        for step in range(20):
            shades = rng.integers(0, 256, (2, 1, 1, 1), np.uint8)
            before, after = np.broadcast_to(shades, (2, *SHAPE))
            store.add(
                observation=before,
                action=np.zeros(1, np.float32),
                reward=0.0,
                next_observation=after,
                terminated=False,
                truncated=True,
            )
            if step == 10:
                store.flush()
        stores.append(store)
    objective = Brightness(PixelEncoder(SHAPE, channels=4))
    trainer = Pretrainer(objective, *stores, steps=2, batch_size=8, validate_every=1)
    trainer.step()
    assert trainer.validate() == trainer.validate() and len(stores[1]) == 20
    with pytest.raises(ValueError, match="Brightness reads batches of 200, and this replay hold at most 99"):
        Pretrainer(objective, *stores, steps=2, batch_size=200)


def test_the_best_weights_are_kept() -> None:
    trainer = build(lr=3e-3)
    for _ in range(20):
        trainer.step()
    best = trainer.validate()["loss"]
    kept = weights(trainer)
    for parameter in trainer.objective.parameters():
        parameter.data.normal_()
    assert trainer.validate()["loss"] > best == trainer.best_loss
    trainer.load_best()
    assert all(torch.equal(old, new) for old, new in zip(kept, weights(trainer), strict=True))


def test_losses_with_moving_targets_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build(patience=1)
    trainer.objective.momentum_copy(nn.Linear(1, 1), 0.9)
    assert not trainer.objective.comparable
    for loss in (1.0, 2.0, 3.0):
        trainer.step()
        trainer._compare(loss)
        assert (trainer.best_loss, trainer.best_updates) == (loss, trainer.updates) and not trainer.finished


@pytest.mark.parametrize(("patience", "updates"), [(2, 10), (3, 15), (None, 100)])
def test_patience_ends_a_training_that_gets_no_better(
    monkeypatch: pytest.MonkeyPatch, patience: int | None, updates: int
) -> None:
    monkeypatch.setattr(Pretrainer, "_compare", lambda self, loss: setattr(self, "_stale", self._stale + 1))
    trainer = build()
    objective, train, validation = trainer.objective, trainer.train, trainer.validation
    done = pretrain(objective, train, validation, steps=100, batch_size=2, validate_every=5, patience=patience)
    assert done.updates == updates


def test_patience_counts_validations_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build(patience=2)
    finished = []
    for loss in (3.0, 4.0, 2.0, 2.0, 5.0):
        trainer._compare(loss)
        finished.append(trainer.finished)
    assert finished == [False, False, False, False, True]
    assert trainer.best_loss == 2.0


@pytest.mark.parametrize("stop", [3, 5, 12])
def test_a_resumed_training_equals_one_that_was_not_stopped(stop: int) -> None:
    def go_on(trainer: Pretrainer, until: int) -> None:
        while trainer.updates < until:
            trainer.step()
            if trainer.validation_due:
                trainer.validate()

    whole = build()
    go_on(whole, 20)

    begun = build()
    go_on(begun, stop)
    file = io.BytesIO()
    torch.save({"trainer": begun.state_dict(), "random": torch.get_rng_state()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = build(seed=7)
    resumed.step()  # its earlier state does not matter
    resumed.load_state_dict(saved["trainer"])
    torch.set_rng_state(saved["random"])
    go_on(resumed, 20)

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights(resumed), weights(whole), strict=True))
    assert (resumed.best_loss, resumed.best_updates) == (whole.best_loss, whole.best_updates)
    resumed.load_best()
    whole.load_best()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights(resumed), weights(whole), strict=True))


def test_a_saved_state_does_not_change_with_further_updates() -> None:
    trainer = build()
    trainer.step()
    trainer.validate()
    best = trainer.state_dict()["best"]["weights"]
    kept = {name: value.clone() for name, value in best.items()}
    for _ in range(3):
        trainer.step()
    assert all(torch.equal(best[name], kept[name]) for name in kept)


@pytest.mark.parametrize("name", ["steps", "batch_size", "lr", "validate_every", "validation_batches", "patience"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be (at least 1|greater than 0), got 0"):
        build(**{name: 0})


def test_data_of_another_shape_is_refused() -> None:
    train, validation = videos(frame_stack=2).split()
    with pytest.raises(ValueError, match=r"reads observations of shape \(3, 20, 20\), the data has \(6, 20, 20\)"):
        Pretrainer(Brightness(PixelEncoder(SHAPE, channels=4)), train, validation, steps=1)


def test_the_objectives_window_is_read_whatever_the_datas_own_gap() -> None:
    train, validation = videos(max_gap=3).split()
    objective = Brightness(PixelEncoder(SHAPE, channels=4))
    objective.window = Window(observations=(Gap(2),))
    trainer = Pretrainer(objective, train, validation, steps=1)
    assert set(trainer.sample(train)["gap"].tolist()) == {1, 2}


def test_a_window_beyond_the_longest_video_is_refused_by_name() -> None:
    train, validation = videos().split()
    objective = Brightness(PixelEncoder(SHAPE, channels=4))
    objective.window = Window(observations=(Gap(400),))
    with pytest.raises(
        ValueError, match=r"Brightness reads an observation 1\.\.400 steps away, and the longest episode"
    ):
        Pretrainer(objective, train, validation, steps=1)


def test_video_without_actions_is_refused_by_an_objective_that_reads_them() -> None:
    train, validation = videos().split()
    objective = Brightness(PixelEncoder(SHAPE, channels=4), keys=("observation", "action"))
    with pytest.raises(ValueError, match=r"Brightness reads actions, which these data lack: .*recorded with actions"):
        Pretrainer(objective, train, validation, steps=1)


def test_checking_the_data_draws_nothing_from_it() -> None:
    fresh = videos().split(0.25)[0].sample(8)
    assert torch.equal(build().train.sample(8)["observation"], fresh["observation"])


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    trainer = build()
    trainer.step()
    next(trainer.objective.parameters()).data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="loss is nan after 1 updates: try a smaller lr"):
        trainer.validate()
    assert trainer.best_loss == float("inf")


def test_a_validation_on_the_training_data_does_not_repeat_it() -> None:
    data = videos()
    objective = Brightness(PixelEncoder(SHAPE, channels=4))
    trainer = Pretrainer(objective, data, data, steps=40, batch_size=4, validate_every=5)
    seen = set()
    sample = data.sample
    data.sample = lambda size, window: (
        seen.add((batch := sample(size, window))["observation"].numpy().tobytes()) or batch
    )  # type: ignore[method-assign,func-returns-value]
    while not trainer.finished:
        trainer.step()
        if trainer.validation_due:
            trainer.validate()
    assert len(seen) > 30


def test_ranks_that_would_mix_their_negatives_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="all_ranks = False"):
        build()
    monkeypatch.setattr(Brightness, "all_ranks", False)
    build().step()


def test_an_objectives_own_batch_size_counts() -> None:
    objective = Brightness(PixelEncoder(SHAPE, channels=4))
    objective.batch_size = 3
    rows: list[int] = []
    objective.register_forward_hook(lambda module, given, out: rows.append(len(given[0])))
    trainer = Pretrainer(objective, videos(), videos(seed=1), steps=1, batch_size=8, validation_batches=1)
    trainer.step()
    trainer.validate()
    assert rows == [3, 3]
