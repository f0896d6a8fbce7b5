"""Makes the missing runs of a study, and stores each run's results at its end."""

from __future__ import annotations

import sys
from contextlib import closing

from rlrep.experiments.files import locked
from rlrep.experiments.long_study.on_ray import RayPool
from rlrep.experiments.long_study.pool import Command, Pool, train_command
from rlrep.experiments.long_study.protocol import Study, StudyError
from rlrep.experiments.long_study.records import ENDED, keep, read_records
from rlrep.experiments.long_study.report import write_report
from rlrep.experiments.run.stop import EarlyStop


def make_missing(study: Study, workers: int | None, command: Command = train_command) -> int:
    """Makes the runs that have neither finished nor diverged; returns the number of unfinished runs.

    Args:
        study: the protocol.
        workers: how many runs side by side; None makes them on Ray.
        command: see `Pool`.

    Raises:
        StudyError: if a folder has runs of another protocol, if runs and stored results would share a folder, or
            without Ray.
        FolderInUse: if another process makes this study.
        KeyboardInterrupt: after a signal, when all runs have written a checkpoint.
    """
    if study.runs.resolve().is_relative_to(study.kept.resolve()):
        raise StudyError(
            f"{study.file} is where the command runs, so that {study.runs} would be made among the runs that are kept: "
            f"move the file into a folder of its own"
        )
    for folder in (study.kept, study.runs):
        study.check_folder(folder)
    with locked(study.runs):
        for folder in (study.kept, study.runs):
            study.claim(folder)
        records = {record.job: record for record in read_records(study)}
        missing = [job for job, record in records.items() if record.state not in ENDED]
        pool = RayPool(study, command) if workers is None else Pool(study, workers, command)
        with EarlyStop(), closing(pool.make(missing)) as ended:
            for record in ended:
                record = records[record.job] = keep(study, record)
                left = sum(each.state not in ENDED for each in records.values())
                why = f" ({record.reason})" if record.reason else ""
                print(
                    f"{record.job}: {record.state}{why}; {left} of {len(records)} not finished",
                    file=sys.stderr,
                    flush=True,
                )
                write_report(study)
    return sum(record.state not in ENDED for record in records.values())
