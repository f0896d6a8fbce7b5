"""The maker of environments: any Gymnasium id, with stacks of square pictures and actions in [-1, 1]."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Container
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.spaces import Box
from gymnasium.wrappers import (
    AddRenderObservation,
    FrameStackObservation,
    RepeatAction,
    RescaleAction,
    ReshapeObservation,
    TimeLimit,
    TransformAction,
    TransformObservation,
)

from rlrep.envs.arguments import SMALLEST_IMAGE, at_least, known_render_mode
from rlrep.envs.episode_seeds import EpisodeSeeds
from rlrep.envs.noise import Noise
from rlrep.envs.resize import AreaResize
from rlrep.extras import install

Frames = npt.NDArray[np.uint8]

# Packages that register environments at their import, by the start of the ids.
_REGISTERED_BY = {
    "ALE/": "ale_py",
    "MiniGrid-": "minigrid",
    "BabyAI-": "minigrid",
    "Vizdoom": "vizdoom.gymnasium_wrapper",
}

# The extra that installs the dependencies of environments, by the start of their module's name.
_EXTRAS = {"gymnasium.": "gymnasium", "ale_py": "gymnasium", "minigrid": "minigrid", "vizdoom": "theory"}

_USUAL_FPS = 30  # for environments that state none
_FILM_SIZE = 256  # pixels, for environments that draw no picture


def task_name(task: str) -> str:
    """The name under which configurations store a task that a user typed.

    Args:
        task: `walker_walk`, short for `rlrep/walker_walk-v0`; the id of any Gymnasium environment, `CarRacing-v3`; or
            `PACKAGE:ID`, which imports the package that registers the id. Never pass text from a file: the file would
            choose what is imported.

    Returns:
        `walker_walk` also for `rlrep/walker_walk-v0`; ids without the package.

    Raises:
        ValueError: for an unknown task, with the nearest known names.
        ModuleNotFoundError: if there is no such package.
    """
    package, _, name = task.rpartition(":")
    if package:
        try:
            importlib.import_module(package)
        except (ImportError, TypeError) as error:  # a TypeError for names that start with a dot
            raise ModuleNotFoundError(f"{package} of task {task!r} cannot be imported: {error}") from error
    environment_spec(name)
    short = name.removeprefix("rlrep/").removesuffix("-v0")
    return short if name == _full(short) else name


def environment_spec(task: str) -> EnvSpec:
    """Gymnasium's spec of a task.

    Args:
        task: a short name such as `walker_walk`, or an id.

    Raises:
        ValueError: for an unknown task, with the nearest known names.
        ModuleNotFoundError: if the package that registers it is not installed.
    """
    for name in (_full(task), task):
        if name in gym.registry:
            return gym.registry[name]
    package = next((package for start, package in _REGISTERED_BY.items() if task.startswith(start)), None)
    if package is not None:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise _not_installed(task, package, error) from error
    if task in gym.registry:
        return gym.registry[task]
    short = [name.removeprefix("rlrep/").removesuffix("-v0") for name in gym.registry if name.startswith("rlrep/")]
    near = difflib.get_close_matches(task, [*short, *gym.registry], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see rlrep.envs.TASKS and gymnasium.pprint_registry()."
    raise ValueError(
        f"unknown task {task!r}: {hint} If another package registers it, name the package too, PACKAGE:ID, where tasks "
        f"are typed"
    )


def make_env(task: str | EnvSpec, *, seed: int | None = None, **options: Any) -> EpisodeSeeds:
    """A `pixel_env` whose episode k is a pure function of `seed` and k.

    Args:
        task: as in `pixel_env`.
        seed: of the run, at least 0; None draws one from the system.
        options: of `pixel_env`.
    """
    return EpisodeSeeds(pixel_env(task, **options), seed)


def pixel_env(
    task: str | EnvSpec,
    *,
    image_size: int = 84,
    action_repeat: int | None = None,
    frame_stack: int = 3,
    camera: int | str | None = None,
    rendering: str = "auto",
    render_mode: str | None = None,
    noise: dict[str, Any] | None = None,
    **options: Any,
) -> gym.Env[Frames, Any]:
    """Any Gymnasium environment in the form that this project's agents and recordings need.

    Observations are uint8 `(frame_stack * 3, image_size, image_size)`, RGB, the oldest frame first; a reset repeats the
    first frame. Continuous actions are in [-1, 1], and discrete ones do not change. An action is held for
    `action_repeat` steps, or until the episode ends, and the rewards are summed; only the last step is shown.

    An environment whose constructor takes `image_size`, `action_repeat` and `frame_stack`, such as `PixelControl` and
    `DoomPixels`, does all this itself. Others get Gymnasium's wrappers. Then the frame is the observation if it is a
    picture, `Box(0, 255, uint8)` of shape (H, W), (H, W, C) or (C, H, W) with C 1 or 3; otherwise, it is the
    environment's `rgb_array` rendering. Frames are made square by averaging. The `info` of other packages' environments
    is dropped, because the shapes of its entries may vary.

    Args:
        task: a short name such as `walker_walk`, a Gymnasium id, or a spec.
        image_size: height and width of a frame in pixels, at least 8.
        action_repeat: steps an action is held, at least 1; None is the environment's own default, 1 for most.
        frame_stack: frames in an observation, at least 1.
        camera: name or number of the camera, for `PixelControl` and Gymnasium's MuJoCo environments.
        rendering: for `PixelControl`.
        render_mode: "rgb_array" for `render()`: the environment's picture, uint8 (H, W, 3). With noise, the agent's
            view is beside it; if the environment draws no picture, the agent's view is alone.
        noise: keyword arguments of `Noise`, which puts distractors on the frames; None for none.
        options: keyword arguments of `gymnasium.make`: `max_episode_steps`, and the environment's arguments.

    Raises:
        ValueError: for an unknown task, an option that the environment does not have or refuses, actions without
            bounds, or an environment without pictures.
        ModuleNotFoundError: if a package that it needs is not installed.
        OpenGLError: if this machine cannot draw; it says what to install.
    """
    spec = environment_spec(task) if isinstance(task, str) else task
    known_render_mode(render_mode)
    frames = {"image_size": at_least(SMALLEST_IMAGE, image_size, "image_size")}
    frames["frame_stack"] = at_least(1, frame_stack, "frame_stack")
    repeat = {} if action_repeat is None else {"action_repeat": at_least(1, action_repeat, "action_repeat")}
    takes = _parameters(spec)
    options |= _view(spec, takes, camera, rendering)
    if {*frames, "action_repeat"} <= takes.keys():
        mode = {} if render_mode is None else {"render_mode": render_mode}
        env = _made(spec, **frames, **repeat, **mode, **options)
    else:
        env = _wrapped(spec, **frames, **repeat, render=render_mode is not None, options=options)
    if noise is not None:
        env = Noise(env, **noise)
    if render_mode is not None and (noise is not None or env.render_mode is None):
        env = _AgentView(env)
    return env


def max_episode_steps(env: gym.Env[Any, Any]) -> float:
    """The most steps that an episode takes; inf if nothing limits them.

    Args:
        env: made by `pixel_env` or `make_env`.
    """
    if isinstance(env, RepeatAction):
        return math.ceil(inner / env.num_repeats) if (inner := max_episode_steps(env.env)) < math.inf else inner
    if isinstance(env, TimeLimit):
        return min(env._max_episode_steps, max_episode_steps(env.env))
    if isinstance(env, gym.Wrapper):
        return max_episode_steps(env.env)
    return getattr(env, "max_episode_steps", math.inf)


def _full(short: str) -> str:
    return f"rlrep/{short}-v0"


def _not_installed(task: str, source: object, error: Exception) -> ModuleNotFoundError:
    """The advice for a missing package, if `source`, a module or an entry point, belongs to one of our extras."""
    extra = next((extra for package, extra in _EXTRAS.items() if str(source).startswith(package)), None)
    advice = "install that package" if extra is None else install(extra)
    return ModuleNotFoundError(f"{task} needs a package that is not installed ({error}): {advice}")


def usual_action_repeat(task: str) -> int:
    """The steps for which `pixel_env` holds an action if it is not told."""
    parameter = _parameters(environment_spec(task)).get("action_repeat")
    return 1 if parameter is None or parameter.default is parameter.empty else int(parameter.default)


def _parameters(spec: EnvSpec) -> dict[str, inspect.Parameter]:
    """The keyword arguments of an environment; if its class passes on `**options`, its bases' arguments too."""
    if spec.entry_point is None:
        raise ValueError(f"{spec.id} is registered without an entry point")
    try:
        creator: Any = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise _not_installed(spec.id, spec.entry_point, error) from error
    makers: list[Any] = [creator]
    if isinstance(creator, type):
        makers = [vars(each)["__init__"] for each in creator.__mro__ if "__init__" in vars(each)]
    names: dict[str, inspect.Parameter] = {}
    for maker in makers:
        parameters = inspect.signature(maker).parameters
        names = {**parameters, **names}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def _view(spec: EnvSpec, takes: Container[str], camera: int | str | None, rendering: str) -> dict[str, Any]:
    """`camera` and `rendering` under the environment's names."""
    options: dict[str, Any] = {}
    if camera is not None:
        name = "camera" if "camera" in takes else "camera_name" if isinstance(camera, str) else "camera_id"
        if name not in takes:
            raise ValueError(f"camera is {camera!r}, but {spec.id} has no choice of cameras: leave it out")
        options[name] = camera
    if "rendering" in takes:
        options["rendering"] = rendering
    elif rendering != "auto":
        raise ValueError(f"rendering is {rendering!r}, but {spec.id} has no choice of it: leave it at 'auto'")
    return options


