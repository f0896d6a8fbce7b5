"""The driver of online runs, offline runs and pre-trainings: the base class of runs, their loop, and their end."""

from __future__ import annotations

import errno
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from rlrep.envs import EnvironmentDied, OpenGLError
from rlrep.experiments.files import write_atomically
from rlrep.experiments.run import ranks
from rlrep.experiments.run.checkpoint import CHECKPOINT, CONFIG, CheckpointError, save_checkpoint
from rlrep.experiments.run.config_file import as_dict
from rlrep.experiments.run.log import NonFiniteLoss, UpdateMetrics
from rlrep.experiments.run.options import ConfigError, options_of, refusals
from rlrep.experiments.run.stop import Stopped, StopRequest, StopRequested
from rlrep.experiments.yaml_files import differences
from rlrep.replay import ReplayError


class TrainingError(RuntimeError):
    """Something outside the program stopped a run; the message says what to do."""


class NothingToDo(Exception):
    """A run that resumes has made all its steps."""

    def __init__(self, run: Run, count: int) -> None:
        super().__init__(f"nothing to do: the run is at {run.counter} {count} already; to continue, raise {run.longer}")
        self.folder = run.folder


# Errors that users can fix; shown without a traceback.
EXPECTED = (ConfigError, ReplayError, CheckpointError, NonFiniteLoss, OpenGLError, EnvironmentDied, TrainingError)


class Run(ABC):
    """A loop of steps with checkpoints between them, in a folder. `close` it at the end.

    A checkpoint holds the whole state of the loop, so that a stopped run ends like an uninterrupted one. The last
    checkpoint says that the run is finished: without it, the run has more to do, even if its tables are complete.

    Attributes:
        counter: the unit of `count`, and the name of its column in the tables.
        finished: whether the last checkpoint was written at the end of a run.
    """

    counter: ClassVar[str]
    config: Any
    folder: Path
    metrics: UpdateMetrics
    close: Callable[[], None]
    rank = 0
    finished = False
    stop = StopRequest()  # never raised; `run` uses its own

    @property
    @abstractmethod
    def count(self) -> int:
        """The progress of the run."""

    @property
    @abstractmethod
    def at_end(self) -> bool:
        """Whether all steps are made."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """A one-line summary, printed when the run starts."""

    @property
    @abstractmethod
    def longer(self) -> str:
        """The setting that extends a finished run."""

    @abstractmethod
    def advance(self) -> None:
        """One step, with everything that precedes or follows it."""

    @property
    @abstractmethod
    def checkpoint_due(self) -> bool:
        """Whether a checkpoint must follow the last step."""

    @abstractmethod
    def finish(self) -> None:
        """Called after the last step, before the final checkpoint. May run again."""

    @abstractmethod
    def state(self) -> dict[str, Any] | None:
        """The checkpoint's entries of this kind of run; None in processes that write no checkpoint.

        Raises:
            NonFiniteLoss: before a checkpoint with NaNs replaces a good one.
        """

    def save(self) -> None:
        """Writes a checkpoint."""
        state = self.state()
        if state is None:
            return
        self.write({**state, "metrics": self.metrics.state_dict(), "finished": self.finished})

    def write(self, state: dict[str, Any]) -> None:
        save_checkpoint(self.folder / CHECKPOINT, state)

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the state that `save` wrote."""
        self.finished = state["finished"]
        self.metrics.load_state_dict(state["metrics"])

    def run(self) -> None:
        """Runs to the end.

        Raises:
            Stopped: after SIGTERM or Ctrl-C, after a checkpoint.
            NonFiniteLoss: if a loss is not finite; the last good checkpoint is kept.
        """
        self.finished = False
        with StopRequest() as self.stop:
            try:
                while not self.at_end:
                    self.advance()
                    if self.checkpoint_due:
                        self.save()
                    self.stop.check()
                self.finish()
            except StopRequested:
                assert self.stop.signal is not None
                raise Stopped(self.saved_on_request(), self.stop.signal) from None
            self.finished = True
            self.save()
            if self.stop.signal is not None:
                raise Stopped(f"finished at {self.counter} {self.count}, and everything is saved", self.stop.signal)

    def saved_on_request(self) -> str:
        """Saves the run now, and prints that."""
        where = f"stopped at {self.counter} {self.count}"
        if ranks.world_size() > 1:  # the other ranks may be at another step, and cannot join the checkpoint
            return f"{where}: resume with resume=true; {kept(self.folder)}"
        self.save()
        return f"{where}, and everything is saved: resume with resume=true"


