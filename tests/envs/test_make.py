import sys
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest

from rlrep.envs import (
    TASKS,
    GridWorld,
    NoiseProcess,
    PixelControl,
    environment_spec,
    make_env,
    make_vector_env,
    max_episode_steps,
    pixel_env,
    task_name,
)
from rlrep.envs.resize import AreaResize
from rlrep.extras import install
from tests.envs.foreign import HEIGHT, WIDTH, foreign, registered

NOISE = {"kind": "shapes", "persistence": 1.0}


@pytest.fixture
def tiny():
    with registered("test/Tiny-v0", foreign(), max_episode_steps=7) as name:
        yield name


def test_a_short_name_and_its_id_are_one_task_and_other_ids_stay():
    for typed in ("walker_walk", "rlrep/walker_walk-v0"):
        assert task_name(typed) == "walker_walk"
        assert environment_spec(typed).id == "rlrep/walker_walk-v0"
    assert task_name("rlrep/vizdoom_basic-v0") == "vizdoom_basic"
    assert task_name("CarRacing-v3") == "CarRacing-v3"


def test_a_package_that_is_typed_is_imported_and_one_that_was_read_is_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_package.py").write_text(
        "import gymnasium\ngymnasium.register('Theirs-v0', entry_point='gymnasium.envs.box2d:CarRacing')\n"
    )
    for read in (environment_spec, pixel_env, make_env):
        with pytest.raises(ValueError, match="unknown task 'their_package:Theirs-v0'"):
            read("their_package:Theirs-v0")
    assert "their_package" not in sys.modules
    try:
        assert task_name("their_package:Theirs-v0") == "Theirs-v0"
        assert environment_spec("Theirs-v0").id == "Theirs-v0"
    finally:
        gym.registry.pop("Theirs-v0", None)
        sys.modules.pop("their_package", None)


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("walker_wlak", "did you mean walker_walk"),
        ("CarRacing-v2", "did you mean CarRacing-v3"),
        ("CarRacing", "did you mean CarRacing-v3"),
        ("Pendulum", "did you mean Pendulum-v1"),
        ("", "PACKAGE:ID"),
        ("a b", "unknown task 'a b'"),
    ],
)
def test_an_unknown_task_is_answered_with_the_nearest(task, told):
    with pytest.raises(ValueError, match=told):
        task_name(task)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    for package in ("no_such_package", ".relative", "a:b"):
        with pytest.raises(ModuleNotFoundError, match=f"{package} of task '{package}:Thing-v0' cannot be imported"):
            task_name(f"{package}:Thing-v0")
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ModuleNotFoundError, match=r"ALE/Pong-v99 needs .*\[gymnasium\]'"):
        task_name("ALE/Pong-v99")
    with (
        registered("test/Broken-v0", "no_such_package.envs:Thing") as name,
        pytest.raises(ModuleNotFoundError, match=r"test/Broken-v0 needs a package .*no_such_package"),
    ):
        make_env(name)


def test_our_own_environments_are_the_same_to_the_pixel_by_id_and_by_class():
    options = {"image_size": 20, "action_repeat": 5, "frame_stack": 2, "camera": 1, "rendering": "exact"}
    with closing(pixel_env("cup_catch", **options)) as made, closing(PixelControl("cup_catch", **options)) as direct:
        np.testing.assert_array_equal(made.reset(seed=3)[0], direct.reset(seed=3)[0])
        for _ in range(2):
            action = np.full(2, 0.5, np.float32)
            for one, other in zip(made.step(action)[:4], direct.step(action)[:4], strict=True):
                np.testing.assert_array_equal(one, other)
        assert max_episode_steps(made) == direct.max_episode_steps == 200
        assert made.metadata["render_fps"] == direct.metadata["render_fps"]


