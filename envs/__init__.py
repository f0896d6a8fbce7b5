"""Gymnasium environments: dm_control from pixels.

Importing this registers `rlrep/<task>-v0` for every task, so that `gymnasium.make("rlrep/walker_walk-v0")`
works; `gymnasium.make("envs:rlrep/walker_walk-v0")` works without the import. Where there is neither a display
nor a choice of `MUJOCO_GL`, it also sets `MUJOCO_GL=egl`.
"""

import gymnasium as gym

from envs.dmc import TASKS, PixelControl
from envs.episode_seeds import EpisodeSeeds
from envs.opengl import OpenGLError, default_to_egl
from envs.vector import EnvironmentDied, make_env, make_vector_env

__all__ = [
    "TASKS",
    "EnvironmentDied",
    "EpisodeSeeds",
    "OpenGLError",
    "PixelControl",
    "make_env",
    "make_vector_env",
    "register_envs",
]


def register_envs() -> None:
    """Register `rlrep/<task>-v0` for every task with Gymnasium; calling it again changes nothing.

    Keyword arguments of `gymnasium.make` reach `PixelControl`.
    """
    for task in (*TASKS, "ball_in_cup_catch"):
        if (name := f"rlrep/{task}-v0") not in gym.registry:
            gym.register(name, entry_point="envs.dmc:PixelControl", kwargs={"task": task})


default_to_egl()
register_envs()
