"""The grid world of arXiv 2403.13765 on minigrid: four rooms from a first-person view, drawn once."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rlrep.envs.arguments import at_least, known_render_mode
from rlrep.envs.noise import Frames, NoiseProcess
from rlrep.extras import install

SIDE = 12  # cells, outer walls included
VIEW = 7  # cells, of the agent's view
TILE = 8  # pixels
LEFT, RIGHT, FORWARD = range(3)
MAX_STEPS = 12
STEP_COST = 0.01
START_DISTANCE = (5, 10)  # moves to the goal
COLOURS = ("red", "blue", "purple", "yellow", "green")


@dataclass(frozen=True)
class GridTable:
    """A complete table of a grid world with S states and 3 actions: left, right, forward.

    Attributes:
        states: (S, 3) int64: x, y in cells and the direction 0..3 (right, down, left, up).
        next_state: (S, 3) int64.
        distance: (S,) int64, moves to the goal; 0 at it.
        frames: (S, 3, 56, 56) uint8, the observation in each state.
    """

    states: npt.NDArray[np.int64]
    next_state: npt.NDArray[np.int64]
    distance: npt.NDArray[np.int64]
    frames: Frames

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """The states that episodes start in."""
        low, high = START_DISTANCE
        return np.flatnonzero((self.distance >= low) & (self.distance <= high))

    def optimal_action(self, state: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """An action that comes nearest to the goal, (N,) for states (N,)."""
        return self.distance[self.next_state[state]].argmin(1)


@lru_cache(maxsize=8)
def grid_table(layout: int = 0) -> GridTable:
    """The grid world whose doors, goal and colours are drawn from the seed `layout`.

    Raises:
        ModuleNotFoundError: without minigrid.
    """
    rooms = _rooms(layout)
    cells = [(x, y) for y in range(SIDE) for x in range(SIDE) if _is_free(rooms, x, y)]
    states = np.array([(x, y, direction) for x, y in cells for direction in range(4)], np.int64)
    number = {tuple(state): i for i, state in enumerate(states.tolist())}
    goal = [number[(*rooms.goal, direction)] for direction in range(4)]
    next_state = np.zeros((len(states), 3), np.int64)
    for i, (x, y, direction) in enumerate(states.tolist()):
        ahead = (x + (1, 0, -1, 0)[direction], y + (0, 1, 0, -1)[direction])
        next_state[i, LEFT] = number[x, y, (direction - 1) % 4]
        next_state[i, RIGHT] = number[x, y, (direction + 1) % 4]
        next_state[i, FORWARD] = number.get((*ahead, direction), i)
    # Channels last in memory, which is fast for convolutions and for drawing noise.
    frames = np.stack([_look(rooms, *state) for state in states.tolist()]).transpose(0, 3, 1, 2)
    return GridTable(states, next_state, _distances(next_state, goal), frames)


class VectorGridWorld:
    """N grid worlds at once from a table, with or without noise: about 25,000 steps/s with noise on one core.

    An episode starts 5 to 10 moves from the goal; it ends at the goal with reward 1 - 0.01, every other step costs
    0.01, and its limit is 12 steps. The same call of `step` restarts finished episodes.

    Args:
        num_envs: N.
        layout: see `grid_table`.
        noise: keyword arguments of `NoiseProcess`, None for none.
        seed: of episodes and noise.
    """

    observation_space = gym.spaces.Box(0, 255, (3, VIEW * TILE, VIEW * TILE), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, num_envs: int, layout: int = 0, noise: dict[str, Any] | None = None, seed: int = 0) -> None:
        self.table = grid_table(at_least(0, layout, "layout"))
        self.num_envs = num_envs = at_least(1, num_envs, "num_envs")
        seed = at_least(0, seed, "seed")
        self.rng = np.random.default_rng(seed)
        shape = self.observation_space.shape
        self.noise = None if noise is None else NoiseProcess(num_envs, shape, seed=seed + 1_000_003, **noise)
        self.state = np.zeros(num_envs, np.int64)
        self.steps = np.zeros(num_envs, np.int64)
        self.reset()

    def reset(self) -> None:
        """Starts new episodes everywhere."""
        self._start(np.ones(self.num_envs, bool))

    def observe(self) -> Frames:
        """The current observations, (N, 3, 56, 56) uint8."""
        frames = self.table.frames.transpose(0, 2, 3, 1)[self.state].transpose(0, 3, 1, 2)
        return frames if self.noise is None else self.noise.draw(frames)

    def step(
        self, action: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Takes actions (N,) in 0..2; returns (reward, terminated, truncated), (N,) each; restarts finished
        episodes."""
        self.state = self.table.next_state[self.state, action]
        self.steps += 1
        terminated = self.table.distance[self.state] == 0
        truncated = ~terminated & (self.steps >= MAX_STEPS)
        if self.noise is not None:
            self.noise.step()
        self._start(terminated | truncated)
        return (terminated - STEP_COST).astype(np.float32), terminated, truncated

    def _start(self, which: npt.NDArray[np.bool_]) -> None:
        self.state[which] = self.rng.choice(self.table.starts, which.sum())
        self.steps[which] = 0
        if self.noise is not None:
            self.noise.reset(which)


