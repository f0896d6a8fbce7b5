from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlrep.envs.combination_lock import CombinationLock


def play(lock: CombinationLock, actions, seed=None):
    """Rewards, controlled and exogenous bits of an episode."""
    _, info = lock.reset(seed=seed)
    rewards, states, noises = [], [info["state"]], [info["noise"]]
    for action in actions:
        _, reward, terminated, truncated, info = lock.step(np.int64(action))
        assert not truncated
        rewards.append(reward)
        states.append(info["state"])
        noises.append(info["noise"])
    assert terminated
    assert [level for level, _ in states] == list(range(len(states)))
    return rewards, [int(bit) for _, bit in states], [int(bit) for (bit,) in noises]


def test_gymnasium_accepts_the_lock():
    check_env(CombinationLock(3), skip_render_check=True)


def test_only_the_combination_opens_the_lock():
    lock = CombinationLock(5, instance=3)
    opened = [actions for actions in product((0, 1), repeat=5) if sum(play(lock, actions)[0])]
    assert opened == [tuple(lock.combination)]
    assert play(lock, lock.combination)[0] == [0, 0, 0, 0, 1]


def test_both_bits_follow_the_same_law_under_uniform_actions():
    horizon = 3

    class Coins:
        """Replaces a random generator: each call returns the next coin."""

        def __init__(self, coins):
            self.coins = iter(coins)

        def random(self, shape):
            return np.full(shape, next(self.coins) * 0.9)

    lock = CombinationLock(horizon, instance=1)

    def paths(start, actions, coins):
        bits, generator, path = (np.array(start[0]), np.array(start[1])), Coins(coins), [start]
        for level in range(horizon):
            bits = lock.advance(np.array(level), *bits, np.array(actions[level]), generator)
            path.append(tuple(bool(bit) for bit in bits))
        return tuple(path)

    choices = list(product((0, 1), repeat=horizon))
    for start in product((False, True), repeat=2):
        law = sorted(paths(start, actions, coins) for actions in choices for coins in choices)
        swapped_start = start[::-1]
        swapped = (paths(swapped_start, actions, coins) for actions in choices for coins in choices)
        assert law == sorted(tuple(pair[::-1] for pair in path) for path in swapped)


def test_swapping_the_places_does_not_change_the_videos_law():
    rng = np.random.default_rng(0)
    means = []
    for place in ("left", "right"):
        lock = CombinationLock(2, instance=4, controlled_place=place)
        episodes = 4000
        bits = (np.ones(episodes, bool),) * 2
        for level in range(2):
            bits = lock.advance(np.full(episodes, level), *bits, rng.integers(2, size=episodes), rng)
        pictures = lock.draw(np.full(episodes, 2), *bits, rng).astype(np.float32)
        means.append(pictures.mean((0, 1)))
        assert bits[0].mean() == pytest.approx(0.25, abs=0.03) and bits[1].mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_allclose(means[0], means[1], atol=5)  # a glyph's contrast is 96


def test_actions_move_the_controlled_bit_alone():
    lock = CombinationLock(4, instance=2)
    right = play(lock, lock.combination, seed=7)
    wrong = play(lock, 1 - lock.combination, seed=7)
    assert right[1] == [1, 1, 1, 1, 1] and wrong[1] == [1, 0, 0, 0, 0]
    assert right[2] == wrong[2]


@pytest.mark.parametrize("place, columns", [("left", slice(0, 12)), ("right", slice(12, 24))])
def test_each_bit_is_seen_in_its_own_place(place, columns):
    lock = CombinationLock(2, controlled_place=place)
    rng = np.random.default_rng(0)
    level = np.zeros(500, int)
    on, off = np.ones(500, bool), np.zeros(500, bool)
    seen = [lock.draw(level, bit, on, rng).mean((0, 1)) for bit in (off, on)]
    changed = np.abs(seen[1] - seen[0]) > 40
    assert changed.sum() == 64 and changed[:, columns].sum() == 64


def test_places_vary_with_the_instance_and_leave_the_combination_alone():
    assert len({CombinationLock(2, instance=k).controlled_place for k in range(10)}) == 2
    left, right = (CombinationLock(9, instance=1, controlled_place=place) for place in ("left", "right"))
    np.testing.assert_array_equal(left.combination, right.combination)
    assert len({tuple(CombinationLock(9, instance=k).combination) for k in range(5)}) == 5


def test_a_recording_may_begin_anywhere():
    lock = CombinationLock(3)
    _, info = lock.reset(options={"level": 2, "controlled": 0, "exogenous": 1})
    assert info["state"].tolist() == [2, 0] and info["noise"].tolist() == [1]
    assert lock.step(np.int64(lock.combination[2]))[1:3] == (0.0, True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(horizon=0), "horizon is 0; expected at least 1"),
        (dict(horizon=24), "horizon is 24; expected at most 23"),
        (dict(horizon=2.5), "horizon must be a whole number, got 2.5"),
        (dict(horizon=2, instance=-1), "instance is -1; expected at least 0"),
        (dict(horizon=2, controlled_place="top"), "controlled_place is 'top'; expected 'left', 'right' or None"),
    ],
)
def test_impossible_locks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CombinationLock(**arguments)


@pytest.mark.parametrize(
    "options",
    [{"level": 2}, {"controlled": 2}, {"exogenous": -1}, {"exogenous": ""}, {"controlled": 1.0}, {"depth": 1}],
)
def test_impossible_starts_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CombinationLock(2).reset(options=options)


def test_steps_outside_an_episode_and_unknown_actions_are_refused():
    lock = CombinationLock(1)
    with pytest.raises(gym.error.ResetNeeded):
        lock.step(np.int64(0))
    lock.reset()
    with pytest.raises(ValueError, match="expected 0 or 1"):
        lock.step(np.int64(2))
    lock.step(np.int64(0))
    with pytest.raises(gym.error.ResetNeeded):
        lock.step(np.int64(0))
