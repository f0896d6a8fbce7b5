"""Can this machine draw? `python -m envs.check` prints one line, or says what to install and exits with 1."""

import os
import sys
import time

from envs.dmc import PixelControl
from envs.opengl import OpenGLError

_FRAMES = 20


def main() -> int:
    """Draw a few frames of cartpole and report the OpenGL backend and the milliseconds each took."""
    try:
        env = PixelControl("cartpole_swingup", action_repeat=1)
    except (ModuleNotFoundError, OpenGLError) as error:
        print(error, file=sys.stderr)
        return 1
    env.reset(seed=0)
    action = env.action_space.sample()
    start = time.perf_counter()
    for _ in range(_FRAMES):
        env.step(action)
    milliseconds = (time.perf_counter() - start) / _FRAMES * 1000
    print(f"{os.environ.get('MUJOCO_GL', 'default')} on {_renderer()}: {milliseconds:.1f} ms a frame")
    env.close()
    return 0


def _renderer() -> str:
    from OpenGL import GL

    name = GL.glGetString(GL.GL_RENDERER)
    return name.decode() if name else "an unknown renderer"


if __name__ == "__main__":
    sys.exit(main())
