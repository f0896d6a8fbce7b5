"""dm_control with pixel observations: every task of the suite, and `reach_duplo`."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rlrep.envs.arguments import SMALLEST_IMAGE, at_least, known_render_mode
from rlrep.envs.opengl import draw_fewer_triangles, has_gpu, opening_opengl
from rlrep.extras import install
from rlrep.registry import unknown

_SUITE: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": (
        "balance",
        "balance_sparse",
        "swingup",
        "swingup_sparse",
        "two_poles",
        "three_poles",
    ),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
_DOMAIN_AND_TASK = {
    f"{'cup' if domain == 'ball_in_cup' else domain}_{task}": (domain, task)
    for domain, tasks in _SUITE.items()
    for task in tasks
}
_ALIASES = {"ball_in_cup_catch": "cup_catch"}

TASKS: tuple[str, ...] = (*_DOMAIN_AND_TASK, "reach_duplo")
"""The names of all tasks, `domain_task`; `ball_in_cup_catch` is accepted for `cup_catch`."""

Rendering = Literal["auto", "exact", "fast"]

_MANY_GEOMS = 40  # humanoid_CMU, dog and reach_duplo have more
_ACTION_TOLERANCE = 1e-6
_LARGEST_BOUND = 1e6  # MuJoCo says "no bound" with 1e10
_REACH_SECONDS = 10.0  # the time limit of dm_control's manipulation tasks


class PixelControl(gym.Env[npt.NDArray[np.uint8], npt.NDArray[np.float32]]):
    """A dm_control task observed as a stack of its last pictures.

    Observations are uint8 `(frame_stack * 3, image_size, image_size)`, RGB, the oldest frame first; a reset
    repeats the first frame. Actions are float32 in [-1, 1], mapped affinely to the task's own bounds (unchanged if the
    task has none: `lqr`). An action is held for `action_repeat` control steps of the task, or until the episode ends;
    the reward is their sum. Only the last step is drawn.

    The task's time limit truncates; a real end (discount 0) terminates. After `reset(seed=s)`, everything is a pure
    function of `s` and the actions, bit for bit, on one machine.

    `info["simulator_steps"]` counts the task's control steps in this episode, and `info["state"]` is the state of the
    simulation, float32 `(S,)`: positions, then velocities, then activations of muscles, if any, in MuJoCo's units and
    order.

    Args:
        task: one of `TASKS`.
        image_size: height and width of a frame in pixels, at least 8.
        action_repeat: control steps an action is held, at least 1.
        frame_stack: frames in an observation, at least 1.
        camera: name or number of a fixed camera, -1 for the free one. None is the literature's choice: 2 for quadruped,
            `front_close` for `reach_duplo`, else 0.
        rendering: "exact" is dm_control's own picture. "fast" has a smaller shadow map and fewer triangles:
            without a GPU, at 84×84, it draws 2.6 times faster (the median over the tasks; 1.2 times for dog and
            quadruped_escape, whose meshes or hills take the time; 4.9 at most), and changes the pixels by 0.04 of 255
            on average, 0.082 at most. "auto" is "exact" with a GPU, else "fast".
        render_mode: "rgb_array" for `render()`, the current picture as uint8 `(render_size, render_size, 3)`.
        render_size: height and width of that picture in pixels, at least 8.

    Raises:
        ValueError: for an unknown task, camera, rendering or render mode, or a number that is too small.
        ModuleNotFoundError: if dm_control is not installed.
        OpenGLError: if this machine cannot draw; it says what to install.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012  (as gymnasium)

    def __init__(
        self,
        task: str,
        *,
        image_size: int = 84,
        action_repeat: int = 2,
        frame_stack: int = 3,
        camera: int | str | None = None,
        rendering: Rendering = "auto",
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        task = _known_task(task)
        image_size = at_least(SMALLEST_IMAGE, image_size, "image_size")
        render_size = at_least(SMALLEST_IMAGE, render_size, "render_size")
        self.action_repeat = at_least(1, action_repeat, "action_repeat")
        frame_stack = at_least(1, frame_stack, "frame_stack")
        if rendering not in ("auto", "exact", "fast"):
            raise ValueError(f"rendering is {rendering!r}; expected 'auto', 'exact' or 'fast'")
        self.task = task
        self.render_mode = known_render_mode(render_mode)

        self._environment = _load(task)
        physics = self._environment.physics
        visual = physics.model.vis
        fast = rendering == "fast" or (rendering == "auto" and not has_gpu())
        if fast:
            visual.quality.shadowsize = _fast_shadow_map(physics.model)
        buffer_size = max(image_size, render_size) if render_mode else image_size
        visual.global_.offwidth = visual.global_.offheight = buffer_size
        camera = _known_camera(physics.model, _usual_camera(task) if camera is None else camera)
        self._camera = camera
        self._observer = _open_camera(physics, image_size, camera)
        self._viewer = _open_camera(physics, render_size, camera) if render_mode else None
        if fast:
            with physics.contexts.gl.make_current() as gl:
                gl.call(draw_fewer_triangles, physics.contexts.mujoco.ptr)

        specification = self._environment.action_spec()
        bounded = np.abs([specification.minimum, specification.maximum]).max(axis=0) < _LARGEST_BOUND
        low = np.where(bounded, specification.minimum, -1.0)
        high = np.where(bounded, specification.maximum, 1.0)
        self._action_center, self._action_scale = (high + low) / 2, (high - low) / 2

        self.action_space = gym.spaces.Box(-1.0, 1.0, specification.shape, np.float32)
        self.observation_space = gym.spaces.Box(0, 255, (frame_stack * 3, image_size, image_size), np.uint8)
        frame_seconds = self._environment.control_timestep() * self.action_repeat
        self.metadata = {**self.metadata, "render_fps": 1 / frame_seconds}
        self._step_limit = _step_limit(self._environment)
        self._frames = np.zeros(self.observation_space.shape, np.uint8)
        self._simulator_steps = 0
        self._running = False

    @property
    def max_episode_steps(self) -> float:
        """Steps of this environment until the time limit; inf if the task has none."""
        return math.ceil(self._step_limit / self.action_repeat) if self._step_limit < math.inf else math.inf

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Start an episode; with a seed, everything that follows depends only on the seed."""
        super().reset(seed=seed)
        _random_state(self._environment).seed(self.np_random.integers(2**32, dtype=np.uint32))
        self._environment.reset()
        frame_stack = self._frames.shape[0] // 3
        self._frames = np.concatenate([self._draw()] * frame_stack)
        self._simulator_steps = 0
        self._running = True
        return self._frames.copy(), self._info()

    def step(self, action: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Hold an action for `action_repeat` control steps.

        Raises:
            ValueError: if the action has the wrong shape, is not finite or leaves [-1, 1].
            gymnasium.error.ResetNeeded: before the first reset and after an episode's end.
        """
        if not self._running:
            raise gym.error.ResetNeeded(f"{self.task} has no episode to step in: call reset() first")
        control = self._action_center + self._action_scale * self._checked(action)
        reward = 0.0
        for _ in range(self.action_repeat):
            time_step = self._environment.step(control)
            reward += float(time_step.reward)
            self._simulator_steps += 1
            if time_step.last():
                self._running = False
                break
        self._frames = np.concatenate([self._frames[3:], self._draw()])
        terminated = bool(time_step.last() and time_step.discount == 0)
        truncated = bool(time_step.last() and not terminated)
        return self._frames.copy(), reward, terminated, truncated, self._info()

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The current picture, uint8 `(render_size, render_size, 3)`; None without a render mode."""
        return None if self._viewer is None else self._viewer.render().copy()

    def background_mask(self) -> npt.NDArray[np.bool_]:
        """Which pixels of the newest frame show the sky or a plane, such as the floor, bool (H, W)."""
        from mujoco import mjtGeom, mjtObj

        number, kind = self._segmenter.render(segmentation=True).transpose(2, 0, 1)
        is_plane = self._environment.physics.model.geom_type == mjtGeom.mjGEOM_PLANE
        return (kind == -1) | ((kind == mjtObj.mjOBJ_GEOM) & is_plane[number])

    @cached_property
    def _segmenter(self) -> Any:
        """The segmentation camera, which says what each pixel shows; created with its own buffer at the first call."""
        return _open_camera(self._environment.physics, self._frames.shape[1], self._camera)

    def close(self) -> None:
        """Free the simulation and its OpenGL context; may be called twice."""
        if self._environment is not None:
            self._environment.physics.free()
        self._environment = self._observer = self._viewer = None
        self.__dict__.pop("_segmenter", None)
        self._running = False

    def _info(self) -> dict[str, Any]:
        state = self._environment.physics.get_state().astype(np.float32)
        return {"simulator_steps": self._simulator_steps, "state": state}

    def _draw(self) -> npt.NDArray[np.uint8]:
        return self._observer.render().transpose(2, 0, 1)

    def _checked(self, action: npt.ArrayLike) -> npt.NDArray[np.float64]:
        array = np.asarray(action, dtype=np.float64)
        expected = f"{self.task} expects shape {self.action_space.shape}, all in [-1, 1]"
        if array.shape != self.action_space.shape:
            raise ValueError(f"the action has shape {array.shape}; {expected}")
        if not (np.abs(array) <= 1 + _ACTION_TOLERANCE).all():  # also false for NaN
            raise ValueError(f"the action is {array}; {expected}: clip or squash it first")
        return array.clip(-1, 1)


def _known_task(task: str) -> str:
    name = _ALIASES.get(task, task)
    if name not in TASKS:
        raise unknown("task", str(task), TASKS)
    return name


def _usual_camera(task: str) -> int | str:
    if task == "reach_duplo":
        return "front_close"
    return 2 if task.startswith("quadruped") else 0


def _known_camera(model: Any, camera: int | str) -> int | str:
    names = [name for number in range(model.ncam) if (name := model.id2name(number, "camera"))]
    if camera not in names and camera not in range(-1, model.ncam):
        raise ValueError(f"no camera is called {camera!r}; expected -1 to {model.ncam - 1} or one of {names}")
    return camera


def _load(task: str) -> Any:
    """The dm_control environment of a task; each reset seeds its randomness."""
    if importlib.util.find_spec("dm_control") is None:
        raise ModuleNotFoundError(f"dm_control is not installed: {install('dmc')}")
    with opening_opengl():
        from dm_control import mujoco  # noqa: F401  (opens the display)
    if task == "reach_duplo":
        return _load_reach_duplo()
    from dm_control import suite

    domain, name = _DOMAIN_AND_TASK[task]
    # This seed decides only what is drawn once with the model: the springs of lqr.
    with _without_deprecations():
        return suite.load(domain, name, task_kwargs={"random": 0})


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Silences deprecation warnings from dm_control's own models, which users cannot fix."""

    def is_news(record: logging.LogRecord) -> bool:
        return "is deprecated and will be removed" not in record.getMessage()

    log = logging.getLogger("absl")
    log.addFilter(is_news)
    try:
        yield
    finally:
        log.removeFilter(is_news)


def _load_reach_duplo() -> Any:
    """The manipulation task with its own observations switched off, and its model compiled only once."""
    from dm_control import composer, manipulation

    task = manipulation.load("reach_duplo_vision").task
    for observable in task.observables.values():
        observable.enabled = False
    environment = composer.Environment(task, time_limit=_REACH_SECONDS, recompile_mjcf_every_episode=False)
    environment.reset()  # compiles
    return environment


def _random_state(environment: Any) -> np.random.RandomState:
    """The random state of dm_control's episodes: the task's in the suite, the environment's in manipulation."""
    return environment.task.random if hasattr(environment.task, "random") else environment.random_state


def _step_limit(environment: Any) -> float:
    """Control steps until the time limit, inf without one."""
    if hasattr(environment, "_step_limit"):  # the suite does not report it otherwise
        return environment._step_limit
    return _REACH_SECONDS / environment.control_timestep()


def _fast_shadow_map(model: Any) -> int:
    """The side, in pixels, of a fast small shadow map that changes pixels by less than 0.1 of 255 on average.

    More geoms have more shadow edges, and make the map's share of a frame's time smaller. Hills consist of edges: they
    keep their map.
    """
    from mujoco import mjtGeom

    if (model.geom_type == mjtGeom.mjGEOM_HFIELD).any():
        return model.vis.quality.shadowsize
    return min(model.vis.quality.shadowsize, 1024 if model.ngeom >= _MANY_GEOMS else 512)


def _open_camera(physics: Any, size: int, camera: int | str) -> Any:
    """A dm_control camera for all frames: `physics.render` would build a camera and a scene for each frame."""
    from dm_control.mujoco import Camera

    with opening_opengl():
        return Camera(physics, height=size, width=size, camera_id=camera)
