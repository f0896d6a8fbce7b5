"""Long studies, with a command that only simulates training."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from scipy.stats import norm, t

from rlrep.experiments.files import FolderInUse, locked
from rlrep.experiments.long_study.findings import compare, power_text, scores_of
from rlrep.experiments.long_study.make import make_missing
from rlrep.experiments.long_study.on_ray import RayPool
from rlrep.experiments.long_study.protocol import Job, Study, StudyError, read_study
from rlrep.experiments.long_study.records import (
    DIVERGED,
    FAILED,
    FINISHED,
    MISSING,
    code_commit,
    read_record,
    read_records,
)
from rlrep.experiments.long_study.report import curves_of, read_published, spans, write_report
from rlrep.experiments.results.statistics import probability_of_improvement
from rlrep.experiments.run.command import CONF, check_names, check_words, for_hydra, paths_of
from rlrep.experiments.run.options import options_of
from rlrep.experiments.run.train_config import TrainConfig, complete
from rlrep.experiments.study import main
from tests.experiments.conftest import ROOT

CONTENT: dict[str, Any] = {
    "name": "tiny",
    "frozen": True,
    "overrides": ["preset=cpu"],
    "arms": {"plain": {"seeds": 3, "overrides": ["agent=drqv2"]}, "taco": {"seeds": 2, "overrides": ["agent=taco"]}},
    "tasks": {"walk": {"random": 10, "best": 110}, "run": {"random": 0, "best": 200, "overrides": ["lr=1e-4"]}},
    "comparisons": [
        {
            "question": "Does TACO help?",
            "arm": "taco",
            "than": "plain",
            "helps_above": 0,
            "hurts_below": 0,
            "notable": 0.1,
        }
    ],
}
# Replaces a run: counts its starts, and writes a curve that rises to 20 · seed, plus 60 with `taco`.
PROGRAM = """
import pathlib, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = pathlib.Path(words["run_dir"])
folder.mkdir(parents=True, exist_ok=True)
with (folder / "starts").open("a") as file:
    file.write("x")
def end():
    value = 20 * int(words["seed"]) + 60 * (words.get("agent") == "taco")
    (folder / "eval.csv").write_text(f"frame,episode_return\\n0,5\\n100,{value}\\n")
    (folder / "config.yaml").write_text(f"agent: {words.get('agent')}\\nseed: {words['seed']}\\n")
