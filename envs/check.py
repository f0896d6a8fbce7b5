"""Can this machine draw? `python -m rlrep.envs.check` prints one line, or says what to install and exits with 1."""

import os
import statistics
import sys
import time
from typing import NamedTuple

import numpy as np

from rlrep.envs.dmc import PixelControl
from rlrep.envs.opengl import OpenGLError

_FRAMES = 40


class Comparison(NamedTuple):
    """The renderings of a task: median seconds per frame, and mean difference of their pixels, of 255."""

    exact_seconds: float
    fast_seconds: float
    mean_difference: float


def compare(task: str, image_size: int, frames: int = _FRAMES) -> Comparison:
    """Draw an episode's start under random actions with both renderings in turn, so that both share the machine's
    load."""
    exact, fast = (
        PixelControl(task, action_repeat=4, frame_stack=1, image_size=image_size, rendering=rendering)
        for rendering in ("exact", "fast")
    )
    exact_seconds, fast_seconds, differences = [], [], []
    rng = np.random.default_rng(0)
    ended = True
    for _ in range(frames):
        action = rng.uniform(-1, 1, exact.action_space.shape).astype(np.float32)
        if ended:
            exact.reset(seed=0)
            fast.reset(seed=0)
        _, _, terminated, truncated, _ = exact.step(action)
        fast.step(action)
        ended = terminated or truncated
        picture, seconds = _draw(exact)
        exact_seconds.append(seconds)
        fast_picture, seconds = _draw(fast)
        fast_seconds.append(seconds)
        differences.append(np.abs(picture.astype(float) - fast_picture).mean())
    exact.close()
    fast.close()
    return Comparison(
        statistics.median(exact_seconds), statistics.median(fast_seconds), float(statistics.mean(differences))
    )


def main() -> int:
    """Draw a few frames, and report the OpenGL backend and the time of each."""
    try:
        print(_backend())
    except (ModuleNotFoundError, OpenGLError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _backend() -> str:
    """One line: the backend, OpenGL's renderer, and the median time of a frame."""
    env = PixelControl("cartpole_swingup", frame_stack=1)
    from OpenGL import GL

    env.reset(seed=0)
    milliseconds = 1000 * statistics.median(_draw(env)[1] for _ in range(_FRAMES))
    renderer = GL.glGetString(GL.GL_RENDERER)
    env.close()
    name = renderer.decode() if renderer else "unknown OpenGL"
    return f"{os.environ.get('MUJOCO_GL', 'default')} on {name}: {milliseconds:.1f} ms a frame"


def _draw(env: PixelControl) -> tuple[np.ndarray, float]:
    """The current picture, and the seconds it took."""
    start = time.perf_counter()
    picture = env._draw()
    seconds = time.perf_counter() - start
    return picture.copy(), seconds


if __name__ == "__main__":
    sys.exit(main())
