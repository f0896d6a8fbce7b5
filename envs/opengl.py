"""OpenGL without a screen: which backend, whether there is a GPU, and what to do when nothing opens."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ADVICE = """\
No picture can be drawn: OpenGL did not open with {backend}.
What to do, on Debian or Ubuntu:
    apt-get install libegl1 libgl1 libgl1-mesa-dri
    export MUJOCO_GL=egl PYOPENGL_PLATFORM=egl
(without EGL: apt-get install libosmesa6, then set both variables to osmesa).
Check with `python -m envs.check`. The cause was {cause}"""


class OpenGLError(RuntimeError):
    """OpenGL could not be opened; the message says which packages and variables mend it."""


def default_to_egl() -> None:
    """Choose EGL, which needs no screen, where neither `MUJOCO_GL` nor a display says otherwise.

    dm_control reads the variable when it is first imported, and without a display picks a backend that aborts
    the process; so `import envs` calls this. Where dm_control came first it is too late, and nothing changes.
    """
    if sys.platform == "linux" and "DISPLAY" not in os.environ and "dm_control" not in sys.modules:
        os.environ.setdefault("MUJOCO_GL", "egl")
    # Mesa's software renderer then draws in the calling thread: its own threads do not survive the fork of Gymnasium's
    # process environments, which would wait for them for ever, and small pictures are not drawn faster by them.
    os.environ.setdefault("LP_NUM_THREADS", "0")


def has_gpu() -> bool:
    """Whether OpenGL is likely to run on a GPU: Linux shows its device file; other systems come with one."""
    if sys.platform != "linux":
        return True
    if os.environ.get("MUJOCO_GL") == "osmesa":
        return False
    return Path("/dev/nvidia0").exists() or any(Path("/dev/dri").glob("renderD*"))


@contextmanager
def opening_opengl() -> Iterator[None]:
    """Turn whatever the OpenGL stack raises while it opens into an `OpenGLError` that says what to do."""
    try:
        yield
    except Exception as error:  # drivers, PyOpenGL and MuJoCo each have their own kinds of error
        backend = f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '(unset)')}"
        if platform := os.environ.get("PYOPENGL_PLATFORM"):
            backend += f", PYOPENGL_PLATFORM={platform}"
        cause = f"{type(error).__name__}: {error}"
        raise OpenGLError(_ADVICE.format(backend=backend, cause=cause)) from error
