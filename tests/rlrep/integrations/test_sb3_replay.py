"""Stable-Baselines3's batches and K-step sequences from frames that are stored once."""

import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from rlrep.integrations.sb3 import SequenceReplayBuffer
from rlrep.integrations.sb3_replay import RolloutSequences, taken
from rlrep.window import ANY_N_STEP, Window
from tests.rlrep.integrations.sb3_environments import Counter


def fill(buffer, env, steps: int, seed: int = 0, reset_at: int = -1) -> None:
    """Fills a replay buffer as `collect_rollouts` does."""
    rng = np.random.default_rng(seed)
    seen = env.reset()
    for step in range(steps):
        if step == reset_at:
            seen = env.reset()
        if isinstance(env.action_space, spaces.Discrete):
            action = rng.integers(3, size=env.num_envs)
        else:
            action = rng.uniform(-1, 1, (env.num_envs, 2)).astype(np.float32)
        after, reward, done, infos = env.step(action)
        last = {name: array.copy() for name, array in after.items()} if isinstance(after, dict) else after.copy()
        for lane in np.flatnonzero(done):
            terminal = infos[lane]["terminal_observation"]
            if isinstance(last, dict):
                for name in last:
                    last[name][lane] = terminal[name]
            else:
                last[lane] = terminal
        buffer.add(seen, last, action, reward, done, infos)
        seen = after


def build(kind, env, size=400, **options):
    return kind(size, env.observation_space, env.action_space, "cpu", env.num_envs, **options)


def rows(samples) -> set[tuple]:
    """Transitions as tuples, which can be compared."""

    def flat(value) -> np.ndarray:
        parts = value.values() if isinstance(value, dict) else [value]
        return np.concatenate([np.asarray(part, np.float64).reshape(len(part), -1) for part in parts], axis=1)

    return {tuple(row) for row in np.concatenate([flat(v) for v in samples if v is not None], axis=1)}


def environment(stack: bool = False, n_envs: int = 2, **options):
    frames = 1 if stack else 2
    env = DummyVecEnv([lambda i=i: Counter(length=5 + i, frames=frames, **options) for i in range(n_envs)])
    return VecFrameStack(env, 2) if stack else env


@pytest.mark.parametrize("timeouts", [True, False])
@pytest.mark.parametrize("kind", ["box", "discrete", "vec_frame_stack"])
def test_batches_hold_the_transitions_of_stable_baselines_own_buffer(kind: str, timeouts: bool) -> None:
    make = dict(stack=kind == "vec_frame_stack", discrete=kind == "discrete")
    ours = build(SequenceReplayBuffer, environment(**make), handle_timeout_termination=timeouts)
    theirs = build(ReplayBuffer, environment(**make), handle_timeout_termination=timeouts)
    for buffer in (ours, theirs):
        fill(buffer, environment(**make), 30)
    samples, reference = ours.sample(600), theirs.sample(600)
    assert rows(samples) == rows(reference)
    for name, value in samples._asdict().items():
        expected = getattr(reference, name)
        assert expected is None or (value.dtype, value.shape) == (expected.dtype, expected.shape), name


@pytest.mark.parametrize("n_steps", [1, 3])
def test_rewards_are_normalised_as_in_stable_baselines_own_buffer(n_steps: int) -> None:
    """Each reward, before several are summed."""
    env = VecNormalize(environment(discrete=True), norm_obs=False, norm_reward=True)
    env.ret_rms.var = 9.0
    theirs = NStepReplayBuffer if n_steps > 1 else ReplayBuffer
    options = {"n_steps": n_steps, "gamma": 0.9} if n_steps > 1 else {}
    buffers = build(SequenceReplayBuffer, env, **options), build(theirs, env, **options)
    for buffer in buffers:
        fill(buffer, environment(discrete=True), 30)
    ours, reference = ({tuple(np.round(row, 4)) for row in rows(buffer.sample(3000, env))} for buffer in buffers)
    assert ours <= reference if n_steps > 1 else ours == reference  # ours does not begin shortly before a time limit
    assert len(ours) > 20


def test_dict_observations_come_back_whole() -> None:
    from stable_baselines3.common.buffers import DictReplayBuffer

    ours, theirs = (build(kind, environment(vectors=True)) for kind in (SequenceReplayBuffer, DictReplayBuffer))
    for buffer in (ours, theirs):
        fill(buffer, environment(vectors=True), 30)
    samples, reference = ours.sample(600), theirs.sample(600)
    ordered = [{key: seen[key] for key in ("gear", "pixels", "speed")} for seen in (samples[0], samples[2])]
    assert rows(samples._replace(observations=ordered[0], next_observations=ordered[1])) == rows(reference)
    assert set(ours.vectors) == {"speed", "gear"}


