"""The samples of the replay, compared with complete episodes that are stored separately."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict

from rlrep.replay import ReplayBuffer, ReplayError, storage
from rlrep.replay import episodes as store

GAMMA = 0.9
BOX = spaces.Box(-1, 1, (2,))
DISCRETE = spaces.Discrete(5)


@dataclass
class Episode:
    first_row: int
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False

    def __len__(self) -> int:
        return len(self.actions)


class World:
    """Environments whose frames hold their position, and a replay that stores them."""

    def __init__(self, seed: int = 0, mean_length: float = 6, discrete: bool = False, **options: Any) -> None:
        self.rng = np.random.default_rng(seed)
        self.frame_stack, self.num_envs = options.get("frame_stack", 3), options.get("num_envs", 1)
        self.mean_length, self.discrete = mean_length, discrete
        space = DISCRETE if discrete else BOX
        options = {"capacity": 60, "discount": GAMMA} | options
        self.replay = ReplayBuffer((self.frame_stack, 2, 2), space, **options)
        self.episodes: list[list[Episode]] = [[Episode(0)] for _ in range(self.num_envs)]
        self.rows = [1] * self.num_envs

    def frame(self, env: int, episode: int, t: int) -> np.ndarray:
        return np.array([[env, episode % 256], [episode // 256, t]], np.uint8)

    def observation(self, env: int, episode: int, t: int) -> np.ndarray:
        """An environment's observation: the newest frames; before the first of the episode, that one is repeated."""
        return np.stack([self.frame(env, episode, max(0, t - back)) for back in range(self.frame_stack)][::-1])

    def step(self, count: int = 1, end: str | None = None) -> None:
        for _ in range(count):
            now = [(env, len(self.episodes[env]) - 1, len(self.episodes[env][-1])) for env in range(self.num_envs)]
            action = self.rng.uniform(-1, 1, (self.num_envs, 2)).astype(np.float32)
            if self.discrete:
                action = self.rng.integers(0, 5, self.num_envs)
            reward = self.rng.normal(size=self.num_envs).astype(np.float32)
            ends = self.rng.random(self.num_envs) < 1 / self.mean_length
            terminated = ends & (self.rng.random(self.num_envs) < 0.5)
            if end is not None:
                terminated, ends = np.full(self.num_envs, end == "terminated"), np.full(self.num_envs, end != "no")
            self.replay.add(
                observation=np.stack([self.observation(*at) for at in now]),
                action=action,
                reward=reward,
                next_observation=np.stack([self.observation(env, number, t + 1) for env, number, t in now]),
                terminated=terminated,
                truncated=ends & ~terminated,
            )
            for env in range(self.num_envs):
                episode = self.episodes[env][-1]
                episode.actions.append(action[env])
                episode.rewards.append(float(reward[env]))
                self.rows[env] += 1
                if ends[env]:
                    episode.terminated = bool(terminated[env])
                    self.episodes[env].append(Episode(self.rows[env]))
                    self.rows[env] += 1

    def written(self, env: int) -> int:
        """The number of rows of an environment; an episode's first row is written with its first transition."""
        return self.rows[env] - (len(self.episodes[env][-1]) == 0)

    def starts(self) -> set[tuple[int, int, int]]:
        """Every (environment, episode, t) at which a sample may start."""
        replay, found = self.replay, set()
        window = max(replay.window.n_step, replay.horizon)
        for env, episodes in enumerate(self.episodes):
            oldest = self.written(env) - replay.capacity // self.num_envs
            for number, episode in enumerate(episodes):
                for t in range(len(episode)):
                    held = episode.first_row + t - min(t, self.frame_stack - 1) >= oldest
                    if held and (episode.terminated or t + window <= len(episode)):
                        found.add((env, number, t))
        return found

    def place(self, observation: np.ndarray) -> tuple[int, int, int]:
        (env, low), (high, t) = observation[-1].tolist()
        return env, low + 256 * high, t

    def check(self, batch: TensorDict) -> Counter[tuple[int, int, int]]:
        """Compares every entry of every sample; returns how often each start was drawn."""
        data = {key if isinstance(key, str) else key[-1]: batch[key].numpy() for key in batch.keys(True, True)}
        following = batch["next", "observation"].numpy()
        replay, starts, drawn = self.replay, self.starts(), Counter()
        for i, observation in enumerate(batch["observation"].numpy()):
            env, number, t = at = self.place(observation)
            assert at in starts
            drawn[at] += 1
            episode = self.episodes[env][number]
            n = min(replay.window.n_step, len(episode) - t)
            reward = sum(GAMMA**k * r for k, r in enumerate(episode.rewards[t : t + n]))
            terminated = episode.terminated and t + n == len(episode)
            np.testing.assert_array_equal(observation, self.observation(env, number, t))
            np.testing.assert_array_equal(following[i], self.observation(env, number, t + n))
            np.testing.assert_array_equal(data["action"][i], episode.actions[t])
            assert data["reward"][i] == pytest.approx([reward], rel=1e-5, abs=1e-5)
            assert data["terminated"][i] == [terminated]
            assert data["discount"][i] == pytest.approx([0 if terminated else GAMMA**n])
            if replay.horizon:
                gap = min(replay.horizon, len(episode) - t)
                assert data["gap"][i] == gap
                future = self.observation(env, number, t + gap)
                np.testing.assert_array_equal(data["future_observation"][i], future)
                np.testing.assert_array_equal(data["action_sequence"][i, :gap], episode.actions[t : t + gap])
                assert not data["action_sequence"][i, gap:].any()  # an absorbing state
        return drawn


