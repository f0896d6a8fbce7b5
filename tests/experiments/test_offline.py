"""Runs on offline data: their files, how they resume, what they refuse, and how online runs continue from them."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict

from rlrep import PixelEncoder, Window
from rlrep.data import Provenance, TransitionFiles, write_transitions
from rlrep.experiments.data import main as convert
from rlrep.experiments.evaluate import main as evaluate
from rlrep.experiments.run import train_config as configuration
from rlrep.experiments.run.checkpoint import CheckpointError, load_checkpoint
from rlrep.experiments.run.command import check_effects
from rlrep.experiments.run.offline import OfflineRun
from rlrep.experiments.run.offline_config import OfflineConfig, load, name_of
from rlrep.experiments.run.online import OnlineRun
from rlrep.experiments.run.options import ConfigError, defaults
from rlrep.experiments.run.train_config import TrainConfig
from rlrep.replay import Episodes, ReplayError
from tests.experiments.conftest import MRQ, ROOT, run_in
from tests.experiments.offline_data import PROVENANCE, TINY_OFFLINE, episode, run_offline, write_data
from tests.experiments.run.test_resume import same

Run = Callable[..., Path]
ONLINE = ("agent=td3_bc", "num_train_frames=1000")


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name != "updates_per_second"} for row in rows]


def weights(folder: Path, part: str = "") -> dict[str, torch.Tensor]:
    agent = load_checkpoint(folder / "checkpoints" / "latest.pt")["agent"]
    return {k: v for k, v in agent.items() if k.startswith(part) and isinstance(v, torch.Tensor)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "medium")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of TD3+BC with TACO; tests only read it."""
    return run_offline(data, tmp_path_factory.mktemp("finished") / "run", "objectives=[taco]")


