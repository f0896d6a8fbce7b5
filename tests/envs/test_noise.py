from __future__ import annotations

from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlrep.envs import GridWorld, Noise, NoiseProcess, make_env

SHAPE = (3, 32, 32)


def run(steps: int, **options: Any) -> np.ndarray:
    """States (steps, N, n, 3) of 500 images' shapes."""
    process = NoiseProcess(500, SHAPE, num_shapes=2, seed=0, **options)
    states = []
    for _ in range(steps):
        states.append(process.state)
        process.step()
    return np.stack(states)


@pytest.mark.parametrize("persistence", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["shapes", "pixels"])
def test_single_images_have_one_distribution_at_every_persistence_and_time(kind: str, persistence: float) -> None:
    process = NoiseProcess(500, (3, 8, 8), kind, persistence=persistence, seed=0)  # type: ignore[arg-type]
    for _ in range(12):
        process.step()
    values = np.sort(process.state.ravel())
    uniform = (np.arange(len(values)) + 0.5) / len(values)
    assert values.min() >= 0 and values.max() < 1
    assert np.abs(values - uniform).max() < 0.03  # Kolmogorov-Smirnov


def test_persistence_is_how_often_a_shape_moves_on() -> None:
    for persistence in (0.0, 0.5, 0.9, 1.0):
        states = run(10, persistence=persistence)
        far = np.abs(states[1:] - states[:-1])[..., :2]
        moved = (np.minimum(far, 1 - far) <= 0.1001).all(-1).mean()
        by_chance = 0.2**2
        assert abs(moved - (persistence + (1 - persistence) * by_chance)) < 0.02


def test_exogenous_shapes_move_by_5_to_10_percent_and_drift_in_hue() -> None:
    states = run(10, persistence=1.0)
    far = np.abs(states[1:] - states[:-1])
    far = np.minimum(far, 1 - far)
    assert far[..., :2].min() > 0.0499 and far[..., :2].max() < 0.1001
    assert 0 < far[..., 2].max() < 0.0501


def test_shapes_lie_on_dark_pixels_only_when_told_so() -> None:
    frames = np.zeros((4, *SHAPE), np.uint8)
    frames[:, 1, :16] = 200
    before = frames.copy()
    options: dict[str, Any] = dict(num_shapes=8, size=0.5, seed=0)
    drawn = NoiseProcess(4, SHAPE, background_only=True, **options).draw(frames)
    assert (frames == before).all()
    assert (drawn[:, :, :16] == before[:, :, :16]).all()
    assert (drawn[:, :, 16:] != 0).any(1).mean() > 0.5
    everywhere = NoiseProcess(4, SHAPE, **options).draw(frames)
    assert (everywhere[:, :, :16] != before[:, :, :16]).any()


def test_drawing_does_not_depend_on_the_layout_in_memory() -> None:
    frames = np.random.default_rng(0).integers(0, 100, (4, *SHAPE), np.uint8)
    channels_last = np.ascontiguousarray(frames.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    process = NoiseProcess(4, SHAPE, num_shapes=6, seed=0)
    assert (process.draw(frames) == process.draw(channels_last)).all()


def test_only_the_images_named_are_reset() -> None:
    process = NoiseProcess(3, SHAPE, seed=0)
    before = process.state.copy()
    process.reset(np.array([False, True, False]))
    assert (process.state[[0, 2]] == before[[0, 2]]).all() and (process.state[1] != before[1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "waves"}, "kind is 'waves'"),
        ({"num_shapes": 0}, "num_shapes is 0"),
        ({"kind": "pixels", "num_shapes": 7}, "num_shapes=7 and background_only=False are for kind='shapes'"),
        ({"kind": "pixels", "background_only": True}, "are for kind='shapes', and kind is 'pixels': leave them out"),
        ({"size": 0.0}, "size is 0.0"),
        ({"size": 1.5}, "size is 1.5"),
        ({"persistence": -0.1}, "persistence is -0.1"),
        ({"persistence": float("nan")}, "persistence is nan"),
    ],
)
def test_impossible_noise_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseProcess(1, SHAPE, **options)


