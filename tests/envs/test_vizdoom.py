import itertools
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as stable_baselines3_check_env

from rlrep.envs import SCENARIOS, DoomPixels, Noise

pytest.importorskip("vizdoom")
LEFT, RIGHT, SHOOT = range(3)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared():
    """One environment per scenario, because an engine takes a third of a second to start."""
    opened = {scenario: DoomPixels(scenario, image_size=32) for scenario in SCENARIOS}
    yield opened
    for env in opened.values():
        env.close()


@pytest.fixture(params=SCENARIOS)
def env(shared, request):
    return shared[request.param]


def play(env: gym.Env, seed: int | None, steps: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The observations, states and rewards at the start of an episode, under fixed actions."""
    observation, info = env.reset(seed=seed)
    observations, states, rewards = [observation], [info["state"]], []
    for action in np.random.default_rng(0).integers(3, size=steps):
        observation, reward, terminated, _, info = env.step(action)
        observations.append(observation)
        states.append(info["state"])
        rewards.append(reward)
        if terminated:
            break
    return np.array(observations), np.array(states), np.array(rewards)


def play_one(env: gym.Env, steps: int) -> np.ndarray:
    """The observation after so many steps to the left."""
    observation, _ = env.reset(seed=3)
    for _ in range(steps):
        observation, *_ = env.step(LEFT)
    return observation


def entry(env: DoomPixels, info: dict, name: str) -> float:
    return info["state"][env.state_names.index(name)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_checkers_accept_every_scenario(scenario):
    env = gym.make(f"rlrep/vizdoom_{scenario}-v0", image_size=48).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gymnasium_check_env(env, skip_render_check=True)
        stable_baselines3_check_env(env, skip_render_check=True)
    env.close()


def test_what_follows_a_seed_is_the_same_bit_for_bit(env):
    fresh = DoomPixels(env.scenario, image_size=32)
    play(env, seed=1, steps=3)  # an unfinished episode
    for seed in (7, None):  # the episode of the seed, and the one after it
        for expected, actual in zip(play(fresh, seed), play(env, seed), strict=True):
            np.testing.assert_array_equal(actual, expected)
    fresh.close()


def test_seeds_differ(env):
    assert not np.array_equal(play(env, 1)[1], play(env, 2)[1])


def test_shapes_and_types_are_those_promised(env):
    observation, info = env.reset(seed=0)
    assert (observation.shape, observation.dtype) == ((9, 32, 32), np.uint8)
    assert (info["state"].shape, info["state"].dtype) == ((len(env.state_names),), np.float32)
    assert env.action_space == gym.spaces.Discrete(3)


def test_the_oldest_frame_comes_first_and_a_reset_repeats_the_first(env):
    observations = play(env, seed=0, steps=4)[0]
    first = observations[0]
    assert np.array_equal(first[:3], first[3:6]) and np.array_equal(first[:3], first[6:])
    for before, after in itertools.pairwise(observations):
        np.testing.assert_array_equal(after[:6], before[3:])
        assert not np.array_equal(after[6:], before[6:])


def test_observations_and_states_stay_what_they_were(env):
    first, info = env.reset(seed=0)
    before = info["state"].copy()
    kept = first.copy()
    env.step(LEFT)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(info["state"], before)
    first[:] = 7
    assert not (env.step(LEFT)[0][:3] == 7).all()


def test_moving_left_changes_the_players_place_and_what_is_seen_from_there(shared):
    env = shared["basic"]
    for action, side in ((LEFT, 1), (RIGHT, -1)):
        _, first = env.reset(seed=0)
        for _ in range(5):
            *_, info = env.step(action)
        assert side * (entry(env, info, "player_y") - entry(env, first, "player_y")) > 0.05
        assert side * entry(env, info, "player_velocity_y") > 0.05
        assert side * (entry(env, info, "monster_side") - entry(env, first, "monster_side")) < -0.05


def test_the_speed_is_how_fast_the_place_changes(shared):
    env = shared["basic"]
    env.reset(seed=0)
    infos = [env.step(LEFT)[4] for _ in range(6)]
    moved = entry(env, infos[5], "player_y") - entry(env, infos[1], "player_y")
    speeds = [entry(env, info, "player_velocity_y") for info in infos[1:]]
    assert min(speeds) < moved / (16 / 35) < 2 * max(speeds)


def test_a_shot_at_the_monster_ends_basic_and_its_place_is_where_it_is_seen(shared):
    env = shared["basic"]
    returns = []
    for seed in range(5):
        _, info = env.reset(seed=seed)
        returns.append(0.0)
        terminated = truncated = False
        while not (terminated or truncated):
            side = entry(env, info, "monster_side")
            action = SHOOT if abs(side) < 0.04 else LEFT if side > 0 else RIGHT
            observation, reward, terminated, truncated, info = env.step(action)
            returns[-1] += reward
        assert terminated and not truncated
        np.testing.assert_array_equal(observation[6:], env._shrink(env._picture))
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            env.step(LEFT)
    assert np.mean(returns) > 30


def test_turning_left_moves_what_is_seen_to_the_right_by_as_much_of_the_angle(shared):
    env = shared["defend_the_center"]
    for action, side in ((LEFT, 1), (RIGHT, -1)):
        env.reset(seed=0)
        seen, turned = [], []
        for _ in range(2):
            *_, info = env.step(action)
            seen.append(math.atan(entry(env, info, "monster0_side")))
            turned.append(next(t.angle for t in env._game.get_state().objects if t.category == "Self"))
        far = math.remainder(math.radians(turned[1] - turned[0]), 2 * math.pi)
        assert side * far > 0.05 and abs(seen[1] - seen[0] + far) < 0.05  # the monsters walk, a little


def test_what_is_in_view_is_sorted_by_distance_and_nothing_else_is_told(shared):
    env = shared["defend_the_center"]
    _, info = env.reset(seed=2)
    total, counts, terminated = 0.0, [], False
    while not terminated and len(counts) < 150:
        seen, side, nearness = info["state"].reshape(-1, 3).T
        counts.append(int(seen.sum()))
        assert (np.diff(nearness) <= 0).all() and not info["state"].reshape(-1, 3)[counts[-1] :].any()
        assert (np.abs(side) <= 1).all() and (nearness < 1).all()
        labels = [label for label in env._game.get_state().labels if label.object_category == "Monster"]
        assert counts[-1] == min(2, len(labels))
        action = SHOOT if seen[0] and abs(side[0]) < 0.09 else LEFT if side[0] >= 0 else RIGHT
        _, reward, terminated, _, info = env.step(action)
        total += reward
    assert total >= 3 and set(counts) == {0, 1, 2}


def test_a_monster_is_seen_where_the_state_says_and_is_no_background(env):
    info, found = env.reset(seed=1)[1], 0
    for action in np.random.default_rng(1).integers(3, size=60):
        names = dict(zip(env.state_names, info["state"], strict=True))
        side = names.get("monster_side", names.get("monster0_side"))
        if names.get("monster0_seen", 1) and abs(side) < 0.9:
            column = int((1 - side) / 2 * 32)
            found += 1
            assert not env.background_mask()[10:24, max(0, column - 1) : column + 2].all()
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            _, info = env.reset()
    assert found > 20


def test_the_background_is_all_but_monsters_and_the_weapon(env):
    env.reset(seed=0)
    background = env.background_mask()
    assert (background.shape, background.dtype) == ((32, 32), bool)
    assert background[:8].all() and background[:, :4].mean() > 0.9  # the ceiling or sky, and the left edge
    assert not background[29:, 15:17].any()  # the weapon
    assert 0.85 < background.mean() < 0.98


def test_shapes_lie_behind_monsters_and_the_weapon(env):
    shapes = {"num_shapes": 12, "size": 0.5, "persistence": 0.0}
    noisy = Noise(env, **shapes, background_only=True)
    shown = [(play_one(noisy, steps), env.background_mask()) for steps in range(3)]
    for steps, (observation, background) in enumerate(shown):
        clean = play_one(env, steps)
        changed = (observation != clean)[6:].any(0)
        assert not changed[~background].any() and changed[background].mean() > 0.7


def test_death_terminates_and_costs_one(shared):
    env = shared["defend_the_center"]
    env.reset(seed=0)
    total, terminated, truncated, last = 0.0, False, False, None
    while not (terminated or truncated):
        observation, reward, terminated, truncated, info = env.step(LEFT)
        total += reward
        if not terminated:
            last = observation, info["state"]
    assert terminated and not truncated and total == -1
    np.testing.assert_array_equal(observation[6:], last[0][6:])
    np.testing.assert_array_equal(info["state"], last[1])


def test_the_time_limit_truncates_with_a_picture_of_its_own():
    env = DoomPixels("basic", image_size=16, action_repeat=80)
    assert env.max_episode_steps == 4
    env.reset(seed=0)
    steps = [env.step(action) for action in (LEFT, RIGHT, LEFT, RIGHT)]
    assert not any(terminated for _, _, terminated, _, _ in steps)
    assert [truncated for *_, truncated, _ in steps] == [False, False, False, True]
    assert [info["simulator_steps"] for *_, info in steps] == [80, 160, 240, 300]
    assert sum(reward for _, reward, *_ in steps) == -300
    assert not np.array_equal(steps[-1][0][6:], steps[-1][0][3:6])
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(LEFT)
    env.close()
    assert DoomPixels("defend_the_center", image_size=16).max_episode_steps == 2100 / 4


def test_large_frames_are_drawn_large():
    env = DoomPixels("basic", image_size=200, frame_stack=1)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (3, 200, 200)
    assert (np.diff(observation.astype(int), axis=2) != 0).mean() > 0.6  # no pixel was doubled
    env.close()


def test_video_pictures_and_their_rate():
    env = gym.make("rlrep/vizdoom_basic-v0", image_size=16, render_mode="rgb_array", render_size=64, action_repeat=7)
    env.reset(seed=0)
    picture = env.render()
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
    red, _, blue = picture[-20:].reshape(-1, 3).mean(0)
    assert red > blue  # the floor is brown
    assert env.metadata["render_fps"] == 5
    env.close()
    assert DoomPixels("basic", image_size=16).render() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "basics"}, "scenario is 'basics'; expected one of basic, defend_the_center"),
        ({"image_size": 4}, "image_size is 4; expected at least 8"),
        ({"image_size": 84.5}, "image_size must be a whole number, got 84.5"),
        ({"image_size": 961}, "image_size is 961; expected at most 960"),
        ({"action_repeat": 0}, "action_repeat is 0"),
        ({"frame_stack": 0}, "frame_stack is 0"),
        ({"render_size": 2}, "render_size is 2"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DoomPixels(**{"scenario": "basic", **arguments})


@pytest.mark.parametrize("action", [3, -1, 0.5, np.array([0, 1])], ids=str)
def test_wrong_actions_are_named(shared, action):
    env = shared["basic"]
    env.reset(seed=0)
    with pytest.raises(ValueError, match="basic expects 0, 1 or 2"):
        env.step(action)
    env.step(np.array(1))


def test_step_needs_a_reset_and_close_works_twice():
    env = DoomPixels("basic", image_size=16)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(LEFT)
    env.reset()
    env.close()
    env.close()
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(LEFT)


def test_a_missing_vizdoom_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.*\[theory\]'"):
        DoomPixels("basic")


PROGRAM = """
import time
from rlrep.envs import DoomPixels

env = DoomPixels("basic", image_size=16)
env.reset(seed=0)
try:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
        if any(env.step(0)[2:4]):
            env.reset()
except KeyboardInterrupt:
    env.reset(seed=0)
    env.step(1)
    print("usable", flush=True)
"""


@pytest.fixture
def program(tmp_path):
    """The program above, which steps for ever, in its own folder, and the engine's process."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    line = process.stdout.readline()
    assert line == "ready\n", line + process.stdout.read()
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    (engine,) = (int(pid) for file in children for pid in file.read_text().split())
    yield process, engine
    process.kill()
    process.communicate()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "the engine is still running"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_the_engine_ends_with_a_program_that_is_killed_and_leaves_no_files(program, tmp_path):
    process, engine = program
    arguments = Path(f"/proc/{engine}/cmdline").read_text().split("\0")
    instance = arguments[arguments.index("+viz_instance_id") + 1]
    process.kill()
    wait_until_gone(engine)
    assert not list(tmp_path.iterdir())
    assert not list(Path("/dev/shm").glob(f"*{instance}*"))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_ctrl_c_in_a_terminal_leaves_the_engine_usable_and_the_end_leaves_no_files(program, tmp_path):
    process, engine = program
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("usable\n", 0)
    wait_until_gone(engine)
    assert not list(tmp_path.iterdir())
