import numpy as np
import pytest
import torch

from rlrep.envs.combination_lock import CombinationLock
from rlrep.experiments.video_study import lock as study

CONTROLLED = np.broadcast_to(np.eye(2)[:, None], (10, 2, 2, 2))
EXOGENOUS = CONTROLLED.swapaxes(1, 2)


def episodes(horizon, codes, seed, max_episodes=30_000):
    lock = CombinationLock(horizon, instance=seed)
    return study.episodes_to_solve(lock, codes[:horizon], max_episodes, np.random.default_rng(seed))


def test_with_the_controlled_bit_few_episodes_open_the_lock():
    assert max(episodes(10, CONTROLLED, seed) for seed in range(3)) < 3 * 10


def test_with_the_exogenous_bit_each_level_doubles_the_episodes():
    logarithms = [np.mean([np.log2(episodes(horizon, EXOGENOUS, seed)) for seed in range(10)]) for horizon in (4, 7)]
    assert (logarithms[1] - logarithms[0]) / 3 == pytest.approx(1, abs=0.4)


def test_a_learner_gives_up():
    assert episodes(10, EXOGENOUS, 0, max_episodes=5) is None


def test_opening_probability_is_that_of_playing():
    rng = np.random.default_rng(0)
    lock = CombinationLock(3, instance=1)
    codes = rng.dirichlet(np.ones(3), (3, 2, 2))
    policy = np.stack([lock.combination, 1 - lock.combination, lock.combination], 1)
    rounds = 20_000
    controlled = exogenous = np.ones(rounds, bool)
    for level in range(3):
        beyond = 1 - codes[level, controlled.astype(int), exogenous.astype(int)].cumsum(1)[:, :-1]
        code = (rng.random(rounds)[:, None] < beyond).sum(1)
        at = np.full(rounds, level)
        controlled, exogenous = lock.advance(at, controlled, exogenous, policy[level, code], rng)
    opened = controlled.mean()
    assert study.opening_probability(policy, codes, lock.combination) == pytest.approx(opened, abs=0.02)


def test_accuracy_does_not_depend_on_the_codes_names():
    codes = CONTROLLED.copy()
    codes[::2] = codes[::2, ..., ::-1]
    assert study.accuracy(codes, "controlled") == 1
    assert study.accuracy(codes, "exogenous") == 0.5
    assert study.accuracy(codes.swapaxes(1, 2), "exogenous") == 1


def test_four_codes_have_room_for_both_bits():
    both = np.eye(4).reshape(2, 2, 4)
    codes = np.broadcast_to(both, (10, 2, 2, 4))
    assert study.accuracy(codes, "controlled") == study.accuracy(codes, "exogenous") == 1
    assert episodes(10, codes, 0) < 10 * 10  # with the exogenous bit alone some 2^10


def test_two_codes_are_a_share_and_the_rest():
    model = study.MODELS["autoencoder"](CombinationLock(3), 2).eval()
    pictures = study.record(CombinationLock(3), 8, np.random.default_rng(0)).early
    share = torch.sigmoid(study.SHARPNESS * model.encoder(pictures))
    torch.testing.assert_close(model.code(pictures), torch.cat([1 - share, share], 1))


def test_recordings_stay_in_an_episode():
    lock = CombinationLock(4)
    clips = study.record(lock, 500, np.random.default_rng(0))
    assert clips.gap.min() == 1 and clips.gap.max() == study.MAX_GAP
    assert clips.level.min() == 0 and (clips.level + clips.gap).max() == lock.horizon
    assert clips.early.shape == clips.late.shape == (500, 3, 24, 24)


