"""Errors are reported in one line that says what to do, and earlier results stay."""

import csv
import errno
import os
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

from rlrep.agents import DrQV2
from rlrep.envs import PixelControl
from rlrep.experiments.files import CsvLog, locked, write_atomically
from rlrep.experiments.run.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rlrep.experiments.run.collection import CollectConfig
from rlrep.experiments.run.command import check_choices, check_names, for_hydra
from rlrep.experiments.run.config_file import load_as
from rlrep.experiments.run.data import open_data
from rlrep.experiments.run.driver import TrainingError, advising
from rlrep.experiments.run.log import NonFiniteLoss
from rlrep.experiments.run.offline_config import OfflineConfig
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.pretrain_config import PretrainConfig
from rlrep.experiments.run.train_config import TrainConfig
from rlrep.replay import ReplayError
from tests.experiments.offline_data import run_offline, write_data

Run = Callable[..., Path]
Start = Callable[..., subprocess.Popen[str]]
CHECKPOINT = "checkpoints/latest.pt"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("task=cartpol_balance", "unknown task 'cartpol_balance': did you mean cartpole_balance"),
        ("objectives=[tacoo]", "unknown objective 'tacoo': did you mean taco"),
        ("objectives=taco", "objectives: "),
        ("+objective.tacoo.horizon=3", "unknown objective 'tacoo': did you mean taco"),
        ("objectives=[curl,curl]", "names one twice"),
        ("agent=taco objectives=[curl]", r"needs TACO among the objectives: objectives=\[taco\]"),
        ("batch_size=11", "larger than the data at the first update, 10 transitions .* num_seed_frames at least 550"),
        ("batch_size=abc", "batch_size: Value 'abc'"),
        ("agent=taco batch_size=1", "batch_size must be at least 2, for objectives that compare rows, got 1"),
        ("seed=9223372036854775808", "seed must be at least 0 and at most"),
        ("batch_size=-1", "batch_size must be greater than 0, got -1"),
        ("action_repeat=0", "action_repeat must be greater than 0, got 0"),
        ("num_envs=0", "num_envs must be greater than 0"),
        ("num_train_frames=0", "num_train_frames must be greater than 0"),
        ("num_train_frames=500", "leaves no update"),
        ("nstep=21", "DrQV2 reads n_step=21, and an episode of cartpole_balance has 20 agent steps"),
        ("agent=taco objective.taco.horizon=21", "TACO reads .*21.*, and an episode of cartpole_balance has 20"),
        (
            "objectives=[tests.odd_objectives:Back] ++objective.Back.horizon=21",
            "Back reads an observation 21 steps back",
        ),
        (
            "objectives=[tests.odd_objectives:Back,tests.odd_objectives:Far] ++objective.Back.horizon=11 "
            "++objective.Far.horizon=10",
            "the batch that DrQV2 and its objectives share reads .* 10 steps away and an observation 11 steps back",
        ),
        (
            "objectives=[curl] objective.curl.batch_size=11",
            "curl.batch_size=11 is larger than the data at the first up",
        ),
        ("objectives=[curl] objective.curl.batch_size=9 replay_buffer_size=10", "too small for batch_size=9"),
        ("objectives=[curl] objective.curl.batch_size=9 update=joint", "give update=separate"),
        ("objectives=[tests.odd_objectives:CURL,rlrep.objectives.curl:CURL]", "two classes of one name"),
        ("objectives=[tests.odd_objectives:TakesNoActionSpace]", r"can't be built as .*\(encoder, action_space\)"),
        ("objectives=[tests.odd_objectives:SaysNothing]", "SaysNothing must set in_keys"),
        ("objectives=[tests/odd_objectives.py:Back]", "name the module, not its file: tests.odd_objectives:Back"),
        ("objectives=[tests.odd_objectives:ForgetsHorizon]", "reads future_observation: set self.horizon"),
        ("objectives=[tests.odd_objectives:UnknownEntry]", "unknown entry .* 'obs': known: .*, observation"),
        ("objectives=[tests.odd_objectives:Back] ++objective.Back.horizon=abc", "horizon.* must be int"),
        (
            "objectives=[tests.odd_objectives:Follows] ++objective.Follows.momentum=-1",
            "at least 0 and less than 1",
        ),
        ("objectives=[tests.odd_objectives:MinimisesNothing]", "MinimisesNothing returns nothing to minimise"),
        ("agent=taco objective.taco.horizon=0", "objective.taco.horizon must be at least 1, got 0"),
        ("agent=taco objective.taco.horizon=2.5", "objective.taco.horizon must be int, got 2.5"),
        ("agent=mrq objective.latent_model.horizon=0", "latent_model.horizon must be at least 1, got 0"),
        ("agent=mrq objective.latent_model.horizon=25", "25"),
        ("agent=mrq encoder.strides=[2,2,1] agent.target_every=9 update=joint", "leave out joint"),
        ("agent=mrq agent.fade=1.1", "agent.fade must be greater than 0 and at most 1"),
        ("agent=mrq agent.target_every=900", "target_every=900 is longer than the run, which has 51 updates"),
        ("nstep=15", "less than one window of 15 agent steps"),
        ("replay_buffer_size=9", "replay_buffer_size=9 is too small for batch_size=8"),
        ("nstep=8 replay_buffer_size=21", "replay_buffer_size=21 is too small .* windows of 8"),
        ("replay_storage=dsk", "unknown replay_storage 'dsk': did you mean disk"),
        ("replay_storage=cuda", "replay_storage=cuda needs device=cuda"),
        ("agent.lr=-1", "agent.lr must be greater than 0, got -1"),
        ("agent.num_expl_steps=-1", "agent.num_expl_steps must be at least 0, got -1"),
        ("objectives=[barlow_twins] objective.barlow_twins.off_diagonal_weight=-1", "must be at least 0, got -1"),
        (
            "objectives=[spr] objective.spr.momentum=1",
            "objective.spr.momentum must be at least 0 and less than 1, got 1",
        ),
        ("agent.hidden_dim=abc", "agent.hidden_dim must be int, got 'abc'"),
        ("agent.update_every_steps=0", "agent.update_every_steps must be greater than 0"),
        ("agent=sac agent.init_temperature=-1", "agent.init_temperature must be greater than 0"),
        ("+agent.hiden_dim=3", "unknown option of agent 'hiden_dim': did you mean hidden_dim"),
        ("agent.stddev_schedule=fast", "a schedule is a number or"),
        ("discount=1.5", "discount must be at least 0 and at most 1, got 1.5"),
        ("encoder.precision=float8", "encoder.precision .float8.: did you mean float32 or bfloat16"),
        ("image_size=12", "at least 17 pixels"),
        ("shift=20", "shift must be less than image_size=20, got 20"),
        ("agent.critic_target_tau=1.5", "critic_target_tau must be greater than 0 and at most 1, got 1.5"),
        ("camera=9", "no camera is called 9"),
        ("seed=-1", "seed must be at least 0"),
        ("wandb.mode=of", "unknown wandb.mode 'of'"),
        ("device=gpu", "device=gpu is not a device to train on: use auto, cpu"),
        ("task=lqr_lqr_2_1", "has no time limit"),
        ("noise.persistence=0.5", "noise.persistence=0.5 has no effect without noise.kind"),
        ("encoder.freeze=true", "encoder.freeze=True has no effect without encoder.path=… or init=…"),
        ("wandb.mode=offline", "wandb.mode=offline has no effect without use_wandb=true"),
        ("offline.share=0.3", "has no effect without offline.data=… or init=…"),
        ("agent=td3_bc", "td3_bc learns from finished data, and this run has none: give offline.data=PATH or init=RUN"),
        ("objectives=[tests.nowhere:Own]", "there is no module 'tests.nowhere'"),
        ("imports=[nowhere_at_all]", "imports=nowhere_at_all: there is no module 'nowhere_at_all'"),
        ("objectives=[tests.experiments.own:Nothing]", "has no class 'Nothing'"),
    ],
)
def test_impossible_configurations_are_refused_before_anything_starts(
    run: Run, tmp_path: Path, overrides: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*(["agent=drqv2"] if "agent=" not in overrides else []), *overrides.split())
    assert not (tmp_path / "run").exists()


