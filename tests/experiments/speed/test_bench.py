"""The benchmark: what it refuses, what its rows hold, and that it loses no results. Sizes are tiny, so the times mean
nothing.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlrep import PixelEncoder
from rlrep.experiments.benchmark import main
from rlrep.experiments.speed import bench, measure
from rlrep.experiments.speed.bench import Benchmark, with_shares
from rlrep.experiments.speed.options import WHAT, Options, parse
from rlrep.experiments.speed.points import Contender, Point, plan
from rlrep.experiments.speed.roofline import count_work
from rlrep.experiments.speed.table import kernels_section

TINY = ["image_size=36", "channels=4", "batch=4", "threads=1", "seconds=0.01", "device=cpu", "agent=taco"]
DOCUMENTED = {
    "what": str,
    "agent": str | None,
    "batch_size": int | None,
    "path": str | None,
    "device": str,
    "seconds": float,
    "peak_memory_bytes": int | None,
}
Row = dict[str, Any]


def measured(out: Path, *words: str) -> list[Row]:
    """The rows that the benchmark writes for some arguments, after a check of what all rows must hold."""
    assert main([*TINY, *words, f"out={out}"]) == 0
    return checked(out)


def checked(out: Path) -> list[Row]:
    rows = json.loads(out.read_text())
    for row in rows:
        for name, kind in DOCUMENTED.items():
            assert isinstance(row[name], kind), (name, row)
        assert row["seconds"] > 0
        assert {"processor", "cores", "amx", "avx512_bf16", "torch"} <= set(row["machine"])
    return rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], str]:
    """The rows of a command, and its output."""
    out = tmp_path_factory.mktemp("benchmark") / "rows.json"
    command = [sys.executable, "-m", "rlrep.experiments.benchmark", "update", "replay", *TINY, f"out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    return checked(out), done.stdout


@pytest.fixture
def rows(finished: tuple[list[Row], str]) -> list[Row]:
    return finished[0]


def chosen(rows: list[Row], **known: Any) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in known.items())]


def test_an_update_is_measured_on_each_path(rows: list[Row]) -> None:
    updates = chosen(rows, what="update")
    assert [(row["agent"], row["batch_size"], row["path"]) for row in updates] == [
        ("taco", 4, "fast"),
        ("taco", 4, "eager"),
        ("taco", 4, "sb3"),
    ]
    for row in updates:
        assert row["seconds_low"] <= row["seconds"] <= row["seconds_high"]
        assert row["repeats"] >= 3 and row["threads"] == 1 and row["device"] == "cpu"


def test_the_paths_are_different_code(rows: list[Row]) -> None:
    encoders = {row["path"]: row["encoder"] for row in chosen(rows, what="update")}
    assert encoders == {"fast": "PixelEncoder", "eager": "EagerEncoder", "sb3": "NatureCNN"}
    assert chosen(rows, path="eager")[0]["precision"] == "float32"


def test_sampling_is_a_share_of_the_update_measured_with_it(rows: list[Row]) -> None:
    (update,) = chosen(rows, what="update", path="fast")
    samples = chosen(rows, what="replay_sample")
    assert [row["storage"] for row in samples] == ["memory", "disk"]
    for row in samples:
        assert row["share_of_update"] == pytest.approx(row["seconds"] / update["seconds"])
    assert [row["storage"] for row in chosen(rows, what="replay_add")] == ["memory", "disk"]


def test_a_share_is_of_tacos_update_at_the_same_batch() -> None:
    def update(agent: str, batch_size: int, path: str, seconds: float) -> Row:
        return {"what": "update", "agent": agent, "batch_size": batch_size, "path": path, "seconds": seconds}

    updates = [update("taco", 4, "fast", 8.0), update("sac", 4, "fast", 2.0), update("taco", 8, "eager", 5.0)]
    samples = [{"what": "replay_sample", "path": None, "batch_size": size, "seconds": 2.0} for size in (4, 8)]
    *_, first, second = with_shares([*updates, *samples])
    assert (first["share_of_update"], first["share_of_agent"]) == (0.25, "taco")
    assert "share_of_update" not in second


def test_a_transition_takes_little_more_than_its_frame(rows: list[Row]) -> None:
    for row in chosen(rows, what="replay_add"):
        assert 36 * 36 * 3 <= row["bytes_per_transition"] <= 36 * 36 * 3 + 100


def test_peak_memory_is_the_childs_own(tmp_path: Path) -> None:
    ballast = np.ones(200_000_000)  # 1.6 GB in this process
    (row,) = measured(tmp_path / "act.json", "act")
    del ballast
    assert (row["what"], row["agent"], row["batch_size"], row["path"]) == ("act", "taco", 1, "fast")
    assert 50e6 < row["peak_memory_bytes"] < 1.2e9


def test_the_table_holds_the_rows_and_their_ratios(finished: tuple[list[Row], str]) -> None:
    rows, printed = finished
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    line = dict(zip(lines[0], lines[2], strict=True))
    fast, eager, sb3 = (chosen(rows, what="update", path=path)[0]["seconds"] for path in ("fast", "eager", "sb3"))
    assert (line["agent"], line["batch"]) == ("taco", "4")
    assert (line["eager/fast"], line["sb3/fast"]) == (f"{eager / fast:.2f}", f"{sb3 / fast:.2f}")
    assert "joint ms" not in line  # not requested
    assert printed.startswith(rows[0]["machine"]["processor"]) and "1 threads" in printed.splitlines()[0]


def test_the_loop_does_the_updates_that_were_asked_for(tmp_path: Path) -> None:
    words = ["task=cartpole_balance", "num_envs=1", "path=fast"]
    (row,) = measured(tmp_path / "loop.json", "loop", *words)
    assert (row["what"], row["task"], row["batch_size"], row["num_envs"]) == ("loop", "cartpole_balance", 4, 1)
    assert row["updates"] == row["agent_steps"] / row["update_every_steps"]
    assert row["frames_per_second"] == pytest.approx(4 / row["seconds"])  # action_repeat of the cpu preset
    assert row["minutes_per_million_frames"] == pytest.approx(1e6 / row["frames_per_second"] / 60)


def test_the_roofline_is_the_nearer_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ceilings", lambda device, dtype: (1e9, 1e10))
    (row,) = measure.roofline("drqv2", 2, "fast", "separate", torch.device("cpu"), image_size=20, channels=4)
    compute, memory = row["operations"] / 1e9, row["bytes_moved"] / 1e10
    assert row["share_of_roofline"] == pytest.approx(max(compute, memory) / row["seconds"])
    assert row["bound_by"] == ("compute" if compute > memory else "memory")
    seconds = [kernel["seconds"] for kernel in row["kernels"]]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] > 0
    launches = {kernel["name"]: kernel["launches"] for kernel in row["kernels"]}
    assert launches["aten::convolution_backward"] == 4  # of one update: the encoder has four convolutions
    asked = {"agent": "drqv2", "batch_size": 2}
    assert "`aten::convolution_backward`" in [line["kernel"] for line in kernels_section([row | asked])]


@pytest.mark.slow
def test_ceilings_are_measured(tmp_path: Path) -> None:
    (row,) = measured(tmp_path / "roofline.json", "roofline")
    assert row["operations_per_second_ceiling"] > 1e9 and row["bytes_per_second_ceiling"] > 1e8


@pytest.mark.slow
def test_rendering_is_compared(tmp_path: Path) -> None:
    exact, fast = measured(tmp_path / "rendering.json", "rendering", "task=cartpole_balance")
    assert (exact["rendering"], fast["rendering"]) == ("exact", "fast")
    assert fast["mean_difference"] >= 0


def test_operations_of_an_encoder_are_counted() -> None:
    encoder = PixelEncoder((9, 20, 20), channels=4)
    operations, _ = count_work(lambda: encoder(torch.zeros(2, 9, 20, 20, dtype=torch.uint8)))
    # Sides 9, 7, 5, 3; each output is a sum of 3·3·inputs products, with two operations each.
    assert operations == 2 * 2 * 4 * 9 * (9 * 81 + 4 * 49 + 4 * 25 + 4 * 9)


def test_operations_of_a_backward_pass_are_counted() -> None:
    layer, inputs = nn.Linear(8, 16, bias=False), torch.zeros(4, 8, requires_grad=True)
    operations, _ = count_work(lambda: layer(inputs).sum().backward())
    assert operations == 3 * 2 * 4 * 8 * 16  # forward, and the gradients of inputs and weights


def test_bytes_are_counted_where_they_move() -> None:
    a, b, row = torch.ones(10, 10), torch.ones(10, 10), torch.ones(10)
    for call, moved in [
        (lambda: a + b, 1200),  # two read, one written
        (lambda: a + a, 800),
        (lambda: row.expand(10, 10) + b, 840),
        (lambda: a.add_(b), 1200),
        (lambda: a.copy_(b), 800),
        (lambda: a.zero_(), 400),
        (lambda: torch._foreach_mul_([a, b], 2.0), 1600),
        (lambda: torch.empty(10, 10), 0),
        (lambda: a.view(100)[:50].unsqueeze(0), 0),
    ]:
        assert count_work(call)[1] == moved


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["updat"], "unknown measurement 'updat': did you mean update"),
        (["bach=4"], "unknown option 'bach': did you mean batch"),
        (["agent=tacco"], "unknown agent 'tacco': did you mean"),
        (["agent=ppo"], "drqv2, mrq, sac, sac+taco, taco"),
        (["path=quick"], "unknown path 'quick': known: eager, fast, sb3"),
        (["update=jont"], "did you mean joint?"),
        (["task=cheetah_rn"], "did you mean cheetah_run"),
        (["batch=64,x"], "batch must be a whole number of at least 1, got '64,x'"),
        (["batch=0"], "batch must be a whole number of at least 1"),
        (["image_size=16"], "image_size must be a whole number of at least 17, got '16'"),
        (["seconds=-1"], "seconds must be a number greater than 0, got '-1'"),
        (["minutes=nan"], "minutes must be a number greater than 0"),
        (["device=tpu"], "device=tpu is not a device"),
        (["batch=4", "batch=8"], "batch is given twice"),
        (["act", "path=sb3"], "nothing to measure"),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, f"out={tmp_path}/new/rows.json"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert not printed.out and not list(tmp_path.iterdir())


def test_a_place_that_can_not_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file" / "rows.json"):
        assert main(["update", f"out={out}"]) == 2
        assert f"error: out={out} can't be written" in capsys.readouterr().err


def test_points_without_time_left_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "update", "replay", "minutes=0.001", f"out={tmp_path}/rows.json"]) == 0
    printed = capsys.readouterr().out
    assert "- replay: the 0.001 minutes were over" in printed
    assert "- update taco batch 4: the 0.001 minutes were over" in printed


def test_an_interrupt_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(self: Benchmark, point: Point, folder: str) -> None:
        if point.title.startswith("act drqv2"):
            raise KeyboardInterrupt
        self.keep({**point.contenders[0].row, "what": "act", "seconds": 1.0, "threads": 1})

    monkeypatch.setattr(Benchmark, "measure", measure)
    assert main(["act", "agent=taco,drqv2,sac", "device=cpu", f"out={tmp_path}/rows.json"]) == 130
    assert [row["agent"] for row in json.loads((tmp_path / "rows.json").read_text())] == ["taco"]
    printed = capsys.readouterr().out
    assert "- act drqv2: interrupted" in printed and "- act sac: interrupted" in printed


def test_a_child_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    options = Options(seconds=0.01, threads=1, device="cpu", out=tmp_path / "rows.json")
    good, bad = (
        Contender("act", {"agent": "sac", "path": "fast", "image_size": 20, "channels": channels}, {"path": name})
        for name, channels in (("good", 4), ("bad", 0))
    )
    running = Benchmark(options)
    running.measure(Point("act", 0, [bad, good], {"act": {"what": "act"}}), str(tmp_path))
    assert running.left_out == {"act (bad)": "ValueError: channels must be at least 1, got 0"} and running.failed
    assert [row["path"] for row in running.rows] == ["good"]


def test_what_this_machine_lacks_is_no_failure() -> None:
    with pytest.raises(measure.Unavailable, match="needs images of at least 36 pixels, got 20"):
        measure.sb3_update(4, "sb3", torch.device("cpu"), image_size=20)
    running = Benchmark(parse(["update", "device=cpu", "agent=sac", "batch=4"]))
    (point,) = running.points
    with closing(bench.Child(point.contenders[2], running.options, "/tmp")) as child:
        running.leave_out(point, child, bench.ChildFailed("not here", fault=False))
    assert running.left_out == {"update sac batch 4 (sb3)": "not here"} and not running.failed


def test_the_update_that_matters_most_comes_first() -> None:
    points = plan(Options(device="cpu"))
    assert [point.title for point in points[:2]] == ["update taco batch 256", "update taco batch 1024"]
    rows = [contender.row for contender in points[0].contenders]
    assert [(row["path"], row.get("what")) for row in rows] == [
        ("fast", None),
        ("eager", None),
        ("fast", "joint_update"),
        ("sb3", None),
    ]
    titles = {point.title.split()[0] for point in points}
    assert titles == set(WHAT)
    assert sum(point.title.startswith("update") for point in points) == 15


def test_words_choose_what_is_measured() -> None:
    options = parse(["update", "agent=taco,sac", "batch=64", "path=eager", "device=cpu"])
    assert [point.title for point in plan(options)] == ["update taco batch 64", "update sac batch 64"]
    assert all([c.row["path"] for c in point.contenders] == ["eager"] for point in plan(options))


def test_a_child_that_is_killed_is_noticed() -> None:
    contender = Contender("act", {"agent": "sac", "path": "fast", "image_size": 20, "channels": 4}, {"path": "fast"})
    with closing(bench.Child(contender, Options(device="cpu"), "/tmp")) as child:
        os.kill(child.process.pid or 0, signal.SIGKILL)
        with pytest.raises(bench.ChildFailed, match="exit code -9, often because memory ran out"):
            child.time("act", 1, time.monotonic() + 60)
    assert not multiprocessing.active_children()


def test_an_agent_of_bursts_is_measured_with_a_step_of_each_kind() -> None:
    built = measure.update("mrq", 4, "eager", "separate", torch.device("cpu"), 40, 4)
    for _ in range(2):
        metrics = built.calls["update"]()
        assert {"loss_model_prediction", "value_loss"} <= set(metrics)  # type: ignore[call-overload]


@pytest.mark.slow
def test_whole_runs_of_an_agent_of_bursts_are_timed(tmp_path: Path) -> None:
    words = [word for word in TINY if not word.startswith(("agent", "image_size"))]
    words += ["loop", "agent=mrq", "image_size=40", "num_envs=1", "path=fast", f"out={tmp_path}/rows.json"]
    assert main(words) == 0
    (row,) = checked(tmp_path / "rows.json")
    assert row["agent"] == "mrq" and row["updates"] > 0


# Replaces a clone of TACO's code, with the parts that the benchmark calls.
AGENT = """
import utils