def _made(spec: EnvSpec, **options: Any) -> gym.Env[Any, Any]:
    try:
        return gym.make(spec, disable_env_checker=True, **options)
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise _not_installed(spec.id, spec.entry_point, error) from error
    except (TypeError, gym.error.Error) as error:
        raise ValueError(f"{spec.id} refuses its options {options}: {error}") from error


def _wrapped(
    spec: EnvSpec, image_size: int, frame_stack: int, render: bool, options: dict[str, Any], action_repeat: int = 1
) -> gym.Env[Frames, Any]:
    env = _made(spec, **options)
    renders = "rgb_array" in (env.metadata.get("render_modes") or ())
    is_picture = _channel_axis(env.observation_space) is not None
    if not (is_picture or renders):
        env.close()
        raise ValueError(
            f"{spec.id} shows no pictures: its observations are {env.observation_space}, and it does not render "
            f"'rgb_array'"
        )
    if renders and (render or not is_picture):
        env.close()
        env = _made(spec, **options | {"render_mode": "rgb_array"})
    try:
        if spec.namespace != "rlrep":
            env = _Foreign(env)
        env = RepeatAction(_in_unit_box(env), action_repeat)
        env.metadata = {**env.metadata, "render_fps": (env.metadata.get("render_fps") or _USUAL_FPS) / action_repeat}
        if not is_picture:
            env = AddRenderObservation(env, render_only=True)
        env = FrameStackObservation(_square(env, image_size), frame_stack)
        return ReshapeObservation(env, (frame_stack * 3, image_size, image_size))
    except BaseException:
        env.close()
        raise