def test_cuda_is_refused_where_there_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="PyTorch finds no CUDA device here: use another, or device=cpu"):
        run("agent=drqv2", "device=cuda")


@pytest.mark.parametrize(("package", "switch"), [("wandb", "use_wandb"), ("tensorboard", "use_tb")])
def test_a_missing_extra_is_named_with_its_pip_command(
    run: Run, monkeypatch: pytest.MonkeyPatch, package: str, switch: str
) -> None:
    from importlib import util

    find_spec = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == package else find_spec(name, *rest))
    with pytest.raises(ConfigError, match=rf"{package} is not installed: run `pip install -e '.*\[{package}\]'`"):
        run("agent=drqv2", f"{switch}=true")


def test_names_of_configuration_files_are_suggested() -> None:
    with pytest.raises(ValueError, match="unknown agent 'tacoo': did you mean taco"):
        check_choices(["task=walker_walk", "agent=drqv2,tacoo"])
    with pytest.raises(ValueError, match="unknown preset 'cpuu': did you mean cpu"):
        check_choices(["preset=cpuu"])
    check_choices(["agent=taco,sac", "preset=cpu", "agent.lr=3", "agent=glob(*)"])


@pytest.mark.parametrize(
    ("argument", "schema", "message"),
    [
        ("num_train_frame=100", TrainConfig, "unknown setting 'num_train_frame': did you mean num_train_frames"),
        ("noise.persistance=1", TrainConfig, "did you mean noise.persistence"),
        ("datset=x", OfflineConfig, "did you mean dataset"),
        ("sorce=x", PretrainConfig, "did you mean source"),
        ("levle=medium", CollectConfig, "did you mean level"),
        ("objectives=taco", TrainConfig, r"objectives is a list: write objectives=\[taco\]"),
    ],
)
def test_names_of_settings_are_suggested(argument: str, schema: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_names([argument], schema)


def test_what_hydra_knows_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["agent=taco", "agent.lr=3", "encoder.channels=8", "wandb={mode: offline}", "~offline", "+new=1"]
    arguments += ["hydra.run.dir=x", "hydra/launcher=ray", "--multirun", "objectives=[],[taco]", "lr=1e-3,1e-4"]
    check_names(arguments, TrainConfig)
    monkeypatch.setattr("sys.argv", ["train", "mine=1", "--config-dir", "elsewhere"])
    check_names(["mine=1", "offline.format_options.camera=1"], TrainConfig)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("options.denoise=0.1", "++options.denoise=0.1"),
        ("objective.taco.horizon=2", "++objective.taco.horizon=2"),
        ("format_options.camera=a.b", "++format_options.camera=a.b"),
        ("offline.format_options.camera=a.b", "++offline.format_options.camera=a.b"),
        ("+options.denoise=0.1", "+options.denoise=0.1"),
        ("stddev_schedule=linear(1.0,0.1,100)", "stddev_schedule='linear(1.0,0.1,100)'"),
        ("stddev_schedule='linear(1.0,0.1,100)'", "stddev_schedule='linear(1.0,0.1,100)'"),
        ("num_train_frames=1e6", "num_train_frames=1000000"),
        ("lr=1e-4", "lr=1e-4"),
        ("run_dir=runs/1e6", "run_dir=runs/1e6"),
    ],
)
def test_overrides_are_taken_as_people_type_them(typed: str, wanted: str) -> None:
    assert for_hydra([typed]) == [wanted]


