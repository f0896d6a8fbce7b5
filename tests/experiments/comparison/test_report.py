"""Offline runs in one table and one picture."""

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rlrep.data import Provenance
from rlrep.experiments.comparison.scores import read_results, score, summarize
from rlrep.experiments.offline_report import main
from rlrep.experiments.results.runs import RunError
from rlrep.experiments.run.config_file import as_dict
from rlrep.experiments.run.offline_config import completed, requested
from tests.experiments.conftest import ROOT

RANDOM, EXPERT = 10.0, 210.0


@cache
def composed(*overrides: str) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf" / "offline")):
        return requested(compose("offline", ["dataset=data", "device=cpu", "num_updates=10", *overrides]))


def write_run(
    folder: Path,
    level: str,
    returns: Sequence[float],
    seed: int,
    *overrides: str,
    expert: float | None = EXPERT,
    fingerprint: str = "0",
) -> Path:
    """Writes the files of a run on offline data that the report reads, with evaluations at 0, 10, … updates."""
    asked = composed(*overrides).copy()
    asked.seed = seed
    provenance = Provenance(
        "cheetah_run", level, random_return=None if expert is None else RANDOM, expert_return=expert
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(as_dict(completed(asked, provenance, 40, fingerprint))))
    rows = [f"{10 * i},{value}" for i, value in enumerate(returns)]
    (folder / "eval.csv").write_text("\n".join(["update,episode_return", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two levels, two agents, three seeds, without and with TACO, which adds 20 of 200."""
    folder = tmp_path_factory.mktemp("runs")
    for level, base in (("medium", 50.0), ("expert", 150.0)):
        for agent, bonus in (("bc", 0.0), ("td3_bc", 20.0)):
            for objectives, added in (("[]", 0.0), ("[taco]", 20.0)):
                for seed in (1, 2, 3):
                    last = base + bonus + added + 2 * seed
                    overrides = (f"agent={agent}", f"objectives={objectives}")
                    write_run(folder / level / agent / f"{added}" / str(seed), level, [5.0, last], seed, *overrides)
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_0_for_the_random_policy_and_100_for_the_expert() -> None:
    assert score(RANDOM, RANDOM, EXPERT) == 0
    assert score(EXPERT, RANDOM, EXPERT) == 100
    assert score(60, RANDOM, EXPERT) == 25
    assert np.isnan([score(60, None, EXPERT), score(60, RANDOM, None), score(60, 5, 5)]).all()


def test_the_report_holds_every_agent_on_every_data_set(runs: Path, tmp_path: Path) -> None:
    assert main([str(runs), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert len(table(tmp_path / "runs.csv")) == 24
    found = {(r["data"], r["agent"], r["taco"], r["statistic"]): r for r in table(tmp_path / "report.csv")}
    one = found["cheetah_run medium", "td3_bc", "1", "return"]
    assert (float(one["value"]), one["runs"]) == (94, "3")
    half = 4.302653 * 2 / 3**0.5  # of the t interval of 92, 94 and 96
    assert [float(one["low"]), float(one["high"])] == pytest.approx([94 - half, 94 + half], rel=1e-5)
    assert float(found["cheetah_run medium", "td3_bc", "1", "score"]["value"]) == 42
    assert float(found["all", "bc", "0", "mean score"]["value"]) == 47
    assert {agent: float(found["all", agent, "", "P(improvement)"]["value"]) for agent in ("bc", "td3_bc", "all")} == {
        "bc": 1,
        "td3_bc": 1,
        "all": 1,
    }
    text = " ".join((tmp_path / "report.md").read_text().split())
    assert "| cheetah_run medium | td3_bc | 74.0 [69.0, 79.0] | 94.0 [89.0, 99.0] | 32.0 [29.5, 34.5] |" in text
    assert "P(+TACO better)" in text


def test_the_report_can_be_made_again_from_its_own_table_of_runs(runs: Path, tmp_path: Path) -> None:
    main([str(runs), "--out", str(tmp_path / "first")])
    main([str(tmp_path / "first" / "runs.csv"), "--out", str(tmp_path / "second")])
    for name in ("report.md", "report.csv", "runs.csv"):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    with pytest.raises(RunError, match=r"no runs\.csv of a report on curl"):
        read_results([tmp_path / "first" / "runs.csv"], "curl")


def test_fewer_than_ten_seeds_have_t_intervals_or_none(runs: Path, tmp_path: Path) -> None:
    main([str(runs), "--out", str(tmp_path)])
    for row in table(tmp_path / "report.csv"):
        assert bool(row["low"]) == (row["statistic"] in ("return", "score", "mean score")), row
        assert bool(row["chance_low"]) == (row["statistic"] == "P(improvement)")


def test_without_returns_of_the_expert_there_are_no_scores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed, objectives in ((1, "[]"), (1, "[taco]"), (2, "[]")):
        write_run(
            tmp_path / "runs" / f"{seed}{len(objectives)}",
            "medium",
            [5.0, 50.0],
            seed,
            "agent=bc",
            f"objectives={objectives}",
            expert=None,
        )
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    found = {(row["data"], row["statistic"]): row["value"] for row in table(tmp_path / "out" / "report.csv")}
    assert {statistic for _, statistic in found} == {"return", "P(improvement)"}
    assert float(found["all", "P(improvement)"]) == 0.5  # of returns
    assert "cheetah_run medium: no score" in caplog.text and "--expert-return" in caplog.text
    assert "score +TACO" not in (tmp_path / "out" / "report.md").read_text()


def test_unusable_runs_are_left_out_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = write_run(tmp_path / "good", "medium", [5.0, 50.0], 1, "agent=bc")
    write_run(tmp_path / "short", "medium", [5.0], 2, "agent=bc")
    write_run(tmp_path / "twice", "medium", [5.0, 51.0], 1, "agent=bc")
    (write_run(tmp_path / "damaged", "medium", [5.0, 50.0], 3, "agent=bc") / "config.yaml").write_text("{")
    online = tmp_path / "online"
    online.mkdir()
    (online / "config.yaml").write_text("task: cheetah_run")
    (online / "eval.csv").write_text("frame,episode_return\n0,1\n")
    results = read_results([tmp_path], "taco")
    assert [(result.folder, result.score) for result in results] == [(good, 20)]
    for message in ("0 of 10 updates; resume it", "same agent, data and seed as", "damaged: ", "online: "):
        assert message in caplog.text
    (line,) = (line for line in summarize(results) if line.statistic == "return")
    assert (line.estimate.value, line.runs) == (50, 1) and np.isnan(line.estimate.low)


def test_different_data_with_the_same_name_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed, fingerprint in ((1, "a"), (2, "a"), (3, "b")):
        write_run(tmp_path / str(seed), "medium", [5.0, 50.0], seed, "agent=bc", fingerprint=fingerprint)
    read_results([tmp_path], "taco")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/3: its data differ from those of {tmp_path}/1, though both are cheetah_run medium"
    ]


def test_all_data_are_those_that_both_have(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise the method with the easier data would look better."""
    for level, objectives, last in (("medium", "[]", 50.0), ("expert", "[]", 150.0), ("expert", "[taco]", 140.0)):
        for seed in (1, 2):
            write_run(
                tmp_path / f"{level}{objectives}{seed}",
                level,
                [5.0, last],
                seed,
                "agent=bc",
                f"objectives={objectives}",
            )
    write_run(tmp_path / "alone", "medium", [5.0, 50.0], 1, "agent=iql")
    found = {
        (line.agent, line.added, line.statistic): line.estimate.value
        for line in summarize(read_results([tmp_path], "taco"))
        if line.data == "all"
    }
    assert (found["bc", False, "mean score"], found["bc", True, "IQM score"]) == (70, 65)
    assert found["iql", False, "mean score"] == 20
    assert found["bc", None, "P(improvement)"] == 0
    assert [record.getMessage() for record in caplog.records] == [
        "bc has runs on cheetah_run medium only with or only without the objective: left out of what is said of all "
        "data sets"
    ]


def test_runs_that_differ_in_more_than_the_objective_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path / "a", "medium", [5.0, 50.0], 1, "agent=td3_bc")
    same = ("objectives=[taco]", "save_video=false", "eval_every_updates=10")
    write_run(tmp_path / "b", "medium", [5.0, 50.0], 1, "agent=td3_bc", *same)
    other = ("objectives=[taco]", "update=joint", "agent.alpha=3")
    write_run(tmp_path / "c", "medium", [5.0, 50.0], 2, "agent=td3_bc", *other)
    read_results([tmp_path], "taco")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/c: compared with {tmp_path}/a, a run of another configuration: "
        "update=joint (there separate); agent.alpha=3 (there 2.5)"
    ]


def test_an_unknown_objective_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--out", str(tmp_path / "out"), "--objective", "tacoo"]) == 1
    assert "unknown objective 'tacoo': did you mean taco" in capsys.readouterr().err


def test_no_usable_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="none of these runs"):
        read_results([tmp_path], "taco")
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "error: none of these runs" in capsys.readouterr().err