@pytest.mark.parametrize("horizon", [0, 2, 5])
@pytest.mark.parametrize("n_step", [1, 3, 5])
def test_every_entry_of_every_sample(n_step: int, horizon: int) -> None:
    for frame_stack in range(1, 5):
        discrete = (n_step + horizon + frame_stack) % 2 == 0
        world = World(
            seed=100 * n_step + 10 * horizon + frame_stack,
            discrete=discrete,
            n_step=n_step,
            horizon=horizon,
            frame_stack=frame_stack,
            num_envs=1 + frame_stack % 3,
        )
        for count in (12, 17, 60):  # still filling, just wrapped, wrapped more than once
            world.step(count)
            world.check(world.replay.sample(min(24, len(world.replay))))


def test_batch_has_the_documented_types() -> None:
    world = World(horizon=2)
    world.step(40)
    batch = world.replay.sample(7)
    found = {key: (tuple(batch[key].shape), str(batch[key].dtype)[6:]) for key in batch.keys(True, True)}
    assert found == {
        "observation": ((7, 3, 2, 2), "uint8"),
        "index": ((7,), "int64"),
        "action": ((7, 2), "float32"),
        "action_sequence": ((7, 2, 2), "float32"),
        ("next", "observation"): ((7, 3, 2, 2), "uint8"),
        ("next", "reward"): ((7, 1), "float32"),
        ("next", "terminated"): ((7, 1), "bool"),
        "discount": ((7, 1), "float32"),
        "future_observation": ((7, 3, 2, 2), "uint8"),
        "gap": ((7,), "int64"),
    }
    assert batch.batch_size == (7,)


def test_discrete_actions_stay_integers() -> None:
    world = World(discrete=True, horizon=2)
    world.step(40)
    batch = world.replay.sample(7)
    assert str(batch["action"].dtype) == str(batch["action_sequence"].dtype) == "torch.int64"
    assert batch["action"].shape == (7,) and batch["action_sequence"].shape == (7, 2)