@pytest.mark.parametrize(
    ("override", "variables", "message"),
    [
        ("num_train_frame=9", {}, r"error: unknown setting 'num_train_frame': did you mean num_train_frames.*\?\n"),
        ("agent=drqv2", {"PYOPENGL_PLATFORM": "osmesa"}, "error: No picture can be drawn(.|\n)*apt-get install(.|\n)*"),
    ],
)
def test_the_command_prints_the_error_alone_and_fails(
    start: Start, override: str, variables: dict[str, str], message: str
) -> None:
    process = start(override, **variables)
    out, errors = process.communicate()
    assert process.returncode == 1 and out == ""
    assert re.fullmatch(message, errors), errors
    assert "Traceback" not in errors


def test_a_folder_that_holds_a_run_is_left_alone(run: Run, finished: Path) -> None:
    before = contents(finished)
    with pytest.raises(ConfigError, match="already holds a run: resume with resume=true, choose another run_dir"):
        run("agent=drqv2", f"run_dir={finished}")
    assert contents(finished) == before


def test_resuming_another_configuration_lists_what_differs(run: Run, finished: Path) -> None:
    before = contents(finished)
    overrides = ("agent=drqv2", f"run_dir={finished}", "resume=true", "lr=0.5", "nstep=1", "replay_buffer_size=50")
    with pytest.raises(ConfigError) as error:
        run(*overrides)
    for difference in ("lr=0.5 (the run has 0.0001)", "nstep=1 (the run has 3)", "replay_buffer_size=50 (the run has"):
        assert difference in str(error.value)
    assert "num_train_frames" not in str(error.value)
    assert contents(finished) == before


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_truncated_checkpoint_is_refused(run: Run, copy: Path) -> None:
    os.truncate(copy / CHECKPOINT, 1000)
    before = contents(copy)
    with pytest.raises(CheckpointError, match=r"truncated or damaged .* restore it from a copy, or start the run anew"):
        run("agent=drqv2", "resume=true", "num_train_frames=4000")
    assert contents(copy) == before


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "plain.pt", {"weights": torch.zeros(1 << 20)})
    with ZipFile(tmp_path / "plain.pt") as plain, ZipFile(tmp_path / "bomb.pt", "w", ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match="it is compressed, as no checkpoint is"):
        load_checkpoint(tmp_path / "bomb.pt")


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_a_checkpoint_is_a_regular_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "latest.pt"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_version_is_refused(run: Run, copy: Path) -> None:
    state = torch.load(copy / CHECKPOINT, weights_only=True)
    torch.save(state | {"version": 99}, copy / CHECKPOINT)
    before = contents(copy)
    with pytest.raises(CheckpointError, match="written in format 99, this version of rlrep reads 4"):
        run("agent=drqv2", "resume=true", "num_train_frames=4000")
    assert contents(copy) == before


