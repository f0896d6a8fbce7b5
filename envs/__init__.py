"""Gymnasium environments from pixels: dm_control, ViZDoom, a grid world and any other, and noise for all of them.

Importing this package registers `rlrep/<task>-v0` for every task of dm_control, `rlrep/vizdoom_<scenario>-v0` and
`rlrep/gridworld-v0`, so that `gymnasium.make("rlrep/walker_walk-v0")` works; without the import,
`gymnasium.make("rlrep.envs:rlrep/walker_walk-v0")` does.
Without a display and without `MUJOCO_GL`, it also sets `MUJOCO_GL=egl`.
"""

import gymnasium as gym

from rlrep.envs.dmc import TASKS, PixelControl
from rlrep.envs.episode_seeds import EpisodeSeeds
from rlrep.envs.gridworld import GridWorld
from rlrep.envs.make import environment_spec, make_env, max_episode_steps, pixel_env, task_name
from rlrep.envs.noise import Noise, NoiseProcess
from rlrep.envs.opengl import OpenGLError, default_to_egl
from rlrep.envs.vector import EnvironmentDied, make_vector_env
from rlrep.envs.vizdoom import SCENARIOS, DoomPixels

if __name__ != "rlrep.envs":
    raise ImportError(f"{__name__} is rlrep.envs")

__all__ = [
    "SCENARIOS",
    "TASKS",
    "DoomPixels",
    "EnvironmentDied",
    "EpisodeSeeds",
    "GridWorld",
    "Noise",
    "NoiseProcess",
    "OpenGLError",
    "PixelControl",
    "environment_spec",
    "make_env",
    "make_vector_env",
    "max_episode_steps",
    "pixel_env",
    "register_envs",
    "task_name",
]


def register_envs() -> None:
    """Register all environments with Gymnasium; calling it again changes nothing.

    Keyword arguments of `gymnasium.make` reach `PixelControl`, `DoomPixels` and `GridWorld`.
    """
    for task in (*TASKS, "ball_in_cup_catch"):
        if (name := f"rlrep/{task}-v0") not in gym.registry:
            gym.register(name, entry_point="rlrep.envs.dmc:PixelControl", kwargs={"task": task})
    for scenario in SCENARIOS:
        if (name := f"rlrep/vizdoom_{scenario}-v0") not in gym.registry:
            gym.register(name, entry_point="rlrep.envs.vizdoom:DoomPixels", kwargs={"scenario": scenario})
    if (name := "rlrep/gridworld-v0") not in gym.registry:
        gym.register(name, entry_point="rlrep.envs.gridworld:GridWorld")


default_to_egl()
register_envs()
