from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlrep.envs import GridWorld, Noise, NoiseProcess, PixelControl, make_env
from rlrep.envs.distractors import KINDS, Clip

SHAPE = (3, 32, 32)
OF_THE_PICTURE = ["camera", "color", "video"]


def options(kind: str, shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    """The options that a kind of noise needs: two videos of 30 and 20 frames."""
    rng = np.random.default_rng(0)
    videos = [rng.integers(0, 256, (length, *shape), np.uint8) for length in (30, 20)]
    return {"kind": kind} | ({"videos": videos} if kind == "video" else {})


def pictures(count: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


def run(steps: int, **options: Any) -> np.ndarray:
    """The states of the shapes of 500 images: (steps, N, n, 3)."""
    process = NoiseProcess(500, SHAPE, num_shapes=2, seed=0, **options)
    states = []
    for _ in range(steps):
        states.append(process.state)
        process.step()
    return np.stack(states)


@pytest.mark.parametrize("persistence", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_single_images_have_one_distribution_at_every_persistence_and_time(kind: str, persistence: float) -> None:
    number = 4000 if kind in OF_THE_PICTURE else 500  # their states are short
    process = NoiseProcess(number, (3, 8, 8), **options(kind, (3, 8, 8)), persistence=persistence, seed=0)
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


def test_drifting_shapes_move_right_and_down_by_5_to_10_percent_and_turn_their_hue_one_way() -> None:
    states = run(5, kind="drift", persistence=1.0)
    change = (states[1:] - states[:-1]) % 1
    assert change[..., :2].min() >= 0.0499 and change[..., :2].max() <= 0.1001
    assert 0.02 < change[..., 2].mean() < 0.03 and change[..., 2].max() <= 0.0501


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
    shapes: dict[str, Any] = dict(num_shapes=8, size=0.5, seed=0)
    drawn = NoiseProcess(4, SHAPE, background_only=True, **shapes).draw(frames)
    assert (frames == before).all()
    assert (drawn[:, :, :16] == before[:, :, :16]).all()
    assert (drawn[:, :, 16:] != 0).any(1).mean() > 0.5
    everywhere = NoiseProcess(4, SHAPE, **shapes).draw(frames)
    assert (everywhere[:, :, :16] != before[:, :, :16]).any()


def test_shapes_lie_on_the_background_that_is_named_alike() -> None:
    frames = np.full((4, *SHAPE), 90, np.uint8)
    process = NoiseProcess(4, SHAPE, num_shapes=8, size=0.5, background_only=True, seed=0)
    assert (process.draw(frames) == frames).all()  # no pixel is dark
    background = np.zeros((4, 32, 32), bool)
    background[:, :, 16:] = True
    named, black = process.draw(frames, background), process.draw(np.zeros_like(frames))
    assert (named[..., :16] == 90).all()
    right = black[..., 16:]
    assert (named[..., 16:] == np.where(right.any(1, keepdims=True), right, 90)).all()
    assert process.reads_background and not NoiseProcess(4, SHAPE).reads_background


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
    ("given", "message"),
    [
        ({"kind": "waves"}, "kind is 'waves'"),
        ({"num_shapes": 0}, "num_shapes is 0"),
        (
            {"kind": "pixels", "num_shapes": 7},
            "num_shapes=7 is for kind='shapes' or 'drift', and kind is 'pixels': leave it out",
        ),
        (
            {"kind": "pixels", "background_only": True},
            "background_only=True is for kind='shapes' or 'drift' or 'video'",
        ),
        ({"kind": "camera", "size": 0.5}, "size=0.5 is for kind='shapes' or 'drift' or 'pixels', and kind is 'camera'"),
        ({"strength": 0.5}, "strength=0.5 is for kind='camera' or 'color' or 'video', and kind is 'shapes'"),
        ({"strenght": 0.5}, "noise has no option 'strenght'; expected background_only or num_shapes"),
        ({"kind": "camera", "strength": 1.5}, r"strength is 1.5; expected a share in \[0, 1\]"),
        ({"kind": "color", "strength": float("nan")}, "strength is nan"),
        ({"kind": "video"}, "kind='video' needs videos"),
        ({"kind": "video", "videos": []}, "kind='video' needs videos"),
        (
            {"kind": "video", "videos": [np.zeros((5, 3, 8, 8), np.uint8)]},
            r"videos\[0\] is uint8 of shape \(5, 3, 8, 8",
        ),
        ({"kind": "video", "videos": [np.zeros((5, *SHAPE))]}, r"is float64 .* expected uint8 frames \(T, 3, 32, 32\)"),
        ({"kind": "video", "videos": [np.zeros((0, *SHAPE), np.uint8)]}, "at least one"),
        ({"size": 0.0}, "size is 0.0"),
        ({"size": 1.5}, "size is 1.5"),
        ({"persistence": -0.1}, "persistence is -0.1"),
        ({"persistence": float("nan")}, "persistence is nan"),
    ],
)
def test_impossible_noise_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseProcess(1, SHAPE, **given)


@pytest.mark.parametrize("kind", ["shapes", "color"])
def test_grey_frames_cannot_have_coloured_noise(kind: str) -> None:
    with pytest.raises(ValueError, match=f"kind='{kind}' is coloured and needs 3 channels a frame, got 1"):
        NoiseProcess(1, (1, 32, 32), kind)


@pytest.mark.parametrize("kind", OF_THE_PICTURE)
def test_noise_is_drawn_as_frames_and_depends_on_the_seed_alone(kind: str) -> None:
    frames = pictures(4)
    before = frames.copy()
    one, other, third = (NoiseProcess(4, SHAPE, **options(kind), persistence=0.5, seed=seed) for seed in (0, 0, 1))
    for _ in range(3):
        drawn = one.draw(frames)
        assert drawn.shape == frames.shape and drawn.dtype == np.uint8 and (frames == before).all()
        assert (drawn != frames).mean() > 0.5
        assert (drawn == other.draw(frames)).all() and (drawn != third.draw(frames)).any()
        for process in (one, other, third):
            process.step()


@pytest.mark.parametrize("kind", OF_THE_PICTURE)
def test_strength_0_leaves_frames_as_they_are(kind: str) -> None:
    frames = pictures(4)
    process = NoiseProcess(4, SHAPE, **options(kind), persistence=0.5, strength=0.0, seed=0)
    for _ in range(3):
        assert (process.draw(frames) == frames).all()
        process.step()


@pytest.mark.parametrize("kind", OF_THE_PICTURE)
def test_iid_noise_has_no_memory_and_persistent_noise_has(kind: str) -> None:
    def correlation(persistence: float) -> float:
        process = NoiseProcess(500, SHAPE, **options(kind), persistence=persistence, seed=0)
        before = process.state.copy()
        process.step()
        return np.corrcoef(before.ravel(), process.state.ravel())[0, 1]

    assert abs(correlation(0.0)) < 0.1 and 0.3 < correlation(0.5) < 0.7 and correlation(1.0) > 0.9


def at(kind: str, state: list[float], **given: Any) -> NoiseProcess:
    """Noise whose state is given, from -1 to 1, for one image."""
    process = NoiseProcess(1, SHAPE, **options(kind), **given)
    process.state = (np.float32([[state]]) + 1) / 2
    return process


def test_the_camera_shifts_turns_and_zooms() -> None:
    frames = pictures(1)
    shifted = at("camera", [1, -0.5, 0, 0], strength=1.0).draw(frames)  # 8 pixels to the right, 4 up
    assert (shifted[..., :28, 8:] == frames[..., 4:, :24]).all()
    assert (shifted[..., :28, :8] == frames[..., 4:, :1]).all()  # the edge is repeated
    upright = np.zeros((1, *SHAPE), np.uint8)
    upright[..., 15:17] = 200
    turned = at("camera", [0, 0, 1, 0], strength=1.0).draw(upright)[0, 0]
    assert turned[8, 8] != turned[8, 23] and turned[16, 16] > 100  # a diagonal
    small, large = (at("camera", [0, 0, 0, zoom], strength=1.0).draw(upright).sum() for zoom in (0, 1))
    assert small == upright.sum() and large == pytest.approx(1.5 * small, rel=0.1)


def test_color_turns_hues_and_changes_brightness_and_contrast_of_each_channel() -> None:
    red = np.zeros((1, *SHAPE), np.uint8) + np.uint8([228, 28, 28])[:, None, None]

    def drawn(*state: float) -> list[int]:
        return at("color", list(state), strength=1.0).draw(red)[0, :, 0, 0].tolist()

    np.testing.assert_allclose(drawn(2 / 3, 0, 0, 0, 0, 0, 0), [28, 228, 28], atol=1)
    assert drawn(0, 0, 1, -1, 0, 0, 0) == [228, 92, 0]
    assert drawn(0, 0, 0, 0, 1, -1, 0) == [255, 78, 28]


def test_videos_play_to_their_end_and_backwards_again() -> None:
    videos = [np.full((length, *SHAPE), 10 * length, np.uint8) + np.arange(length, dtype=np.uint8)[:, None, None, None]
              for length in (4, 5)]  # fmt: skip
    process = NoiseProcess(50, SHAPE, "video", videos=videos, strength=1.0, seed=0)
    shown = []
    for _ in range(20):
        shown.append(process.draw(np.zeros((50, *SHAPE), np.uint8))[:, 0, 0, 0])
        process.step()
    shown = np.array(shown, int)
    assert set(shown.ravel()) == {40, 41, 42, 43, 50, 51, 52, 53, 54}
    assert np.abs(np.diff(shown, axis=0)).max() == 1 and (shown[:8] == shown[8:16])[:, shown[0] < 50].all()


def test_videos_cover_the_background_that_is_named_or_dark_pixels_or_are_mixed_in() -> None:
    frames = np.zeros((2, *SHAPE), np.uint8)
    frames[:, :, :16] = 100
    given = {"kind": "video", "videos": [np.full((1, *SHAPE), 200, np.uint8)], "seed": 0}
    mixed = NoiseProcess(2, SHAPE, **given, strength=0.25).draw(frames)
    assert (mixed[:, :, :16] == 125).all() and (mixed[:, :, 16:] == 50).all()
    dark = NoiseProcess(2, SHAPE, **given, strength=1.0, background_only=True)
    assert (dark.draw(frames)[:, :, :16] == 100).all() and (dark.draw(frames)[:, :, 16:] == 200).all()
    background = np.zeros((2, 32, 32), bool)
    background[:, :, :5] = True
    assert ((dark.draw(frames, background) == 200).all(1) == background).all()


def test_a_clip_is_part_of_a_file(tmp_path: Path) -> None:
    frames = pictures(6)
    np.save(tmp_path / "frames.npy", frames)
    process = NoiseProcess(1, SHAPE, "video", videos=[Clip(tmp_path / "frames.npy", 2, 5)], strength=1.0, seed=0)
    shown = process.draw(frames[:1])[0]
    assert any((shown == frame).all() for frame in frames[2:5])


def test_dm_control_says_where_its_background_is() -> None:
    video = np.full((1, 3, 40, 40), 255, np.uint8)
    with closing(PixelControl("cheetah_run", image_size=40, frame_stack=2)) as env:
        noisy = Noise(env, kind="video", videos=[video], strength=1.0)
        noisy.reset(seed=0)
        still = np.zeros(env.action_space.shape, np.float32)
        shown = noisy.step(still)[0][3:]
        background = env.background_mask()
        clean = env.step(still)[0][:3]
    assert 0.02 < (~background).mean() < 0.2
    assert (shown[:, background] == 255).all() and (shown[:, ~background] == clean[:, ~background]).all()


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
    """The same environment with the channels last, and optionally a different shape."""

    def __init__(self, env: gym.Env, shape: tuple[int, ...] = (32, 32, 6)) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.moveaxis(observation, 0, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_with_their_channels_last_get_the_same_noise(kind: str) -> None:
    first, last = Noise(Counter(), **options(kind)), Noise(Turned(Counter()), **options(kind))
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


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_has_the_same_noise_whether_it_was_walked_to_or_not(kind: str) -> None:
    """So a resumed run sees the same pictures as an uninterrupted one."""
    noise = {"persistence": 0.5} | options(kind, (3, 20, 20))
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