def test_a_checkpoint_without_its_configuration_is_refused(run: Run, copy: Path) -> None:
    (copy / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"holds a checkpoint but no config.yaml"):
        run("agent=drqv2", "resume=true")


def test_a_checkpoint_of_another_agent_is_refused(run: Run, copy: Path) -> None:
    state = load_checkpoint(copy / CHECKPOINT)
    state["agent"].pop("actor.policy.0.weight")
    save_checkpoint(copy / CHECKPOINT, {name: value for name, value in state.items() if name != "version"})
    with pytest.raises(CheckpointError, match="not a checkpoint of this run"):
        run("agent=drqv2", "resume=true", "num_train_frames=4000")


def test_weights_that_are_nan_never_replace_a_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    update = DrQV2.update

    def broken(agent: DrQV2, *arguments: Any) -> Any:
        metrics = update(agent, *arguments)
        with torch.no_grad():
            agent.critic.q1[0].weight.fill_(torch.nan)
        return metrics

    exploring = ("agent=drqv2", "agent.num_expl_steps=1000", "agent.update_every_steps=15")
    good = run(*exploring, "num_train_frames=1000") / CHECKPOINT
    before = good.read_bytes()
    monkeypatch.setattr(DrQV2, "update", broken)
    with pytest.raises(NonFiniteLoss):
        run(*exploring, "num_train_frames=2000", "resume=true")
    assert good.read_bytes() == before


def test_a_checkpoint_with_one_bit_flipped_is_refused(tmp_path: Path) -> None:
    """Any bit: ZIP files have checksums of their content, which torch does not compare, and none of their headers."""
    path = tmp_path / "latest.pt"
    save_checkpoint(path, {"step": 7, "agent": {"weight": torch.arange(50.0)}, "text": "x"})
    assert torch.load(path, weights_only=True)["step"] == 7  # as any file of torch
    whole = path.read_bytes()
    for at in range(0, 8 * len(whole), 37):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"latest\.pt is truncated or damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize("cut", [0, 1, 64, 100, 1000])
def test_a_checkpoint_that_lacks_its_end_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "latest.pt"
    save_checkpoint(path, {"agent": {"weight": torch.arange(500.0)}})
    path.write_bytes(path.read_bytes()[: -cut or None] + b"x" * (not cut))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_checkpoint(path)


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/config.yaml'"):
        write_atomically(tmp_path / "config.yaml", b"task: x")


