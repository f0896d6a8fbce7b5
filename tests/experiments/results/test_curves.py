"""Learning curves show the numbers of the runs, and a broken run never hides the others."""

import csv
import gc
import os
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.text import Text
from numpy.typing import ArrayLike
from scipy.stats import ttest_ind

from rlrep.experiments.plot import main
from rlrep.experiments.results import pictures
from rlrep.experiments.results.curve_tables import sensitivity
from rlrep.experiments.results.curves import draw_run, draw_runs, legend
from rlrep.experiments.results.runs import RunError, find_runs, learned_differently, read_returns, read_run
from rlrep.experiments.results.seeds import Curve
from rlrep.experiments.results.statistics import Means

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


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "WIDTH", 320)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three seeds of taco, one of drqv2."""
    for seed, slope in enumerate(SLOPES):
        write_run(tmp_path / "runs" / "taco" / str(seed), slope * np.array(FRAMES), seed=seed)
    write_run(tmp_path / "runs" / "drqv2", np.full(4, 7.0), agent="drqv2")
    return tmp_path / "runs"


def test_seeds_are_grouped_and_averaged(runs: Path, tmp_path: Path) -> None:
    drqv2, taco = draw_runs([runs], tmp_path / "curve.png")
    assert (legend(drqv2), legend(taco)) == ("drqv2 (1 seed)", "taco (3 seeds)")
    np.testing.assert_allclose(taco.means.mean, np.mean(SLOPES) * np.array(FRAMES))
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
    drawn = draw_runs([runs], tmp_path / "curve.png", names={"aco": "with TACO"})
    assert [legend(c) for c in drawn] == ["drqv2 (1 seed)", "with TACO (3 seeds)"]
    for ending, count in {"sac": 0, "": 2}.items():
        with pytest.raises(ValueError, match=f"names {count} curves, expected one of drqv2, taco"):
            draw_runs([runs], tmp_path / "curve.png", names={ending: "another"})
    assert main([str(runs), "--out", str(tmp_path / "curve.png"), "--names", "taco"]) == 1


def test_seeds_with_other_frames_meet_at_all_of_them(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [0, 10, 20], [0, 1000, 2000], seed=1)
    write_run(tmp_path / "b", [5, 22], [500, 2200], seed=2)
    (curve,) = draw_runs([tmp_path], tmp_path / "curve.png")
    np.testing.assert_array_equal(curve.frames, [0, 500, 1000, 2000])
    np.testing.assert_array_equal(curve.means.seeds, [1, 2, 2, 2])
    np.testing.assert_allclose(curve.means.mean, [0, 5, 10, 20])


@pytest.mark.parametrize("end", [0, 1000, 2000])
@pytest.mark.parametrize("others", [1, 2, 3])
def test_an_aborted_run_does_not_cut_its_group(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, end: int, others: int
) -> None:
    for seed in range(others):
        write_run(tmp_path / str(seed), 10 * np.array(FRAMES), seed=seed)
    aborted = [frame for frame in FRAMES if frame <= end]
    write_run(tmp_path / "aborted", np.zeros(len(aborted)), aborted, seed=9)
    (curve,) = draw_runs([tmp_path], tmp_path / "curve.png")
    np.testing.assert_array_equal(curve.frames, FRAMES)
    assert curve.means.mean[-1] == 30_000
    assert (curve.means.seeds[0], curve.means.seeds[-1]) == (others + 1, others)
    assert f"{others + 1} seeds, {others} at the end" in legend(curve)
    assert f"aborted ends at {end:,} of 3,000 simulator steps" in caplog.text


def test_a_group_is_refused_where_there_are_no_runs_to_group(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(runs), "--out", str(tmp_path / "a.png")]) == 0
    for key in ("seed", "agent.name"):
        given = ["--group", key, "--out", str(tmp_path / "b.png"), str(tmp_path / "a.csv")]
        assert main(given) == 1
        assert f"--group {key} has no effect: {tmp_path}/a.csv holds curves" in capsys.readouterr().err
        assert main([*given, str(runs / "taco")]) == 0  # groups the runs, not the curves of the table
    assert main([str(tmp_path / "a.csv"), "--out", str(tmp_path / "b.png")]) == 0


@pytest.mark.parametrize("values", [[1e308, 1.7e308, 1.7e308, 1e308], [-1.7e308, 1.7e308, 0, 1.7e308]])
@pytest.mark.filterwarnings("error")
def test_the_largest_returns_can_be_drawn(tmp_path: Path, values: list[float]) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path / str(seed), values, seed=seed)
    draw_run(tmp_path / "1", tmp_path / "one.png")
    (curve,) = draw_runs([tmp_path], tmp_path / "all.png")
    np.testing.assert_allclose(curve.means.mean, values)


def test_csv_holds_the_numbers_drawn(runs: Path, tmp_path: Path) -> None:
    shown = draw_runs([runs], tmp_path / "curve.png", csv_out=tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for curve in shown:
        mine = [row for row in rows if row["group"] == curve.group]
        for column, drawn in [("frame", curve.frames), ("mean", curve.means.mean), ("low", curve.means.low)]:
            np.testing.assert_allclose([float(row[column] or "nan") for row in mine], drawn, rtol=1e-5)
        assert {row["seeds"] for row in mine} == set(map(str, curve.means.seeds))
    assert len(rows) == sum(len(curve.frames) for curve in shown)


def test_the_numbers_drawn_can_be_drawn_again_without_the_runs(runs: Path, tmp_path: Path) -> None:
    first = draw_runs([runs], tmp_path / "first.png", random_return=3.0)
    second = draw_runs([tmp_path / "first.csv"], tmp_path / "second.png")
    assert [legend(c) for c in second] == [legend(c) for c in first]
    for ours, theirs in zip(second, first, strict=True):
        np.testing.assert_allclose(ours.means.low, theirs.means.low, rtol=1e-4)
    assert {c.random_return for c in second} == {3.0}


@pytest.mark.parametrize("text", ["", "task,group\nwalk,taco\n", "frame,episode_return\n0,1\n", "\0"])
def test_a_table_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(RunError, match=r"table\.csv is no table of curves|none of these runs"):
        draw_runs([tmp_path / "table.csv"], tmp_path / "curve.png")


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


def test_linked_runs_are_found_once_and_loops_end(runs: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "all").symlink_to(runs)
    (linked / "again").symlink_to(runs / "taco")
    (runs / "loop").symlink_to(linked)
    (linked / "nowhere").symlink_to(tmp_path / "absent")
    assert len(find_runs([linked])) == 4


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


def write_offline(folder: Path, level: str | None, returns: ArrayLike, agent: str = "bc", seed: int = 1) -> Path:
    """Writes a run on offline data, which counts updates."""
    folder.mkdir(parents=True)
    data = f"{{level: {level or 'null'}, random_return: 14.0}}"
    (folder / "config.yaml").write_text(
        f"task: cartpole_balance\nseed: {seed}\nagent: {{name: {agent}}}\ndataset: data/{level}_set\ndata: {data}\n"
    )
    rows = "".join(f"{10 * i},{value}\n" for i, value in enumerate(np.asarray(returns)))
    (folder / "eval.csv").write_text("update,episode_return\n" + rows)
    return folder


def test_what_runs_count_and_learned_from_has_a_panel_of_its_own(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for level in ("medium", "expert", None):
        write_offline(runs / "offline" / str(level), level, [1, 2])
    pretrained = runs / "pretrain"
    pretrained.mkdir()
    (pretrained / "config.yaml").write_text("source: videos\nseed: 1\n")
    (pretrained / "train.csv").write_text("update,loss\n0,1\n")
    shown = draw_runs([runs], tmp_path / "curve.png")
    assert {(c.task, c.counted) for c in shown} == {
        ("cartpole_balance", "simulator steps"),
        ("cartpole_balance, offline: medium", "updates"),
        ("cartpole_balance, offline: expert", "updates"),
        ("cartpole_balance, offline: None_set", "updates"),
    }
    assert "a pre-training run has no returns to draw" in caplog.text


def test_runs_of_several_configurations_in_one_curve_are_named(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = runs / "taco" / "1" / "config.yaml"
    for seed in (0, 1, 2):
        other = runs / "taco" / str(seed) / "config.yaml"
        other.write_text(other.read_text() + f"init: runs/offline/seed_{seed}\nrun_dir: elsewhere/{seed}\n")
    config.write_text(config.read_text() + "noise:\n  kind: shapes\n")
    draw_runs([runs], tmp_path / "curve.png")
    assert "taco on cartpole_balance joins runs of several configurations; they differ in noise.kind: " in caplog.text


def test_the_random_policy_is_known_from_an_evaluation_the_data_or_the_exploration(tmp_path: Path) -> None:
    online = write_run(tmp_path / "online", [1, 2, 3, 4])
    assert read_run(online).random_return is None
    config = online / "config.yaml"
    config.write_text(config.read_text() + "  num_expl_steps: 500\naction_repeat: 4\n")
    (online / "train.csv").write_text("frame,episode_return\n1000,10\n2000,20\n3000,700\n")
    assert read_run(online).random_return == 15
    (online / "train.csv").write_text("frame,episode_return\n2000,10\n2000,20\n2000,60\n3000,700\n")
    assert read_run(online).random_return == 30, "three environments may end at one frame"
    (online / "random.csv").write_text("episode,episode_return\n0,12\n1,14\n")
    assert read_run(online).random_return == 13
    assert read_run(write_offline(tmp_path / "offline", "medium", [1, 2])).random_return == 14
    (curve,) = draw_runs([online], tmp_path / "curve.svg")
    assert curve.random_return == 13
    draw_run(online, tmp_path / "own.svg")
    for name in ("curve.svg", "own.svg"):
        assert "random policy (13)" in (tmp_path / name).read_text()


def test_a_picture_that_was_saved_leaves_nothing_in_memory(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [1, 2, 3, 4])
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            draw_run(run, tmp_path / "curve.png")
            draw_runs([run], tmp_path / "curves.png")
        alive = [thing for thing in gc.get_objects() if type(thing) in (Text, RendererAgg)]
    finally:
        gc.enable()
    assert not alive


def test_the_mean_of_large_returns_is_finite(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / str(seed), np.full(4, 6e307), seed=seed)
    (curve,) = draw_runs([tmp_path], tmp_path / "curve.csv.svg")
    np.testing.assert_allclose(curve.means.mean, 6e307)


@pytest.mark.parametrize("text", ["a: &a [1]\nb: [*a, *a]\n", "task: ${oc.env:HOME}\n"])
def test_a_configuration_is_read_as_it_stands(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    run = write_run(tmp_path / "run", [1, 2, 3, 4])
    (run / "config.yaml").write_text(text + "agent: {name: taco}\n")
    if "&a" in text:
        with pytest.raises(RunError, match="alias"):
            read_run(run)
    else:
        assert read_run(run).subject == "${oc.env:HOME}"


def test_the_summary_says_what_the_experiment_could_have_found(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2, 3):
        write_run(runs / "sac" / str(seed), 0.2 * seed * np.array(FRAMES), agent="sac", seed=seed)
    main([str(runs / "taco"), str(runs / "sac"), "--out", str(tmp_path / "curve.png")])
    assert "of 100 tries, and one of " in capsys.readouterr().out


def ends(means: list[float], spreads: list[float], seeds: list[int]) -> list[Curve]:
    last = [Means(np.array([n]), np.array([m]), np.array([s])) for m, s, n in zip(means, spreads, seeds, strict=True)]
    return [Curve("walk", str(i), "simulator steps", np.array([100.0]), each, None) for i, each in enumerate(last)]


@pytest.mark.parametrize(
    ("means", "spreads", "both"), [([9.0, 11.0], [1.0, 6.0], (1.0, 6.0)), ([9.0, 11.0, 10.0], [3.0, 5.0, 4.0], ())]
)
def test_the_summary_counts_how_often_welchs_test_finds_the_difference(
    means: list[float], spreads: list[float], both: tuple[float, ...]
) -> None:
    said = sensitivity(ends(means, spreads, [4] * len(means)))
    first, second = both or (np.sqrt(np.mean(np.square(spreads))),) * 2
    found = re.search(
        r"difference of 40 % \(4\.0\) between .* in (\d+) of 100 tries, and one of .* \((.*)\) in 80", said
    )
    assert found is not None
    rng = np.random.default_rng(1)
    for shift, share in ((4.0, int(found[1]) / 100), (float(found[2]), 0.8)):
        ours, theirs = rng.normal(shift, first, (4, 10_000)), rng.normal(0, second, (4, 10_000))
        test = ttest_ind(ours, theirs, equal_var=False, alternative="greater")
        assert np.mean(test.pvalue < 0.025) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("means", "spreads", "seeds"),
    [
        ([9.0], [3.0], [4]),
        ([9.0, 11.0], [3.0, np.nan], [4, 1]),
        ([9.0, 11.0], [0.0, 0.0], [4, 4]),
        ([-9.0, 5.0], [3.0, 3.0], [4, 4]),
    ],
)
def test_the_summary_leaves_out_what_is_unknown(means: list[float], spreads: list[float], seeds: list[int]) -> None:
    assert sensitivity(ends(means, spreads, seeds)) == ""


def test_a_name_given_twice_and_a_return_that_is_no_number_are_refused(tmp_path, capsys) -> None:
    assert main([str(tmp_path), "--names", "a=A", "a=B"]) == 1
    assert "--names gives a two names, A and B: leave one out" in capsys.readouterr().err
    for value in ("nan", "-inf"):
        with pytest.raises(SystemExit):
            main([str(tmp_path), f"--random={value}"])
        assert f"invalid finite number value: '{value}'" in capsys.readouterr().err


def test_names_of_any_length_with_any_sign_are_drawn(tmp_path: Path) -> None:
    formula = "$" + chr(92) + "frac{x$"
    for agent, name in (("a", formula), ("b", "a" * 50_000)):
        write_run(tmp_path / "runs" / agent, [1.0, 2.0, 3.0, 4.0], agent=agent, task=f"'{name}'")
    assert {curve.task for curve in draw_runs([tmp_path / "runs"], tmp_path / "a.png")} == {formula, "a" * 50_000}
    draw_run(tmp_path / "runs" / "a", tmp_path / "b.png")


def test_a_table_may_begin_with_a_byte_order_mark_and_has_no_frames_below_0(tmp_path: Path) -> None:
    log = write_run(tmp_path, [1.0, 2.0, 3.0, 4.0]) / "eval.csv"
    text = log.read_text()
    log.write_text("\ufeff" + text, encoding="utf-8")
    assert read_returns(log)[1].tolist() == [1.0, 2.0, 3.0, 4.0]
    log.write_text(text.replace("1000,", "-1000,"))
    with pytest.raises(RunError, match=r"line 3 of eval.csv needs numbers for frame \(from 0 on\)"):
        read_returns(log)


def test_a_pipe_in_place_of_a_table_of_curves_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "curves.csv")
    assert main([str(tmp_path / "curves.csv")]) == 1
    assert "no" in capsys.readouterr().err


def test_numbers_never_take_the_place_of_a_run_or_of_their_picture(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = next(runs.rglob("eval.csv"))
    whole = table.read_bytes()
    for path in (table, tmp_path / "a.png", tmp_path / "b/../a.png"):
        assert main([str(runs), "--out", str(tmp_path / "a.png"), "--csv", str(path)]) == 1
        assert "which holds something else: name another file" in capsys.readouterr().err
    assert table.read_bytes() == whole and not (tmp_path / "a.png").exists()


def test_where_a_run_keeps_its_cache_and_how_long_it_waits_is_not_what_it_learns() -> None:
    ours = {"env_timeout": 60.0, "offline": {"cache": "a", "share": 0.5}}
    theirs = {"env_timeout": 600.0, "offline": {"cache": "b", "share": 0.25}}
    assert learned_differently(ours, theirs) == {"offline.share": (0.5, 0.25)}