@pytest.mark.parametrize("codes", [2, 4])
@pytest.mark.parametrize("method", study.MODELS)
def test_the_loss_reaches_the_encoder(method, codes):
    lock = CombinationLock(3)
    model = study.MODELS[method](lock, codes)
    model.loss(study.record(lock, 32, np.random.default_rng(0))).backward()
    gradients = [parameter.grad for parameter in model.encoder.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_only_the_code_of_the_early_picture_reaches_the_decoder():
    lock = CombinationLock(3)
    model = study.MODELS["forward_model"](lock, 2)
    clips = study.record(lock, 32, np.random.default_rng(0))
    code = torch.eye(2)[torch.arange(32) % 2]
    model.code = lambda pictures: code
    first = model.loss(clips)
    clips.early.random_(256)
    assert model.loss(clips) == first


def test_a_latent_action_is_named_by_both_pictures_and_tells_what_the_code_does_not():
    lock = CombinationLock(3)
    model = study.MODELS["lapo"](lock, 2)
    clips = study.record(lock, 32, np.random.default_rng(0))
    errors = [model.errors(clips, torch.eye(2)[[u] * 32]) for u in (0, 1)]
    first, second = torch.eye(2)[torch.arange(32) % 2], torch.eye(2)[torch.arange(32) // 16]
    seen = []
    model.code = lambda pictures: first
    model.inverse.forward = lambda pictures: seen.append(pictures) or (second[:, 1:] - 0.5) * 1e4
    chosen = sum(errors[u][row, z] for row, (z, u) in enumerate(zip(first.argmax(1), second.argmax(1), strict=True)))
    torch.testing.assert_close(model.loss(clips), chosen / 32 - 20 * np.log(2))
    assert torch.equal(seen[0], torch.cat([clips.early, clips.late], 1))


def test_a_cell_is_what_the_report_reads_and_depends_on_its_arguments_alone():
    cell = study.run_lock_cell("oracle", 4, 1, 1000)
    assert cell == study.run_lock_cell("oracle", 4, 1, 1000)
    assert cell["domain"] == cell["study"] == "lock" and (cell["horizon"], cell["seed"]) == (4, 1)
    assert cell["solved"] and 1 <= cell["episodes_to_solve_other"] <= cell["episodes_to_solve"] < 1000
    assert (cell["controlled_accuracy"], cell["exogenous_accuracy"]) == (1, 0.5)


def test_videos_are_learned_from_once_and_the_worse_lock_counts(monkeypatch):
    monkeypatch.setattr(study, "CLIPS", 100)
    trained = []
    monkeypatch.setattr(study, "train", lambda model, clips, rng: trained.append(model))
    codes = iter([EXOGENOUS[:6], CONTROLLED[:6]])
    monkeypatch.setattr(study, "code_probabilities", lambda *_: next(codes))
    cell = study.run_lock_cell("forward_model", 6, 0, 10_000)
    assert len(trained) == 1
    assert (cell["controlled_accuracy"], cell["exogenous_accuracy"]) == (0.5, 1)
    assert cell["episodes_to_solve"] > 16 > cell["episodes_to_solve_other"]


def test_action_labels_are_learned_from_for_each_lock(monkeypatch):
    monkeypatch.setattr(study, "CLIPS", 100)
    trained = []
    monkeypatch.setattr(study, "train", lambda model, clips, rng: trained.append(model))
    monkeypatch.setattr(study, "code_probabilities", lambda *_: CONTROLLED[:2])
    study.run_lock_cell("inverse_model", 2, 0, 100)
    assert len(trained) == 2


@pytest.mark.parametrize("method, kept_by_worse", [("inverse_model", (1, 0.5)), ("temporal_contrastive", (0.5, 1))])
@pytest.mark.slow
def test_action_labels_keep_the_controlled_bit_and_videos_the_wrong_one(method, kept_by_worse):
    cell = study.run_lock_cell(method, 4, 0, 5000)
    kept = (cell["controlled_accuracy"], cell["exogenous_accuracy"])
    assert kept == pytest.approx(kept_by_worse, abs=0.1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("contrastive", 3, 0, 10), "unknown method 'contrastive'"),
        (("oracle", 0, 0, 10), "horizon is 0"),
        (("oracle", 3, -1, 10), "instance is -1"),
        (("oracle", 3, 0, 0), "max_episodes is 0"),
        (("forward_model", 3, 0, 10, 1), "codes is 1"),
    ],
)
def test_impossible_cells_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        study.run_lock_cell(*arguments)