@pytest.mark.parametrize("text", ["task: [", "task: cartpole_balance", "\x00"])
def test_a_damaged_configuration_is_refused(run: Run, copy: Path, text: str) -> None:
    (copy / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config.yaml is damaged or from another version"):
        run("agent=drqv2", "resume=true")


def test_a_damaged_table_is_refused(run: Run, copy: Path) -> None:
    (copy / "train.csv").write_text("frame,episode_return\n1000,1\nabc,1\n2000,1\n")
    with pytest.raises(ConfigError, match=r"train.csv is damaged at line 3: fix it or move it away"):
        run("agent=drqv2", "resume=true", "num_train_frames=4000")


@pytest.mark.parametrize(
    ("line", "text"),
    [(40, '40,"1'), (40, '40,1"2'), (2, '"'), (99, '99,"'), (50, "50,1,2"), (50, "50"), (50, "50,\0"), (50, "5 0,1")],
)
def test_a_damaged_line_of_a_long_table_is_named_and_swallows_none_after_it(
    tmp_path: Path, line: int, text: str
) -> None:
    path = tmp_path / "train.csv"
    lines = ["frame,episode_return", *(f"{frame},{frame}.5" for frame in range(2, 100_000))]
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"train.csv is damaged at line {line}: fix it or move it away"):
        CsvLog(path, until=100_000)
    assert path.read_bytes() == before


def test_a_line_that_a_kill_cut_short_is_forgotten(run: Run, copy: Path) -> None:
    with (copy / "train.csv").open("a") as file:
        file.write("2999,12.3")
    run("agent=drqv2", "resume=true", "num_train_frames=4000")
    with (copy / "train.csv").open(newline="") as file:
        assert [row["frame"] for row in csv.DictReader(file)] == ["1000", "2000", "3000", "4000"]


@pytest.mark.parametrize("poisoned", [False, True])
def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poisoned: bool
) -> None:
    update = DrQV2.update

    def diverging(agent: DrQV2, batch: Any, step: int) -> dict[str, torch.Tensor]:
        metrics = update(agent, batch, step)
        if step == 50:
            metrics["actor_loss"] = torch.tensor(torch.nan)
            if poisoned:
                for parameter in agent.actor.parameters():
                    parameter.data.fill_(torch.nan)
        return metrics

    monkeypatch.setattr(DrQV2, "update", diverging)
    with pytest.raises(NonFiniteLoss) as error:
        run("agent=drqv2")
    assert str(error.value).startswith("actor_loss=nan at frame 2500. Training stopped; the last good checkpoint is")
    folder = tmp_path / "run"
    state = load_checkpoint(folder / CHECKPOINT)
    assert state["step"] == 40
    assert all(value.isfinite().all() for value in state["agent"].values() if isinstance(value, torch.Tensor))
    monkeypatch.setattr(DrQV2, "update", update)
    run("agent=drqv2", "resume=true")
    assert load_checkpoint(folder / CHECKPOINT)["step"] == 60


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk]).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