class _Foreign(gym.Wrapper[Any, Any, Any, Any]):
    """Another package's environment: plain rewards and flags, no `info`, and seeds that old generators also accept."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, _ = self.env.reset(seed=None if seed is None else seed % 2**31, options=options)
        return observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, float(reward), bool(terminated), bool(truncated), {}


def _in_unit_box(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Maps continuous actions affinely from [-1, 1] to the environment's own bounds, and clips them there."""
    space = env.action_space
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        return env
    if (space.low == -1).all() and (space.high == 1).all():
        return env
    if not (np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)).all():
        raise ValueError(
            f"the actions are {space}: without a lower and a higher bound they cannot be scaled to [-1, 1]"
        )
    within = TransformAction(env, lambda action: action.clip(space.low, space.high).astype(space.dtype), space)
    one = np.ones(space.shape, space.dtype)
    return RescaleAction(within, -one, one)


def _channel_axis(space: gym.Space[Any]) -> int | None:
    """The channel axis of pictures with 1 or 3 channels in an observation space, 2 for pictures without one; None for
    other spaces."""
    if not isinstance(space, Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return None
    if space.low.any() or (space.high != 255).any():
        return None
    shape = (*space.shape, 1)[:3]
    for axis in (2, 0):
        if shape[axis] in (1, 3) and min(shape[:axis] + shape[axis + 1 :]) >= SMALLEST_IMAGE:
            return axis
    return None


def _square(env: gym.Env[Any, Any], image_size: int) -> gym.Env[Frames, Any]:
    """Resizes the environment's pictures to (3, image_size, image_size)."""
    space = env.observation_space
    axis = _channel_axis(space)
    if axis is None or space.shape is None:
        raise ValueError(f"the environment renders {space}; expected grey or RGB pictures of at least 8 by 8 pixels")
    shape = (*space.shape, 1)[:3]
    height, width = shape[:axis] + shape[axis + 1 :]
    resize = AreaResize(height, width, image_size, image_size)

    def frame(observation: Frames) -> Frames:
        small = resize(np.moveaxis(observation.reshape(shape), axis, 0))
        return small.repeat(3 // len(small), axis=0)

    return TransformObservation(env, frame, Box(0, 255, (3, image_size, image_size), np.uint8))


class _AgentView(gym.Wrapper[Frames, Any, Frames, Any]):
    """Renders the newest frame of the observation, beside the environment's picture if it draws one."""

    _observation: Frames

    @property
    def render_mode(self) -> str:  # type: ignore[override]
        return "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: Any) -> tuple[Frames, Any, bool, bool, dict[str, Any]]:
        self._observation, *rest = self.env.step(action)
        return self._observation, *rest  # type: ignore[return-value]

    def render(self) -> Any:
        picture: Any = None if self.env.render_mode is None else self.env.render()
        side = _FILM_SIZE if picture is None else len(picture)
        frame = self._observation[-3:]
        seen = AreaResize(frame.shape[1], frame.shape[2], side, side)(frame).transpose(1, 2, 0)
        return seen if picture is None else np.concatenate([picture, seen], axis=1)
