"""Learning curves: what is drawn is what the runs say, and a broken run never hides the others."""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from experiments.results.curves import RunError, bootstrap_interval, draw_run, draw_runs, find_runs, main, read_returns

FRAMES = [0, 1000, 2000, 3000]
SLOPES = (0.1, 0.2, 0.4)


def write_run(
    folder: Path,
    returns: ArrayLike,
    frames: ArrayLike = FRAMES,
    *,
    task: str = "cartpole_balance",
    agent: str = "taco",
    seed: int = 1,
    log: str = "eval.csv",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = f"task: {task}\nseed: {seed}\nagent:\n  name: {agent}\n  horizon: 3\n  encoder: null\n"
    (folder / "config.yaml").write_text(config)
    rows = [f"{f},{r},1.5,10\n" for f, r in zip(np.asarray(frames), np.asarray(returns), strict=True)]
    (folder / log).write_text("frame,episode_return,episode_return_std,episodes\n" + "".join(rows))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three seeds of taco, one of drqv2."""
    for seed, slope in enumerate(SLOPES):
        write_run(tmp_path / "runs" / "taco" / str(seed), slope * np.array(FRAMES), seed=seed)
    write_run(tmp_path / "runs" / "drqv2", np.full(4, 7.0), agent="drqv2")
    return tmp_path / "runs"


def test_interval_contains_the_mean_and_stays_within_the_seeds() -> None:
    returns = np.random.default_rng(1).normal(300, 50, size=(5, 20))
    low, high = bootstrap_interval(returns)
    assert np.all((returns.min(axis=0) <= low) & (low < returns.mean(axis=0)))
    assert np.all((returns.mean(axis=0) < high) & (high <= returns.max(axis=0)))


def test_interval_is_the_same_every_time() -> None:
    returns = np.random.default_rng(1).normal(size=(3, 4))
    np.testing.assert_array_equal(bootstrap_interval(returns), bootstrap_interval(returns))


def test_interval_agrees_with_the_standard_error_where_seeds_are_many() -> None:
    returns = np.random.default_rng(1).normal(0, 10, size=(200, 1))
    low, high = bootstrap_interval(returns)
    error = returns.std() / np.sqrt(200)
    np.testing.assert_allclose([low, high], returns.mean() + np.array([[-1.96], [1.96]]) * error, atol=0.1)


def test_interval_closes_where_seeds_agree_and_is_absent_for_one_seed() -> None:
    np.testing.assert_allclose(bootstrap_interval(np.full((4, 3), 5.0)), 5.0)
    assert np.isnan(bootstrap_interval(np.ones((1, 3)))).all()


def test_seeds_are_grouped_and_averaged(runs: Path, tmp_path: Path) -> None:
    drqv2, taco = draw_runs([runs], tmp_path / "curve.png")
    assert (drqv2.legend, taco.legend) == ("drqv2 (1 seed)", "taco (3 seeds)")
    np.testing.assert_allclose(taco.mean, np.mean(SLOPES) * np.array(FRAMES))
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("key", "groups"),
    [
        ("agent", {"taco", "drqv2"}),
        ("task", {"cartpole_balance"}),
        ("agent.horizon", {"agent.horizon=3"}),
        ("agent.encoder", {"agent.encoder=null"}),
    ],
)
def test_any_config_key_groups(runs: Path, tmp_path: Path, key: str, groups: set[str]) -> None:
    assert {c.group for c in draw_runs([runs], tmp_path / "curve.png", group=key)} == groups


def test_curves_can_be_named(runs: Path, tmp_path: Path) -> None:
    curves = draw_runs([runs], tmp_path / "curve.png", names={"aco": "with TACO"})
    assert [c.legend for c in curves] == ["drqv2 (1 seed)", "with TACO (3 seeds)"]
    for ending, count in {"sac": 0, "": 2}.items():
        with pytest.raises(ValueError, match=f"names {count} curves, expected one of drqv2, taco"):
            draw_runs([runs], tmp_path / "curve.png", names={ending: "another"})
    assert main([str(runs), "--out", str(tmp_path / "curve.png"), "--names", "taco"]) == 1


def test_seeds_with_other_frames_meet_only_where_all_of_them_ran(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [0, 10, 20], [0, 1000, 2000], seed=1)
    write_run(tmp_path / "b", [5, 25], [500, 2500], seed=2)
    (curve,) = draw_runs([tmp_path], tmp_path / "curve.png")
    np.testing.assert_array_equal(curve.frames, [500, 1000, 2000])
    np.testing.assert_allclose(curve.mean, [5, 10, 20])


def test_csv_holds_the_numbers_drawn(runs: Path, tmp_path: Path) -> None:
    curves = draw_runs([runs], tmp_path / "curve.png", csv_out=tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for curve in curves:
        mine = [row for row in rows if row["group"] == curve.group]
        assert {row["seeds"] for row in mine} == {str(curve.seeds)}
        for column, drawn in [("frame", curve.frames), ("mean", curve.mean), ("low", curve.low)]:
            np.testing.assert_array_equal([float(row[column] or "nan") for row in mine], drawn)
    assert len(rows) == sum(len(curve.frames) for curve in curves)


def test_a_cut_off_last_line_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "killed", [1, 2, 3, 4])
    text = (run / "eval.csv").read_text()
    (run / "eval.csv").write_text(text.removesuffix(",1.5,10\n"))
    frames, returns = read_returns(run / "eval.csv")
    assert (frames.tolist(), returns.tolist()) == ([0, 1000, 2000], [1, 2, 3])
    assert "killed" in caplog.text


def test_rows_written_again_after_a_resume_replace_the_first(tmp_path: Path) -> None:
    run = write_run(tmp_path, [1, 2, 3, 20, 30], [0, 1000, 2000, 1000, 2000])
    frames, returns = read_returns(run / "eval.csv")
    assert (frames.tolist(), returns.tolist()) == ([0, 1000, 2000], [1, 20, 30])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("eval.csv", None, "eval.csv"),
        ("eval.csv", "", "eval.csv is empty so far"),
        ("eval.csv", "frame,episode_return\n", "no rows yet"),
        ("eval.csv", "frame,episode_return\n0,nan\n1000,5\n", "line 2"),
        ("eval.csv", "frame,episode_return\n0,1\n1000\n2000,5\n", "line 3"),
        ("config.yaml", None, "config.yaml"),
        ("config.yaml", "task: [", "config.yaml"),
        ("config.yaml", "task: walker_walk", "agent.name"),
    ],
)
def test_a_broken_run_is_named_and_the_others_are_drawn(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str | None, message: str
) -> None:
    file = write_run(runs / "broken", [1, 2, 3, 4], agent="broken") / name
    file.unlink()
    if content is not None:
        file.write_text(content)
    assert {c.group for c in draw_runs([runs], tmp_path / "curve.png")} == {"taco", "drqv2"}
    assert "broken" in caplog.text
    assert message in caplog.text


def test_missing_runs_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="none of these runs"):
        draw_runs([tmp_path / "empty", tmp_path / "absent"], tmp_path / "curve.png")
    assert "empty: no runs in it" in caplog.text
    assert "absent: no such folder" in caplog.text
    assert not (tmp_path / "curve.png").exists()


def test_runs_are_found_once_and_folders_inside_them_are_no_runs(runs: Path) -> None:
    (runs / "drqv2" / "wandb" / "files").mkdir(parents=True)
    (runs / "drqv2" / "wandb" / "files" / "config.yaml").touch()
    assert len(find_runs([runs, runs / "drqv2"])) == 4


def test_a_random_policy_belongs_to_one_task(runs: Path, tmp_path: Path) -> None:
    draw_runs([runs], tmp_path / "one.svg", random_return=277)
    assert (tmp_path / "one.svg").exists()
    write_run(runs / "walker", [1, 2, 3, 4], task="walker_walk")
    with pytest.raises(ValueError, match="walker_walk"):
        draw_runs([runs], tmp_path / "two.png", random_return=277)


def test_own_curve_needs_training_or_evaluation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [1, 2, 3, 4], log="train.csv")
    draw_run(run, run / "curve.png")
    assert (run / "curve.png").exists()
    (run / "train.csv").unlink()
    with pytest.raises(RunError, match=r"train\.csv"):
        draw_run(run, run / "curve.png")


def test_command_prints_a_table(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--out", str(tmp_path / "curve.png")]) == 0
    printed = capsys.readouterr().out
    assert "final return [95 % interval]" in printed
    assert f"{np.mean(SLOPES) * 3000:.1f} [" in printed
    assert main([str(tmp_path / "absent")]) == 1
