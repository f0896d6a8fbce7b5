import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from envs import make_vector_env

OPTIONS = {"image_size": 16, "action_repeat": 250}  # four steps an episode


@pytest.fixture(scope="module")
def vector_env():
    env = make_vector_env("cup_catch", 2, seed=3, **OPTIONS)
    yield env
    env.close()


def test_many_run_in_processes_and_share_memory(vector_env):
    assert isinstance(vector_env, AsyncVectorEnv) and vector_env.shared_memory
    observations, _ = vector_env.reset()
    assert (observations.shape, observations.dtype) == ((2, 9, 16, 16), np.uint8)
    assert not np.array_equal(observations[0], observations[1])


def test_an_episode_that_ends_is_followed_by_the_next_in_the_same_step(vector_env):
    vector_env.reset(options={"episode": 0})
    actions = np.zeros((2, 2), np.float32)
    for _ in range(3):
        before, _, terminated, truncated, infos = vector_env.step(actions)
        assert not truncated.any() and "final_obs" not in infos
    after, _, terminated, truncated, infos = vector_env.step(actions)
    assert truncated.all() and not terminated.any()
    assert infos["episode_index"].tolist() == [1, 1]
    for i in range(2):
        np.testing.assert_array_equal(infos["final_obs"][i][:6], before[i][3:])
        assert not np.array_equal(infos["final_obs"][i], after[i])
        np.testing.assert_array_equal(after[i][:3], after[i][6:])  # a reset repeats its frame


def test_each_environment_can_be_set_to_an_episode_of_its_own(vector_env):
    vector_env.set_attr("next_episode", [4, 6])
    assert vector_env.reset()[1]["episode_index"].tolist() == [4, 6]
    assert vector_env.get_attr("next_episode") == (5, 7)


def test_one_runs_here_and_computes_the_same(vector_env):
    alone = make_vector_env("cup_catch", 1, seed=3, **OPTIONS)
    assert isinstance(alone, SyncVectorEnv)
    together, _ = vector_env.reset(options={"episode": 0})
    np.testing.assert_array_equal(alone.reset()[0][0], together[0])
    actions = np.full((2, 2), 0.3, np.float32)
    for _ in range(5):  # past the end of an episode
        theirs, mine = vector_env.step(actions), alone.step(actions[:1])
        for of_two, of_one in zip(theirs[:4], mine[:4], strict=True):
            np.testing.assert_array_equal(of_one[0], of_two[0])


def test_workers_keep_to_one_thread_and_this_process_keeps_its_own(vector_env):
    worker = vector_env.processes[0].pid
    with open(f"/proc/{worker}/environ", "rb") as file:
        assert b"OMP_NUM_THREADS=1" in file.read().split(b"\0")
    assert "OPENBLAS_NUM_THREADS" not in os.environ


@pytest.mark.timeout(60)
@pytest.mark.parametrize("interrupted", [False, True])
def test_close_returns_after_a_worker_died(interrupted):
    env = make_vector_env("cup_catch", 2, seed=0, **OPTIONS)
    env.reset()
    os.kill(env.processes[1].pid, signal.SIGKILL)
    env.processes[1].join()
    if interrupted:
        with pytest.raises((EOFError, OSError)):
            env.step(np.zeros((2, 2), np.float32))
    env.close()
    assert not any(process.is_alive() for process in env.processes)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="num_envs is 0"):
        make_vector_env("cup_catch", 0, seed=0)
    with pytest.raises(ValueError, match="seed is -1"):
        make_vector_env("cup_catch", 1, seed=-1)
    with pytest.raises(ValueError, match="cup_catch"):
        make_vector_env("cup_cathc", 2, seed=0)


def test_gymnasiums_own_processes_do_not_hang():
    """Forked, after the parent has opened OpenGL, as `gymnasium.make_vec` does it."""
    program = (
        "import envs, gymnasium as gym\n"
        "env = gym.make_vec('rlrep/cartpole_swingup-v0', 2, vectorization_mode='async', image_size=16)\n"
        "print(env.reset(seed=0)[0].shape)\n"
        "env.close()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LP_NUM_THREADS"}
    out = subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, capture_output=True, text=True)
    assert out.stdout.strip() == "(2, 9, 16, 16)", out.stderr