class Counter(gym.Env):
    """Stacked dark frames; the newest holds the step's number in its corner."""

    observation_space = gym.spaces.Box(0, 255, (6, 32, 32), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.frames = [np.zeros((3, 32, 32), np.uint8)] * 2
        self.count = 0
        return np.concatenate(self.frames), {"state": np.zeros(1)}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        frame = np.zeros((3, 32, 32), np.uint8)
        frame[:, 0, 0] = 100 + self.count
        self.frames = [self.frames[1], frame]
        return np.concatenate(self.frames), 0.0, False, self.count == 9, {"state": np.ones(1)}


def test_a_frame_keeps_its_own_noise_while_it_is_in_the_stack() -> None:
    env = Noise(Counter(), num_shapes=4, persistence=0.0)
    last, info = env.reset(seed=1)
    assert (last[:3] == last[3:]).all() and info["noise"].shape == (12,)
    for _ in range(5):
        observation, _, _, _, info = env.step(0)
        assert (observation[:3] == last[3:]).all() and (observation[3:] != last[3:]).any()
        assert info["state"] == 1
        last = observation


class Turned(gym.ObservationWrapper):
    """The same with the channels last, and perhaps other sides."""

    def __init__(self, env: gym.Env, shape: tuple[int, ...] = (32, 32, 6)) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.moveaxis(observation, 0, 2)


@pytest.mark.parametrize("kind", ["shapes", "pixels"])
def test_pictures_with_their_channels_last_get_the_same_noise(kind: str) -> None:
    first, last = Noise(Counter(), kind=kind), Noise(Turned(Counter()), kind=kind)
    assert (first.reset(seed=1)[0] == np.moveaxis(last.reset(seed=1)[0], 2, 0)).all()
    for _ in range(4):
        one, other = first.step(0)[0], last.step(0)[0]
        assert other.shape == (32, 32, 6)
        assert (one == np.moveaxis(other, 2, 0)).all()


@pytest.mark.parametrize("shape", [(84, 84, 3), (96, 96, 3), (48, 48, 9), (84, 84, 6), (120, 90, 3)])
def test_the_background_of_large_channels_last_pictures_stays(shape: tuple[int, ...]) -> None:
    class Grey(Counter):
        observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
            return np.broadcast_to(np.arange(shape[0], dtype=np.uint8)[:, None, None] + 60, shape), {}

    clean = Grey().reset()[0]
    noisy, info = Noise(Grey(), num_shapes=1, size=0.2).reset(seed=0)
    same = (noisy == clean).all(2)
    assert 0.9 < same.mean() < 1
    assert info["noise"].shape == (3,)


def test_pictures_that_can_be_read_in_two_ways_are_refused_until_it_is_said() -> None:
    env = Turned(Counter(), (6, 32, 6))
    with pytest.raises(ValueError, match="channels_last=True or False"):
        Noise(env)
    assert Noise(env, channels_last=True)._axis == 2
    with pytest.raises(ValueError, match="frame_channels is 3, which does not divide 1 channels"):
        Noise(Turned(Counter(), (84, 84, 1)))


def test_noise_follows_from_the_seed_alone() -> None:
    def play(env: Noise) -> np.ndarray:
        first, _ = env.reset(seed=5)
        return np.stack([first, *(env.step(0)[0] for _ in range(4))])

    env = Noise(Counter(), persistence=0.5)
    once = play(env)
    assert (play(env) == once).all() and (play(Noise(Counter(), persistence=0.5)) == once).all()
    assert (env.reset()[0] != once[0]).any()


def test_environments_without_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="noise needs pixels"):
        Noise(gym.make("CartPole-v1"))


def test_noise_on_the_grid_world_passes_gymnasiums_checker() -> None:
    check_env(Noise(GridWorld()), skip_render_check=True)


def test_an_episode_has_the_same_noise_whether_it_was_walked_to_or_not() -> None:
    """So that a run which resumes sees what it would have seen."""
    noise = {"kind": "shapes", "persistence": 0.5, "size": 0.5}
    told: dict[str, Any] = dict(noise=noise, seed=3, image_size=20, action_repeat=50)
    with closing(make_env("cartpole_balance", **told)) as env, closing(make_env("cartpole_balance", **told)) as other:
        still = np.zeros(env.action_space.shape, np.float32)
        for _ in range(2):
            env.reset()
            env.step(still)
        walked = [env.reset()[0], env.step(still)[0]]
        jumped = [other.reset(options={"episode": 2})[0], other.step(still)[0]]
    np.testing.assert_array_equal(walked, jumped)
    assert (walked[0] != walked[1]).any()