@pytest.mark.parametrize("before", ["driver.save_checkpoint", "agent.write_video", "online.OnlineRun.act"])
def test_a_full_disk_stops_the_run_which_goes_on_once_there_is_room(
    run: Run, finished: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    folder = small_disk / "run"
    full: list[bool] = []

    def filling(*arguments: Any, **options: Any) -> Any:
        if (folder / CHECKPOINT).exists() and not full:
            fill(small_disk)
            full.append(True)
        return original(*arguments, **options)

    original = pkgutil.resolve_name(f"rlrep.experiments.run.{before}")
    monkeypatch.setattr(f"rlrep.experiments.run.{before}", filling)
    overrides = ("agent=drqv2", f"run_dir={folder}", "eval_every_frames=2000", "save_video=true")
    with pytest.raises(TrainingError, match=r"disk is full, at frame \d+: free space .* resume=true; the last good"):
        run(*overrides)
    assert load_checkpoint(folder / CHECKPOINT)["step"] < 60
    with (folder / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(None not in row.values() for row in rows)
    with pytest.raises((ConfigError, TrainingError), match=r"No space left|disk is full"):
        run(*overrides, "resume=true")

    (small_disk / "filler").unlink()
    run(*overrides, "resume=true")
    ours, expected = load_checkpoint(folder / CHECKPOINT), load_checkpoint(finished / CHECKPOINT)
    for key, value in expected["agent"].items():
        assert not isinstance(value, torch.Tensor) or torch.equal(ours["agent"][key], value), key


def test_a_full_disk_at_the_start_of_an_offline_run_is_reported(small_disk: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    (small_disk / "run").mkdir()
    fill(small_disk)
    with pytest.raises((TrainingError, ConfigError), match=r"disk is full|No space left on device: '.*run"):
        run_offline(data, small_disk / "run")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_errors_of_files_say_what_to_do_in_every_kind_of_run(tmp_path: Path, number: int) -> None:
    expected = r", at update 3: .* then resume with resume=true; there is no checkpoint"
    with pytest.raises(TrainingError, match=expected), advising(tmp_path, lambda: "update 3"):
        raise OSError(number, os.strerror(number), str(tmp_path / "config.yaml"))


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_rewards_that_are_not_finite_stop_the_run_with_the_environments_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, reward: float
) -> None:
    step, calls = PixelControl.step, []

    def broken(env: PixelControl, action: Any) -> Any:
        observation, value, *rest = step(env, action)
        calls.append(1)
        return observation, reward if len(calls) > 50 else value, *rest

    monkeypatch.setattr(PixelControl, "step", broken)
    expected = r"cartpole_balance gave the reward (nan|inf) in environment 0, after frame 1500: rewards must be finite"
    with pytest.raises(TrainingError, match=expected):
        run("agent=drqv2")


def test_rewards_that_are_not_finite_stop_an_evaluation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = PixelControl.step

    def broken(env: PixelControl, action: Any) -> Any:
        observation, _, *rest = step(env, action)
        return observation, float("nan"), *rest

    monkeypatch.setattr(PixelControl, "step", broken)
    with pytest.raises(TrainingError, match="rewards that are not finite in an evaluation at frame 0"):
        run("agent=drqv2")


def test_large_replays_say_what_disk_they_take_before_they_take_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Reserving(Exception):
        pass

    def reserve(*_: object, **__: object) -> None:
        raise Reserving

    monkeypatch.setattr("rlrep.experiments.run.online.ReplayBuffer", reserve)
    with pytest.raises(Reserving):
        run("agent=drqv2", "num_train_frames=50000000", "image_size=84")
    assert re.search(r"the replay takes 2\d\.\d GB of disk in .*/run/replay, reserved now", capfd.readouterr().err)


def test_a_disk_too_small_for_the_replay_is_found_out_at_the_start(run: Run, small_disk: Path) -> None:
    with pytest.raises(ReplayError, match=r"can't make a replay of 0.01 GB .* \(replay_buffer_size\)"):
        run("agent=drqv2", f"run_dir={small_disk}/run", "image_size=128")
    assert not (small_disk / "run" / "config.yaml").exists()


def test_a_checkpoint_replaces_the_last_one_only_when_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest.pt"
    save_checkpoint(path, {"step": 1})

    def fail(_: int) -> None:
        raise OSError("the disk broke")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk broke"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("schema", "kind"), [(TrainConfig, "train"), (OfflineConfig, "offline")])
def test_the_folder_of_another_kind_of_run_is_not_called_damaged(tmp_path: Path, schema: type, kind: str) -> None:
    (tmp_path / "config.yaml").write_text("source: videos\nobjective: curl\n")
    message = r"holds a pre-training \(rlrep.experiments.pretrain\), "
    message += rf"not a run .*\(rlrep.experiments.{kind}\): give another folder"
    with pytest.raises(ConfigError, match=message):
        load_as(schema, tmp_path / "config.yaml")


def test_a_run_dir_that_is_a_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, why in ((tmp_path / "file", "there is a file of that name"), (tmp_path / "file" / "x", "Not a direct")):
        message = f"the folder {folder} can't be made: {why}.*; choose another folder"
        with pytest.raises(OSError, match=message), locked(folder):
            pass


def test_a_replay_storage_without_its_device_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    config = SimpleNamespace(replay_storage="cuda:0", device="cpu")
    with pytest.raises(ConfigError, match="replay_storage=cuda:0 needs device=cuda, this run has cpu"):
        open_data(str(tmp_path / "nowhere"), config, config)