class TACOAgent:
    def __init__(self, **options):
        assert options["multistep"] == 3 and options["obs_shape"] == (9, 84, 84)
        self.encoder = utils

    def update(self, batches, step):
        now, action, actions, reward, discount, n_steps_on, horizon_on = next(batches)
        assert now.shape == n_steps_on.shape == horizon_on.shape == (2, 9, 84, 84)
        assert action.shape == (2, 6) and actions.shape == (2, 3, 6) and reward.shape == discount.shape == (2, 1)
"""


def test_tacos_own_code_is_measured_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clone" / "agents").mkdir(parents=True)
    (tmp_path / "clone" / "agents" / "taco.py").write_text(AGENT)
    (tmp_path / "clone" / "utils.py").touch()
    words = ["update", "agent=taco", "batch=2", "path=fast", "seconds=0.01", "threads=1", "device=cpu"]
    out = tmp_path / "rows.json"
    assert main([*words, f"reference={tmp_path / 'clone'}", f"out={out}"]) == 0
    ours, theirs = checked(out)
    assert (ours["path"], theirs["path"]) == ("fast", "reference") and theirs["precision"] == "float32"
    assert "reference/fast" in capsys.readouterr().out


def test_a_folder_without_tacos_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["update", f"reference={tmp_path}"]) == 2
    assert "reference must be a clone of https://github.com/FrankZheng2022/TACO" in capsys.readouterr().err
