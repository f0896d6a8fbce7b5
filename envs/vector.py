"""One environment, or many side by side, each in a process of its own."""

import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from envs.make import environment_spec, make_env

Step = tuple[
    npt.NDArray[np.uint8], npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]
]

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_LOOK_EVERY = 1.0  # seconds between looks at whether the process that we wait for lives
_STUCK = 1.0  # seconds after which a second Ctrl-C need not wait
_PATIENCE = 5.0  # seconds that a process gets to end by itself

_warned_of_few_processors = False


def make_vector_env(
    task: str, num_envs: int, *, seed: int, processes: bool | None = None, **options: Any
) -> "AsyncStepEnv":
    """Environments side by side, with Gymnasium's vector interface.

    They run in this process, one after another, or in a process each, which hand observations over in shared
    memory; what they compute is the same, bit for bit. An episode that ends is followed at once by the next
    (autoreset mode `SAME_STEP`): its last observation is in `infos["final_obs"]`. Environment i is seeded by
    `seed` and i, so `reset()` needs no seed.

    Between `step_async` and `step_wait` this process is free, while the others simulate and draw.

    The processes are spawned, so that they inherit neither threads nor OpenGL, and do not import the program's
    `__main__`. They end with this process, however it ends, and Ctrl-C in a terminal reaches this process only.

    Args:
        task: as in `make_env`.
        num_envs: at least 1.
        seed: of the run, at least 0.
        processes: True for a process each, even for a single environment; False for none. None means a process
            each where there are several.
        options: of `make_env`, `noise` among them.

    Raises:
        ValueError: if `num_envs` or `seed` is too small, and what else `make_env` raises.
        EnvironmentDied: if a process ended while it started. Every method but `close` raises it, too, as soon
            as it needs a process that has ended, and from then on.

    Warns:
        RuntimeWarning: once, if there are more environment processes than processors for this process.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}; expected at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected at least 0")
    seeds = [np.random.SeedSequence([seed, i]).generate_state(1, np.uint64).item() for i in range(num_envs)]
    # A process that is spawned has not imported what registered the id.
    makers = [partial(make_env, environment_spec(task), seed=env_seed, **options) for env_seed in seeds]
    if processes is None:
        processes = num_envs > 1
    if not processes:
        return _InProcessVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    _warn_of_few_processors(num_envs)
    return _ProcessVectorEnv(task, makers)


class EnvironmentDied(RuntimeError):
    """The process of an environment has ended; the message says whose, and how: a signal, a code, an exception.

    The exception's traceback, where there is one, is shown as the cause.
    """


class AsyncStepEnv(VectorEnv[Any, Any, Any]):
    """A vector environment whose `step` comes in two halves, so that this process can do something in between.

    After a `KeyboardInterrupt` it is still of use: a step that was begun can be waited for.
    """

    _step_begun = False
    _finished_step: Step | None = None

    def reset(
        self, *, seed: int | list[int | None] | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Start the next episodes.

        Args:
            seed: None goes on with the seeds given before; a list has one for each environment; a number s means
                s, s + 1, ...
            options: for each environment the same.

        Returns:
            Observations uint8 `(num_envs, frame_stack * 3, image_size, image_size)`, and infos.

        Raises:
            ValueError: if there are more or fewer seeds than environments.
            gymnasium.error.AlreadyPendingCallError: if a step has begun.
            EnvironmentDied: if a process has ended.
        """
        raise NotImplementedError

    def step_async(self, actions: npt.NDArray[np.float32]) -> None:
        """Begin a step.

        Args:
            actions: float32 `(num_envs, *action_shape)` in [-1, 1].

        Raises:
            ValueError: if the actions have another shape.
            gymnasium.error.AlreadyPendingCallError: if a step has begun already.
            EnvironmentDied: if a process has ended.
        """
        self._assert_is_running()
        self._assert_no_step("step_async")
        if np.shape(actions) != self.action_space.shape:
            raise ValueError(f"the actions have shape {np.shape(actions)}; expected {self.action_space.shape}")
        self._begin_step(actions)

    def step_wait(self) -> Step:
        """End the step that was begun.

        Returns:
            Observations uint8 `(num_envs, frame_stack * 3, image_size, image_size)`; rewards float64, terminated and
            truncated bool, `(num_envs,)` each; infos.

        Raises:
            gymnasium.error.NoAsyncCallError: if none was begun.
            EnvironmentDied: if a process has ended.
        """
        self._assert_is_running()
        self._complete_step()
        if self._finished_step is None:
            raise NoAsyncCallError("no step has begun: call step_async() first", "step")
        step = self._finished_step
        self._finished_step, self._step_begun = None, False
        return step

    def step(self, actions: npt.NDArray[np.float32]) -> Step:
        """`step_async` and `step_wait` in one."""
        self.step_async(actions)
        return self.step_wait()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The result of a method, or the attribute, of each environment; after the step, if one has begun."""
        raise NotImplementedError

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each environment; after the step, if one has begun."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute in each environment, after the step, if one has begun.

        Args:
            name: of the attribute.
            values: a list or tuple of `num_envs` values, or one value for all.
        """
        raise NotImplementedError

    def _begin_step(self, actions: npt.NDArray[np.float32]) -> None:
        """Begin, and set `_step_begun`."""
        raise NotImplementedError

    def _await_step(self) -> None:
        """Wait until `_end_step` need not wait; interrupted, it can be called again."""

    def _end_step(self) -> Step:
        raise NotImplementedError

    def _complete_step(self) -> None:
        if not self._step_begun or self._finished_step is not None:
            return
        self._await_step()
        with _interrupts_deferred():
            try:
                self._finished_step = self._end_step()
            except BaseException:
                self._step_begun = False
                raise

    def _assert_no_step(self, name: str) -> None:
        if self._step_begun:
            raise AlreadyPendingCallError(f"{name}() during a step: end it with step_wait() first", "step")

    def _assert_is_running(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the environments are closed")


class _InProcessVectorEnv(AsyncStepEnv, SyncVectorEnv):
    """Steps when it is waited for: by then a learner may have given a GPU its work."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._assert_is_running()
        self._assert_no_step("reset")
        return SyncVectorEnv.reset(self, seed=seed, options=options)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        self._assert_is_running()
        self._complete_step()
        return SyncVectorEnv.call(self, name, *args, **kwargs)

    def set_attr(self, name: str, values: Any) -> None:
        self._assert_is_running()
        self._complete_step()
        SyncVectorEnv.set_attr(self, name, values)

    def _begin_step(self, actions: npt.NDArray[np.float32]) -> None:
        self._actions = np.array(actions)
        self._step_begun = True

    def _end_step(self) -> Step:
        return SyncVectorEnv.step(self, self._actions)


class _ProcessVectorEnv(AsyncStepEnv, AsyncVectorEnv):  # type: ignore[misc]  # no timeout in step_wait
    """An `AsyncVectorEnv` that notices when a process has ended, is not put out of step by Ctrl-C, and always closes.

    Gymnasium's own waits for answers that do not come, or takes one answer for another.
    """

    _obituary: str | None = None

    def __init__(self, task: str, makers: Sequence[Callable[[], gym.Env[Any, Any]]]) -> None:
        self._task = task
        self._surroundings = ExitStack()
        try:
            with self._surroundings:
                self._surroundings.enter_context(_environment_variables(_ONE_THREAD))
                self._surroundings.enter_context(_blank_main())
                self._surroundings.enter_context(_interrupts_blocked())
                super().__init__(makers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP, worker=_worker)
        except BaseException:
            if hasattr(self, "processes"):
                self.close(terminate=True)
            raise

    def _check_spaces(self) -> None:
        """What Gymnasium does first when the processes have been started."""
        self._surroundings.close()
        self._lines = [_Line(*ends) for ends in zip(self.parent_pipes, self.processes, strict=True)]
        self.parent_pipes = cast(Any, self._lines)
        with self._noticing_deaths():
            super()._check_spaces()

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._assert_is_running()
        self._assert_no_step("reset")
        with self._exchange():
            return AsyncVectorEnv.reset(self, seed=seed, options=options)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        self._assert_is_running()
        self._complete_step()
        with self._exchange():
            return AsyncVectorEnv.call(self, name, *args, **kwargs)

    def set_attr(self, name: str, values: Any) -> None:
        self._assert_is_running()
        self._complete_step()
        with self._exchange():
            AsyncVectorEnv.set_attr(self, name, values)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        for pipe in self.parent_pipes:
            with suppress(_Gone, OSError):
                pipe.send(("close", None))
            pipe.close()
        deadline = time.monotonic() + (0 if terminate else _PATIENCE if timeout is None else timeout)
        started = [process for process in self.processes if process.pid is not None]
        for process in started:
            process.join(max(0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(_PATIENCE)  # not for ever: a driver can hold up even a process that was killed

    def _begin_step(self, actions: npt.NDArray[np.float32]) -> None:
        with self._exchange():
            AsyncVectorEnv.step_async(self, actions)
            self._step_begun = True

    def _await_step(self) -> None:
        with self._noticing_deaths():
            for line in self._lines:
                line.wait()

    def _end_step(self) -> Step:
        with self._noticing_deaths():
            return AsyncVectorEnv.step_wait(self)

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """For questions asked and answered inside; an earlier exchange may have been cut short."""
        with self._noticing_deaths(), _interrupts_deferred():
            for line in self._lines:
                while line.unread:
                    line.recv()
            self._state = AsyncState.DEFAULT
            yield

    @contextmanager
    def _noticing_deaths(self) -> Iterator[None]:
        try:
            yield
        except _Gone:
            fates = [(index, line, line.fate()) for index, line in enumerate(self._lines)]
            self._obituary = "; ".join(
                f"environment {index} ({self._task}, process {line.process.pid}) died: {fate}"
                for index, line, fate in fates
                if fate is not None
            )
            causes = [_RemoteTraceback(line.last_words.trace) for _, line, _ in fates if line.last_words]
            raise EnvironmentDied(self._obituary) from (causes[0] if causes else None)

    def _assert_is_running(self) -> None:
        super()._assert_is_running()
        if self._obituary is not None:
            raise EnvironmentDied(self._obituary)


class _Gone(Exception):
    """The process at the other end of a line has ended."""


class _RemoteTraceback(Exception):
    """The text of a traceback in another process, to be shown as a cause."""

    def __init__(self, trace: str) -> None:
        super().__init__(f"\n{trace}")


@dataclass(frozen=True)
class _LastWords:
    """What a process that an exception ends says of it: text alone, as not every exception can be sent."""

    error: str
    trace: str


class _Line:
    """This process's end of the pipe to another, which raises `_Gone` once that one has ended.

    `unread` counts the answers that are still to come.
    """

    def __init__(self, pipe: Connection, process: BaseProcess) -> None:
        self.process = process
        self.unread = 0
        self.last_words: _LastWords | None = None
        self._pipe = pipe
        self._gone = False

    def send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except ConnectionError:
            raise self._has_gone() from None
        self.unread += 1

    def wait(self) -> None:
        """Until there is an answer."""
        while not self._pipe.poll(_LOOK_EVERY):
            # Where a third process inherited the other end, the pipe alone would not tell.
            if not self.process.is_alive() and not self._pipe.poll():
                raise self._has_gone()

    def recv(self) -> Any:
        self.wait()
        self.unread -= 1
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._has_gone() from None
        if isinstance(answer, _LastWords):
            self.last_words = answer
            raise self._has_gone()
        return answer

    def close(self) -> None:
        self._pipe.close()

    def fate(self) -> str | None:
        """How the process ended, None if it goes on; answers that have not been read are lost."""
        with suppress(_Gone):
            while not self.last_words and self._pipe.poll():
                self.recv()
        if self.last_words:
            return self.last_words.error
        if not self._gone and self.process.is_alive():
            return None
        self.process.join(_PATIENCE)
        return _ending(self.process.exitcode)

    def _has_gone(self) -> _Gone:
        self._gone = True
        return _Gone()


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
    """Gymnasium's worker, which tells even of an exception in `maker`, and all in one pipe."""
    parent_pipe.close()  # this process's copy, which would keep the pipe open when the parent has ended
    parent: Any = _Parent(pipe)
    try:
        _async_worker(index, maker, parent, parent_pipe, observations, parent, *options)
    except Exception as error:
        parent.put((index, type(error), error, traceback.format_exc()))


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


@contextmanager
def _blank_main() -> Iterator[None]:
    """Keep processes that are spawned inside from importing the program's `__main__`.

    They need nothing of it, and a training program's would cost each of them a PyTorch: seconds, and 250 MB.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let processes that are started inside inherit that Ctrl-C does not reach them; here it acts at the end."""
    resource_tracker.ensure_running()  # starting it inside would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Let Ctrl-C act at the end; one that is pressed again a second later acts at once, as something may be stuck."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[float] = []

    def note(number: int, frame: Any) -> None:
        pressed.append(time.monotonic())
        if pressed[-1] - pressed[0] > _STUCK:
            handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if pressed and not pressed[-1] - pressed[0] > _STUCK:
            handler(signal.SIGINT, None)
