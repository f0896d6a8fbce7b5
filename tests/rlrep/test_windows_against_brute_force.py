"""Every entry of every sample equals that of a plain list of all rows, for random rings, episodes and windows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from scipy.stats import chisquare
from tensordict import TensorDict

from rlrep import Gap, ReplayBuffer, Window
from rlrep.data import EpisodeDataset
from rlrep.replay import ReplayError, episodes

Start = tuple[int, int]  # lane and position


@dataclass
class Row:
    """A frame, and the action and reward that followed it, if any."""

    frame: np.ndarray
    step: int
    action: Any = 0
    reward: float = 0.0
    last: bool = True  # no row of this episode follows (yet)
    ended: bool = False  # the row that follows is a real end


@dataclass
class World:
    """Lanes as plain lists of all rows ever written, of which the last `kept` may be read, and a store with the same
    rows.
    """

    rng: np.random.Generator
    frame_stack: int
    discount: float
    kept: int
    lanes: list[list[Row]] = field(default_factory=list)
    store: Any = None
    written: int = 0

    def frame(self) -> np.ndarray:
        """A picture (1, 2, 2) that no other row has."""
        self.written += 1
        return np.array([[[self.written % 251, self.written // 251], [7, 9]]], np.uint8)

    def oldest(self, lane: int) -> int:
        return max(0, len(self.lanes[lane]) - self.kept)

    def left(self, lane: int, position: int) -> int:
        """The number of steps of the episode that follow."""
        count = 0
        while not self.lanes[lane][position + count].last:
            count += 1
        return count

    def priority(self, start: Start) -> float:
        """The number to which the probability of a start is proportional."""
        return (
            float(self.store.rows["priority"][start[0], start[1] % self.store.length])
            if self.store.prioritized
            else 1.0
        )

    def stack(self, lane: int, position: int) -> np.ndarray:
        first = position - self.lanes[lane][position].step
        places = [max(first, position - back) for back in range(self.frame_stack)][::-1]
        assert min(places) >= self.oldest(lane)
        return np.concatenate([self.lanes[lane][place].frame for place in places])

    def can_start(self, lane: int, position: int, window: Window, reach: int) -> bool:
        rows, left = self.lanes[lane], self.left(lane, position)
        row = rows[position]
        first_read = max(position - row.step, position - window.lookback - self.frame_stack + 1)
        if row.step < window.lookback or first_read < self.oldest(lane):
            return False
        steps = min(left, window.span)
        return left >= reach or (steps > 0 and rows[position + steps - 1].ended)

    def starts(self, window: Window, reach: int) -> list[Start]:
        return [
            (lane, position)
            for lane, rows in enumerate(self.lanes)
            for position in range(self.oldest(lane), len(rows))
            if self.can_start(lane, position, window, reach)
        ]

    def reaches(self, window: Window) -> Iterator[tuple[float, int]]:
        """For all gaps that can be drawn: their probability, and how far the window then reaches."""
        drawn = list(dict.fromkeys(offset.drawn for offset in window.observations if isinstance(offset, Gap)))
        for chosen in itertools.product(*(range(1, gap.most + 1) for gap in drawn)):
            probability = 1.0
            for gap, k in zip(drawn, chosen, strict=True):
                uniform, linear = 1 / gap.most, (gap.most + 1 - k) * 2 / (gap.most * (gap.most + 1))
                probability *= linear if gap.linear else uniform
            fixed = [offset for offset in window.observations if isinstance(offset, int)]
            far = [chosen[drawn.index(o.drawn)] + o.plus for o in window.observations if isinstance(o, Gap)]
            yield probability, max(0, window.n_step, window.actions, window.rewards, *fixed, *far)


def random_ring(rng: np.random.Generator, prioritized: bool = False) -> World:
    lanes, frame_stack, discrete = int(rng.integers(1, 4)), int(rng.integers(1, 5)), bool(rng.random() < 0.3)
    kept, reserve = int(rng.integers(25, 45)), int(rng.choice([0, 0, 5, 30]))
    world = World(rng, frame_stack, float(rng.choice([0.5, 0.9, 1.0])), kept, [[] for _ in range(lanes)])
    space = spaces.Discrete(5) if discrete else spaces.Box(-1, 1, (2,))
    world.store = ReplayBuffer(
        (frame_stack, 2, 2),
        space,
        capacity=kept * lanes + int(rng.integers(lanes)),
        frame_stack=frame_stack,
        n_step=int(rng.integers(1, 4)),
        discount=world.discount,
        num_envs=lanes,
        reserve=reserve,
        prioritized=prioritized,
        seed=int(rng.integers(1000)),
    )
    longest = int(rng.choice([4, 12, 60]))
    running = [False] * lanes
    length = [0] * lanes
    for _ in range(int(rng.integers(30, 130))):
        seen, after = [], []
        actions = [int(rng.integers(5)) if discrete else rng.uniform(-1, 1, 2).astype(np.float32) for _ in running]
        rewards = rng.normal(size=lanes).astype(np.float32) + 3  # never 0
        ends = [False] * lanes
        terminated, truncated = np.zeros(lanes, bool), np.zeros(lanes, bool)
        for lane, rows in enumerate(world.lanes):
            if not running[lane]:
                rows.append(Row(world.frame(), 0))
                length[lane], running[lane] = int(rng.integers(1, longest + 1)), True
            seen.append(padded(world, rows))
            row = rows[-1]
            row.action, row.reward, row.last = actions[lane], float(rewards[lane]), False
            ends[lane] = row.step + 1 == length[lane]
            if ends[lane]:
                terminated[lane] = rng.random() < 0.5
                truncated[lane] = not terminated[lane]
                row.ended, running[lane] = bool(terminated[lane]), False
            rows.append(Row(world.frame(), row.step + 1))
            after.append(padded(world, rows))
        world.store.add(
            observation=np.stack(seen),
            action=np.array(actions),
            reward=rewards,
            next_observation=np.stack(after),
            terminated=terminated,
            truncated=truncated,
        )
        if rng.random() < 0.03:  # environments restart, as after a kill
            world.store.end_episodes()
            running = [False] * lanes
    return world


def padded(world: World, rows: list[Row]) -> np.ndarray:
    first = len(rows) - 1 - rows[-1].step
    return np.concatenate([rows[max(first, len(rows) - 1 - back)].frame for back in range(world.frame_stack)][::-1])


def random_video(rng: np.random.Generator) -> World:
    frame_stack, lengths = int(rng.integers(1, 5)), rng.integers(1, 20, 8)
    lengths[:2] = 20
    world = World(rng, frame_stack, 0.99, 10**9, [[]])
    for length in lengths:
        for step in range(length):
            world.lanes[0].append(Row(world.frame(), step, rng.uniform(-1, 1, 2).astype(np.float32), 0, False))
        world.lanes[0][-1].last = True
    rows = world.lanes[0]
    actions = np.stack([row.action for row in rows])
    world.store = EpisodeDataset(
        np.stack([row.frame for row in rows]), lengths, action=actions, frame_stack=frame_stack
    )
    return world


def random_window(rng: np.random.Generator, rewards: bool = True) -> Window:
    most = int(rng.integers(1, 5))
    gap = Gap(most, linear=bool(rng.random() < 0.5))
    choices: list[Any] = [-3, -2, -1, 1, 2, 3, 5, gap, Gap(most, plus=1, linear=gap.linear), Gap(most, plus=2), Gap(2)]
    offsets = [choices[number] for number in rng.permutation(len(choices))[: rng.integers(0, 5)]]
    return Window(
        int(rng.integers(0, 4)) if rewards else 0,
        tuple(dict.fromkeys(offsets)),
        int(rng.integers(0, 5)),
        int(rng.integers(0, 5)) if rewards else 0,
    )


Flat = dict[Any, np.ndarray]


def flattened(batch: TensorDict) -> Flat:
    """The entries of a batch, by name."""
    return {key: batch[key].numpy() for key in batch.keys(include_nested=True, leaves_only=True)}


def check_row(world: World, batch: Flat, i: int, window: Window) -> Start:
    """Compares row i of a batch with the lists; returns where it starts."""
    lane, at = divmod(int(batch["index"][i]), world.store.length)
    rows = world.lanes[lane]
    (position,) = (p for p in range(world.oldest(lane), len(rows)) if p % world.store.length == at)
    left, row = world.left(lane, position), rows[position]
    checked = {"index"}

    def same(key: Any, expected: Any, rtol: float = 0) -> None:
        found, wanted = batch[key][i], np.asarray(expected)
        checked.add(key)
        assert found.shape == wanted.shape, (key, window)
        assert (found == wanted).all() or np.allclose(found, wanted, rtol=rtol, atol=0), (key, window)

    same("observation", world.stack(lane, position))
    same("action", row.action)
    drawn: dict[Gap, set[int]] = {}
    furthest = max(window.n_step, window.actions, window.rewards, 0)
    for offset in window.observations:
        name = str(offset)
        steps = int(batch["steps", name][i])
        if isinstance(offset, Gap):
            possible = {k for k in range(1, offset.most + 1) if min(k + offset.plus, left) == steps}
            drawn[offset.drawn] = drawn.get(offset.drawn, possible) & possible  # one k for all gaps of a kind
            furthest = max(furthest, min(drawn[offset.drawn], default=0) + offset.plus)
        else:
            furthest = max(furthest, offset)
        same(("steps", name), steps if isinstance(offset, Gap) else min(offset, left))
        same(("at", name), world.stack(lane, position + steps))
    assert all(drawn.values()), window
    assert world.can_start(lane, position, window, furthest)
    if len(window.observations) == 1:
        same("future_observation", batch["at", name][i])
        same("gap", steps)
    inside = rows[position : position + left]
    if window.n_step:
        summed = inside[: window.n_step]
        same("discount", [0.0 if summed[-1].ended else world.discount ** len(summed)], rtol=1e-6)
        same(("next", "reward"), [sum(world.discount**k * each.reward for k, each in enumerate(summed))], rtol=1e-5)
        same(("next", "terminated"), [summed[-1].ended])
        same(("next", "observation"), world.stack(lane, position + len(summed)))
    nothing = Row(row.frame, 0, 0 * np.asarray(row.action))
    if window.actions:
        same("action_sequence", [each.action for each in [*inside, *[nothing] * window.actions][: window.actions]])
    if window.rewards:
        taken = [*inside, *[nothing] * window.rewards][: window.rewards]
        same(("sequence", "reward"), [[each.reward] for each in taken])
        same(("sequence", "terminated"), [[each.ended] for each in taken])
        same(("sequence", "valid"), [[k < left] for k in range(window.rewards)])
    assert checked == batch.keys(), window
    return lane, position


def check_samples(world: World, window: Window, batch_size: int = 16, batches: int = 20) -> None:
    """Checks all entries, and that starts are drawn uniformly (or by priority) given the gaps."""
    count = batch_size * batches
    expected: dict[Start, float] = {}
    possible = True
    for probability, reach in world.reaches(window):
        starts = world.starts(window, reach)
        possible &= bool(starts)
        weights = [world.priority(start) for start in starts]
        for start, weight in zip(starts, weights, strict=True):
            expected[start] = expected.get(start, 0) + probability * count * weight / sum(weights)
    if not possible:
        if not any(isinstance(offset, Gap) for offset in window.observations):
            with pytest.raises(ReplayError, match="no episode in the replay is as long"):
                world.store.sample(batch_size, window)
        return
    found = dict.fromkeys(expected, 0)
    for _ in range(batches):
        batch = flattened(world.store.sample(batch_size, window))
        for i in range(batch_size):
            start = check_row(world, batch, i, window)
            assert start in expected, (start, window)
            found[start] += 1
    often = [start for start, number in expected.items() if number >= 5]
    rest = [start for start, number in expected.items() if number < 5]
    observed = [found[start] for start in often] + [sum(found[start] for start in rest)] * bool(rest)
    wanted = [expected[start] for start in often] + [sum(expected[start] for start in rest)] * bool(rest)
    if len(observed) > 1:
        assert chisquare(observed, wanted).pvalue > 1e-5, window


@pytest.fixture(params=["listed", "rejected"])
def drawing(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two ways of drawing starts."""
    if request.param == "rejected":
        monkeypatch.setattr(episodes, "ENUMERATE_BELOW", 0)
    return request.param


@pytest.mark.parametrize("seed", range(8))
def test_rings(seed: int, drawing: str) -> None:
    rng = np.random.default_rng(seed)
    world = random_ring(rng)
    for _ in range(2):
        check_samples(world, random_window(rng))


@pytest.mark.parametrize("seed", range(4))
def test_rings_with_priorities(seed: int, drawing: str) -> None:
    rng = np.random.default_rng(100 + seed)
    world = random_ring(rng, prioritized=True)
    held = [
        lane * world.store.length + position % world.store.length
        for lane, rows in enumerate(world.lanes)
        for position in range(world.oldest(lane), len(rows))
        if not rows[position].last
    ]
    index = rng.choice(held, len(held) // 2, replace=False)
    world.store.update_priority(index, rng.uniform(0.1, 5, len(index)))
    for _ in range(2):
        window = random_window(rng)
        check_samples(world, window if window.span else Window(1))


@pytest.mark.parametrize("seed", range(4))
def test_video(seed: int, drawing: str) -> None:
    rng = np.random.default_rng(200 + seed)
    world = random_video(rng)
    for _ in range(2):
        check_samples(world, random_window(rng, rewards=False))