def conduct(open_run: Callable[[DictConfig, ExitStack], Run], composed: DictConfig) -> Path:
    """Opens the run of a composed configuration, and runs it to the end.

    Args:
        open_run: locks the folder, builds the run in it, and enters opened resources into the stack.
        composed: the configuration.

    Returns:
        The run's folder.

    Raises:
        ConfigError, ReplayError, CheckpointError, OpenGLError: before anything starts.
        NonFiniteLoss: if the run diverged; the last good checkpoint is kept.
        TrainingError: if files can't be written or an environment died; earlier files are complete.
        Stopped: after SIGTERM or Ctrl-C.
    """
    with ExitStack() as opened:
        try:
            with refusals():
                run = open_run(composed, opened)
            if run.finished and run.at_end:
                raise NothingToDo(run, run.count)
        except NothingToDo as done:
            print(done)
            return done.folder
        with advising(run.folder, lambda: f"{run.counter} {run.count}"):
            if run.rank == 0:
                write_config(run.config, run.folder)
                print(run.headline, file=sys.stderr, flush=True)
            run.run()
    return run.folder


@contextmanager
def advising(folder: Path, where: Callable[[], str]) -> Iterator[None]:
    """Adds advice to errors of a run that diverges or can't write its files; `where` states its progress.

    Raises:
        NonFiniteLoss, TrainingError: instead of the original errors, with the advice.
    """
    try:
        yield
    except NonFiniteLoss as error:
        raise NonFiniteLoss(
            f"{error}. Training stopped; {kept(folder)}. Try a smaller lr, or encoder.precision=float32, "
            f"in another run_dir"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason, advice = "the disk is full", f"free space where {folder} is"
        elif error.filename is not None and Path(str(error.filename)).is_relative_to(folder):
            reason, advice = f"can't write {error.filename} ({error.strerror})", "make it writable"
        else:
            raise
        raise TrainingError(
            f"{reason}, at {where()}: {advice}, then resume with resume=true; {kept(folder)}"
        ) from error


def claim(folder: Path, config: Any, saved: Any) -> None:
    """Refuses a folder with a run, `saved`, unless `resume` is set and the configurations agree.

    Args:
        folder: of the run.
        config: of the run.
        saved: the configuration in the folder; None without one.

    Raises:
        ConfigError: naming the differences.
    """
    if saved is None:
        if (folder / CHECKPOINT).exists():
            raise ConfigError(f"{folder} holds a checkpoint but no {CONFIG}: put it back, or choose another run_dir")
        return
    if not config.resume:
        raise ConfigError(
            f"{folder} already holds a run: resume with resume=true, choose another run_dir, or delete it"
        )
    free = {name for name, known in options_of(type(config)).items() if known.free}
    different = differences(as_dict(config), as_dict(saved), free)
    if different:
        raise ConfigError(
            f"{folder} holds a run of another configuration: "
            f"{'; '.join(f'{name}={new} (the run has {old})' for name, (new, old) in different.items())}. Resume with "
            f"the run's values, or choose another run_dir"
        )


def write_config(config: Any, folder: Path) -> None:
    write_atomically(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(as_dict(config))).encode())


def following(count: int, every: int) -> int:
    """The next multiple of `every` after `count`."""
    return (count // every + 1) * every


def kept(folder: Path) -> str:
    checkpoint = folder / CHECKPOINT
    return f"the last good checkpoint is kept in {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"
