"""The processes of environments: how they start and end, and how long we wait for them."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.vector.async_vector_env import _async_worker

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
LOOK_EVERY = 1.0  # seconds between two checks that the process is alive
PATIENCE = 5.0  # seconds that a process has to end by itself


class EnvironmentDied(RuntimeError):
    """The process of an environment has ended, or no longer answers.

    The message names the environment, and says how the process ended: by a signal, a code, an exception, or without an
    answer. The exception's traceback, if any, is shown as the cause.
    """


class LastWords(NamedTuple):
    """A process's report of the exception that ends it; only text, because not every exception can be sent."""

    error: str
    trace: str


class Line:
    """This process's end of the pipe to a worker; it raises `EnvironmentDied` instead of waiting for ever.

    Args:
        pipe, process: of the worker.
        name: of the environment, for messages.
        timeout: seconds without an answer.

    Attributes:
        obituary: how the worker died, once known.
    """

    def __init__(self, pipe: Connection, process: BaseProcess, name: str, timeout: float) -> None:
        self.obituary: str | None = None
        self.timeout = timeout
        self._pipe, self._process, self._name = pipe, process, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except ConnectionError:
            raise self._ended() from None

    def recv(self) -> Any:
        try:
            self._wait()
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        except KeyboardInterrupt:
            self.interrupted()
            raise
        if isinstance(answer, LastWords):
            raise self._died(f"died: {answer.error}") from RuntimeError(f"\n{answer.trace}")
        return answer

    def interrupted(self) -> None:
        """Notes that a call was cut off, so that answers could be mistaken."""
        self._died("was interrupted by Ctrl-C before it answered: close the environments, and make others")

    def _wait(self) -> None:
        """Waits for an answer."""
        waited = 0.0
        while not self._pipe.poll(look := min(LOOK_EVERY, self.timeout - waited)):
            # If a third process inherited the other end, the pipe alone would not show it.
            if not self._process.is_alive() and not self._pipe.poll():
                raise EOFError
            waited += look  # counts checks, not time: this process may have been stopped too
            if waited >= self.timeout:
                raise self._died(f"has not answered for {self.timeout:g} s: {silence(self._process.pid)}")

    def _ended(self) -> EnvironmentDied:
        with suppress(EOFError, OSError):  # it may have reported the reason before it ended
            while self._pipe.poll():
                if isinstance(answer := self._pipe.recv(), LastWords):
                    return self._died(f"died: {answer.error}")
        self._process.join(PATIENCE)
        return self._died(f"died: {ending(self._process.exitcode)}")

    def _died(self, how: str) -> EnvironmentDied:
        self.obituary = f"{self._name} {how}"
        return EnvironmentDied(self.obituary)


def silence(process: int | None) -> str:
    """The kernel's state of a process that does not answer, if available."""
    with suppress(OSError, IndexError):
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "Tt":
            return f"it is stopped; `kill -CONT {process}` would have let it go on"
    return "it hangs, or needs a longer timeout"


def ending(exit_code: int | None) -> str:
    """How a process ended, by its exit code."""
    if exit_code is None:
        return "it closed its pipe"
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    name = next((each.name for each in signal.Signals if each == -exit_code), "unnamed")  # such as real-time signals
    hint = ": often the kernel's out-of-memory killer" if name == "SIGKILL" else ""
    return f"killed by signal {-exit_code} ({name}){hint}"


def work(
    index: int,
    maker: Callable[[], gym.Env[Any, Any]],
    pipe: Connection,
    parent_pipe: Connection,
    observations: Any,
    error_queue: Any,
    *options: Any,
) -> None:
    """Gymnasium's worker; it also reports an exception in `maker`, and uses one pipe for everything."""
    parent_pipe.close()  # this process's copy, which would keep the pipe open after the parent's end
    errors: Any = SimpleNamespace(put=partial(report, pipe))
    try:
        _async_worker(index, maker, pipe, parent_pipe, observations, errors, *options)
    except Exception as error:
        errors.put((index, type(error), error, traceback.format_exc()))


def report(pipe: Connection, error: tuple[int, type[BaseException], BaseException, str]) -> None:
    """Ends a worker after an exception; silently if the parent has ended.

    Gymnasium's worker calls it before it reports its failure.
    """
    _, kind, value, trace = error
    with suppress(ConnectionError):
        pipe.send(LastWords(f"{kind.__name__}: {value}", trace))
    sys.exit(1)


@contextmanager
def spawning() -> Iterator[None]:
    """Start processes inside with one thread each, shielded from Ctrl-C, and without the program's `__main__`.

    They do not need `__main__`, and a training program's would load PyTorch in each of them: seconds, and 250 MB.
    """
    resource_tracker.ensure_running()  # if it started inside, it would unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    main, variables = sys.modules["__main__"], {name: os.environ.get(name) for name in ONE_THREAD}
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in variables.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # a Ctrl-C from inside acts here