@pytest.mark.parametrize(
    "pixels", [(HEIGHT, WIDTH, 3), (3, HEIGHT, WIDTH), None, (HEIGHT, WIDTH, 1), (1, HEIGHT, WIDTH), (HEIGHT, WIDTH)]
)
def test_pictures_of_every_layout_and_rendered_ones_become_the_same_square(pixels):
    with registered("test/Any-v0", foreign(pixels)) as name:
        env = pixel_env(name, image_size=12, frame_stack=1)
        observation, info = env.reset(seed=0)
        theirs = env.unwrapped.picture
    assert info == {} and env.observation_space.contains(observation) and observation.shape == (3, 12, 12)
    if pixels is not None and 3 not in pixels:
        theirs = theirs[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(observation, AreaResize(HEIGHT, WIDTH, 12, 12)(theirs.transpose(2, 0, 1)))


@pytest.mark.parametrize("pixels", [(4, 4, 3), (HEIGHT, WIDTH, 4), (3, HEIGHT, 3), (12, HEIGHT, WIDTH)])
def test_what_is_no_single_picture_is_not_taken_for_one(pixels):
    with (
        registered("test/Any-v0", foreign(pixels, render_modes=())) as name,
        pytest.raises(ValueError, match=r"test/Any-v0 shows no pictures: .* does not render 'rgb_array'"),
    ):
        pixel_env(name)


def test_frames_are_stacked_oldest_first_and_a_reset_repeats_the_first(tiny):
    env = pixel_env(tiny, image_size=20, frame_stack=3)
    first, _ = env.reset(seed=0)
    assert np.array_equal(first[:3], first[3:6]) and np.array_equal(first[:3], first[6:])
    kept = first.copy()
    second, *_ = env.step(np.ones(2, np.float32))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second[:6], first[3:])
    assert not np.array_equal(second[6:], second[3:6])


def test_actions_in_the_unit_box_reach_the_environments_own_bounds_and_never_leave_them(tiny):
    env = pixel_env(tiny)
    assert env.action_space == gym.spaces.Box(-1, 1, (2,), np.float32)
    env.reset(seed=0)
    for action in ([-1, -1], [1, 1], [0, 0.5], [1 + 1e-6, -1 - 1e-6]):
        env.step(np.float32(action))
    np.testing.assert_allclose(env.unwrapped.taken, [[0, -2], [4, 2], [2, 1], [4, -2]])
    assert all(action.dtype == np.float32 for action in env.unwrapped.taken)


def test_an_action_is_held_rewards_are_summed_and_only_the_last_step_is_drawn():
    with registered("test/Vector-v0", foreign(None), max_episode_steps=7) as name:
        env = pixel_env(name, action_repeat=3, bonus=0.5)
    env.reset(seed=0)
    drawn = env.unwrapped.drawn
    ends = [env.step(np.zeros(2, np.float32))[1:4] for _ in range(3)]
    assert ends == [(4.5, False, False), (4.5, False, False), (1.5, False, True)]
    assert env.unwrapped.drawn == drawn + 3
    assert max_episode_steps(env) == 3 and env.metadata["render_fps"] == pytest.approx(20 / 3)


def test_limits_come_from_the_spec_from_the_environment_or_from_an_option(tiny):
    assert max_episode_steps(pixel_env(tiny, action_repeat=2)) == 4
    assert max_episode_steps(pixel_env(tiny, max_episode_steps=20)) == 20
    with registered("test/Endless-v0", foreign()) as endless:
        assert max_episode_steps(pixel_env(endless, action_repeat=2)) == np.inf
    with closing(make_env("cup_catch", image_size=16, max_episode_steps=3)) as env:
        env.reset()
        assert max_episode_steps(env) == 3
        assert [env.step(np.zeros(2, np.float32))[3] for _ in range(3)] == [False, False, True]


