"""The one driver of online runs, offline runs and pre-trainings: what a run is, its loop, and how it ends."""

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


# What users can fix; shown without a traceback.
EXPECTED = (ConfigError, ReplayError, CheckpointError, NonFiniteLoss, OpenGLError, EnvironmentDied, TrainingError)


class Run(ABC):
    """A loop of steps with checkpoints between them, in a folder. `close` it at the end.

    A checkpoint holds everything that the loop has, so that a run that was stopped ends as one that was not. The last
    one says that the run is finished: a run without it has more to do, whatever its tables hold.

    Attributes:
        counter: what `count` counts; the column of the tables that holds it.
        finished: whether the last checkpoint was written at the end of a run.
    """

    counter: ClassVar[str]
    config: Any
    folder: Path
    metrics: UpdateMetrics
    close: Callable[[], None]
    rank = 0
    finished = False
    stop = StopRequest()  # that never comes; `run` listens to one of its own

    @property
    @abstractmethod
    def count(self) -> int:
        """How far the run is."""

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
        """The setting that makes a finished run longer."""

    @abstractmethod
    def advance(self) -> None:
        """One step, and what belongs before or after it."""

    @property
    @abstractmethod
    def checkpoint_due(self) -> bool:
        """Whether a checkpoint belongs after the step that was made last."""

    @abstractmethod
    def finish(self) -> None:
        """After the last step, before the checkpoint that says that the run is finished. May be repeated."""

    @abstractmethod
    def state(self) -> dict[str, Any] | None:
        """What a checkpoint holds beside what all runs have; None in processes that write none.

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
        """Continues from what `save` wrote."""
        self.finished = state["finished"]
        self.metrics.load_state_dict(state["metrics"])

    def run(self) -> None:
        """Runs to the end.

        Raises:
            Stopped: after SIGTERM or Ctrl-C, once a checkpoint is written.
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
        """Saves the run where it is; says so."""
        where = f"stopped at {self.counter} {self.count}"
        if ranks.world_size() > 1:  # the other ranks may be at another step, and can't join in a checkpoint
            return f"{where}: resume with resume=true; {kept(self.folder)}"
        self.save()
        return f"{where}, and everything is saved: resume with resume=true"


def conduct(open_run: Callable[[DictConfig, ExitStack], Run], composed: DictConfig) -> Path:
    """Opens the run that a composed configuration asks for, and runs it to the end.

    Args:
        open_run: builds the run in the folder that it locks, and enters what it opens into the stack.
        composed: the configuration.

    Returns:
        The run's folder.

    Raises:
        ConfigError, ReplayError, CheckpointError, OpenGLError: before anything starts.
        NonFiniteLoss: if the run diverged; the last good checkpoint is kept.
        TrainingError: if files can't be written or an environment died; what was written before is whole.
        Stopped: after SIGTERM or Ctrl-C.
    """
    with ExitStack() as opened:
        with refusals():
            run = open_run(composed, opened)
        if run.finished and run.at_end:
            print(f"nothing to do: the run is at {run.counter} {run.count} already; to continue, raise {run.longer}")
            return run.folder
        with advising(run.folder, lambda: f"{run.counter} {run.count}"):
            if run.rank == 0:
                write_config(run.config, run.folder)
                print(run.headline, file=sys.stderr, flush=True)
            run.run()
    return run.folder


@contextmanager
def advising(folder: Path, where: Callable[[], str]) -> Iterator[None]:
    """Says what to do when a run diverges or can't write its files; `where` says how far it is.

    Raises:
        NonFiniteLoss, TrainingError: in their place, with the advice.
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
    """Refuses a folder that holds a run, `saved`, except one of the same configuration that is to be resumed.

    Args:
        folder: of the run.
        config: of the run.
        saved: the configuration that the folder holds; None if it has none.

    Raises:
        ConfigError: with what differs.
    """
    if saved is None:
        if (folder / CHECKPOINT).exists():
            raise ConfigError(f"{folder} holds a checkpoint but no {CONFIG}: put it back, or choose another run_dir")
        return
    if not config.resume:
        raise ConfigError(f"{folder} already holds a run: go on with resume=true, choose another run_dir, or delete it")
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