class GridWorld(gym.Env[Frames, np.int64]):
    """One grid world as a Gymnasium environment; see `VectorGridWorld` for its rules; the wrapper `Noise` adds noise.

    Observations are uint8 (3, 56, 56), the agent's 7×7 cells at 8 pixels each, looking up. ``info["state"]`` is (x, y,
    direction), int64.

    Args:
        layout: the seed of doors, goal and colours.
        render_mode: "rgb_array" for `render()`, what the agent sees as uint8 (56, 56, 3).

    Raises:
        ValueError: for another render mode, and a layout below 0.
        ModuleNotFoundError: without minigrid.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012  (as gymnasium)
    observation_space = VectorGridWorld.observation_space
    action_space = VectorGridWorld.action_space
    max_episode_steps = MAX_STEPS

    def __init__(self, layout: int = 0, render_mode: str | None = None) -> None:
        self.table = grid_table(at_least(0, layout, "layout"))
        self.render_mode = known_render_mode(render_mode)
        self._state, self._steps = 0, MAX_STEPS

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        """Start an episode, 5 to 10 moves from the goal."""
        super().reset(seed=seed)
        self._state, self._steps = int(self.np_random.choice(self.table.starts)), 0
        return self._observation, self._info

    def step(self, action: np.int64) -> tuple[Frames, float, bool, bool, dict[str, Any]]:
        """Turn left (0) or right (1), or move forward (2).

        Raises:
            ValueError: for another action.
            gymnasium.error.ResetNeeded: before the first reset and after an episode's end.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"the action is {action!r}; expected 0 (left), 1 (right) or 2 (forward)")
        if self._steps >= MAX_STEPS or self.table.distance[self._state] == 0:
            raise gym.error.ResetNeeded("the grid world has no episode to step in: call reset() first")
        self._state, self._steps = int(self.table.next_state[self._state, action]), self._steps + 1
        terminated = bool(self.table.distance[self._state] == 0)
        truncated = not terminated and self._steps >= MAX_STEPS
        return self._observation, float(terminated) - STEP_COST, terminated, truncated, self._info

    def render(self) -> Frames | None:
        """What the agent sees, uint8 (56, 56, 3); None without a render mode."""
        return None if self.render_mode is None else self._observation.transpose(1, 2, 0)

    @property
    def _observation(self) -> Frames:
        return self.table.frames[self._state].copy()

    @property
    def _info(self) -> dict[str, Any]:
        return {"state": self.table.states[self._state].copy()}


def _rooms(layout: int) -> Any:
    """The minigrid environment, with the agent at any place."""
    try:
        from minigrid.core.constants import COLORS, OBJECT_TO_IDX
        from minigrid.core.grid import Grid
        from minigrid.core.mission import MissionSpace
        from minigrid.core.world_object import Goal, Wall, WorldObj
        from minigrid.minigrid_env import MiniGridEnv
        from minigrid.utils.rendering import fill_coords, point_in_rect
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the grid world needs minigrid: {install('minigrid')}") from error

    class Mark(WorldObj):
        """A coloured patch on a dark floor, which makes cells distinguishable."""

        def __init__(self, colour: str) -> None:
            super().__init__("floor", colour)

        def can_overlap(self) -> bool:
            return True

        def encode(self) -> tuple[int, int, int]:
            return OBJECT_TO_IDX["floor"], COLORS_IN_ORDER[self.color], 9  # minigrid caches tiles by it

        def render(self, img: Any) -> Any:
            fill_coords(img, point_in_rect(0.3, 0.8, 0.3, 0.8), COLORS[self.color])

    COLORS_IN_ORDER = {name: i for i, name in enumerate(COLOURS)}

    class Rooms(MiniGridEnv):
        def __init__(self) -> None:
            mission = MissionSpace(mission_func=lambda: "reach the goal")
            super().__init__(mission, grid_size=SIDE, max_steps=MAX_STEPS, agent_view_size=VIEW)

        def _gen_grid(self, width: int, height: int) -> None:
            rng = np.random.default_rng(layout)
            self.grid = Grid(width, height)
            self.grid.wall_rect(0, 0, width, height)
            middle = width // 2 - 1
            doors = rng.integers(1, middle, 2).tolist() + rng.integers(middle + 1, width - 1, 2).tolist()
            for at in range(1, width - 1):
                for x, y in (((middle, at),) if at not in doors[::2] else ()) + (
                    ((at, middle),) if at not in doors[1::2] else ()
                ):
                    self.grid.set(x, y, Wall())
            free = [(x, y) for y in range(height) for x in range(width) if self.grid.get(x, y) is None]
            for x, y in free:
                self.grid.set(x, y, Mark(str(rng.choice(COLOURS))))
            self.goal = free[rng.integers(len(free))]
            self.grid.set(*self.goal, Goal())
            self.agent_pos, self.agent_dir = free[0], 0
            self.mission = "reach the goal"

    rooms = Rooms()
    rooms.reset(seed=layout)
    return rooms


def _is_free(rooms: Any, x: int, y: int) -> bool:
    cell = rooms.grid.get(x, y)
    return cell is None or cell.can_overlap()


def _look(rooms: Any, x: int, y: int, direction: int) -> Frames:
    """The view from a cell, (56, 56, 3), without minigrid's highlight of visible cells: dark floors stay dark."""
    rooms.agent_pos, rooms.agent_dir = (x, y), direction
    view, _ = rooms.gen_obs_grid()
    picture = view.render(TILE, (VIEW // 2, VIEW - 1), 3, np.zeros((VIEW, VIEW), bool))
    return picture


def _distances(next_state: npt.NDArray[np.int64], goal: list[int]) -> npt.NDArray[np.int64]:
    """Moves from each state to the nearest goal state."""
    before: list[list[int]] = [[] for _ in next_state]
    for state, following in enumerate(next_state.tolist()):
        for after in following:
            before[after].append(state)
    distance = np.full(len(next_state), -1, np.int64)
    distance[goal] = 0
    queue = deque(goal)
    while queue:
        state = queue.popleft()
        for earlier in before[state]:
            if distance[earlier] < 0:
                distance[earlier] = distance[state] + 1
                queue.append(earlier)
    return distance