"""
FINE = PROGRAM + "end()"


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(CONTENT | changes, sort_keys=False))
    return folder / "study.yaml"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study in an empty working folder, with its runs in runs/tiny; draws no pictures, which take a second each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlrep.experiments.long_study.report.draw", lambda *_: False)
    monkeypatch.setattr("rlrep.experiments.long_study.pool.POLL", 0.05)
    monkeypatch.setattr("rlrep.experiments.long_study.pool.code_commit", lambda: "0123")
    return read_study(write(tmp_path / "reports"))


def running(program: str, **programs: str) -> Callable[[Study, Job], list[str]]:
    """Commands that run `program`, or for some jobs a different program, by arm_task_seed."""
    return lambda study, job: [
        sys.executable,
        "-c",
        programs.get(str(job).replace("/", "_"), program),
        *study.overrides_of(job),
    ]


def starts(study: Study) -> dict[str, int]:
    return {
        str(job): len(path.read_text()) for job in study.jobs if (path := job.run_dir(study.runs) / "starts").exists()
    }


def states(study: Study) -> dict[str, str]:
    return {str(record.job): record.state for record in read_records(study)}


def test_a_run_gets_the_overrides_of_all_its_arm_and_its_task_and_a_folder_of_its_own(study: Study) -> None:
    job = Job("taco", "run", 2)
    words = ["preset=cpu", "agent=taco", "lr=1e-4", "task=run", "seed=2", "run_dir=runs/tiny/taco/run/seed_2"]
    assert study.overrides_of(job) == [*words, "resume=true"]
    assert len([*study.jobs]) == 10
    assert {job.seed for job in [*study.jobs][:4]} == {1}


def test_seeds_begin_where_the_protocol_says(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, first_seed=101))
    assert {job.seed for job in study.jobs if job.arm == "plain"} == {101, 102, 103}
    assert {job.seed for job in study.jobs if job.arm == "taco"} == {101, 102}
    with pytest.raises(StudyError, match="first_seed"):
        read_study(write(tmp_path, first_seed=0))


def test_every_run_is_made_once_and_kept_with_what_it_came_from(study: Study) -> None:
    assert make_missing(study, 2, running(FINE)) == 0
    assert make_missing(study, 2, running(FINE)) == 0
    assert [*starts(study).values()] == [1] * 10
    assert set(states(study).values()) == {FINISHED}
    record = read_record(study, Job("plain", "run", 3))
    assert record.run is not None and record.run.returns.tolist() == [5, 60]
    assert record.commit == "0123" and "torch" in record.machine and record.seconds > 0
    assert record.config == read_record(study, Job("plain", "run", 1)).config
    assert record.config != read_record(study, Job("taco", "run", 1)).config


def test_finished_runs_are_known_from_what_is_kept_alone(study: Study) -> None:
    make_missing(study, 2, running(FINE))
    study.runs.rename("moved")
    assert make_missing(study, 2, running("raise SystemExit(1)")) == 0


def test_a_failed_and_a_diverged_run_are_named_the_others_go_on_and_only_the_failed_is_tried_again(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    diverged = PROGRAM + "sys.exit('error: loss_critic=nan at frame 40. Training stopped')"
    killed = PROGRAM + "import os; os.kill(os.getpid(), 9)"
    assert make_missing(study, 2, running(FINE, plain_walk_2=diverged, taco_run_1=killed)) == 1
    found = states(study)
    assert (found.pop("plain/walk/2"), found.pop("taco/run/1")) == (DIVERGED, FAILED)
    assert set(found.values()) == {FINISHED}
    text = write_report(study)
    cause = "(error: loss_critic=nan at frame 40. Training stopped)"
    assert f"diverged, counted as the random policy: plain/walk/2 {cause}" in text
    assert "failed: taco/run/1 (killed by signal 9)" in text
    assert "**Answer.** None: incomplete: 1 of 10 runs have not finished." in text
    assert make_missing(study, 2, running(FINE)) == 0
    assert starts(study)["plain/walk/2"] == 1 and starts(study)["taco/run/1"] == 2
    assert "taco/run/1: finished; 0 of 10 not finished" in capsys.readouterr().err


def test_a_run_that_diverged_counts_as_the_random_policy_and_the_study_has_an_answer(study: Study) -> None:
    diverged = PROGRAM + "sys.exit('error: loss_critic=nan at frame 40. Training stopped')"
    assert make_missing(study, 2, running(FINE, plain_walk_2=diverged)) == 0
    records = read_records(study)
    (record,) = (each for each in records if each.state == DIVERGED)
    assert (record.score(study), record.last_return(study)) == (0, 10)
    assert scores_of(study, records, "plain")[0].tolist() == [pytest.approx(0.05), 0, pytest.approx(0.25)]
    text = write_report(study)
    assert "**Answer.** Does TACO help? " in text and "None" not in text
    drawn = {(each.task, each.group): each.means for each in curves_of(study, records)}
    assert drawn["walk", "plain"].mean.tolist() == [(5 + 10 + 5) / 3, (20 + 10 + 60) / 3]
    assert drawn["walk", "plain"].seeds.tolist() == [3, 3] and len(drawn) == 4


def test_a_finished_run_with_a_nan_in_its_evaluations_has_diverged(study: Study) -> None:
    nan = FINE.replace("{value}", "nan")
    assert make_missing(study, 2, running(FINE, plain_walk_1=nan)) == 0
    assert states(study)["plain/walk/1"] == DIVERGED
    assert "plain/walk/1" in write_report(study)


def test_a_finished_run_without_readable_evaluations_is_tried_again(study: Study) -> None:
    assert make_missing(study, 2, running(FINE, plain_walk_1=PROGRAM)) == 1
    assert states(study)["plain/walk/1"] == FAILED
    text = write_report(study)
    assert "failed: plain/walk/1 (" in text and "it has no eval.csv so far" in text
    assert "not shown before all runs have ended" in text and "| plain " not in text
    assert shown_in_table(study) == {"final_return": 0, "area": 0, "score": 0, "seconds": 10}
    assert make_missing(study, 2, running(FINE)) == 0
    assert "| plain " in write_report(study)
    assert shown_in_table(study) == {"final_return": 10, "area": 10, "score": 10, "seconds": 10}


def shown_in_table(study: Study) -> dict[str, int]:
    """How many rows of runs.csv have a number."""
    with (study.file.parent / "runs.csv").open() as file:
        rows = [*csv.DictReader(file)]
    return {
        name: sum(bool(row[name]) and float(row[name]) > 0 for row in rows)
        for name in ("final_return", "area", "score", "seconds")
    }


def test_each_run_notes_the_code_that_it_was_made_by(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = (f"commit {number}" for number in range(20))
    monkeypatch.setattr("rlrep.experiments.long_study.pool.code_commit", lambda: next(commits))
    make_missing(study, 1, running(FINE))
    assert len({record.commit for record in read_records(study)}) == 10
    assert "runs of 10 commits" in write_report(study)


def test_runs_outlive_a_study_that_was_killed_and_the_next_waits_for_them_and_resumes_the_others(
    study: Study, tmp_path: Path
) -> None:
    slow = PROGRAM + (
        "import fcntl\n"
        "lock = (folder / '.lock').open('w')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "(folder / 'train.csv').write_text('')\n"
        "while not pathlib.Path('go').exists():\n    time.sleep(0.02)\n"
        "end()"
    )
    code = (
        "import sys; from pathlib import Path; from rlrep.experiments.long_study.make import make_missing\n"
        "from rlrep.experiments.long_study.protocol import read_study\n"
        f"make_missing(read_study(Path({str(study.file)!r})), 2, "
        f"lambda study, job: [sys.executable, '-c', {slow!r}, *study.overrides_of(job)])"
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    wait_for(lambda: len([*study.runs.glob("*/*/*/train.csv")]) == 2)
    process.kill()
    process.wait()
    (tmp_path / "go").touch()
    assert make_missing(study, 2, running(FINE)) == 0
    # The study waited for the two running ones, then started them again and found them finished.
    assert sorted(starts(study).values()) == [1] * 8 + [2] * 2
    assert set(states(study).values()) == {FINISHED}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_stopped_study_stops_its_runs_and_records_none_of_them_as_failed(study: Study) -> None:
    waiting = PROGRAM + (
        "import os, signal\n"
        "def stop(*_):\n    (folder / 'checkpoint').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "while len([*pathlib.Path('reports/runs').glob('*/*/*.json')]) < 4:\n    time.sleep(0.02)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)"
    )
    with pytest.raises(KeyboardInterrupt):
        make_missing(study, 1, running(FINE, plain_walk_2=waiting))
    assert sorted(states(study).values()) == [FINISHED] * 4 + [MISSING] * 6
    assert (Job("plain", "walk", 2).run_dir(study.runs) / "checkpoint").exists()
    assert len(starts(study)) == 5
    assert make_missing(study, 2, running(FINE)) == 0


@pytest.mark.slow
def test_on_ray_every_run_is_made_and_a_failed_one_is_named(tmp_path: Path, study: Study) -> None:
    short = read_study(write(tmp_path / "short", arms={"plain": {"seeds": 1, "overrides": []}}, comparisons=[]))
    command = running(FINE, plain_walk_1="raise SystemExit('error: no disk')")
    assert make_missing(short, None, command) == 1
    assert states(short) == {"plain/walk/1": FAILED, "plain/run/1": FINISHED}


@pytest.mark.slow
def test_a_study_that_is_stopped_on_ray_stops_its_runs(study: Study) -> None:
    endless = PROGRAM + "import os\n(folder / 'pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    (job, *_), made = [*study.jobs], RayPool(study, running(endless)).make([*study.jobs][:1])
    process = job.run_dir(study.runs) / "pid"

    def stop_when_it_runs() -> None:
        wait_for(process.exists)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop_when_it_runs).start()
    with pytest.raises(KeyboardInterrupt), closing(made):
        next(made)
    wait_for(lambda: not Path(f"/proc/{process.read_text()}").exists())


def test_a_second_study_in_the_same_folder_is_refused(study: Study) -> None:
    with locked(study.runs), pytest.raises(FolderInUse, match="another process works in runs/tiny"):
        make_missing(study, 2, running(FINE))


def test_a_study_in_the_working_folder_whose_kept_runs_would_mix_with_those_made_is_refused(study: Study) -> None:
    with pytest.raises(StudyError, match="move the file into a folder of its own"):
        make_missing(read_study(write(Path())), 2, running(FINE))


def test_the_commit_is_the_last_that_changed_code_and_says_if_it_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    monkeypatch.setattr("rlrep.experiments.long_study.records.ROOT", tmp_path)
    assert code_commit() == "unknown"
    git("init")
    for name in ("rlrep/code.py", "experiments/reports/dmc100k/runs/1.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)
        git("add", ".")
        git("commit", "-m", name)
    assert git("rev-parse", "HEAD~1").startswith(code_commit())
    (tmp_path / "experiments/reports/dmc100k/runs/2.csv").write_text("")
    assert "+" not in code_commit()
    (tmp_path / "rlrep/code.py").write_text("other")
    assert code_commit() == git("rev-parse", "--short=10", "HEAD~1").strip() + "+changes"


def test_git_does_not_ignore_what_is_kept() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git")
    kept, made = "experiments/reports/dmc100k/runs/taco/walker_walk/1.csv", "runs/dmc100k/taco/walker_walk/seed_1"
    found = subprocess.run(["git", "check-ignore", kept, made], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.split() == [made]


def test_runs_of_another_protocol_are_refused_with_the_difference_and_comments_do_not_count(study: Study) -> None:
    make_missing(study, 2, running(FINE))
    study.file.write_text("# another comment\n" + study.file.read_text())
    write_report(read_study(study.file))
    other = read_study(write(study.file.parent, overrides=["preset=cpu", "lr=1"]))
    with pytest.raises(StudyError, match=r"overrides=\['preset=cpu', 'lr=1'\] \(there \['preset=cpu'\]\)"):
        make_missing(other, 2, running(FINE))
    with pytest.raises(StudyError, match="another protocol"):
        write_report(other)
    study.kept.rename("moved")
    with pytest.raises(StudyError, match="runs/tiny holds runs of another protocol"):
        make_missing(other, 2, running(FINE))


def test_runs_without_a_protocol_are_refused(study: Study) -> None:
    make_missing(study, 2, running(FINE))
    (study.kept / "protocol.yaml").unlink()
    with pytest.raises(StudyError, match=r"holds runs but no protocol\.yaml"):
        write_report(study)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": 3}, "unknown entry 'seeds'"),
        ({"arms": {}}, "arms must be a mapping of at least one name"),
        ({"arms": {"a": {"seeds": 0}}}, "arms.a.seeds must be at least 1, not 0"),
        ({"arms": {"../a": {"seeds": 1}}, "comparisons": []}, "becomes a folder"),
        ({"arms": {"a": {"seed": 1}}}, "unknown entry 'arms.a.seed': did you mean arms.a.seeds"),
        ({"overrides": ["seed=2"]}, "overrides: seed=2 is for the study itself to say"),
        ({"overrides": "preset=cpu"}, "overrides is 'preset=cpu', expected list[str]"),
        ({"overrides": ["preset"]}, "overrides: 'preset' is no override, KEY=VALUE"),
        ({"arms": {"a": {"seeds": True}}}, "arms.a.seeds is True, expected a whole number"),
        ({"tasks": {"walk": {"random": 10, "best": 10}}}, "best=10 must be above random=10"),
        ({"tasks": {"walk": {"random": 10}}}, "tasks.walk.best is missing"),
        (
            {"tasks": {"walk": {"random": float("nan"), "best": 1}}},
            "tasks.walk.random is nan, expected a finite number",
        ),
        ({"frozen": "no"}, "frozen is 'no', expected true or false"),
        ({"comparisons": [CONTENT["comparisons"][0] | {"arm": "tacco"}]}, "unknown arm 'tacco': did you mean taco"),
    ],
)
def test_a_protocol_that_is_wrong_is_refused_with_what_is_wrong(
    tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(write(tmp_path, **changes)), "--report"]) == 1
    assert message in capsys.readouterr().err


def test_a_score_is_the_area_between_the_random_policy_and_the_best_published(study: Study) -> None:
    make_missing(study, 2, running(FINE))
    assert read_record(study, Job("taco", "walk", 2)).score(study) == pytest.approx(((10 + 100) / 2 - 10) / 100)
    worse = replace(study, tasks={**study.tasks, "walk": replace(study.tasks["walk"], random=105.0)})
    assert read_record(worse, Job("taco", "walk", 2)).score(worse) == 0  # no less than one that diverged
    with (study.file.parent / "runs.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 10
    assert [float(r["score"]) for r in rows if (r["arm"], r["task"]) == ("plain", "run")] == [0.05, 0.1, 0.15]


def test_the_difference_over_tasks_has_an_interval_stratified_by_task(study: Study) -> None:
    make_missing(study, 2, running(FINE))
    found = compare(study, read_records(study), study.comparisons[0])
    plain, taco = [[0.05, 0.15, 0.25], [0.05, 0.1, 0.15]], [[0.35, 0.45], [0.2, 0.25]]
    assert found.difference.value == pytest.approx(
        np.mean([np.mean(y) - np.mean(x) for x, y in zip(plain, taco, strict=True)])
    )
    parts = [(np.var(x, ddof=1) / 4 / len(x), len(x) - 1) for x in [*plain, *taco]]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / n for part, n in parts)
    assert found.difference.high - found.difference.value == pytest.approx(t.ppf(0.975, freedom) * variance**0.5)
    assert found.level == pytest.approx(0.125)
    arrays = [[np.array(x) for x in arm] for arm in (taco, plain)]
    assert found.better.value == probability_of_improvement(*arrays) == 1


def test_the_answer_follows_from_the_criteria(study: Study) -> None:
    make_missing(study, 2, running(FINE))
    comparison = study.comparisons[0]
    for criteria, answer in (
        ({}, "Does TACO help? yes: taco scores higher than plain by 0.1"),
        ({"helps_above": 0.5}, "Does TACO help? undecided: taco less plain is 0.1"),
        ({"helps_above": 0.5, "notable": 0.4}, "Does TACO help? no gain of 0.4 or more: taco less plain is 0.1"),
        (
            {"arm": "plain", "than": "taco"},
            "Does TACO help? no, it hurts: plain scores lower than taco by 0.188 [0.0",
        ),
    ):
        found = compare(study, read_records(study), replace(comparison, **criteria))
        assert found.answer.startswith(answer)
        assert found.answer.endswith("in 80 of 100 tries.")
        assert " over 2 tasks; " in found.answer
    assert f"**Answer.** {compare(study, read_records(study), comparison).answer}" in write_report(study)
    one = replace(study, tasks={"run": study.tasks["run"]})
    assert " over one task; " in compare(one, read_records(study), comparison).answer


def test_a_draft_runs_of_two_configurations_and_strange_runs_give_no_answer(study: Study) -> None:
    make_missing(study, 2, running(FINE))
    path = study.kept / "taco" / "walk" / "1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config": "other", "commit": "0123+changes"}))
    text = write_report(study)
    assert "taco on walk has runs of 2 configurations" in text and "runs of 2 commits (0123, 0123+changes)" in text
    assert "**Answer.** None: runs of changes in no commit, or outside of git: taco/walk/1" in text
    table = study.kept / "plain" / "walk" / "1.csv"
    table.write_text(table.read_text().replace("100,", "90,"))
    assert "runs were not all evaluated at the same frames" in write_report(study)
    (study.kept / "taco" / "walk" / "9.csv").write_text("")
    assert "holds runs that the protocol does not have" in write_report(study)
    assert "a draft (frozen: false)" in write_report(replace(study, frozen=False))
    assert "the protocol compares nothing" in write_report(replace(study, comparisons=[]))


def test_the_report_of_no_runs_is_incomplete_and_names_them(study: Study) -> None:
    text = write_report(study)
    assert "None: incomplete: 10 of 10 runs have not finished" in text
    assert "missing: plain/walk/1 to 3, taco/walk/1 to 2, plain/run/1 to 3, taco/run/1 to 2\n" in text
    assert spans([7, 3, 5, 6]) == "3 and 5 to 7"


def test_published_returns_stand_beside_the_arms_and_a_damaged_table_is_refused(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_missing(study, 2, running(FINE))
    monkeypatch.undo()
    table = study.file.parent / "published.csv"
    table.write_text("task,method,frame,return,std,seeds,source\nwalk,DrQ,100,77,,10,a paper\nother,DrQ,100,1,,1,b\n")
    text = write_report(study)
    assert text == (study.file.parent / "report.md").read_text()
    assert "DrQ, published" in text and "77.0" in text and "DrQ: a paper." in text
    assert (study.file.parent / "curves.png").stat().st_size > 10_000
    table.write_text("task,method\nwalk,DrQ\n")
    with pytest.raises(StudyError, match="must have the columns"):
        write_report(study)


def test_the_power_of_a_design_is_the_normal_one_of_many_seeds_and_the_same_each_time(tmp_path: Path) -> None:
    arms = {name: {"seeds": 200} for name in ("plain", "taco")}
    study = read_study(write(tmp_path, arms=arms))
    text = power_text(study, [0.3, 0.1], level=0.5)
    assert text == power_text(study, [0.3, 0.1], level=0.5)
    exact = (norm.ppf(0.975) + norm.ppf(0.8)) * ((0.3**2 + 0.1**2) * 2 / 4 / 200) ** 0.5
    assert float(text.split("finds ")[1].split()[0]) == pytest.approx(exact, rel=0.03)
    assert "% of 0.5; +25 % in 100 of 100" in text


@pytest.mark.parametrize("spreads", [["0"], ["0.1", "0.2", "0.3"], ["nan"]])
def test_spreads_that_no_design_has_are_refused(
    tmp_path: Path, spreads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(write(tmp_path)), "--power", *spreads]) == 1
    assert "--power needs a spread above 0 for all tasks, or one for each of walk, run" in capsys.readouterr().err


def test_the_study_of_dmcontrol_is_read_and_scores_by_the_best_of_its_published_returns() -> None:
    study = read_study(ROOT / "experiments" / "reports" / "dmc100k" / "study.yaml")
    for name, task in study.tasks.items():
        assert task.best == max(p.value for p in read_published(study) if p.task == name)
        assert all(p.frame == 100_000 for p in read_published(study))
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for job in [*study.jobs][: len(study.arms)]:
            words = for_hydra(check_words(study.overrides_of(job), options_of(TrainConfig)), paths_of(TrainConfig))
            check_names(words, TrainConfig)
            complete(compose("config", words))
