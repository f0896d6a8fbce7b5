"""ViZDoom with pixel observations: the scenarios Basic and Defend the Center."""

from __future__ import annotations

import importlib.util
import math
import operator
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rlrep.envs.arguments import SMALLEST_IMAGE, at_least, known_render_mode
from rlrep.envs.resize import AreaResize
from rlrep.extras import install

_TICS_PER_SECOND = 35
_UNIT = 512.0  # map units
_MONSTERS = 2  # how many monsters the state describes; more are rarely in view
_HEIGHTS = {120: "RES_160X120", 240: "RES_320X240", 480: "RES_640X480", 960: "RES_1280X960"}

# Runs in the engine's process before the engine. Without it, an engine whose parent is killed would wait forever and
# keep the parent's output open, and Ctrl-C in a terminal would end the engine while its parent uses it.
_PREPARE = """
import ctypes, os, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG, SIGKILL = 1, 9
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
os.setsid()
os.execv(sys.argv[1], sys.argv[1:])
"""


class DoomPixels(gym.Env[npt.NDArray[np.uint8], np.int64]):
    """A scenario of ViZDoom observed as a stack of its last pictures.

    - "basic": the player stands at one wall of a room, a monster at the opposite wall: move left, move right, shoot.
      Each tic (1/35 s) costs 1, each shot 5; the shot that kills the monster gives 106 and ends the episode. An episode
      has at most 300 tics.
    - "defend_the_center": monsters come from all sides, at most five at a time: turn left, turn right, shoot, with 26
      rounds. Each kill gives 1; the player's death costs 1 and ends the episode. An episode has at most 2100 tics.

    Observations are uint8 `(frame_stack * 3, image_size, image_size)`, RGB, the oldest frame first; a reset
    repeats the first frame. A frame is the engine's whole 4:3 picture, made square. Actions are 0, 1 and 2, in the
    order above. An action is held for `action_repeat` tics, or until the episode ends; the reward is the sum over them.

    The time limit truncates an episode; any other end terminates it. The engine shows nothing after a termination, so
    the last frame and state of such an episode repeat the previous ones. After `reset(seed=s)`, everything is a
    pure function of `s` and the actions, bit for bit, on one machine.

    `info["simulator_steps"]` counts the tics in this episode, the last action's in full. `info["state"]` is what the
    last pictures show of the state, as the player sees it, float32 `(S,)`; `state_names` names its entries. It lacks
    what no picture shows: monsters out of view, ammunition and health. A monster's side is where it stands in the
    picture, from 1 at the left edge to -1 at the right edge. Lengths are in units of 512 map units: the room of Basic
    is about 1 wide, a new monster of Defend the Center 1.5 away.

    - "basic": `monster_side`, which keeps its last value while the monster is out of view; `player_y`, the player's
      place along the wall, positive to the left, which the other walls show; and `player_velocity_y`, in units per
      second, which two frames together show.
    - "defend_the_center": for each of the two nearest monsters in view, the nearest first: `monster<i>_seen` (0 or 1;
      with 0, all its values are 0), `monster<i>_side`, and `monster<i>_nearness`, 1 / (1 + its distance).

    `background_mask()` says where the newest frame shows only walls, floor and ceiling: no monster, shot or weapon.

    The engine is a separate process. It leaves no files in the working folder, and on Linux it always ends with this
    process.

    Args:
        scenario: one of `SCENARIOS`.
        image_size: height and width of a frame in pixels, 8 to 960; up to 120, the engine draws 160×120.
        action_repeat: how many tics an action is held, at least 1.
        frame_stack: frames in an observation, at least 1.
        render_mode: "rgb_array" for `render()`, the newest frame as uint8 `(render_size, render_size, 3)`.
        render_size: height and width of that picture in pixels, at least 8; it is made from the observation's picture,
            so it is no sharper.

    Raises:
        ValueError: for an unknown scenario or render mode, or a number out of range.
        ModuleNotFoundError: if vizdoom is not installed.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (as gymnasium)
        "render_modes": ["rgb_array"],
        "render_fps": _TICS_PER_SECOND,
    }

    def __init__(
        self,
        scenario: str,
        *,
        image_size: int = 84,
        action_repeat: int = 4,
        frame_stack: int = 3,
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        if scenario not in _SCENARIOS:
            raise ValueError(f"scenario is {scenario!r}; expected one of {', '.join(SCENARIOS)}")
        image_size = at_least(SMALLEST_IMAGE, image_size, "image_size")
        render_size = at_least(SMALLEST_IMAGE, render_size, "render_size")
        self.action_repeat = at_least(1, action_repeat, "action_repeat")
        frame_stack = at_least(1, frame_stack, "frame_stack")
        self.render_mode = known_render_mode(render_mode)
        self.scenario = scenario
        self.state_names, self._read_state = _SCENARIOS[scenario]

        height, resolution = _resolution(image_size)
        self._game, self._tic_limit = _start_game(scenario, resolution)
        self._shrink = AreaResize(height, height * 4 // 3, image_size, image_size)
        self._enlarge = AreaResize(height, height * 4 // 3, render_size, render_size)

        self.action_space = gym.spaces.Discrete(3)
        self.observation_space = gym.spaces.Box(0, 255, (frame_stack * 3, image_size, image_size), np.uint8)
        self.metadata = {**self.metadata, "render_fps": _TICS_PER_SECOND / self.action_repeat}
        self._frames = np.zeros(self.observation_space.shape, np.uint8)
        self._picture = np.zeros((3, height, height * 4 // 3), np.uint8)
        self._things = np.zeros(self._picture.shape[1:], bool)  # true: no background
        self._state = np.zeros(len(self.state_names), np.float32)
        self._simulator_steps = 0
        self._running = False

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """The visible part of the present state, as in ``info["state"]``."""
        return self._state.copy()

    @property
    def max_episode_steps(self) -> int:
        """Steps of this environment until the time limit."""
        return math.ceil(self._tic_limit / self.action_repeat)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Start an episode; with a seed, everything that follows depends only on the seed."""
        super().reset(seed=seed)
        self._game.set_seed(int(self.np_random.integers(2**32, dtype=np.uint32)))
        self._game.new_episode()
        self._state = np.zeros(len(self.state_names), np.float32)
        self._look()
        self._frames = np.concatenate([self._shrink(self._picture)] * (self._frames.shape[0] // 3))
        self._simulator_steps = 0
        self._running = True
        return self._frames.copy(), self._info()

    def step(self, action: np.int64 | int) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Hold an action for `action_repeat` tics.

        Raises:
            ValueError: if the action is not 0, 1 or 2.
            gymnasium.error.ResetNeeded: before the first reset and after an episode's end.
        """
        if not self._running:
            raise gym.error.ResetNeeded(f"{self.scenario} has no episode to step in: call reset() first")
        buttons = [0, 0, 0]
        buttons[self._checked(action)] = 1
        tics = min(self.action_repeat, self._tic_limit - self._simulator_steps)
        reward = float(self._game.make_action(buttons, tics))
        self._simulator_steps += tics
        terminated = bool(self._game.is_episode_finished())
        truncated = not terminated and self._simulator_steps >= self._tic_limit
        self._running = not (terminated or truncated)
        if not terminated:
            self._look()
        self._frames = np.concatenate([self._frames[3:], self._shrink(self._picture)])
        return self._frames.copy(), reward, terminated, truncated, self._info()

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The newest frame, uint8 `(render_size, render_size, 3)`; None without a render mode."""
        return None if self.render_mode is None else self._enlarge(self._picture).transpose(1, 2, 0).copy()

    def background_mask(self) -> npt.NDArray[np.bool_]:
        """Which pixels of the newest frame show nothing but walls, floor, ceiling or sky, bool (H, W)."""
        return self._shrink(self._things[None] * np.uint8(255))[0] == 0

    def close(self) -> None:
        """End the engine; may be called twice."""
        if self._game is not None:
            self._game.close()
        self._game = None
        self._running = False

    def _look(self) -> None:
        now = self._game.get_state()
        self._picture = now.screen_buffer
        self._things = np.isin(now.labels_buffer, [label.value for label in now.labels])
        self._state = np.array(self._read_state(now, self._state), np.float32)

    def _info(self) -> dict[str, Any]:
        return {"simulator_steps": self._simulator_steps, "state": self.state}

    def _checked(self, action: np.int64 | int) -> int:
        try:
            number = operator.index(action)
        except TypeError:
            number = -1
        if not 0 <= number < 3:
            raise ValueError(f"the action is {action!r}; {self.scenario} expects 0, 1 or 2")
        return number


class _Scenario(NamedTuple):
    """The names of a scenario's state entries, and their values from vizdoom's `GameState` and the previous state."""

    state_names: tuple[str, ...]
    read_state: Callable[[Any, npt.NDArray[np.float32]], list[float]]


def _basic_state(now: Any, before: npt.NDArray[np.float32]) -> list[float]:
    player, monsters = _player_and_monsters(now)
    side = monsters[0][1] if monsters else before[_BASIC_NAMES.index("monster_side")]
    return [side, player.position_y / _UNIT, player.velocity_y * _TICS_PER_SECOND / _UNIT]


def _defend_state(now: Any, before: npt.NDArray[np.float32]) -> list[float]:
    _, monsters = _player_and_monsters(now)
    state = [value for distance, side in monsters[:_MONSTERS] for value in (1.0, side, 1 / (1 + distance))]
    return state + [0.0] * (len(_DEFEND_NAMES) - len(state))


def _player_and_monsters(now: Any) -> tuple[Any, list[tuple[float, float]]]:
    """The player, and the distance and side of each monster in view, the nearest first; dead ones do not count."""
    player = next(thing for thing in now.objects if thing.category == "Self")
    cos, sin = math.cos(math.radians(player.angle)), math.sin(math.radians(player.angle))
    monsters = []
    for label in now.labels:
        if label.object_category == "Monster":
            x, y = label.object_position_x - player.position_x, label.object_position_y - player.position_y
            ahead, left = x * cos + y * sin, y * cos - x * sin
            # The view is 90° wide. The middle of a monster at the edge may be outside.
            side = min(1.0, max(-1.0, left / max(ahead, 1.0)))
            monsters.append((math.hypot(x, y) / _UNIT, side))
    return player, sorted(monsters)


_BASIC_NAMES = ("monster_side", "player_y", "player_velocity_y")
_DEFEND_NAMES = tuple(f"monster{i}_{what}" for i in range(_MONSTERS) for what in ("seen", "side", "nearness"))
_SCENARIOS = {
    "basic": _Scenario(_BASIC_NAMES, _basic_state),
    "defend_the_center": _Scenario(_DEFEND_NAMES, _defend_state),
}

SCENARIOS: tuple[str, ...] = tuple(_SCENARIOS)
"""The names of all scenarios."""


def _resolution(image_size: int) -> tuple[int, str]:
    """The height and name of the smallest picture that the engine draws with at least as many rows and columns."""
    for height, name in _HEIGHTS.items():
        if image_size <= height:
            return height, name
    raise ValueError(f"image_size is {image_size}; expected at most {max(_HEIGHTS)}, the engine's largest picture")


def _start_game(scenario: str, resolution: str) -> tuple[Any, int]:
    """A running `vizdoom.DoomGame` without a time limit, and the scenario's limit in tics."""
    if importlib.util.find_spec("vizdoom") is None:
        raise ModuleNotFoundError(f"vizdoom is not installed: {install('theory')}")
    import vizdoom

    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{scenario}.cfg"))
    limit = game.get_episode_timeout()
    game.set_episode_timeout(0)  # the engine would hide the last picture
    game.set_objects_info_enabled(True)
    game.set_labels_buffer_enabled(True)
    game.set_screen_format(vizdoom.ScreenFormat.CRCGCB)
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, resolution))
    game.set_window_visible(False)
    game.set_doom_config_path(os.devnull)
    engine = Path(vizdoom.__file__).parent / "vizdoom"
    with tempfile.TemporaryDirectory(prefix="rlrep-vizdoom-") as folder:  # the engine creates a folder at its start
        launcher = Path(folder) / "launch"
        command = shlex.join([sys.executable, "-ISc", _PREPARE, str(engine)])
        launcher.write_text(f'#!/bin/sh\ncd {shlex.quote(folder)} && exec {command} "$@"\n')
        launcher.chmod(0o700)
        game.set_vizdoom_path(str(launcher))
        game.init()
    for memory in Path("/dev/shm").glob(f"ViZDoom*{game.get_instance_id()}"):
        memory.unlink()  # both processes have it open; otherwise it would stay after a kill
    return game, limit
