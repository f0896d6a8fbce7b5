"""Makes the missing runs of a study on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from rlrep.experiments.long_study.pool import POLL, Command, Pool, train_command
from rlrep.experiments.long_study.protocol import Job, Study, StudyError
from rlrep.experiments.long_study.records import FAILED, Record
from rlrep.extras import install


class RayPool:
    """The same as `Pool`, on the Ray cluster in RAY_ADDRESS, or else a local one: each run is a task of one processor.

    All machines share the working folder, with the code and the runs.

    Raises:
        StudyError: without Ray.
    """

    def __init__(self, study: Study, command: Command = train_command) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise StudyError(f"ray is not installed: {install('ray')}") from error
        self.study, self.command, self.ray = study, command, ray

    def make(self, jobs: Sequence[Job]) -> Generator[Record]:
        """Makes runs, and yields the outcome of each. If the caller stops early, all runs stop with a checkpoint."""
        ray = self.ray
        ray.init(log_to_driver=False)
        make_one: Any = ray.remote(num_cpus=1, max_calls=1, max_retries=0)(run_here)
        running = {make_one.remote(self.study, job, self.command, Path.cwd()): job for job in jobs}
        left = list(running)
        try:
            while left:
                done, left = ray.wait(left, timeout=POLL)
                for task in done:
                    if (record := self.outcome(task, running[task])) is not None:
                        yield record
        finally:
            for task in left:
                ray.cancel(task)
            if left:
                ray.wait(left, num_returns=len(left))
            ray.shutdown()

    def outcome(self, task: Any, job: Job) -> Record | None:
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError as error:  # its machine was lost, or the folder is not there
            last = str(error).strip().splitlines()[-1]
            return Record(job, FAILED, f"on Ray: {last}", "unknown", "unknown", 0.0)


def run_here(study: Study, job: Job, command: Command, folder: Path) -> Record | None:
    """Makes one run in this process of a Ray worker; a cancelled one stops with a checkpoint."""
    os.chdir(folder)
    pool = Pool(study, 1, command)
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(pool.run, job)
        try:
            # Ray cancels a task by a KeyboardInterrupt that does not wake a thread that waits.
            while not wait([future], timeout=POLL).done:
                pass
        except KeyboardInterrupt:
            pool.stop()
        return future.result()
