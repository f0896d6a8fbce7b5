"""The stored results of a study's runs, in the repository: each run's evaluations and provenance.

ARM/TASK/SEED.csv is the `eval.csv` of a finished run. SEED.json records its end, commit, machine and time.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass, replace
from math import nan
from pathlib import Path

import numpy as np

from rlrep.experiments.files import git, write_atomically
from rlrep.experiments.long_study.protocol import Job, Study
from rlrep.experiments.results.runs import EVALUATIONS, Array, NotFinite, Run, RunError, read_config, read_returns
from rlrep.experiments.yaml_files import flat

ROOT = Path(__file__).resolve().parents[2]
# The code of a run: everything except the reports, where finished runs are committed.
CODE = ("rlrep", "agents", "envs", "experiments", "pyproject.toml", "constraints*.txt", ":!experiments/reports")
FINISHED, DIVERGED, FAILED, MISSING = "finished", "diverged", "failed", "missing"
ENDED = (FINISHED, DIVERGED)  # the states that have a score and are not tried again


@dataclass(frozen=True)
class Record:
    """The record of one run.

    Attributes:
        state: "finished"; "diverged" (a loss, action or evaluation was NaN), which counts as the random policy;
            "failed" (killed, or without readable evaluations), which is tried again; or "missing".
        reason: why it is not finished.
        commit: the last commit that changed code, with "+changes" for uncommitted changes; several if it resumed at
            another commit.
        machine: processor, cores and torch; several in the same way.
        seconds: the time of its processes.
        config: a hash of its configuration without the seed.
        run: its evaluations, if it finished.
    """

    job: Job
    state: str
    reason: str = ""
    commit: str = ""
    machine: str = ""
    seconds: float = nan
    config: str = ""
    run: Run | None = None

    def area(self, study: Study) -> float:
        """The mean of the evaluation curve over the run, by the trapezoidal rule: its area over its length. At frame 0,
        where nothing is learned yet, the random policy's return stands for that of an untrained network.
        """
        assert self.run is not None
        frames = self.run.frames
        returns = np.where(frames == 0, study.tasks[self.job.task].random, self.run.returns)
        if len(frames) < 2:
            return float(returns[0])
        return float(np.trapezoid(returns, frames) / (frames[-1] - frames[0]))

    def last_return(self, study: Study) -> float:
        """The return of the last evaluation; the random policy's if it diverged."""
        return study.tasks[self.job.task].random if self.run is None else float(self.run.returns[-1])

    def curve(self, study: Study, frames: Array) -> Run:
        """Its evaluations; if it diverged, the random policy's return at all `frames`."""
        if self.run is not None:
            return self.run
        returns = np.full(len(frames), study.tasks[self.job.task].random)
        return evaluated(study, self.job, frames, returns)

    def score(self, study: Study) -> float:
        """The area on a scale from the random policy, 0, or less, to the best published return, 1; 0 if it diverged."""
        if self.state == DIVERGED:
            return 0.0
        task = study.tasks[self.job.task]
        return max(0.0, (self.area(study) - task.random) / (task.best - task.random))


def path_of(study: Study, job: Job, ending: str) -> Path:
    return study.kept / job.arm / job.task / f"{job.seed}.{ending}"


def evaluated(study: Study, job: Job, frames: Array, returns: Array) -> Run:
    return Run(path_of(study, job, "csv").parent, {"task": job.task, "seed": job.seed}, frames, returns)


def read_record(study: Study, job: Job) -> Record:
    """The record of a run; an unusable record is "missing", with the reason."""
    path = path_of(study, job, "json")
    try:
        record = Record(job, **json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Record(job, MISSING)
    except (OSError, ValueError, TypeError) as error:
        return Record(job, MISSING, f"{path} can't be read ({error})")
    if record.state != FINISHED:
        return record
    table = path_of(study, job, "csv")
    try:
        return replace(record, run=evaluated(study, job, *read_returns(table)))
    except RunError as error:
        return replace(record, state=MISSING, reason=str(error))


def read_records(study: Study) -> list[Record]:
    return [read_record(study, job) for job in study.jobs]


def strangers(study: Study) -> list[Path]:
    """Files of runs that are not in the protocol."""
    known = {path_of(study, job, ending) for job in study.jobs for ending in ("csv", "json")}
    return sorted(path for path in study.kept.glob("*/*/*") if path not in known and path.name[0] != ".")


def keep(study: Study, record: Record) -> Record:
    """Stores a run's outcome and, if it finished, its evaluations; a finished run with a NaN in them has diverged."""
    folder = record.job.run_dir(study.runs)
    if record.state == FINISHED:
        try:
            read_returns(folder / EVALUATIONS)
            record = replace(record, config=config_hash(folder))
            write_atomically(path_of(study, record.job, "csv"), (folder / EVALUATIONS).read_bytes())
        except RunError as error:
            record = replace(record, state=DIVERGED if isinstance(error, NotFinite) else FAILED, reason=str(error))
    kept = {name: value for name, value in asdict(replace(record, run=None)).items() if name not in ("job", "run")}
    write_atomically(path_of(study, record.job, "json"), (json.dumps(kept, indent=1) + "\n").encode())
    return record


def config_hash(folder: Path) -> str:
    """A hash of a run's configuration without its seed and folder."""
    settings = {name: value for name, value in flat(read_config(folder)).items() if name not in ("seed", "run_dir")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def code_commit() -> str:
    """The last commit that changed code, and whether files of it have changed since; "unknown" outside of git."""
    try:
        commit = git(ROOT, "log", "-1", "--format=%h", "--abbrev=10", "--", *CODE)
        return commit + ("+changes" if git(ROOT, "status", "--porcelain", "--", *CODE) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