@pytest.mark.parametrize("enumerate_below", [0, 10_000], ids=["by rejection", "from the list"])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_starts_are_drawn_uniformly(enumerate_below: int, num_envs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ENUMERATE_BELOW", enumerate_below)
    world = World(n_step=3, horizon=2, capacity=90, num_envs=num_envs, mean_length=5)
    world.step(100)
    drawn: Counter[tuple[int, int, int]] = Counter()
    for _ in range(150):
        batch = world.replay.sample(32)
        drawn += Counter(world.place(observation) for observation in batch["observation"].numpy())
    starts = world.starts()
    assert set(drawn) == starts
    expected = 150 * 32 / len(starts)
    statistic = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert statistic < len(starts) + 5 * (2 * len(starts)) ** 0.5


def test_rejection_falls_back_where_few_starts_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ENUMERATE_BELOW", 0)
    world = World(n_step=1, horizon=8, capacity=400, mean_length=1.2)
    world.step(200)
    for _ in range(3):
        world.step(1, end="truncated")
        world.check(world.replay.sample(50))


def test_a_real_end_is_sampled_with_discount_zero() -> None:
    world = World(n_step=3, horizon=4, mean_length=1e9)
    world.step(5, end="no")
    world.step(1, end="terminated")
    assert world.starts() == {(0, 0, t) for t in range(6)}
    by_start = {}
    for _ in range(40):
        batch = world.replay.sample(6)
        world.check(batch)
        for i, observation in enumerate(batch["observation"].numpy()):
            by_start[world.place(observation)[2]] = (batch["discount"][i].item(), batch["gap"][i].item())
    assert {t: gap for t, (_, gap) in by_start.items()} == {0: 4, 1: 4, 2: 4, 3: 3, 4: 2, 5: 1}
    kept = {t: round(discount, 4) for t, (discount, _) in by_start.items()}
    assert kept == {0: 0.729, 1: 0.729, 2: 0.729, 3: 0, 4: 0, 5: 0}


def test_a_time_limit_is_not_an_end() -> None:
    world = World(n_step=3, mean_length=1e9)
    world.step(5, end="no")
    world.step(1, end="truncated")
    world.step(4, end="no")
    batch = world.replay.sample(10)
    assert set(world.check(batch)) <= {(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 0), (0, 1, 1)}
    assert not batch["next", "terminated"].any() and (batch["discount"] > 0.7).all()


def test_end_episodes_cuts_without_an_end() -> None:
    world = World(n_step=2, num_envs=2, mean_length=1e9)
    world.step(4, end="no")
    world.replay.end_episodes()
    for env in range(2):
        world.episodes[env].append(Episode(world.rows[env]))
        world.rows[env] += 1
    world.step(4, end="no")
    world.replay.end_episodes()
    assert not world.replay.sample(16)["next", "terminated"].any()
    world.check(world.replay.sample(16))


def test_length_counts_transitions() -> None:
    world = World(capacity=20, n_step=1, frame_stack=1, mean_length=1e9)
    assert len(world.replay) == 0
    world.step(5, end="no")
    assert len(world.replay) == 5
    world.step(1, end="truncated")
    world.step(3, end="no")
    assert len(world.replay) == 9  # in 11 rows
    world.step(30, end="no")
    assert len(world.replay) == 19


def test_errors_before_enough_data() -> None:
    world = World(n_step=3, horizon=5, mean_length=1e9)
    with pytest.raises(ReplayError, match="a batch of 4 needs as many transitions, the replay holds 0"):
        world.replay.sample(4)
    world.step(4, end="no")
    with pytest.raises(ReplayError, match="needs as many transitions, the replay holds 4"):
        world.replay.sample(5)
    with pytest.raises(ReplayError, match=r"no episode .* as long as a sample, 5 steps"):
        world.replay.sample(4)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        world.replay.sample(0)
    world.step(1, end="no")
    world.check(world.replay.sample(4))


def good_transition(num_envs: int = 2, discrete: bool = False) -> dict[str, Any]:
    return {
        "observation": np.zeros((num_envs, 3, 2, 2), np.uint8),
        "action": np.zeros(num_envs, int) if discrete else np.zeros((num_envs, 2), np.float32),
        "reward": np.zeros(num_envs),
        "next_observation": np.zeros((num_envs, 3, 2, 2), np.uint8),
        "terminated": np.zeros(num_envs, bool),
        "truncated": np.zeros(num_envs, bool),
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"observation": np.zeros((2, 3, 2, 3), np.uint8)}, "observations must be uint8 of shape"),
        ({"observation": np.zeros((3, 2, 2), np.uint8)}, "observations must be uint8 of shape"),
        ({"next_observation": np.zeros((2, 3, 2, 2), np.float32)}, "got float32 of shape"),
        ({"action": np.zeros(2, np.float32)}, r"actions must have shape \(2, 2\), got \(2,\)"),
        ({"action": np.full((2, 2), 1.1)}, r"lie in \[-1, 1\], got 1.1 to 1.1: rescale"),
        ({"action": np.array([[0, 0], [0, np.nan]])}, "actions must be finite"),
        ({"reward": np.array([0, np.nan])}, "rewards must be finite"),
        ({"reward": np.array([np.inf, 0])}, "rewards must be finite"),
        ({"reward": np.zeros(3)}, "must hold 2 values, one an environment"),
        ({"terminated": np.zeros(1, bool)}, "must hold 2 values, one an environment"),
    ],
)
def test_bad_transitions_are_refused_and_leave_no_trace(changed: dict[str, Any], message: str) -> None:
    world = World(num_envs=2)
    world.step(20)
    rows = {name: array.copy() for name, array in world.replay.rows.items()}
    frames, state = world.replay.frames.clone(), world.replay.state_dict()
    with pytest.raises(ValueError, match=message):
        world.replay.add(**(good_transition() | changed))
    assert all(np.array_equal(rows[name], world.replay.rows[name]) for name in rows)
    assert frames.equal(world.replay.frames) and state == world.replay.state_dict()
    world.step(20)
    world.check(world.replay.sample(20))


