"""One environment, or many side by side, each in a process of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from envs.dmc import PixelControl
from envs.episode_seeds import EpisodeSeeds

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def make_env(task: str, *, seed: int | None = None, **options: Any) -> EpisodeSeeds:
    """A `PixelControl` whose episode k is a pure function of `seed` and k.

    Args:
        task: one of `envs.TASKS`.
        seed: of the run, at least 0; None draws one from the system.
        options: keyword arguments of `PixelControl`.
    """
    return EpisodeSeeds(PixelControl(task, **options), seed)


def make_vector_env(task: str, num_envs: int, *, seed: int, **options: Any) -> VectorEnv[Any, Any, Any]:
    """Environments side by side, with Gymnasium's vector interface.

    One environment runs in this process, more run in a process each and hand observations over in shared
    memory; what they compute is the same. An episode that ends is followed at once by the next (autoreset
    mode `SAME_STEP`): its last observation is in `infos["final_obs"]`. Environment i is seeded by `seed` and
    i, so `reset()` needs no seed.

    The processes are spawned, so that they inherit neither threads nor OpenGL: a script calls this under
    `if __name__ == "__main__":`.

    Args:
        task: one of `envs.TASKS`.
        num_envs: at least 1.
        seed: of the run, at least 0.
        options: keyword arguments of `PixelControl`.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}; expected at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected at least 0")
    seeds = [np.random.SeedSequence([seed, i]).generate_state(1, np.uint64).item() for i in range(num_envs)]
    makers = [partial(make_env, task, seed=env_seed, **options) for env_seed in seeds]
    if num_envs == 1:
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    with _environment_variables(_ONE_THREAD):
        return _ProcessVectorEnv(makers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)


class _ProcessVectorEnv(AsyncVectorEnv):
    """An `AsyncVectorEnv` that closes even after a process died or a step was interrupted.

    Gymnasium's own then raises, or waits for an answer that does not come.
    """

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        healthy = self._state is AsyncState.DEFAULT and all(process.is_alive() for process in self.processes)
        self._state = AsyncState.DEFAULT
        super().close_extras(timeout, terminate or not healthy)


@contextmanager
def _environment_variables(values: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes started inside, and put this process's own back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
