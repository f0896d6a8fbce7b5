import numpy as np
import pytest

from rlrep.envs import EpisodeSeeds, make_env


@pytest.fixture(scope="module")
def env() -> EpisodeSeeds:
    return make_env("cup_catch", seed=5, image_size=16)


def test_jumping_to_an_episode_equals_walking_there(env):
    env.reset(seed=5)
    env.step(env.action_space.sample())
    env.reset()
    walked, walked_info = env.reset()
    jumped, jumped_info = make_env("cup_catch", image_size=16).reset(seed=5, options={"episode": 2})
    np.testing.assert_array_equal(jumped, walked)
    np.testing.assert_array_equal(jumped_info.pop("state"), walked_info.pop("state"))
    assert jumped_info == walked_info == {"simulator_steps": 0, "episode_index": 2}


def test_episodes_go_on_from_a_jump(env):
    env.reset(options={"episode": 8})
    assert env.reset()[1]["episode_index"] == 9
    env.next_episode = 3
    assert env.reset()[1]["episode_index"] == 3
    assert env.reset(seed=5)[1]["episode_index"] == 0


def test_seeds_and_episodes_differ(env):
    starts = [env.reset(seed=seed, options={"episode": k})[0] for seed, k in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert len({start.tobytes() for start in starts}) == 4


def test_the_seed_given_at_construction_is_that_of_the_first_reset(env):
    start, info = make_env("cup_catch", seed=5, image_size=16).reset()
    np.testing.assert_array_equal(start, env.reset(seed=5)[0])
    assert info["episode_index"] == 0


def test_negative_numbers_are_named(env):
    with pytest.raises(ValueError, match="seed is -1"):
        env.reset(seed=-1)
    with pytest.raises(ValueError, match="episode is -2"):
        env.reset(options={"episode": -2})