@pytest.mark.parametrize(
    ("action", "message"),
    [([0, 5], r"lie in 0\.\.4, got 0 to 5"), ([-1, 0], r"lie in 0\.\.4"), ([0.5, 1], "must be integers, got float64")],
)
def test_bad_choices_are_refused(action: list[float], message: str) -> None:
    replay = World(num_envs=2, discrete=True).replay
    with pytest.raises(ValueError, match=message):
        replay.add(**(good_transition(discrete=True) | {"action": np.array(action)}))
    assert len(replay) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity must be at least 1, got 0"),
        ({"n_step": 0}, "n_step must be at least 1"),
        ({"horizon": -1}, "horizon must be at least 0"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"reserve": -1}, "reserve must be at least 0"),
        ({"discount": 1.5}, "discount must be at least 0 and at most 1, got 1.5"),
        ({"frame_stack": 2, "observation_shape": (3, 2, 2)}, "with frame_stack=2"),
        ({"capacity": 9, "num_envs": 2, "horizon": 3}, "leaves 4 rows for each of 2 environments, one sample spans 6"),
        ({"storage": "disk"}, "needs a path"),
        ({"storage": "dsk"}, "storage must be 'memory', 'disk' or a torch device"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], message: str) -> None:
    built = {"observation_shape": (3, 2, 2), "action_space": BOX, "capacity": 60} | options
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(**built)


def test_a_transition_of_the_paper_takes_less_than_22_kB(monkeypatch: pytest.MonkeyPatch) -> None:
    # 100,000 transitions take 2.2 GB, but not here: memory that is never written is never used.
    monkeypatch.setattr(storage, "_available_memory", lambda unknown: 10**12)
    replay = ReplayBuffer((9, 84, 84), spaces.Box(-1, 1, (12,)), capacity=1000, frame_stack=3, horizon=3)
    assert replay.nbytes / replay.capacity <= 22_000
    assert replay.frames.numel() == 1000 * 3 * 84 * 84


def test_too_large_for_memory_is_refused_with_the_size() -> None:
    with pytest.raises(ReplayError, match=r"frames take 2116800\.00 GB.*use a disk's \('disk'\)"):
        ReplayBuffer((9, 84, 84), BOX, capacity=10**11)


def test_samplers_of_one_seed_agree() -> None:
    first, second, third = World(), World(), World()
    third.replay.rng = np.random.default_rng(1)
    for world in (first, second, third):
        world.step(50)
    batches = [world.replay.sample(16)["observation"] for world in (first, second, third)]
    assert batches[0].equal(batches[1]) and not batches[0].equal(batches[2])


def test_what_is_sampled_is_a_copy() -> None:
    world = World(horizon=2)
    world.step(50)
    for key, value in world.replay.sample(16).items():
        if key != "next":
            value.zero_()
    world.check(world.replay.sample(16))


