"""Makes the missing runs of a study in a pool of processes with one thread each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rlrep.envs.workers import ONE_THREAD
from rlrep.experiments.files import FolderInUse, locked, write_atomically
from rlrep.experiments.long_study.protocol import Job, Study
from rlrep.experiments.long_study.records import DIVERGED, FAILED, FINISHED, Record, code_commit
from rlrep.experiments.results.runs import EPISODES
from rlrep.experiments.speed.machine import machine_line

# The message of `rlrep.experiments.train` when a loss, an action or a reward was NaN or infinite.
NOT_FINITE = re.compile(r"=(-?inf|nan)\b|\bnot finite\b|must be finite")
POLL = 2.0  # seconds between checks of a folder that another process uses

Command = Callable[[Study, Job], list[str]]


def train_command(study: Study, job: Job) -> list[str]:
    return [sys.executable, "-m", "rlrep.experiments.train", *study.overrides_of(job)]


class Pool:
    """Runs that are made side by side.

    Args:
        workers: the number of processes.
        command: the command of a run. The exit code 0 means that the run has finished; otherwise, the command resumes
            it.
    """

    def __init__(self, study: Study, workers: int, command: Command = train_command) -> None:
        self.study, self.workers, self.command = study, workers, command
        self.children: set[subprocess.Popen[bytes]] = set()
        self.stopping = threading.Event()
        self.machine = machine_line()

    def make(self, jobs: Sequence[Job]) -> Generator[Record]:
        """Makes runs, and yields the outcome of each. If the caller stops early, all runs stop with a checkpoint."""
        with ThreadPoolExecutor(self.workers) as threads:
            try:
                for future in as_completed([threads.submit(self.run, job) for job in jobs]):
                    if (record := future.result()) is not None:
                        yield record
            finally:
                self.stop()

    def stop(self) -> None:
        self.stopping.set()
        for child in [*self.children]:
            child.terminate()

    def run(self, job: Job) -> Record | None:
        """Makes one run, after waiting for another process that makes it; None if the pool stops."""
        folder = job.run_dir(self.study.runs)
        while not self.stopping.is_set() and in_use(folder):
            self.stopping.wait(POLL)
        if self.stopping.is_set():
            return None
        attempts = Attempts(folder)
        attempts.begin(code_commit(), self.machine)  # which may have changed since the last run
        log = folder.with_name(f"{folder.name}.log")
        with log.open("ab") as file:
            start = file.tell()
            child = subprocess.Popen(
                self.command(self.study, job),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **ONE_THREAD},
                start_new_session=True,  # only this process gets Ctrl-C, and then stops them all
            )
            self.children.add(child)
            if self.stopping.is_set():
                child.terminate()
            code = child.wait()
            self.children.discard(child)
        attempts.end()
        if code and self.stopping.is_set():
            return None
        state, reason = outcome(code, log, start)
        return Record(job, state, reason, attempts.joined("commit"), attempts.joined("machine"), attempts.seconds)


def outcome(code: int, log: Path, start: int) -> tuple[str, str]:
    """The state of a run after its process, and the reason: the last line of its output.

    Args:
        code: its exit code.
        log: the file of its output, from the byte `start` on.
    """
    if code == 0:
        return FINISHED, ""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "")
    if NOT_FINITE.search(reason):
        return DIVERGED, reason
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return FAILED, f"{ended}: {reason}" if reason else ended


def in_use(folder: Path) -> bool:
    """Whether another process works in a run's folder: runs of a killed study continue."""
    try:
        with locked(folder):
            return False
    except FolderInUse:
        return True


class Attempts:
    """The record of a run's processes, in a file beside its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder.with_name(f"{folder.name}.json")
        self.rows: list[dict[str, Any]] = []
        if self.file.exists():
            self.rows = json.loads(self.file.read_text(encoding="utf-8"))
        if self.rows and self.rows[-1]["seconds"] is None:  # this process was killed: its run's last write is its end
            last = folder / EPISODES
            written = last.stat().st_mtime if last.exists() else 0.0
            self.rows[-1]["seconds"] = max(0.0, written - self.rows[-1]["started"])

    def begin(self, commit: str, machine: str) -> None:
        self.rows.append({"commit": commit, "machine": machine, "started": time.time(), "seconds": None})
        self.write()

    def end(self) -> None:
        self.rows[-1]["seconds"] = time.time() - self.rows[-1]["started"]
        self.write()

    def write(self) -> None:
        write_atomically(self.file, json.dumps(self.rows, indent=1).encode())

    def joined(self, name: str) -> str:
        return ", ".join(dict.fromkeys(row[name] for row in self.rows))

    @property
    def seconds(self) -> float:
        return round(sum(row["seconds"] for row in self.rows), 3)
