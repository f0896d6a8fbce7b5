"""SIGTERM, Ctrl-C and a closed terminal end a run between two steps, after a checkpoint; before its start, at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
INSISTING = 1.0  # seconds after which a second Ctrl-C does not wait for the step


class StopRequested(Exception):
    """The run was asked to stop and is between two steps."""


class Stopped(Exception):
    """A run has stopped on request; the message says what is saved.

    Attributes:
        exit_code: a shell's exit code for a process that the signal ended.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopRequest:
    """Inside this context, SIGTERM, SIGHUP and Ctrl-C are recorded; `check` raises them where a run can stop.

    A closed terminal or connection sends SIGHUP; under nohup it stays ignored.

    A second Ctrl-C raises `KeyboardInterrupt` at once. Does nothing outside the main thread, because only the main
    thread gets signals.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.asked_at = 0.0
        self.handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            heard = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
            self.handlers = {number: signal.signal(number, self.note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self.asked_at = signal.Signals(number), now
            with suppress(OSError):  # the terminal may be closed
                print(f"{self.signal.name}: stopping after this step, with a checkpoint", file=sys.stderr, flush=True)
        elif number == signal.SIGINT and now - self.asked_at > INSISTING:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raises `StopRequested` if a signal has come."""
        if self.signal is not None:
            raise StopRequested


class EarlyStop(StopRequest):
    """Raises `KeyboardInterrupt` at the first signal, anywhere in the program: nothing needs a checkpoint.

    After it, uncatchable errors are not shown: incomplete objects report errors when they are deleted. An interrupt
    that is raised while an object is deleted is lost; it is raised again a moment later.
    """

    def __enter__(self) -> EarlyStop:
        super().__enter__()
        self.show, sys.unraisablehook = sys.unraisablehook, self.unraisable
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self.signal is None:  # or objects may be deleted until the process ends
            sys.unraisablehook = self.show

    def note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None or now - self.asked_at > INSISTING:
            self.signal, self.asked_at = signal.Signals(number), now
            raise KeyboardInterrupt

    def unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        if self.signal is None:
            self.show(lost)
        elif issubclass(lost.exc_type, KeyboardInterrupt):
            again, self.asked_at = self.signal, -INSISTING
            threading.Timer(0.01, os.kill, (os.getpid(), again)).start()


def end_by_signals() -> None:
    """From here on the signals end the process silently: only Python's own shutdown remains."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes started inside do not get the signals: they end with this process, after its last step. In this
    process, the signals act at the end of the context."""
    resource_tracker.ensure_running()  # if it started inside, it would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