def test_settings_of_files_that_are_not_converted_are_noted(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = (f"cache={tmp_path}/cache", "skip_corrupt=true", "channels_last=true")
    run_offline(data, tmp_path / "run", "num_updates=1", *given)
    assert f"note: cache and skip_corrupt and channels_last have no effect on {data}" in capfd.readouterr().err
    other = tmp_path / "other"
    write_transitions(TransitionFiles(data), other, PROVENANCE, format="vd4rl_64")
    run_offline(other, tmp_path / "converted", "num_updates=1", "action_repeat=50", given[0])
    assert "no effect" not in capfd.readouterr().err and list((tmp_path / "cache").iterdir())


def test_data_settings_are_refused_where_init_brings_no_data(finished: Path, tmp_path: Path) -> None:
    def effects(init: object, *typed: str, data: str | None = None) -> None:
        composed = OmegaConf.create(defaults(TrainConfig) | {"agent": {"name": "td3_bc"}, "init": str(init)})
        composed.offline.data = data
        check_effects(typed, composed, TrainConfig)

    (online := tmp_path / "online").mkdir()
    run_in(online, *ONLINE, "offline.data=" + str(write_data(tmp_path / "data")), "num_train_frames=600")
    for typed in ("offline.share=0.5", "offline.share=0", "offline.cache=x", "offline.skip_corrupt=true"):
        with pytest.raises(ConfigError, match=rf"{typed} has no effect: init=.*online is no offline run"):
            effects(online, typed)
        effects(finished, typed)
        effects(online, typed, data="there")
        effects(tmp_path / "gone", typed)  # a resumed run knows its data


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    return lambda *overrides: run_offline(data, tmp_path / "run", *overrides)


def test_a_run_leaves_a_whole_folder(finished: Path) -> None:
    config = load(finished / "config.yaml")
    assert isinstance(config, OfflineConfig)
    assert (config.task, config.image_size, config.action_repeat) == ("cartpole_balance", 20, 50)
    assert (config.data["level"], config.data["random_return"], config.data["expert_return"]) == ("medium", 200, 1000)
    assert config.agent["name"] == "td3_bc+taco"
    assert [row["update"] for row in table(finished, "train.csv")] == ["3", "4", "6", "8", "9", "12"]
    assert [row["update"] for row in table(finished, "eval.csv")] == ["0", "6", "12"]
    assert all(float(row["episode_return"]) > 0 for row in table(finished, "eval.csv"))
    assert {"loss_taco", "loss_curl", "loss_reward"} < set(table(finished, "train.csv")[-1])
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert load_checkpoint(finished / "checkpoints" / "latest.pt")["updates"] == 12


@pytest.mark.parametrize("agent", ["bc", "drqv2_bc", "cql", "iql"])
@pytest.mark.parametrize("objectives", ["[taco]", pytest.param("[]", marks=pytest.mark.slow)])
def test_every_agent_learns_from_data_with_and_without_taco(run: Run, agent: str, objectives: str) -> None:
    before = ("num_updates=2", "num_eval_episodes=1", "eval_every_updates=2")
    folder = run(f"agent={agent}", f"objectives={objectives}", *before)
    losses = {name: float(value) for name, value in table(folder, "train.csv")[-1].items() if "loss" in name}
    assert losses and all(np.isfinite(list(losses.values())))
    assert ("loss_taco" in losses) == (objectives == "[taco]")


def test_stopped_and_resumed_equals_never_stopped(
    run: Run, finished: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    write_row = OfflineRun.write_row

    def interrupted(run: OfflineRun) -> None:
        if run.updates == 4:
            raise KeyboardInterrupt
        write_row(run)

    monkeypatch.setattr(OfflineRun, "write_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("objectives=[taco]")
    monkeypatch.setattr(OfflineRun, "write_row", write_row)
    folder = run("objectives=[taco]", "resume=true")
    ours, theirs = (load_checkpoint(path / "checkpoints" / "latest.pt") for path in (folder, finished))
    assert ours.keys() == theirs.keys() and all(same(ours[part], theirs[part]) for part in ours)
    for name in ("train.csv", "eval.csv"):
        assert table(folder, name) == table(finished, name)


@pytest.mark.slow
def test_killed_and_resumed_equals_never_stopped(data: Path, tmp_path: Path) -> None:
    overrides = ["objectives=[taco]", "num_updates=200", "checkpoint_every_updates=20", "eval_every_updates=50"]
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "rlrep.experiments.offline", *TINY_OFFLINE, f"dataset={data}", f"run_dir={folder}"]
    process = subprocess.Popen(
        [*command, *overrides], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"}
    )
    while not (folder / "checkpoints" / "latest.pt").exists() or len(table(folder, "train.csv")) < 20:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert load_checkpoint(folder / "checkpoints" / "latest.pt")["updates"] < 200
    run_offline(data, folder, *overrides, "resume=true")
    whole = run_offline(data, tmp_path / "whole", *overrides)
    ours, theirs = (load_checkpoint(path / "checkpoints" / "latest.pt") for path in (folder, whole))
    assert all(same(ours[part], theirs[part]) for part in theirs)
    assert table(folder, "train.csv") == table(whole, "train.csv")


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_do_and_goes_on_for_more_updates(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run("num_updates=3")
    run("num_updates=3", "resume=true")
    assert "nothing to do: the run has made 3 updates already" in capfd.readouterr().out
    folder = run("num_updates=6", "resume=true")
    assert [row["update"] for row in table(folder, "eval.csv")] == ["0", "3", "6"]


def test_other_values_or_other_data_are_another_run(run: Run, tmp_path: Path) -> None:
    folder = run("num_updates=3")
    with pytest.raises(ConfigError, match="already holds a run"):
        run("num_updates=3")
    with pytest.raises(ConfigError, match=r"another configuration: lr=0\.1 \(the run has 0\.0003\)"):
        run("num_updates=3", "lr=0.1", "resume=true")
    rng = np.random.default_rng(1)
    other = write_data(tmp_path / "other", episodes=[episode(rng) for _ in range(5)])
    alike = write_data(tmp_path / "alike", episodes=[episode(rng) for _ in range(4)])
    for data in (other, alike):
        with pytest.raises(CheckpointError, match="holds other episodes than when the run was saved"):
            run_offline(data, folder, "num_updates=3", "resume=true")


def test_a_run_goes_on_where_its_data_were_moved(data: Path, tmp_path: Path) -> None:
    before = shutil.copytree(data, tmp_path / "before")
    run_offline(before, tmp_path / "run", "num_updates=3")
    before.rename(tmp_path / "after")
    folder = run_offline(tmp_path / "after", tmp_path / "run", "num_updates=4", "resume=true")
    assert load(folder / "config.yaml").dataset == str(tmp_path / "after")


@pytest.mark.parametrize(
    ("dataset", "level"),
    [
        ("/vd4rl/main/walker_walk/medium/84px", "medium"),
        ("/vd4rl/main/walker_walk/medium_replay/64px", "medium_replay"),
        ("/runs/cheetah_run/taco/seed_1/replay", "taco"),
        ("/data/lr0.5", "lr0.5"),
        ("/data/medium.hdf5", "medium"),
        ("walker/medium-v0", "medium-v0"),
        ("/replay", "replay"),
    ],
)
def test_the_level_distinguishes_data_sets(dataset: str, level: str) -> None:
    assert name_of(dataset) == level


@pytest.mark.parametrize("freeze", ["true", "false"])
def test_a_pretrained_encoder_is_the_start(run: Run, tmp_path: Path, freeze: str) -> None:
    pretrained = PixelEncoder((9, 20, 20), channels=3)
    pretrained.save_pretrained(tmp_path / "encoder")
    folder = run(f"encoder.path={tmp_path}/encoder", f"encoder.freeze={freeze}", "num_updates=2")
    ours = weights(folder, "encoder.")
    equal = [torch.equal(ours[f"encoder.{name}"], value) for name, value in pretrained.state_dict().items()]
    assert all(equal) if freeze == "true" else not any(equal)
    name = "td3_bc+frozen" if freeze == "true" else "td3_bc+pretrained"
    assert load(folder / "config.yaml").agent["name"] == name


def test_a_relative_path_is_kept_as_an_absolute_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    folder = run_offline(Path("medium"), tmp_path / "run", "num_updates=1")
    assert load(folder / "config.yaml").dataset == str(data)


def test_the_folder_is_named_after_data_and_agent(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run_offline(data, "null", "objectives=[taco]", "num_updates=1")  # type: ignore[arg-type]
    assert folder == tmp_path / "runs" / "offline" / "cartpole_balance_medium" / "td3_bc+taco" / "seed_1"


def test_a_checkpoint_can_be_scored(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate([str(finished), "--episodes", "1", "--device", "cpu", "--video", str(finished / "v.mp4")]) == 0
    assert "cartpole_balance, td3_bc+taco after 12 updates" in capsys.readouterr().out


def test_what_does_not_fit_the_data_is_refused(run: Run, tmp_path: Path) -> None:
    for overrides, message in (
        (["image_size=84"], r"holds observations of shape \(9, 20, 20\), cartpole_balance has \(9, 84, 84\)"),
        (["task=cheetah_run"], "is 1 numbers, one of cheetah_run is 6 numbers"),
        (["nstep=21"], "21|long as a"),
        (["objectives=[taco]", "objective.taco.horizon=21"], "21|long as a"),
        (["num_updates=0"], "num_updates must be greater than 0"),
        (["batch_size=81"], "medium is too small: a batch of 81 needs as many transitions"),
        (["dataset=/nowhere"], "/nowhere"),
        (["dataset=???"], "name the data"),
    ):
        with pytest.raises((ConfigError, ReplayError), match=message):
            run(*overrides)
    assert not (tmp_path / "run").exists()


def test_data_that_do_not_name_their_task_need_it_named(tmp_path: Path) -> None:
    data = write_data(tmp_path / "unnamed", Provenance())
    with pytest.raises(ConfigError, match=r"does not say which task it is of: name one, as in task=cheetah_run"):
        run_offline(data, tmp_path / "run")
    folder = run_offline(data, tmp_path / "run", "task=cartpole_balance", "action_repeat=50", "num_updates=1")
    assert load(folder / "config.yaml").action_repeat == 50


def test_an_assumed_action_repeat_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "unnamed", Provenance(task="cartpole_balance"))
    folder = run_offline(data, tmp_path / "run", "num_updates=1")
    assert load(folder / "config.yaml").action_repeat == 2
    assert "evaluations repeat them 2 times, as V-D4RL did" in capsys.readouterr().err
    run_offline(data, tmp_path / "other", "num_updates=1", "action_repeat=50")
    assert "V-D4RL" not in capsys.readouterr().err


def test_distractors_of_the_data_are_on_the_evaluations_too(tmp_path: Path) -> None:
    noise = {"kind": "shapes", "persistence": 0.5, "num_shapes": 2, "size": 0.3, "background_only": False}
    made = PROVENANCE.made | {"distractors": noise}
    data = write_data(tmp_path / "noisy", replace(PROVENANCE, made=made))
    config = load(run_offline(data, tmp_path / "run", "num_updates=1") / "config.yaml")
    assert vars(config.noise) == noise | {"strength": 0.5, "videos": None}


def test_data_never_name_videos_to_read(tmp_path: Path) -> None:
    noise = {"kind": "video", "persistence": 1.0, "strength": 0.5, "videos": "/their/videos", "background_only": False}
    data = write_data(tmp_path / "noisy", replace(PROVENANCE, made=PROVENANCE.made | {"distractors": noise}))
    with pytest.raises(ConfigError, match=r"collected with videos in the background.*give noise\.kind=video noise\."):
        run_offline(data, tmp_path / "run", "num_updates=1")


def test_the_replay_of_a_run_is_data_and_so_is_what_it_was_converted_to(tmp_path: Path) -> None:
    online = run_in(tmp_path / "online", "agent=drqv2", "num_train_frames=2000", "nstep=1", "camera=1")
    folder = run_offline(online, tmp_path / "run", "num_updates=1")
    assert convert(["convert", str(online), str(tmp_path / "converted")]) == 0
    shutil.rmtree(online)
    again = run_offline(tmp_path / "converted", tmp_path / "again", "num_updates=1")
    for each in (folder, again):
        config = load(each / "config.yaml")
        assert (config.task, config.action_repeat, config.camera) == ("cartpole_balance", 50, 1)
        assert config.image_size == 20


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_a_minari_data_set_is_named_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    rng = np.random.default_rng(0)
    episodes = [episode(rng) for _ in range(4)]
    write_transitions(episodes, tmp_path / "minari/cartpole/small-v0", PROVENANCE, format="minari")
    folder = run_offline(Path("cartpole/small-v0"), tmp_path / "run", "num_updates=1")
    assert load(folder / "config.yaml").dataset == "cartpole/small-v0"


def test_the_folder_may_be_named_after_the_datas_task(data: Path, tmp_path: Path) -> None:
    assert run_offline(data, tmp_path / "${task}", "num_updates=1") == tmp_path / "cartpole_balance"
    with pytest.raises(ConfigError, match=r"does not fit: .*tsk"):
        run_offline(data, tmp_path / "${tsk}", "num_updates=1")


def test_data_without_rewards_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "video"
    folder.mkdir()
    np.savez(folder / "0.npz", observation=np.zeros((21, 3, 20, 20), np.uint8), action=np.zeros((21, 1), np.float32))
    with pytest.raises(ConfigError, match="reward"):
        run_offline(folder, tmp_path / "run")


def test_an_online_run_starts_where_the_offline_one_ended(finished: Path, tmp_path: Path) -> None:
    folder = run_in(
        tmp_path / "online", *ONLINE, "objectives=[taco]", f"init={finished}", "num_seed_frames=500", "lr=1e-9"
    )
    assert table(folder, "eval.csv")[0]["episode_return"] == table(finished, "eval.csv")[-1]["episode_return"]
    offline = weights(finished, "encoder.")
    assert all(torch.allclose(value, offline[name], atol=1e-5) for name, value in weights(folder, "encoder.").items())
    config = configuration.load(folder / "config.yaml")
    assert (config.agent["name"], config.agent["num_expl_steps"]) == ("td3_bc+taco+init", 0)


def test_an_online_run_in_another_environment_than_its_initial_agent_says_so(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start = [*ONLINE, "objectives=[taco]", "num_seed_frames=500", f"init={finished}"]
    run_in(tmp_path / "same", *start)
    assert "its environment is another" not in capfd.readouterr().err
    run_in(tmp_path / "noisy", *start, "noise.kind=shapes", "noise.persistence=0")
    assert "note: init=" in (said := capfd.readouterr().err) and "this run noise.kind=shapes" in said


def test_an_online_run_that_resumes_reads_its_data_as_it_is_told_now(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    start = [*ONLINE, "objectives=[taco]", "num_seed_frames=500", f"init={finished}"]
    run_in(tmp_path / "run", *start)
    folder = run_in(tmp_path / "run", *start, "resume=true", "num_train_frames=2000", f"offline.cache={tmp_path / 'c'}")
    read = configuration.load(folder / "config.yaml").offline
    assert (read.data, read.cache) == (str(data), str(tmp_path / "c"))


def test_an_online_run_keeps_learning_from_the_offline_data(data: Path, finished: Path, tmp_path: Path) -> None:
    start = [*ONLINE, "objectives=[taco]", "num_seed_frames=500"]
    mixed = run_in(tmp_path / "mixed", *start, f"init={finished}")
    config = configuration.load(mixed / "config.yaml").offline
    assert (config.data, config.share) == (str(data), 0.5)
    alone = run_in(tmp_path / "alone", *start, f"init={finished}", "offline.share=0")
    first, second = weights(mixed, "encoder."), weights(alone, "encoder.")
    assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_batches_hold_the_share_of_the_offline_data_that_was_asked_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, set[int]] = {"ReplayBuffer": set(), "Dataset": set()}
    sample = Episodes.sample

    def noted(store: Episodes, batch_size: int, window: Window | None = None) -> TensorDict:
        sizes[type(store).__name__].add(batch_size)
        return sample(store, batch_size, window)

    monkeypatch.setattr(Episodes, "sample", noted)
    run_in(tmp_path / "run", *ONLINE, f"offline.data={data}", "offline.share=0.25")
    assert sizes == {"ReplayBuffer": {6}, "Dataset": {2}}


def test_a_run_with_offline_data_goes_on_where_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*ONLINE, "num_train_frames=3000"]
    whole = run_in(tmp_path / "whole", *options, f"offline.data={data}")
    save = OnlineRun.save

    def save_and_stop(trainer: OnlineRun) -> None:
        save(trainer)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(OnlineRun, "save", save_and_stop)
        run_in(tmp_path / "run", *options, f"offline.data={data}")
    other = write_data(tmp_path / "other", episodes=[episode(np.random.default_rng(1)) for _ in range(4)])
    with pytest.raises(CheckpointError, match="holds other episodes than when the run was saved"):
        run_in(tmp_path / "run", *options, f"offline.data={other}", "resume=true")
    moved = shutil.copytree(data, tmp_path / "moved")
    run_in(tmp_path / "run", *options, f"offline.data={moved}", "resume=true")
    assert same(weights(tmp_path / "run"), weights(whole))


def test_offline_data_that_do_not_fit_an_online_run_are_refused(data: Path, tmp_path: Path) -> None:
    for overrides, message in (
        ([f"offline.data={data}", "image_size=24"], "choose the data's, image_size=20"),
        ([f"offline.data={data}", "offline.share=1"], "offline.share must be at least 0 and less than 1, got 1"),
        (
            [f"offline.data={tmp_path}/none"],
            r"there is no file or folder .*: give their path with offline.data=PATH",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            run_in(tmp_path / "online", *ONLINE, *overrides)


def test_an_online_run_with_another_agent_is_refused(finished: Path, tmp_path: Path) -> None:
    for overrides, message in (
        (ONLINE, r"it has objectives=\[taco\], this run objectives=\[\]. Give"),
        ((*ONLINE, "objectives=[taco]", "hidden_dim=17"), "hidden_dim=16"),
        ((*ONLINE, "objectives=[taco]", "image_size=21"), "image_size=20, this run image_size=21"),
        (("agent=sac", "objectives=[taco]"), "agent=td3_bc"),
        ((*ONLINE, f"encoder.path={finished}"), "leave one of them out"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_in(tmp_path / "online", f"init={finished}", *overrides)
    with pytest.raises(ConfigError, match="is not a run"):
        run_in(tmp_path / "online", f"init={tmp_path}", *ONLINE)
    assert not (tmp_path / "online").exists()


def test_finished_data_have_no_priorities(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"draws uniformly: .*agent.prioritized=false"):
        run_offline(data, tmp_path / "run", *MRQ)
    folder = run_offline(data, tmp_path / "run", *MRQ, "agent.prioritized=false", "num_updates=8")
    assert all(float(table(folder, "train.csv")[-1][name]) != 0 for name in ("loss_model_prediction", "value_loss"))


def test_mrq_goes_on_from_data_to_an_environment(data: Path, tmp_path: Path) -> None:
    offline = run_offline(data, tmp_path / "offline", *MRQ, "agent.prioritized=false", "num_updates=8")
    size = "objective.latent_model.state_dim=9"
    with pytest.raises(ConfigError, match=r"objective.latent_model.state_dim=8, this run .*=9"):
        run_in(tmp_path / "online", *MRQ, "num_train_frames=1000", f"init={offline}", size)
    folder = run_in(tmp_path / "online", *MRQ, "num_train_frames=1000", f"init={offline}")
    assert float(table(folder, "train.csv")[-1]["loss_model_prediction"]) != 0


@pytest.mark.slow
def test_the_command_takes_a_preset_of_its_own(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rlrep.experiments.offline", *TINY_OFFLINE, f"dataset={data}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"}
    last = ["preset=cpu", f"run_dir={tmp_path}/run", "num_updates=1"]
    done = subprocess.run([*command, *last], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"finished: {tmp_path}/run" in done.stdout
    assert load(tmp_path / "run" / "config.yaml").shift == 2
    done = subprocess.run([*command, "preset=cpuu"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "error: unknown preset 'cpuu': did you mean cpu?" in done.stderr