def test_an_episode_is_a_function_of_the_seed_and_its_number(tiny):
    env, other = (make_env(tiny, seed=5, image_size=16, noise=NOISE) for _ in range(2))
    env.reset()
    walked, info = env.reset()
    jumped, other_info = other.reset(options={"episode": 1})
    np.testing.assert_array_equal(walked, jumped)
    np.testing.assert_array_equal(info["noise"], other_info["noise"])
    assert not np.array_equal(walked, env.reset()[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera": 1}, "camera is 1, but test/Tiny-v0 has no choice of cameras"),
        ({"camera": "side"}, "camera is 'side', but test/Tiny-v0 has no choice of cameras"),
        ({"rendering": "fast"}, "rendering is 'fast', but test/Tiny-v0 has no choice"),
        ({"colour": 1}, "test/Tiny-v0 refuses its options .*colour"),
        ({"image_size": 4}, "image_size is 4; expected at least 8"),
        ({"action_repeat": 0}, "action_repeat is 0"),
        ({"frame_stack": 0}, "frame_stack is 0"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
    ],
)
def test_options_that_an_environment_does_not_have_are_refused_by_name(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        make_env(tiny, **options)


@pytest.mark.parametrize(
    ("bases", "camera", "expected"),
    [(1, "track", {"camera_name": "track"}), (1, 2, {"camera_id": 2}), (0, 2, None)],
)
def test_cameras_of_gymnasiums_mujoco_environments_go_by_name_or_number(bases, camera, expected):
    given = {}

    class Base(foreign()):
        def __init__(self, camera_id=None, camera_name=None, **options):
            super().__init__(**options)
            given.update({k: v for k, v in [("camera_id", camera_id), ("camera_name", camera_name)] if v is not None})

    class Task(Base if bases else foreign()):
        def __init__(self, **options):
            super().__init__(**options)

    with registered("test/Mujoco-v0", Task) as name:
        if expected is None:
            with pytest.raises(ValueError, match="no choice of cameras"):
                make_env(name, camera=camera)
        else:
            make_env(name, camera=camera)
            assert given == expected


@pytest.mark.parametrize(
    "space", [gym.spaces.Box(-np.inf, np.inf, (2,)), gym.spaces.Box(np.float32([0, 1]), np.float32([1, 1]))]
)
def test_actions_without_bounds_are_refused(space):
    with (
        registered("test/Unbounded-v0", foreign(action_space=space)) as name,
        pytest.raises(ValueError, match="without a lower and a higher bound they cannot be scaled"),
    ):
        make_env(name)


def test_discrete_actions_stay_as_they_are():
    with registered("test/Discrete-v0", foreign(action_space=gym.spaces.Discrete(4))) as name:
        env = make_env(name, seed=0, action_repeat=2)
    env.reset()
    env.step(np.int64(3))
    assert env.action_space == gym.spaces.Discrete(4) and env.unwrapped.taken == [3, 3]


def test_without_noise_a_film_shows_the_environments_picture(tiny):
    env = make_env(tiny, seed=0, render_mode="rgb_array")
    env.reset()
    np.testing.assert_array_equal(env.render(), env.unwrapped.picture)


def test_with_noise_a_film_shows_beside_it_what_the_agent_sees(tiny):
    env = make_env(tiny, seed=0, image_size=10, render_mode="rgb_array", noise=NOISE)
    observation, _ = env.reset()
    for _ in range(2):
        film = env.render()
        assert film.shape == (HEIGHT, WIDTH + HEIGHT, 3)
        np.testing.assert_array_equal(film[:, :WIDTH], env.unwrapped.picture)
        seen = observation[-3:].transpose(1, 2, 0).repeat(3, axis=0).repeat(3, axis=1)
        np.testing.assert_array_equal(film[:, WIDTH:], seen)
        observation, *_ = env.step(np.ones(2, np.float32))


def test_noise_on_our_own_environments_is_filmed_too():
    with closing(make_env("cup_catch", seed=0, image_size=16, render_mode="rgb_array", noise=NOISE)) as env:
        observation, _ = env.reset()
        film = env.render()
        np.testing.assert_array_equal(film[:, :256], env.unwrapped.render())
        np.testing.assert_array_equal(film[8::16, 256 + 8 :: 16], observation[-3:].transpose(1, 2, 0))


def test_an_environment_that_renders_nothing_is_filmed_as_the_agent_sees_it():
    with registered("test/Dark-v0", foreign(render_modes=())) as name:
        env = make_env(name, seed=0, image_size=16, render_mode="rgb_array")
    observation, _ = env.reset()
    np.testing.assert_array_equal(env.render()[8::16, 8::16], observation[-3:].transpose(1, 2, 0))


@pytest.mark.timeout(120)
def test_processes_make_what_only_this_one_has_registered_and_compute_the_same(tiny):
    options = {"seed": 3, "image_size": 16, "action_repeat": 2, "noise": NOISE}
    with (
        closing(make_vector_env(tiny, 2, **options)) as there,
        closing(make_vector_env(tiny, 2, processes=False, **options)) as here,
    ):
        np.testing.assert_array_equal(here.reset()[0], there.reset()[0])
        for _ in range(5):  # past the end of an episode
            actions = np.full((2, 2), 0.5, np.float32)
            for one, other in zip(here.step(actions)[:4], there.step(actions)[:4], strict=True):
                np.testing.assert_array_equal(one, other)
        assert here.get_attr("next_episode") == there.get_attr("next_episode") == (2, 2)


def test_the_grid_world_takes_the_same_options():
    pytest.importorskip("minigrid")
    env = make_env("gridworld", seed=0, image_size=84, frame_stack=2, action_repeat=2, layout=1)
    observation, info = env.reset()
    assert observation.shape == (6, 84, 84) and info["state"].shape == (3,) and max_episode_steps(env) == 6


def test_minigrids_own_environments_are_rendered():
    pytest.importorskip("minigrid")
    with closing(make_env("MiniGrid-Empty-5x5-v0", seed=0, image_size=20, tile_size=4)) as env:
        observation, _ = env.reset()
        assert observation.shape == (9, 20, 20) and observation.any()


def test_vizdooms_own_environments_are_rendered(tmp_path, monkeypatch):
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)  # it leaves a file in the working folder
    with closing(make_env("VizdoomBasic-v1", seed=0, image_size=20, frame_stack=1)) as env:
        observation, _ = env.reset()
        assert observation.shape == (3, 20, 20) and len(np.unique(observation)) > 10


def test_atari_is_seen_as_it_draws_itself():
    pytest.importorskip("ale_py")
    with closing(make_env("ALE/Pong-v5", seed=0, image_size=42, frame_stack=1, max_episode_steps=9)) as env:
        observation, _ = env.reset()
        assert observation.shape == (3, 42, 42) and len(np.unique(observation)) > 10
        assert env.action_space == gym.spaces.Discrete(6) and max_episode_steps(env) == 9


def test_car_racing_is_seen_as_it_draws_itself():
    pytest.importorskip("Box2D")
    with closing(make_env("CarRacing-v3", seed=0, image_size=96, frame_stack=1, action_repeat=2)) as env:
        observation, _ = env.reset()
        np.testing.assert_array_equal(observation, env.unwrapped.state.transpose(2, 0, 1))
        env.step(env.action_space.sample())
        assert max_episode_steps(env) == 500 and env.metadata["render_fps"] == 25


def test_all_our_short_names_are_known():
    assert all(environment_spec(task).namespace == "rlrep" for task in (*TASKS, "ball_in_cup_catch", "gridworld"))


def test_a_package_that_gymnasiums_environments_lack_is_an_error_with_the_extra(monkeypatch):
    def missing(entry_point):
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr("rlrep.envs.make.load_env_creator", missing)
    with pytest.raises(ModuleNotFoundError) as raised:
        pixel_env("CarRacing-v3")
    assert str(raised.value).endswith(f"(Box2D is not installed): {install('gymnasium')}")


@pytest.mark.parametrize("wrong", [True, 1.0, "1"])
def test_checked_numbers_are_checked_numbers(wrong):
    given = wrong
    for name in ("image_size", "frame_stack", "action_repeat"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number, got {given!r}"):
            make_env("cartpole_balance", **{name: given})
    with pytest.raises(ValueError, match="seed must be a whole number"):
        make_env("cartpole_balance", seed=given)
    with pytest.raises(ValueError, match="num_envs must be a whole number"):
        make_vector_env("cartpole_balance", given, seed=1)
    with pytest.raises(ValueError, match="num_shapes must be a whole number"):
        NoiseProcess(1, (3, 20, 20), num_shapes=given)
    with pytest.raises(ValueError, match="layout must be a whole number"):
        GridWorld(layout=given)
