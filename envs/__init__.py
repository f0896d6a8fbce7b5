"""Gymnasium environments: dm_control and ViZDoom from pixels.

Importing this registers `rlrep/<task>-v0` for every task of dm_control and `rlrep/vizdoom_<scenario>-v0`, so that
`gymnasium.make("rlrep/walker_walk-v0")` works; `gymnasium.make("envs:rlrep/walker_walk-v0")` works without the import.
Where there is neither a display nor a choice of `MUJOCO_GL`, it also sets `MUJOCO_GL=egl`.
"""

import gymnasium as gym

from envs.dmc import TASKS, PixelControl
from envs.episode_seeds import EpisodeSeeds
from envs.opengl import OpenGLError, default_to_egl
from envs.vector import EnvironmentDied, make_env, make_vector_env
from envs.vizdoom import SCENARIOS, DoomPixels

__all__ = [
    "SCENARIOS",
    "TASKS",
    "DoomPixels",
    "EnvironmentDied",
    "EpisodeSeeds",
    "OpenGLError",
    "PixelControl",
    "make_env",
    "make_vector_env",
    "register_envs",
]


def register_envs() -> None:
    """Register all environments with Gymnasium; calling it again changes nothing.

    Keyword arguments of `gymnasium.make` reach `PixelControl`, of `rlrep/vizdoom_...` `DoomPixels`.
    """
    for task in (*TASKS, "ball_in_cup_catch"):
        if (name := f"rlrep/{task}-v0") not in gym.registry:
            gym.register(name, entry_point="envs.dmc:PixelControl", kwargs={"task": task})
    for scenario in SCENARIOS:
        if (name := f"rlrep/vizdoom_{scenario}-v0") not in gym.registry:
            gym.register(name, entry_point="envs.vizdoom:DoomPixels", kwargs={"scenario": scenario})


default_to_egl()
register_envs()