def count(pixels) -> np.ndarray:
    """10 · episode + step, from the newest frame."""
    return np.asarray(pixels[:, -1, 0, 0], int) - 1


def test_sequences_stay_in_one_episode_and_only_real_ends_cut_them_short() -> None:
    buffer = build(SequenceReplayBuffer, environment(n_envs=1))
    fill(buffer, environment(n_envs=1), 60, reset_at=33)  # in the middle of an episode
    batch = buffer.windows(1000, Window.ahead(3, 3), 0.9, np.random.default_rng(0))
    first, last, gap = count(batch["observation"]), count(batch["future_observation"]), batch["gap"].numpy()
    assert (first // 10 == last // 10).all() and (last - first == gap).all()
    assert set(gap[(first // 10) % 2 == 1]) == {3}, "a window crosses a time limit"
    assert set(gap) == {1, 2, 3}
    assert batch["action_sequence"].shape == (1000, 3, 2)
    whole = gap == 3
    reward = first + 1 + 0.9 * (first + 2) + 0.81 * (first + 3) - (first // 10) * 10 * 2.71
    assert np.allclose(batch["next", "reward"].numpy()[whole, 0], reward[whole], atol=1e-4)


@pytest.mark.parametrize("beside", [Window(), Window(observations=(6,), actions=6, rewards=6)])
def test_a_reward_of_any_n_is_that_of_one_step_whatever_else_the_window_reads(beside: Window) -> None:
    """As in Stable-Baselines3; an objective's loss must not change when another objective is attached."""
    buffer = build(SequenceReplayBuffer, environment(n_envs=1))
    fill(buffer, environment(n_envs=1), 60)
    window = Window(ANY_N_STEP, (3,), actions=3).join(beside)
    batch = buffer.windows(1000, window, 0.9, np.random.default_rng(0))
    first = count(batch["observation"])
    inner = first % 10 < 3  # not at an end
    rewards = buffer.windows(1000, Window(rewards=1), 0.9, np.random.default_rng(0))
    known = dict(zip(count(rewards["observation"]), rewards["sequence", "reward"].numpy()[:, 0, 0], strict=True))
    expected = np.array([known.get(each, np.nan) for each in first])
    assert inner.any() and np.allclose(batch["next", "reward"].numpy()[inner, 0], expected[inner])
    assert np.array_equal(count(batch["next", "observation"])[inner], first[inner] + 1)
    assert np.allclose(batch["discount"].numpy()[inner], 0.9)


def test_sequences_do_not_change_what_the_agent_draws() -> None:
    buffers = [build(SequenceReplayBuffer, environment()) for _ in range(2)]
    for buffer in buffers:
        fill(buffer, environment(), 30)
        buffer.frames.rng = np.random.default_rng(0)
    buffers[0].windows(8, Window.ahead(3, 3), 0.9, np.random.default_rng(0))
    assert (buffers[0].sample(16).observations == buffers[1].sample(16).observations).all()


def test_the_ring_forgets_the_oldest_and_keeps_stacks_whole() -> None:
    buffer = build(SequenceReplayBuffer, environment(), size=40)
    fill(buffer, environment(), 100)
    assert buffer.frames.kept == 20 and buffer.size() <= 40
    samples = buffer.sample(500)
    assert ((count(samples.next_observations) - count(samples.observations)) == 1).all()


def test_a_pickled_buffer_goes_on() -> None:
    buffer = build(SequenceReplayBuffer, environment(vectors=True))
    fill(buffer, environment(vectors=True), 20)
    again = pickle.loads(pickle.dumps(buffer))
    assert rows(again.sample(64)) == rows(buffer.sample(64))
    fill(again, environment(vectors=True), 20)
    assert again.size() == 80


def test_observations_that_are_no_stacks_are_refused_and_kept_whole_with_frame_stack_1() -> None:
    space, actions = spaces.Box(0, 255, (6, 20, 20), np.uint8), spaces.Discrete(2)
    seen = np.random.default_rng(0).integers(0, 256, (2, 1, 6, 20, 20), np.uint8)
    step = (*seen, np.array([1]), np.array([0.5]), np.array([False]), [{}])
    with pytest.raises(ValueError, match="frame_stack"):
        SequenceReplayBuffer(50, space, actions).add(*step)
    buffer = SequenceReplayBuffer(50, space, actions, frame_stack=1)
    buffer.add(*step)
    assert (buffer.sample(1).next_observations.numpy() == seen[1]).all()


def test_a_still_picture_does_not_show_that_stacks_are_guessed_right() -> None:
    """Six grey frames are taken for two of RGB; as long as nothing moves, both fit."""
    space = spaces.Box(0, 255, (6, 20, 20), np.uint8)
    buffer = SequenceReplayBuffer(50, space, spaces.Discrete(2))
    still = np.zeros((1, 6, 20, 20), np.uint8)
    buffer.add(still, still, np.array([1]), np.array([0.5]), np.array([False]), [{}])
    moved = still.copy()
    moved[:, -1] = 9
    again = np.concatenate([moved[:, 1:], still[:, :1]], axis=1)
    with pytest.raises(ValueError, match="no stacks of their last 2 frames of 3 channels"):
        for before, after in ((still, moved), (moved, again)):
            buffer.add(before, after, np.array([1]), np.array([0.5]), np.array([False]), [{}])


def stacked(*counts: int) -> np.ndarray:
    """One stack of frames whose pixels are `counts`, (1, 3·F, 4, 4)."""
    return np.repeat(np.array(counts, np.uint8), 3)[None, :, None, None] + np.zeros((1, 1, 4, 4), np.uint8)


def small(**options) -> SequenceReplayBuffer:
    return SequenceReplayBuffer(50, spaces.Box(0, 255, (9, 4, 4), np.uint8), spaces.Discrete(2), **options)


def store(buffer: SequenceReplayBuffer, before: np.ndarray, after: np.ndarray) -> None:
    buffer.add(before, after, np.array([1]), np.array([0.5]), np.array([False]), [{}])


@pytest.mark.parametrize("first", [(1, 2, 3), (1, 3, 3), (0, 2, 3)])
def test_a_first_stack_with_earlier_frames_is_refused_and_kept_whole_with_frame_stack_1(first) -> None:
    """As of a wrapper that steps inside of `reset`: formed anew, such stacks would show no motion."""
    before, after = stacked(*first), stacked(*first[1:], 4)
    with pytest.raises(ValueError, match="first observation of an episode is a stack with earlier frames"):
        store(small(), before, after)
    buffer = small(frame_stack=1)
    store(buffer, before, after)
    assert (buffer.sample(1).observations.numpy() == before).all()


@pytest.mark.parametrize("first", [(3, 3, 3), (0, 0, 3), (0, 0, 0)])
def test_first_stacks_that_repeat_a_frame_or_are_black_come_back(first) -> None:
    buffer = small()
    before, after = stacked(*first), stacked(*first[1:], 4)
    store(buffer, before, after)
    samples = buffer.sample(1)
    assert (samples.observations.numpy() == before).all() and (samples.next_observations.numpy() == after).all()


def test_a_step_that_stable_baselines_did_not_see_is_left_out() -> None:
    """A callback that ends `learn` keeps the last step from the buffer, and the next `learn` goes on after it."""
    buffer = small()
    store(buffer, stacked(1, 1, 1), stacked(1, 1, 2))
    store(buffer, stacked(1, 1, 2), stacked(1, 2, 3))
    store(buffer, stacked(1, 2, 3), stacked(3, 4, 5))  # from 3 to 5
    assert buffer.size() == 2
    for step in range(5, 8):
        store(buffer, stacked(step - 2, step - 1, step), stacked(step - 1, step, step + 1))
    assert buffer.size() == 5
    samples = buffer.sample(200)
    newest = {tuple(pixels[6, 0, 0].item() for pixels in pair) for pair in zip(*samples[::2][:2], strict=True)}
    assert newest == {(1, 2), (2, 3), (5, 6), (6, 7), (7, 8)}


def test_rewards_of_several_steps_are_summed_and_cut_at_real_ends_only() -> None:
    env = environment(discrete=True)  # the reward counts the steps; odd episodes end by a time limit
    buffer = build(SequenceReplayBuffer, env, n_steps=3, gamma=0.9)
    fill(buffer, env, 40)
    samples = buffer.sample(600)
    first, last = (pixels.numpy()[:, -1, 0, 0] - 1 for pixels in (samples.observations, samples.next_observations))
    step, steps, odd = first % 10, last - first, first // 10 % 2 == 1
    done = samples.dones.numpy()[:, 0]
    assert ((steps == 3) | ((done == 1) & ~odd & (steps < 3))).all() and set(steps) == {1, 2, 3}
    assert not done[odd].any() and done.any()
    expected = sum(np.where(k < steps, 0.9**k * (step + 1 + k), 0) for k in range(3))
    np.testing.assert_allclose(samples.rewards.numpy()[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(samples.discounts.numpy()[:, 0], 0.9**steps, rtol=1e-6)
    assert build(SequenceReplayBuffer, env, n_steps=1).n_steps == 1


def test_while_no_episode_is_as_long_as_n_steps_batches_are_of_one_step() -> None:
    buffer = small(n_steps=3, gamma=0.9)
    store(buffer, stacked(1, 1, 1), stacked(1, 1, 2))
    samples = buffer.sample(4)
    assert samples.rewards.unique().tolist() == [0.5]
    np.testing.assert_allclose(samples.discounts.numpy(), 0.9, rtol=1e-6)
    for step in range(2, 5):
        store(buffer, stacked(max(step - 2, 1), step - 1, step), stacked(step - 1, step, step + 1))
    np.testing.assert_allclose(buffer.sample(50).discounts.numpy(), 0.9**3, rtol=1e-6)


def test_pictures_of_a_batch_are_shifted_each_in_its_own_way() -> None:
    space = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    buffer = SequenceReplayBuffer(50, space, spaces.Discrete(2), shift=2)
    picture = np.broadcast_to(np.arange(64, dtype=np.uint8).reshape(8, 8), (1, 3, 8, 8)).copy()
    store(buffer, picture, picture)
    samples = buffer.sample(200)
    for pixels in (samples.observations, samples.next_observations):
        assert len(torch.unique(pixels, dim=0)) == 25
    assert (samples.observations != samples.next_observations).any()


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (spaces.Box(-1, 1, (4,)), {}, "pixels"),
        (spaces.Box(0, 1, (3, 20, 20), np.float32), {}, "pixels"),
        (spaces.Box(0, 255, (3, 20, 20), np.uint8), {"optimize_memory_usage": True}, "optimize_memory_usage"),
        (spaces.Box(0, 255, (3, 20, 20), np.uint8), {"pixel_key": "camera"}, "camera"),
        (spaces.Box(0, 255, (3, 20, 20), np.uint8), {"frame_stack": 2}, "frame_stack"),
        (spaces.Dict({name: spaces.Box(0, 255, (3, 20, 20), np.uint8) for name in "ab"}), {}, "pixel_key"),
    ],
)
def test_what_it_cannot_keep_is_refused(space, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceReplayBuffer(50, space, spaces.Discrete(2), **options)


@pytest.mark.parametrize("discrete", [True, False])
def test_windows_of_a_rollout_stay_in_one_episode(discrete: bool) -> None:
    env = environment(discrete=discrete)
    rollout = RolloutBuffer(24, env.observation_space, env.action_space, "cpu", n_envs=2)
    seen, begun = env.reset(), np.ones(2, bool)
    rng = np.random.default_rng(0)
    for _ in range(24):
        action = rng.integers(3, size=(2, 1)) if discrete else rng.normal(0, 3, (2, 2)).astype(np.float32)
        after, reward, done, _ = env.step(action[:, 0] if discrete else action)
        rollout.observations[rollout.pos], rollout.actions[rollout.pos] = seen, action
        rollout.rewards[rollout.pos], rollout.episode_starts[rollout.pos] = reward, begun
        rollout.pos += 1
        seen, begun = after, done
    batch = RolloutSequences(rollout, env.action_space, None).windows(500, Window.ahead(3, 3), 0.9, rng)
    first, last = count(batch["observation"]), count(batch["future_observation"])
    assert (last - first == 3).all() and (first // 10 == last // 10).all()
    assert batch["action_sequence"].shape == ((500, 3) if discrete else (500, 3, 2))
    if not discrete:
        assert batch["action"].abs().max() == 1, "actions must be clipped as in the environment, then scaled"
    step = first % 10
    assert np.allclose(batch["next", "reward"].numpy()[:, 0], step + 1 + 0.9 * (step + 2) + 0.81 * (step + 3))


def test_actions_of_a_rollout_are_scaled_once_and_one_that_can_not_vary_is_a_number() -> None:
    space = spaces.Box(np.array([0, 3], np.float32), np.array([1, 3], np.float32))
    np.testing.assert_allclose(taken(np.array([[0.25, 3.0]]), space, False), [[-0.5, -1]])
    np.testing.assert_allclose(taken(np.array([[-0.5, 0.2]]), space, True), [[-0.5, 0.2]])
