"""Environments side by side, in this process or each in one of its own, which never wait for ever."""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import _async_worker

from envs.arguments import at_least
from envs.make import environment_spec, make_env

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_LOOK_EVERY = 1.0  # seconds between looks at whether the process that we wait for lives
_STARTING = 5  # times as long as an answer, a process may take to start: it imports a simulator
_PATIENCE = 5.0  # seconds that a process gets to end by itself

_warned_of_few_processors = False


class EnvironmentDied(RuntimeError):
    """The process of an environment has ended, or no longer answers.

    The message says whose it is, and how it ended: by a signal, a code, an exception, or in silence. The exception's
    traceback, where there is one, is shown as the cause.
    """


def make_vector_env(
    task: str,
    num_envs: int,
    *,
    seed: int,
    processes: bool | None = None,
    timeout: float = 60.0,
    **options: Any,
) -> "InProcessVectorEnv | ProcessVectorEnv":
    """Environments side by side, with Gymnasium's vector interface.

    They run in this process, one after another, or in a process each, which hand observations over in shared
    memory; what they compute is the same, bit for bit. An episode that ends is followed at once by the next
    (autoreset mode `SAME_STEP`): its last observation is in `infos["final_obs"]`. Environment i is seeded by
    `seed` and i, so `reset()` needs no seed.

    `step(actions)` is `step_async(actions)` and `step_wait()`; between the two this process is free, while the others
    simulate and draw.

    The processes are spawned, so that they inherit neither threads nor OpenGL, and do not import the program's
    `__main__`. They end with this process, however it ends, and Ctrl-C in a terminal reaches this process only.

    Args:
        task: as in `make_env`.
        num_envs: at least 1.
        seed: of the run, at least 0.
        processes: True for a process each, even for a single environment; False for none. None means a process
            each where there are several.
        timeout: seconds without an answer after which a process counts as dead; its start may take five times as long.
            Time in which this process itself is stopped does not count.
        options: of `make_env`, `noise` among them.

    Raises:
        ValueError: if `num_envs`, `seed` or `timeout` is too small; and whatever `make_env` raises.
        EnvironmentDied: if a process ended while it started. Every method but `close` raises it, too, as soon
            as it needs a process that has ended, and from then on.

    Warns:
        RuntimeWarning: once, if there are more environment processes than processors for this process.
    """
    num_envs, seed = at_least(1, num_envs, "num_envs"), at_least(0, seed, "seed")
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}; expected seconds, more than 0")
    seeds = [np.random.SeedSequence([seed, i]).generate_state(1, np.uint64).item() for i in range(num_envs)]
    # A process that is spawned has not imported what registered the id.
    makers = [partial(make_env, environment_spec(task), seed=env_seed, **options) for env_seed in seeds]
    if processes is None:
        processes = num_envs > 1
    if not processes:
        return InProcessVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    _warn_of_few_processors(num_envs)
    return ProcessVectorEnv(task, makers, timeout)


class InProcessVectorEnv(SyncVectorEnv):
    """Gymnasium's `SyncVectorEnv` with a step in two halves.

    It steps when it is waited for: by then a learner may have given a GPU its work.
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
        """End it; returns as `step`."""
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
                self._surroundings.enter_context(_spawning())
                super().__init__(makers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP, worker=_worker)
        except BaseException:
            if hasattr(self, "processes"):
                self.close(terminate=True)
            raise

    def _check_spaces(self) -> None:
        """What Gymnasium does first when the processes have been started."""
        self._surroundings.close()
        lines = [
            _Line(
                pipe, process, f"environment {index} ({self._task}, process {process.pid})", _STARTING * self._timeout
            )
            for index, (pipe, process) in enumerate(zip(self.parent_pipes, self.processes, strict=True))
        ]
        self.parent_pipes = cast(Any, lines)
        super()._check_spaces()
        for line in lines:
            line.timeout = self._timeout

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Begin a step; actions `(num_envs, *action_shape)`."""
        _check_shape(actions, self.action_space)
        super().step_async(actions)

    def _assert_is_running(self) -> None:
        super()._assert_is_running()
        for line in self.parent_pipes:
            if isinstance(line, _Line) and line.obituary is not None:
                raise EnvironmentDied(line.obituary)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        for pipe in self.parent_pipes:
            with suppress(EnvironmentDied, OSError):
                pipe.send(("close", None))
            pipe.close()
        deadline = monotonic() + (0 if terminate else _PATIENCE if timeout is None else timeout)
        for process in (process for process in self.processes if process.pid is not None):
            process.join(max(0, deadline - monotonic()))
            if process.is_alive():
                process.kill()
                process.join(_PATIENCE)  # not for ever: a driver can hold up even a process that was killed


