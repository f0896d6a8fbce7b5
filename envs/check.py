"""Can this machine draw? `python -m envs.check` prints one line, or says what to install and exits with 1.

`python -m envs.check TASK ...` compares the rendering `fast` with `exact` on tasks: time of a frame and difference.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from envs.dmc import PixelControl, Rendering
from envs.opengl import OpenGLError

_FRAMES = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw a few frames and report the OpenGL backend, the milliseconds each took, and how the renderings compare."""
    parser = argparse.ArgumentParser(prog="python -m envs.check", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="compare the renderings on these")
    parser.add_argument("--image-size", type=int, default=84)
    options = parser.parse_args(arguments)
    try:
        _, milliseconds, renderer = _draw("cartpole_swingup", "auto", options.image_size)
        print(f"{os.environ.get('MUJOCO_GL', 'default')} on {renderer}: {milliseconds:.1f} ms a frame")
        for task in options.tasks:
            exact, exact_milliseconds, _ = _draw(task, "exact", options.image_size)
            fast, fast_milliseconds, _ = _draw(task, "fast", options.image_size)
            print(
                f"{task}: exact {exact_milliseconds:.1f} ms, fast {fast_milliseconds:.1f} ms a frame, "
                f"{exact_milliseconds / fast_milliseconds:.1f} times faster; mean difference "
                f"{np.abs(exact.astype(float) - fast).mean():.3f} of 255"
            )
    except (ModuleNotFoundError, OpenGLError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _draw(task: str, rendering: Rendering, image_size: int) -> tuple[np.ndarray, float, str]:
    """Frames of an episode under random actions, the median milliseconds that one took, and OpenGL's renderer."""
    env = PixelControl(task, action_repeat=4, frame_stack=1, image_size=image_size, rendering=rendering)
    from OpenGL import GL

    frames, seconds = [env.reset(seed=0)[0]], []
    rng = np.random.default_rng(0)
    for _ in range(_FRAMES):
        frames.append(env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))[0])
        start = time.perf_counter()
        env._draw()
        seconds.append(time.perf_counter() - start)
    renderer = GL.glGetString(GL.GL_RENDERER)
    env.close()
    return np.stack(frames), statistics.median(seconds) * 1000, renderer.decode() if renderer else "unknown OpenGL"


if __name__ == "__main__":
    sys.exit(main())