def test_a_replay_too_large_for_the_accelerator_says_how_large_and_where_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000_000, 2_000_000_000))
    told = r"take 2\.12 GB, and cuda has 1\.00 GB free: use the host's \('memory'\) or a disk's \('disk'\) as storage"
    with pytest.raises(ReplayError, match=told):
        storage.frame_memory((100_000, 3, 84, 84), torch.device("cuda"))


def test_tensors_of_a_graph_are_taken_as_they_are() -> None:
    replay = ReplayBuffer((3, 2, 2), BOX, 20, n_step=1)
    action = torch.tanh(torch.ones(1, 2, requires_grad=True))
    pixels = torch.full((1, 3, 2, 2), 7, dtype=torch.uint8)
    ended = torch.tensor([False])
    reward = torch.ones(1, requires_grad=True)
    replay.add(
        observation=pixels, action=action, reward=reward, next_observation=pixels, terminated=ended, truncated=ended
    )
    batch = replay.sample(1)
    torch.testing.assert_close(batch["action"], action.detach())
    assert batch["next", "reward"].item() == 1


def one(value: int, shape: tuple[int, ...] = (3, 2, 2)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


def test_a_single_environment_needs_no_leading_axis() -> None:
    for space, action in ((BOX, np.array([0.5, -0.5], np.float32)), (DISCRETE, np.int64(3))):
        replay = ReplayBuffer((3, 2, 2), space, 20, frame_stack=1, n_step=1)
        replay.add(
            observation=one(1),
            action=action,
            reward=1.0,
            next_observation=one(2),
            terminated=False,
            truncated=False,
        )
        batch = replay.sample(1)
        assert (batch["observation"] == 1).all() and (batch["action"].numpy() == action).all()


@pytest.mark.parametrize("num_envs", [1, 2])
def test_pictures_that_are_no_stacks_are_refused(num_envs: int) -> None:
    replay = ReplayBuffer((3, 2, 2), BOX, 40, num_envs=num_envs)
    colours = np.arange(30, dtype=np.uint8).reshape(10, 3)[:, None, :, None, None].repeat(num_envs, 1)
    pictures = np.broadcast_to(colours, (10, num_envs, 3, 2, 2))
    no, action = np.zeros(num_envs, bool), np.zeros((num_envs, 2), np.float32)
    with pytest.raises(ValueError, match=r"3 frames of 1 channel, the newest last. Single pictures need frame_stack=1"):
        for now, after in pairwise(pictures):
            replay.add(
                observation=now,
                action=action,
                reward=np.zeros(num_envs),
                next_observation=after,
                terminated=no,
                truncated=no,
            )
    assert len(replay) == 2 * num_envs


def test_an_episode_without_a_reported_end_is_refused() -> None:
    replay = ReplayBuffer((3, 2, 2), BOX, 40, frame_stack=1)
    told: dict[str, Any] = dict(action=np.zeros(2, np.float32), reward=0.0, terminated=False, truncated=False)
    replay.add(observation=one(1), next_observation=one(2), **told)
    with pytest.raises(ValueError, match="terminated or truncated must have said so"):
        replay.add(observation=one(9), next_observation=one(10), **told)


@pytest.mark.parametrize(("name", "value"), [("action", [["a"]]), ("observation", None), ("observation", [[1]])])
def test_what_holds_no_numbers_is_refused_in_words(name: str, value: Any) -> None:
    replay = ReplayBuffer((3, 4, 4), spaces.Box(-1, 1, (1,)), 20, frame_stack=1, n_step=1)
    frame = np.zeros((3, 4, 4), np.uint8)
    step = dict(observation=frame, action=[0.0], reward=0.0, next_observation=frame, terminated=False, truncated=False)
    with pytest.raises(ValueError, match=r"actions must be numbers|observations must be uint8"):
        replay.add(**(step | {name: value}))  # type: ignore[arg-type]
    for shape in ((3, 0, 4), (3, -4, -4)):
        with pytest.raises(ValueError, match="observation_shape must be"):
            ReplayBuffer(shape, spaces.Box(-1, 1, (1,)), 20, frame_stack=1)
