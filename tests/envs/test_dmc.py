import itertools
import os
import subprocess
import sys
import warnings
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.utils.seeding import np_random
from stable_baselines3.common.env_checker import check_env as stable_baselines3_check_env

from rlrep.envs import TASKS, PixelControl, register_envs
from rlrep.envs.check import compare
from rlrep.envs.opengl import has_gpu

# Common tasks, and unusual ones: unbounded actions, a model that episodes change, a height field, manipulation.
REPRESENTATIVE = {
    "cartpole_swingup",
    "cup_catch",
    "lqr_lqr_2_1",
    "point_mass_hard",
    "quadruped_escape",
    "reach_duplo",
    "walker_walk",
}
EACH_TASK = [pytest.param(task, marks=() if task in REPRESENTATIVE else pytest.mark.slow) for task in sorted(TASKS)]


def play(env: gym.Env, seed: int | None, steps: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """The observations and rewards at the start of an episode, under fixed actions."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    observations, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), np.array(rewards)


def reference(task: tuple[str, str], seed: int):
    """dm_control's own environment, with the same seed as in the first reset of `PixelControl` with `seed`."""
    from dm_control import suite

    first_draw = np_random(seed)[0].integers(2**32, dtype=np.uint32)
    return suite.load(*task, task_kwargs={"random": int(first_draw)})


def test_tasks_are_those_of_the_suite_and_reach_duplo():
    from dm_control import suite

    names = {"_".join(task) for task in suite.ALL_TASKS} - {"ball_in_cup_catch"}
    assert set(TASKS) == names | {"cup_catch", "reach_duplo"}
    assert len(TASKS) == len(set(TASKS))


@pytest.mark.parametrize("task", EACH_TASK)
def test_both_checkers_accept_every_task(task):
    env = gym.make(f"rlrep/{task}-v0", image_size=48).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gymnasium_check_env(env, skip_render_check=True)
        stable_baselines3_check_env(env, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("task", EACH_TASK)
def test_a_seeded_reset_forgets_what_came_before(task):
    used, fresh = PixelControl(task, image_size=16), PixelControl(task, image_size=16)
    play(used, seed=1)
    play(used, seed=None)
    for seed in (7, None):  # the episode of the seed, and the one after it
        for expected, actual in zip(play(fresh, seed), play(used, seed), strict=True):
            np.testing.assert_array_equal(actual, expected)
    used.close()
    fresh.close()


def test_seeds_differ():
    env = PixelControl("cup_catch", image_size=16)
    assert not np.array_equal(play(env, 1)[0], play(env, 2)[0])


@pytest.mark.parametrize(
    ("task", "camera"), [(("walker", "walk"), 0), (("quadruped", "run"), 2)], ids=["walker", "quadruped"]
)
def test_rewards_and_pictures_are_those_of_dm_control(task, camera):
    env = PixelControl("_".join(task), action_repeat=4, rendering="exact")
    theirs = reference(task, seed=3)
    env.reset(seed=3)
    theirs.reset()
    low, high = theirs.action_spec().minimum, theirs.action_spec().maximum
    for action in np.random.default_rng(0).uniform(-1, 1, (3, *env.action_space.shape)).astype(np.float32):
        observation, reward, *_ = env.step(action)
        control = (low + high) / 2 + (high - low) / 2 * action.astype(np.float64)
        assert reward == pytest.approx(sum(theirs.step(control).reward for _ in range(4)), abs=1e-12)
        picture = theirs.physics.render(84, 84, camera_id=camera)
        np.testing.assert_array_equal(observation[-3:].transpose(1, 2, 0), picture)
    env.close()


# A box and capsules, a skin, the most geoms, spheres, hills, cylinders and an ellipsoid, a common task.
@pytest.mark.parametrize(
    "task",
    [
        "cartpole_swingup",
        "dog_fetch",
        "humanoid_CMU_run",
        "lqr_lqr_6_2",
        "quadruped_escape",
        "quadruped_run",
        "walker_walk",
    ],
)
def test_fast_pictures_are_near_the_exact_ones(task):
    assert 0 < compare(task, image_size=84, frames=8).mean_difference < 0.1  # of 255


@pytest.mark.skipif(has_gpu(), reason="without a GPU only")
def test_fast_pictures_take_less_time():
    compared = compare("walker_walk", image_size=84, frames=20)
    assert compared.exact_seconds > 1.5 * compared.fast_seconds  # about 3 times


def test_fast_pictures_are_those_of_the_seed():
    first, second = (play(PixelControl("quadruped_run", rendering="fast"), seed=0)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_hills_keep_their_shadow_map_and_many_geoms_a_finer_one():
    sizes = {}
    for task in ("walker_walk", "humanoid_CMU_run", "quadruped_run", "quadruped_escape"):
        env = PixelControl(task, image_size=16, rendering="fast")
        sizes[task] = env._environment.physics.model.vis.quality.shadowsize
    assert sizes == {"walker_walk": 512, "humanoid_CMU_run": 1024, "quadruped_run": 512, "quadruped_escape": 2048}


def test_the_oldest_frame_comes_first_and_a_reset_repeats_the_first():
    env = PixelControl("cheetah_run", image_size=32, frame_stack=3)
    observations, _ = play(env, seed=0, steps=4)
    first = observations[0]
    assert np.array_equal(first[:3], first[3:6]) and np.array_equal(first[:3], first[6:])
    for before, after in itertools.pairwise(observations):
        np.testing.assert_array_equal(after[:6], before[3:])
        assert not np.array_equal(after[6:], before[6:])


def test_observations_stay_what_they_were():
    env = PixelControl("cartpole_swingup", image_size=16)
    first, _ = env.reset(seed=0)
    first[:] = 7
    second, *_ = env.step(np.ones(1, np.float32))
    assert not (second[:3] == 7).all()


def test_the_time_limit_truncates():
    env = PixelControl("walker_walk", image_size=16, action_repeat=300)
    env.reset(seed=0)
    ends = [env.step(np.zeros(6, np.float32))[2:] for _ in range(4)]
    assert not any(terminated for terminated, _, _ in ends)
    assert [truncated for _, truncated, _ in ends] == [False, False, False, True]
    assert [info["simulator_steps"] for *_, info in ends] == [300, 600, 900, 1000]
    assert env.max_episode_steps == 4
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(np.zeros(6, np.float32))


@pytest.mark.parametrize("task", ["cartpole_swingup", "dog_stand", "reach_duplo"])
def test_info_tells_the_positions_velocities_and_activations_of_the_simulation(task):
    env = PixelControl(task, image_size=16)
    _, first = env.reset(seed=0)
    *_, info = env.step(env.action_space.high)
    data = env._environment.physics.data
    expected = np.concatenate([data.qpos, data.qvel, data.act]).astype(np.float32)
    np.testing.assert_array_equal(info["state"], expected)
    assert info["state"].dtype == first["state"].dtype == np.float32
    assert first["state"].shape == expected.shape and not np.array_equal(first["state"], expected)
    env.close()


def test_the_state_is_of_the_moment_that_the_observation_shows():
    env = PixelControl("cup_catch", image_size=16, frame_stack=1)
    shown, info = env.reset(seed=0)
    kept = info["state"].copy()
    env.step(np.ones(2, np.float32))
    np.testing.assert_array_equal(info["state"], kept)
    with env._environment.physics.reset_context():
        env._environment.physics.set_state(kept)
    assert np.abs(env._draw().astype(int) - shown).max() <= 1
    env.close()


def test_a_real_end_terminates():
    env = PixelControl("lqr_lqr_2_1", image_size=16, action_repeat=10)
    env.reset(seed=0)
    physics = env._environment.physics
    physics.set_state(np.zeros(4))  # lqr ends when nothing moves any more
    physics.forward()
    *_, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert (terminated, truncated, info["simulator_steps"]) == (True, False, 1)


@pytest.mark.parametrize(("task", "steps"), [("lqr_lqr_2_1", np.inf), ("reach_duplo", 125)])
def test_max_episode_steps_knows_every_kind_of_task(task, steps):
    assert PixelControl(task, image_size=16).max_episode_steps == steps


def test_video_pictures_and_their_rate():
    env = gym.make("rlrep/walker_walk-v0", image_size=16, render_mode="rgb_array", render_size=64)
    env.reset(seed=0)
    picture = env.render()
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
    assert env.metadata["render_fps"] == pytest.approx(20)  # 25 ms of simulation, twice
    assert PixelControl("walker_walk", image_size=16).render() is None


def test_an_alias_is_the_same_task():
    assert PixelControl("ball_in_cup_catch", image_size=16).task == "cup_catch"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "walker_wlak"}, "did you mean walker_walk"),
        ({"image_size": 4}, "image_size is 4; expected at least 8"),
        ({"image_size": 84.5}, "image_size must be a whole number, got 84.5"),
        ({"action_repeat": 0}, "action_repeat is 0"),
        ({"frame_stack": 0}, "frame_stack is 0"),
        ({"camera": "roof"}, "no camera is called 'roof'.*'side'"),
        ({"camera": 9}, "no camera is called 9; expected -1 to 1"),
        ({"rendering": "slow"}, "rendering is 'slow'"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PixelControl(**{"task": "walker_walk", **arguments})


@pytest.mark.parametrize(
    ("action", "message"),
    [(np.zeros(5), r"shape \(5,\).*\(6,\)"), (np.full(6, 1.5), "1.5"), (np.full(6, np.nan), "nan")],
    ids=["shape", "range", "nan"],
)
def test_wrong_actions_are_named(action, message):
    env = PixelControl("walker_walk", image_size=16)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action.astype(np.float32))
    env.step(np.full(6, 1 + 5e-7, np.float64))  # rounding errors are allowed


def test_step_needs_a_reset():
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        PixelControl("walker_walk", image_size=16).step(np.zeros(6, np.float32))


def test_gymnasium_makes_them_without_an_import():
    code = "import gymnasium; gymnasium.make('rlrep.envs:rlrep/cup_catch-v0', image_size=16).reset(seed=0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_registering_twice_changes_nothing():
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
    assert gym.registry == before and all(f"rlrep/{task}-v0" in before for task in TASKS)


def check(**variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlrep.envs.check"]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)


def test_egl_is_chosen_where_there_is_no_display():
    code = "from rlrep import envs; from dm_control import suite; envs.PixelControl('cup_catch', image_size=16).reset()"
    unset = {"MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_check_reports_one_line_where_pictures_can_be_drawn():
    result = check()
    assert result.returncode == 0
    assert result.stdout.count("\n") == 1 and "ms a frame" in result.stdout


@pytest.mark.parametrize(
    "variables",
    [
        {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "glx"},  # fails on import
        {"MUJOCO_GL": "disabled"},  # fails when the context is made
    ],
    ids=["import", "context"],
)
def test_check_says_what_to_install_where_none_can(variables):
    result = check(**variables)
    assert result.returncode == 1
    assert "apt-get install libegl1" in result.stderr and "MUJOCO_GL=egl" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_is_loaded_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with closing(PixelControl("cheetah_run", image_size=20)) as env:
        env.reset(seed=0)
    assert caplog.records == []
