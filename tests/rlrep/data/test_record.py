"""Recording an environment into a data set."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlrep.data import record


class Corridor(gym.Env[np.ndarray, Any]):
    """Walks right with action 1; picture and state show the position. Ends at 5, or after `limit` steps."""

    def __init__(self, limit: int = 8, channels_last: bool = True, discrete: bool = True, told: bool = True) -> None:
        self.limit, self.channels_last, self.told = limit, channels_last, told
        self.observation_space = spaces.Box(0, 255, (4, 4, 3) if channels_last else (9, 4, 4), np.uint8)
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (2,))

    def _see(self) -> tuple[np.ndarray, dict[str, Any]]:
        if self.channels_last:
            picture = np.full((4, 4, 3), 10 * self.at, np.uint8)
        else:
            picture = np.zeros((9, 4, 4), np.uint8)
            picture[-3:] = 10 * self.at
        noise = self.np_random.random(2).astype(np.float32)
        return picture, {"state": np.array([self.at]), "noise": noise} if self.told else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = self.steps = 0
        return self._see()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.at += int(np.max(action) > 0)
        self.steps += 1
        observation, info = self._see()
        return observation, 0.0, self.at == 5, self.steps == self.limit, info


def test_episodes_are_kept_with_their_actions_states_and_noise() -> None:
    data = record(Corridor(), None, 200, max_gap=2, seed=1)
    assert data.num_frames == 200
    assert data.lengths.max() == 9
    assert data.state is not None
    assert data.noise is not None
    assert data.action is not None
    assert data.frames.shape == (200, 3, 4, 4)
    assert (data.frames == 10 * data.state[:, :, None, None]).all()
    assert (data.noise.shape, data.noise.dtype) == ((200, 2), np.float32)
    for first, end in data.episodes:
        assert data.state[first] == 0
        assert np.array_equal(np.diff(data.state[first:end, 0]), data.action[first : end - 1])
    assert set(np.unique(data.action)) == {0, 1}


def test_a_state_that_some_episodes_lack_is_not_filled_with_zeros() -> None:
    class Forgetful(Corridor):
        def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
            self.told = not hasattr(self, "at")
            return super().reset(**options)

    with pytest.raises(ValueError, match="an episode has action, frame, and earlier ones have action, frame, noise"):
        record(Forgetful(), None, 20)


def test_an_episode_that_is_cut_at_its_first_frame_has_no_action() -> None:
    data = record(Corridor(limit=3), lambda _: 0, 9)
    assert data.lengths.tolist() == [4, 4, 1] and data.action is not None and data.state is not None


@pytest.mark.parametrize("discrete", [True, False])
def test_the_policy_chooses_from_what_it_sees(discrete: bool) -> None:
    def right(observation: np.ndarray) -> Any:
        assert observation.shape == (4, 4, 3)
        return 1 if discrete else np.array([1.0, -1.0])

    data = record(Corridor(discrete=discrete), right, 14)
    assert data.lengths.tolist() == [6, 6, 2]
    assert data.frames[:6, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert data.action is not None
    assert data.action.dtype == (np.int64 if discrete else np.float32)
    assert data.action[:5].tolist() == ([1] * 5 if discrete else [[1, -1]] * 5)


def test_of_stacked_observations_the_newest_frame_is_kept_and_resized() -> None:
    data = record(Corridor(channels_last=False, told=False), lambda _: 1, 6, image_size=8, frame_stack=2)
    assert data.observation_shape == (6, 8, 8)
    assert data.frames[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert data.state is data.noise is None


def test_the_same_seed_plays_the_same() -> None:
    one, same, other = (record(Corridor(), None, 60, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.frames, same.frames)
    assert one.noise is not None
    assert same.noise is not None
    assert np.array_equal(one.noise, same.noise)
    assert not np.array_equal(one.frames, other.frames)


def test_impossible_sizes_are_refused() -> None:
    for options in ({"num_frames": 0}, {"max_gap": 0}, {"image_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be at least 1, got 0"):
            record(Corridor(), None, **({"num_frames": 5} | options))


def test_an_environment_without_pictures_is_refused() -> None:
    class Blind(Corridor):
        def _see(self) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(3, np.float32), {}

    with pytest.raises(ValueError, match="frames must be uint8"):
        record(Blind(), None, 5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_stacks_of_grey_frames_are_recorded_only_as_such(channels_last: bool) -> None:
    class Stacked(Corridor):
        """Draws into one array, as some environments do; its pictures move."""

        def _see(self) -> tuple[np.ndarray, dict[str, Any]]:
            if self.steps == 0:
                self.stack = np.zeros((3, 8, 8), np.uint8)
            self.stack[:-1] = self.stack[1:].copy()
            self.stack[-1] = 1 + self.steps
            return np.moveaxis(self.stack, 0, 2) if channels_last else self.stack, {}

    right: Any = lambda _: 0  # noqa: E731
    with pytest.raises(ValueError, match="frame_channels=1"):
        record(Stacked(), right, 30)
    data = record(Stacked(), right, 30, frame_channels=1)
    assert data.frames.shape == (30, 1, 8, 8)
    assert data.frames[:9, 0, 0, 0].tolist() == list(range(1, 10))
