from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlrep.envs import GridWorld
from rlrep.envs.gridworld import FORWARD, LEFT, MAX_STEPS, RIGHT, SIDE, VectorGridWorld, _rooms, grid_table


def test_gymnasium_accepts_it_by_name() -> None:
    check_env(gym.make("rlrep/gridworld-v0").unwrapped, skip_render_check=True)


def test_every_state_looks_different() -> None:
    table = grid_table()
    away = table.distance > 0
    assert len(np.unique(table.frames[away].reshape(away.sum(), -1), axis=0)) == away.sum()


def test_the_table_is_minigrids_world() -> None:
    """Random walks in minigrid and in the table see the same cells."""
    table, rooms = grid_table(1), _rooms(1)
    number = {tuple(state): i for i, state in enumerate(table.states.tolist())}
    rng = np.random.default_rng(0)
    state = int(table.starts[0])
    x, y, direction = table.states[state].tolist()
    rooms.agent_pos, rooms.agent_dir = (x, y), direction
    for action in rng.choice([LEFT, RIGHT, FORWARD, FORWARD], 300):
        rooms.step_count = 0
        rooms.step(int(action))
        state = int(table.next_state[state, action])
        assert number[(*map(int, rooms.agent_pos), int(rooms.agent_dir))] == state


def test_optimal_actions_come_one_move_nearer() -> None:
    table = grid_table()
    state = np.flatnonzero(table.distance > 0)
    after = table.next_state[state, table.optimal_action(state)]
    assert (table.distance[after] == table.distance[state] - 1).all()
    assert (table.states[:, :2] > 0).all() and (table.states[:, :2] < SIDE - 1).all()


@pytest.mark.parametrize("layout", range(20))
def test_every_layout_can_be_crossed(layout: int) -> None:
    table = grid_table(layout)
    assert table.distance.min() == 0 and len(table.starts) > 50


def test_the_optimal_policy_reaches_every_goal_in_time() -> None:
    world = VectorGridWorld(50, seed=3)
    reward = np.zeros(50)
    first = world.table.distance[world.state].copy()
    assert first.min() >= 5 and first.max() <= 10
    ended = np.zeros(50, bool)
    for _ in range(MAX_STEPS):
        step_reward, terminated, truncated = world.step(world.table.optimal_action(world.state))
        reward += step_reward * ~ended
        assert not (truncated & ~ended).any()
        ended |= terminated
    assert ended.all()
    np.testing.assert_allclose(reward, 1 - 0.01 * first, atol=1e-6)


def test_episodes_end_after_12_moves_and_start_anew() -> None:
    world = VectorGridWorld(8, seed=0, noise={"num_shapes": 2})
    assert world.noise is not None
    for step in range(1, 2 * MAX_STEPS + 1):
        before = world.noise.state.copy()
        _, terminated, truncated = world.step(np.full(8, LEFT))
        assert (truncated == (step % MAX_STEPS == 0)).all() and not terminated.any()
        far = np.abs(world.noise.state - before)[..., :2]
        drawn_afresh = (np.minimum(far, 1 - far) > 0.11).any()
        assert drawn_afresh == truncated.any()


def test_the_single_and_the_vector_environment_agree() -> None:
    env = GridWorld()
    observation, info = env.reset(seed=0)
    world = VectorGridWorld(1, seed=0)
    world.state[:] = env._state
    assert (world.observe()[0] == observation).all()
    for action in (FORWARD, LEFT, FORWARD, RIGHT):
        observation, reward, _, _, info = env.step(np.int64(action))
        rewards, _, _ = world.step(np.array([action]))
        assert (world.observe()[0] == observation).all() and rewards[0] == pytest.approx(reward)
        assert (info["state"] == world.table.states[world.state[0]]).all()


def test_misuse_is_refused() -> None:
    env = GridWorld()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.int64(0))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected 0"):
        env.step(np.int64(3))
    with pytest.raises(ValueError, match="render_mode"):
        GridWorld(render_mode="human")
