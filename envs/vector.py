"""Environments side by side, in this process or in separate processes, which never block for ever."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from rlrep.envs.arguments import at_least
from rlrep.envs.make import environment_spec, make_env
from rlrep.envs.workers import PATIENCE, EnvironmentDied, Line, spawning, work

_STARTING = 5  # a process may take this many times longer to start than to answer: it imports a simulator

_warned_of_few_processors = False


def make_vector_env(
    task: str,
    num_envs: int,
    *,
    seed: int,
    processes: bool | None = None,
    timeout: float = 60.0,
    **options: Any,
) -> InProcessVectorEnv | ProcessVectorEnv:
    """Environments side by side, with Gymnasium's vector interface.

    They run in this process, one after another, or each in its own process, which passes observations in shared memory.
    The results are the same, bit for bit. When an episode ends, the next one starts at once (autoreset mode
    `SAME_STEP`); its last observation is in `infos["final_obs"]`. `seed` and i seed environment i, so `reset()` needs
    no seed.

    `step(actions)` is `step_async(actions)` and `step_wait()`; between the two calls, this process is free while the
    others simulate and draw.

    The processes are spawned, so that they inherit neither threads nor OpenGL, and do not import the program's
    `__main__`. They end when this process ends for any reason, and Ctrl-C in a terminal reaches only this process.

    Args:
        task: as in `make_env`.
        num_envs: at least 1.
        seed: of the run, at least 0.
        processes: True gives each environment a process, even a single one; False gives none. None uses processes only
            for several environments.
        timeout: seconds without an answer after which a process counts as dead; its start may take five times as long.
            Time while this process itself is stopped does not count.
        options: of `make_env`, `noise` among them.

    Raises:
        ValueError: if `num_envs`, `seed` or `timeout` is too small; and whatever `make_env` raises.
        EnvironmentDied: if a process ended while it started. Every method except `close` also raises it when it needs a
            process that has ended, and from then on.

    Warns:
        RuntimeWarning: once, if there are more environment processes than processors for this process.
    """
    num_envs, seed = at_least(1, num_envs, "num_envs"), at_least(0, seed, "seed")
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}; expected seconds, more than 0")
    seeds = [np.random.SeedSequence([seed, i]).generate_state(1, np.uint64).item() for i in range(num_envs)]
    # A spawned process has not imported the package that registered the id.
    makers = [partial(make_env, environment_spec(task), seed=env_seed, **options) for env_seed in seeds]
    if processes is None:
        processes = num_envs > 1
    if not processes:
        return InProcessVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    _warn_of_few_processors(num_envs)
    return ProcessVectorEnv(task, makers, timeout)


class InProcessVectorEnv(SyncVectorEnv):
    """Gymnasium's `SyncVectorEnv` with a step in two halves.

    It steps in `step_wait`: before that, a learner can start work on a GPU.
    """

    _actions: npt.NDArray[Any] | None = None

    def reset(self, **options: Any) -> Any:
        self._assert_no_step()
        return super().reset(**options)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Begin a step; actions `(num_envs, *action_shape)`."""
        self._assert_no_step()
        _check_shape(actions, self.action_space)
        self._actions = np.array(actions)

    def step_wait(self) -> Any:
        """End the step; returns the results of `step`."""
        actions, self._actions = self._actions, None
        if actions is None:
            raise gym.error.NoAsyncCallError("no step has begun: call step_async() first", "step")
        return super().step(actions)

    def step(self, actions: npt.NDArray[Any]) -> Any:
        self.step_async(actions)
        return self.step_wait()

    def _assert_no_step(self) -> None:
        if self._actions is not None:
            raise gym.error.AlreadyPendingCallError("a step has begun: end it with step_wait() first", "step")


class ProcessVectorEnv(AsyncVectorEnv):
    """Gymnasium's `AsyncVectorEnv`, which notices a process that has ended or is stuck, and always closes."""

    def __init__(self, task: str, makers: Sequence[Callable[[], gym.Env[Any, Any]]], timeout: float = 60.0) -> None:
        self._task, self._timeout = task, timeout
        try:
            with ExitStack() as self._surroundings:
                self._surroundings.enter_context(spawning())
                super().__init__(makers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP, worker=work)
        except BaseException:
            if hasattr(self, "processes"):
                self.close(terminate=True)
            raise

    def _check_spaces(self) -> None:
        """Gymnasium calls this first after the start of the processes."""
        self._surroundings.close()
        names = [f"environment {i} ({self._task}, process {process.pid})" for i, process in enumerate(self.processes)]
        started = zip(self.parent_pipes, self.processes, names, strict=True)
        lines = [Line(pipe, process, name, _STARTING * self._timeout) for pipe, process, name in started]
        self.parent_pipes = cast(Any, lines)
        super()._check_spaces()
        for line in lines:
            line.timeout = self._timeout

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Begin a step; actions `(num_envs, *action_shape)`."""
        _check_shape(actions, self.action_space)
        with self._sending():
            super().step_async(actions)

    def reset_async(self, *args: Any, **options: Any) -> None:
        with self._sending():
            super().reset_async(*args, **options)

    def call_async(self, *args: Any, **options: Any) -> None:
        with self._sending():
            super().call_async(*args, **options)

    def set_attr(self, *args: Any) -> None:
        with self._sending():
            super().set_attr(*args)

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """After an interruption only some environments have begun: their answers would be taken for later ones."""
        try:
            yield
        except KeyboardInterrupt:
            for line in cast(list[Line], self.parent_pipes):
                line.interrupted()
            raise

    def _assert_is_running(self) -> None:
        super()._assert_is_running()
        for line in self.parent_pipes:
            if isinstance(line, Line) and line.obituary is not None:
                raise EnvironmentDied(line.obituary)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        for pipe in self.parent_pipes:
            with suppress(EnvironmentDied, OSError):
                pipe.send(("close", None))
            pipe.close()
        deadline = monotonic() + (0 if terminate else PATIENCE if timeout is None else timeout)
        for process in (process for process in self.processes if process.pid is not None):
            process.join(max(0, deadline - monotonic()))
            if process.is_alive():
                process.kill()
                process.join(PATIENCE)  # not for ever: a driver can hold up even a process that was killed


def _check_shape(actions: npt.NDArray[Any], space: gym.Space[Any]) -> None:
    if np.shape(actions) != space.shape:
        raise ValueError(f"the actions have shape {np.shape(actions)}; expected {space.shape}")


def processor_count() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _warn_of_few_processors(processes: int) -> None:
    global _warned_of_few_processors
    processors = processor_count()
    if 1 < processes > processors and not _warned_of_few_processors:
        _warned_of_few_processors = True
        warnings.warn(
            f"{processes} environment processes share {processors} processor{'s' if processors > 1 else ''} and will "
            f"wait for one another: set num_envs to at most {processors}, or give this program more processors",
            RuntimeWarning,
            stacklevel=3,
        )