class _LastWords(NamedTuple):
    """What a process that an exception ends says of it: text alone, as not every exception can be sent."""

    error: str
    trace: str


class _RemoteTraceback(Exception):
    """The text of a traceback in another process, to be shown as a cause."""

    def __init__(self, trace: str) -> None:
        super().__init__(f"\n{trace}")


class _Line:
    """This process's end of the pipe to a worker, which raises `EnvironmentDied` in place of waiting for ever.

    Args:
        pipe, process: of the worker.
        name: of the environment, for messages.
        timeout: seconds without an answer.
    """

    def __init__(self, pipe: Connection, process: BaseProcess, name: str, timeout: float) -> None:
        self.obituary: str | None = None
        self.timeout = timeout
        self._pipe, self._process, self._name = pipe, process, name

    def send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except ConnectionError:
            raise self._ended() from None

    def recv(self) -> Any:
        try:
            return self._answer()
        except KeyboardInterrupt:
            self._died("was interrupted by Ctrl-C before it answered: close the environments, and make others")
            raise

    def _answer(self) -> Any:
        waited = 0.0
        while not self._pipe.poll(look := min(_LOOK_EVERY, self.timeout - waited)):
            # Where a third process inherited the other end, the pipe alone would not tell.
            if not self._process.is_alive() and not self._pipe.poll():
                raise self._ended()
            waited += look  # not by the clock: this process may have been stopped as well
            if waited >= self.timeout:
                raise self._died(f"has not answered for {self.timeout:g} s: {self._silence()}")
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, _LastWords):
            raise self._died(f"died: {answer.error}") from _RemoteTraceback(answer.trace)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def _ended(self) -> EnvironmentDied:
        with suppress(EOFError, OSError):  # it may have said why before it ended
            while self._pipe.poll():
                if isinstance(answer := self._pipe.recv(), _LastWords):
                    return self._died(f"died: {answer.error}")
        self._process.join(_PATIENCE)
        return self._died(f"died: {_ending(self._process.exitcode)}")

    def _died(self, how: str) -> EnvironmentDied:
        self.obituary = f"{self._name} {how}"
        return EnvironmentDied(self.obituary)

    def _silence(self) -> str:
        """What the kernel says of a process that is silent, where it can be asked."""
        with suppress(OSError, IndexError):
            state = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state in "Tt":
                return f"it is stopped; `kill -CONT {self._process.pid}` would have let it go on"
        return "it hangs, or needs a longer timeout"


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "it closed its pipe"
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:  # real-time signals have no names
        name = "unnamed"
    hint = ": often the kernel's out-of-memory killer" if name == "SIGKILL" else ""
    return f"killed by signal {-exit_code} ({name}){hint}"


class _Parent:
    """A worker's end of the pipe. The worker ends when the parent does, without a word."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def recv(self) -> Any:
        return self._pipe.recv()  # an EOFError ends the worker as any exception does, but no one is there to hear of it

    def send(self, answer: Any) -> None:
        try:
            self._pipe.send(answer)
        except ConnectionError:
            sys.exit(0)

    def put(self, error: tuple[int, type[BaseException], BaseException, str]) -> None:
        """What Gymnasium's worker does with an exception that ends it, before it sends that it failed."""
        _, kind, value, trace = error
        self.send(_LastWords(f"{kind.__name__}: {value}", trace))
        sys.exit(1)


def _worker(
    index: int,
    maker: Callable[[], gym.Env[Any, Any]],
    pipe: Connection,
    parent_pipe: Connection,
    observations: Any,
    error_queue: Any,
    *options: Any,
) -> None:
    """Gymnasium's worker, which reports an exception in `maker` too, all through one pipe."""
    parent_pipe.close()  # this process's copy, which would keep the pipe open when the parent has ended
    parent: Any = _Parent(pipe)
    try:
        _async_worker(index, maker, parent, parent_pipe, observations, parent, *options)
    except Exception as error:
        parent.put((index, type(error), error, traceback.format_exc()))


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


@contextmanager
def _spawning() -> Iterator[None]:
    """Start processes inside with one thread each, out of reach of Ctrl-C, and without the program's `__main__`.

    They need nothing of it, and a training program's would cost each of them a PyTorch: seconds, and 250 MB.
    """
    resource_tracker.ensure_running()  # starting it inside would unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    main, variables = sys.modules["__main__"], {name: os.environ.get(name) for name in _ONE_THREAD}
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in variables.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # one that was pressed acts here
