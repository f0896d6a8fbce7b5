"""OpenGL without a screen: the backend, the search for a GPU, advice when OpenGL fails, and fewer triangles."""

import itertools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_ADVICE = """\
No picture can be drawn: OpenGL did not open with {backend}.
What to do, on Debian or Ubuntu:
    apt-get install libegl1 libgl1 libgl1-mesa-dri
    export MUJOCO_GL=egl PYOPENGL_PLATFORM=egl
(without EGL: apt-get install libosmesa6, then set both variables to osmesa).
Check with `python -m rlrep.envs.check`. The cause was {cause}"""


class OpenGLError(RuntimeError):
    """OpenGL could not be opened; the message says which packages to install and which variables to set."""


def default_to_egl() -> None:
    """Choose EGL, which needs no screen, without `MUJOCO_GL` and without a display.

    dm_control reads the variable at its first import, and without a display picks a backend that aborts the process; so
    `import rlrep.envs` calls this function. If dm_control was imported first, it is too late, and nothing changes.
    """
    if sys.platform == "linux" and "DISPLAY" not in os.environ and "dm_control" not in sys.modules:
        os.environ.setdefault("MUJOCO_GL", "egl")
    # Mesa's software renderer then draws in the calling thread. Its own threads do not survive the fork of Gymnasium's
    # process environments, which would wait for them for ever; and they do not draw small pictures faster.
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
    """Convert all errors of the OpenGL stack while it opens to an `OpenGLError` that says what to do."""
    try:
        yield
    except Exception as error:  # drivers, PyOpenGL and MuJoCo each have their own kinds of error
        backend = f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '(unset)')}"
        if platform := os.environ.get("PYOPENGL_PLATFORM"):
            backend += f", PYOPENGL_PLATFORM={platform}"
        cause = f"{type(error).__name__}: {error}"
        raise OpenGLError(_ADVICE.format(backend=backend, cause=cause)) from error


_SLICES, _STACKS = 28, 16  # MuJoCo's own: triangles around a round shape, and rings of them from pole to pole
_POLAR_STACK = 5  # of the 8 from the equator to a pole: from here a sphere has only half as many slices
_CYLINDER_RINGS = 2  # replaces `_STACKS`; with one, the light would change, which OpenGL computes at the corners
_DISPLAY_LISTS = 8  # in a MuJoCo context, in this order: sphere, its upper half, its lower half, cylinder, tube, 3 more

_Ring = tuple[float, float, float, float, int]  # radius, height, the normal's two components, slices to a triangle


def draw_fewer_triangles(context: Any) -> None:
    """Redefine the round shapes of a MuJoCo rendering context, which must be current, with half the triangles.

    Without a GPU, triangles take most of a frame's time. Each is drawn four times: mirrored in the floor, into the
    shadow map, unlit and lit. MuJoCo uses most triangles where they are least visible, along straight cylinders and
    near the poles of spheres. Its options `numstacks` and `numslices` would also remove triangles from the outline.

    A context with an unknown layout, of another MuJoCo version, does not change. Texture coordinates are left out:
    round shapes have no textures in these tasks, and the sky has its own coordinates.
    """
    if context.rangeBuiltin != _DISPLAY_LISTS:
        return
    from OpenGL import GL

    quarter = _STACKS // 2
    tube: list[_Ring] = [(1, height, 1, 0, 1) for height in np.linspace(-1, 1, _CYLINDER_RINGS + 1)]
    shapes = (
        _arc(-quarter, quarter, 0),
        _arc(0, quarter, 1),
        _arc(-quarter, 0, -1),
        [(0, -1, 0, -1, 1), (1, -1, 0, -1, 1), *tube, (1, 1, 0, 1, 1), (0, 1, 0, 1, 1)],
        tube,
    )
    GL.glPushClientAttrib(GL.GL_CLIENT_VERTEX_ARRAY_BIT)
    GL.glBindBuffer(GL.GL_ARRAY_BUFFER, 0)  # a model with a skin leaves its own buffer bound
    for display_list, rings in enumerate(shapes, context.baseBuiltin):
        corners = _triangles(rings)
        GL.glInterleavedArrays(GL.GL_N3F_V3F, 0, corners)
        GL.glNewList(display_list, GL.GL_COMPILE)
        GL.glDrawArrays(GL.GL_TRIANGLES, 0, len(corners))
        GL.glEndList()
    GL.glPopClientAttrib()


def _arc(first: int, last: int, center: float) -> list[_Ring]:
    """The rings of a unit sphere between two latitudes, counted in stacks from the equator."""
    rings: list[_Ring] = []
    for stack in range(first, last + 1):
        radius, height = math.cos(math.pi * stack / _STACKS), math.sin(math.pi * stack / _STACKS)
        rings.append((radius, height + center, radius, height, 2 if abs(stack) >= _POLAR_STACK else 1))
    return rings


def _triangles(rings: Sequence[_Ring]) -> npt.NDArray[np.float32]:
    """The surface between rings, from the lowest to the highest: per corner a normal and a position."""
    slices = np.arange(_SLICES + 1)
    corners = []
    for radius, height, normal_radius, normal_height, step in rings:
        angle = 2 * np.pi / _SLICES * (slices - slices % step)
        x, y, one = np.cos(angle), np.sin(angle), np.ones_like(angle)
        parts = [normal_radius * x, normal_radius * y, normal_height * one, radius * x, radius * y, height * one]
        corners.append(np.stack(parts, axis=-1))
    triangles = []
    for below, above in itertools.pairwise(corners):
        triangles.append(np.stack([below[:-1], below[1:], above[1:]], axis=1))
        triangles.append(np.stack([below[:-1], above[1:], above[:-1]], axis=1))
    surface = np.concatenate(triangles)
    sides = np.diff(surface[..., 3:], axis=1)
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=-1)
    return surface[area > 1e-9].reshape(-1, 6).astype(np.float32)  # at poles, and where slices merge, some are empty
