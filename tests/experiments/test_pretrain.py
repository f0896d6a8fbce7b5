"""A pre-training, end to end: its files, and that it can be stopped anywhere."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from matplotlib.image import imread
from omegaconf import OmegaConf

from rlrep import PixelEncoder
from rlrep.data import open_video
from rlrep.experiments.run import sources
from rlrep.experiments.run.checkpoint import CheckpointError, load_checkpoint
from rlrep.experiments.run.log import NonFiniteLoss
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.pretrain_config import complete
from rlrep.experiments.run.pretraining import pretrain
from rlrep.experiments.run.sources import watch
from rlrep.experiments.run.stop import Stopped
from rlrep.pretrain import Pretrainer

ROOT = Path(__file__).parents[2]
TINY = [
    "device=cpu",
    "image_size=20",
    "frame_stack=2",
    "horizon=2",
    "shift=1",
    "steps=12",
    "batch_size=4",
    "validate_every=4",
    "validation_batches=1",
    "patience=null",
    "encoder.channels=2",
    "encoder.precision=float32",
    "validation_fraction=0.4",
]
OPTIONS = {
    "autoencoder": ["+options.decoder_channels=2"],
    "forward_model": ["+options.decoder_channels=2", "+options.hidden_dim=8", "+options.feature_dim=4"],
    "temporal_contrastive": ["+options.feature_dim=4"],
    "inverse_model": ["+options.hidden_dim=8"],
}

Run = Callable[..., Path]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Five videos of a moving bright bar."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(5):
        frames = np.full((8, 20, 20, 3), 40 * number, np.uint8)
        for t in range(8):
            frames[t, :, 2 * t : 2 * t + 2] = 255
        np.savez(folder / f"{number}.npz", observation=frames)
    return folder


@pytest.fixture
def run(tmp_path: Path, videos: Path) -> Run:
    """Pre-trains in this process, in tmp_path/run unless run_dir says otherwise."""

    def run(objective: str = "temporal_contrastive", *overrides: str) -> Path:
        with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
            given = [f"objective={objective}", f"source={videos}", f"run_dir={tmp_path}/run"]
            return pretrain(compose("pretrain", [*TINY, *OPTIONS.get(objective, []), *given, *overrides]))

    return run


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "train.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "updates_per_second"} for row in csv.DictReader(file)]


def same(a: Any, b: Any) -> bool:
    """Whether nested dictionaries and lists are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def same_runs(ours: Path, theirs: Path) -> bool:
    states = [load_checkpoint(folder / "checkpoints" / "latest.pt") for folder in (ours, theirs)]
    encoders = [(folder / "encoder" / "model.safetensors").read_bytes() for folder in (ours, theirs)]
    return same(*states) and table(ours) == table(theirs) and encoders[0] == encoders[1]


@pytest.mark.parametrize("objective", ["autoencoder", "forward_model", "temporal_contrastive", "curl"])
def test_every_objective_leaves_an_encoder(run: Run, objective: str) -> None:
    folder = run(objective)
    assert OmegaConf.load(folder / "config.yaml").objective == objective
    rows = table(folder)
    assert [row["update"] for row in rows] == ["4", "8", "12"]
    assert all(float(value) == float(value) for row in rows for value in row.values())
    assert "validation_loss" in rows[0] and any(name.startswith("loss_") for name in rows[0])
    encoder = PixelEncoder.from_pretrained(folder / "encoder")
    assert encoder.observation_shape == (6, 20, 20) and encoder.channels == 2
    assert (folder / "reconstructions.png").exists() == (objective in ("autoencoder", "forward_model"))
    if (folder / "reconstructions.png").exists():
        assert imread(folder / "reconstructions.png").std() > 0.01


def test_the_encoder_is_the_best_validations(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 1.0, 2.0])
    compare = Pretrainer._compare
    monkeypatch.setattr(Pretrainer, "_compare", lambda trainer, loss: compare(trainer, next(losses)))
    folder = run()
    best = load_checkpoint(folder / "checkpoints" / "latest.pt")["trainer"]["best"]
    assert best["updates"] == 8
    for name, value in PixelEncoder.from_pretrained(folder / "encoder").state_dict().items():
        assert torch.equal(value, best["weights"][f"encoder.{name}"]), name


@pytest.mark.parametrize(("stop", "objective"), [(3, "temporal_contrastive"), (7, "forward_model"), (8, "autoencoder")])
def test_stopped_and_resumed_equals_never_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, objective: str
) -> None:
    step = Pretrainer.step

    def interrupted(trainer: Pretrainer) -> Any:
        if trainer.updates == stop:
            raise KeyboardInterrupt
        return step(trainer)

    monkeypatch.setattr(Pretrainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(objective)
    monkeypatch.setattr(Pretrainer, "step", step)
    assert len(table(tmp_path / "run")) == stop // 4 if stop >= 4 else True
    torch.rand(3)  # random numbers drawn in between do not matter
    resumed = run(objective, "resume=true")
    whole = run(objective, f"run_dir={tmp_path}/whole")
    assert same_runs(resumed, whole)


@pytest.mark.parametrize("stop", [3, 8])
def test_sigterm_leaves_a_checkpoint_between_validations(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole = run("forward_model", f"run_dir={tmp_path}/whole")
    step = Pretrainer.step

    def signalled(trainer: Pretrainer) -> Any:
        if trainer.updates == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer)

    with (
        monkeypatch.context() as patched,
        pytest.raises(Stopped, match=f"stopped at update {stop + 1}, and everything"),
    ):
        patched.setattr(Pretrainer, "step", signalled)
        run("forward_model")
    resumed = run("forward_model", "resume=true")
    assert same_runs(resumed, whole)


@pytest.mark.slow
def test_killed_and_resumed_equals_never_stopped(run: Run, videos: Path, tmp_path: Path) -> None:
    overrides = ["steps=400", f"source={videos}", f"run_dir={tmp_path}/run"]
    command = [sys.executable, "-m", "rlrep.experiments.pretrain", *TINY, *OPTIONS["temporal_contrastive"], *overrides]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    checkpoint = tmp_path / "run" / "checkpoints" / "latest.pt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert load_checkpoint(checkpoint)["trainer"]["updates"] < 400
    resumed = run("temporal_contrastive", "steps=400", "resume=true")
    assert same_runs(resumed, run("temporal_contrastive", "steps=400", f"run_dir={tmp_path}/whole"))


def test_a_finished_run_has_nothing_to_resume_and_goes_on_for_more_steps(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run()
    run("temporal_contrastive", "resume=true")
    assert "nothing to do: the run is at update 12 already; to continue, raise steps" in capsys.readouterr().out
    longer = run("temporal_contrastive", "resume=true", "steps=20")
    assert same_runs(longer, run("temporal_contrastive", "steps=20", f"run_dir={tmp_path}/whole"))


@pytest.mark.parametrize("change", ["added", "swapped"])
def test_a_run_is_resumed_only_with_the_videos_that_it_had(run: Run, videos: Path, change: str) -> None:
    run()
    first, last = (sorted(videos.glob("*.npz"))[i] for i in (0, -1))
    if change == "added":
        shutil.copy(first, videos / "more.npz")
    else:
        frames = np.load(last)["observation"]
        np.savez(last, observation=255 - frames)
    with pytest.raises(CheckpointError, match="holds other episodes than when the run was saved"):
        run("temporal_contrastive", "resume=true", "steps=20")


def test_a_picture_that_a_kill_left_out_is_drawn_on_resuming(run: Run) -> None:
    folder = run("autoencoder")
    drawn = (folder / "reconstructions.png").read_bytes()
    (folder / "reconstructions.png").unlink()
    run("autoencoder", "resume=true")
    assert (folder / "reconstructions.png").read_bytes() == drawn


def test_a_loss_that_gets_no_better_ends_the_run(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 2.0, 2.0])
    compare = Pretrainer._compare
    monkeypatch.setattr(Pretrainer, "_compare", lambda trainer, loss: compare(trainer, next(losses)))
    folder = run("temporal_contrastive", "steps=1000", "patience=2")
    assert [row["update"] for row in table(folder)] == ["4", "8", "12"]
    assert "stopped after 12 updates, the validation loss got no better; encoder/ is of update 4" in (
        capsys.readouterr().out
    )
    run("temporal_contrastive", "steps=2000", "patience=2", "resume=true")
    assert "to continue, raise patience" in capsys.readouterr().out


class Corridor(gym.Env[np.ndarray, np.int64]):
    """Moves left or right along ten cells; the current cell is bright."""

    observation_space = gym.spaces.Box(0, 255, (3, 20, 20), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int = 6) -> None:
        self.length = length

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=options.get("seed"))
        self.place, self.steps = int(self.np_random.integers(10)), 0
        return self.observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = int(np.clip(self.place + 2 * action - 1, 0, 9))
        self.steps += 1
        return self.observe(), 0.0, False, self.steps >= self.length, {}

    def observe(self) -> np.ndarray:
        picture = np.zeros((3, 20, 20), np.uint8)
        picture[:, :, 2 * self.place : 2 * self.place + 2] = 255
        return picture


@pytest.fixture
def corridor() -> Any:
    gym.register("rlrep/corridor-v0", entry_point=Corridor)
    yield "source=env:corridor"
    del gym.registry["rlrep/corridor-v0"]


@pytest.mark.parametrize("objective", ["inverse_model", "temporal_contrastive"])
def test_an_environment_is_played_for_its_pictures_and_actions(run: Run, corridor: str, objective: str) -> None:
    folder = run(objective, corridor, "num_frames=60", "+env.length=5")
    assert PixelEncoder.from_pretrained(folder / "encoder").observation_shape == (6, 20, 20)
    if objective == "inverse_model":
        assert 0 <= float(table(folder)[-1]["validation_inverse_accuracy"]) <= 1


def interrupted_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> list[int]:
    """Presses Ctrl-C in the corridor after `steps` steps; returns a list that gets an entry for each step."""
    step, taken = Corridor.step, list[int]()

    def counted(env: Corridor, action: np.int64) -> Any:
        if len(taken) == steps:
            raise KeyboardInterrupt
        taken.append(int(action))
        return step(env, action)

    monkeypatch.setattr(Corridor, "step", counted)
    return taken


@pytest.mark.parametrize(
    "noise",
    [
        (),
        ("noise.kind=shapes", "noise.size=0.3", "noise.persistence=0.9"),
        ("noise.kind=video", "noise.videos={videos}"),
    ],
)
def test_what_was_played_before_a_stop_is_not_played_again(
    run: Run, corridor: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: tuple[str, ...]
) -> None:
    noise = tuple(each.format(videos=videos) for each in noise)
    command = ("inverse_model", corridor, "num_frames=60", *noise)  # episodes of seven frames
    whole = run(*command, f"run_dir={tmp_path}/whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted_after(patched, 27)  # in the fifth
        run(*command)
    played = tmp_path / "run" / "played"
    assert [path.name for path in sorted(played.glob("*.npz"))] == [f"episode_{k:06d}.npz" for k in range(4)]
    assert not list(tmp_path.rglob(".*.partial-*"))
    with monkeypatch.context() as patched:
        taken = interrupted_after(patched, 1000)
        assert same_runs(run(*command), whole)
        assert len(taken) == 4 * 6 + 3  # the ninth is cut at its fourth frame
        assert len(list(played.glob("*.npz"))) == 9


def test_a_resumed_training_plays_nothing(
    run: Run, corridor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("inverse_model", corridor, "num_frames=60")
    whole = run(*command, f"run_dir={tmp_path}/whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        step = Pretrainer.step
        patched.setattr(
            Pretrainer,
            "step",
            lambda self: (_ for _ in ()).throw(KeyboardInterrupt) if self.updates == 5 else step(self),
        )
        run(*command)
    with monkeypatch.context() as patched:
        interrupted_after(patched, 0)
        assert same_runs(run(*command, "resume=true"), whole)


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_damaged_episodes_are_played_again(run: Run, corridor: str, tmp_path: Path, damage: bytes | None) -> None:
    command = ("temporal_contrastive", corridor, "num_frames=60")
    whole = run(*command, f"run_dir={tmp_path}/whole")
    kept = sorted((whole / "played").glob("*.npz"))
    contents = [path.read_bytes() for path in kept]
    flipped = bytearray(contents[3])
    flipped[len(flipped) // 3] ^= 1
    kept[3].write_bytes(bytes(flipped) if damage is None else damage)
    (tmp_path / "run").mkdir()
    (whole / "played").rename(tmp_path / "run" / "played")
    assert same_runs(run(*command), whole)
    arrays = [np.load(path) for path in sorted((tmp_path / "run" / "played").glob("*.npz"))]
    assert len(arrays) == len(contents) and all(array["observation"].shape[1:] == (3, 20, 20) for array in arrays)


def test_episodes_of_other_settings_are_played_again_with_a_message(
    run: Run, corridor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted_after(patched, 27)
        run("inverse_model", corridor, "num_frames=60")
    capsys.readouterr()
    other = ("inverse_model", corridor, "num_frames=40", "+env.length=5", "seed=2")
    assert same_runs(run(*other), run(*other, f"run_dir={tmp_path}/whole"))
    said = capsys.readouterr().err
    note = f"note: {tmp_path}/run/played was played with num_frames=60 (now 40), seed=1 (now 2), length=None (now 5), "
    assert said.count("note:") == 1 and note in said
    lengths = [len(np.load(path)["observation"]) for path in sorted((tmp_path / "run" / "played").glob("*.npz"))]
    assert lengths == [6] * 6 + [4]


def test_states_are_of_all_episodes_or_of_none(tmp_path: Path) -> None:
    """Files of played episodes do not hold them."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
        words = ("source=env:gridworld", "objective=taco", "num_frames=300", "frame_stack=1", "image_size=56")
        config = complete(compose("pretrain", list(words)))
    states = sources.play(config, tmp_path / "whole", state=True).state
    assert states is not None and len(states) == 300
    files = sorted((tmp_path / "whole").glob("*.npz"))
    for path in files[len(files) // 2 :]:
        path.unlink()
    assert sources.play(config, tmp_path / "whole").state is None
    for path in files[len(files) // 2 :]:
        path.unlink()
    with pytest.raises(ValueError, match="an episode has action, frame, state, and earlier ones have action, frame"):
        sources.play(config, tmp_path / "whole", state=True)


def test_what_was_played_is_video_with_actions(run: Run, corridor: str) -> None:
    folder = run("temporal_contrastive", corridor, "num_frames=60") / "played"
    data = open_video(folder, image_size=20, actions=True)
    assert data.action is not None
    assert (data.num_episodes, data.num_frames) == (9, 60)
    place = data.frames[:, 0, 0].argmax(1) // 2
    for first, end in data.episodes:
        moved = np.clip(place[first : end - 1] + 2 * data.action[first : end - 1] - 1, 0, 9)
        assert (place[first + 1 : end] == moved).all()


def test_noise_is_on_the_pictures_of_an_environment(
    run: Run, corridor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    plain = Pretrainer.__init__

    def watched(trainer: Pretrainer, objective: Any, train: Any, *rest: Any, **options: Any) -> None:
        seen[len(seen)] = train.frames
        plain(trainer, objective, train, *rest, **options)

    monkeypatch.setattr(Pretrainer, "__init__", watched)
    run("temporal_contrastive", corridor, "num_frames=60")
    noise = ["noise.kind=shapes", "noise.size=0.3", "noise.num_shapes=2", "noise.persistence=0"]
    run("temporal_contrastive", corridor, "num_frames=60", *noise, f"run_dir={tmp_path}/noisy")
    assert set(np.unique(seen[0])) == {0, 255}
    assert len(np.unique(seen[1])) > 10


def test_one_video_is_cut_for_validation(run: Run, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, *others = sorted(videos.glob("*.npz"))
    for path in others:
        path.unlink()
    np.savez(first, observation=np.zeros((2, 20, 20, 3), np.uint8))  # too short, so left out
    seen = []
    monkeypatch.setattr(sources, "watch", lambda *a, **k: seen.append(watch(*a, **k)) or seen[-1])
    with pytest.warns(UserWarning, match="skipped 1 of 2"):
        assert len(table(run("temporal_contrastive", "skip_corrupt=true"))) == 3
    parts = sources.split(seen[0], SimpleNamespace(validation_fraction=0.4, horizon=2, frame_stack=2, seed=0))
    assert sum(part.num_frames for part in parts) == seen[0].num_frames
    assert all(part.frames.any((1, 2, 3)).all() for part in parts)


def test_one_video_must_be_long_enough_to_be_cut(run: Run, videos: Path) -> None:
    first, *others = sorted(videos.glob("*.npz"))
    for path in others:
        path.unlink()
    np.savez(first, observation=np.zeros((3, 20, 20, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"one episode of 3 frames; .* horizon=2 steps apart it takes 6"):
        run()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("objective=inverse_model", "inverse_model reads actions: .* Use data recorded with actions"),
        (
            "objective=taco",
            r"objective=taco reads rewards, which .* have: use it in rlrep.experiments.train \(objectives=\[taco\]\)",
        ),
        ("objective=autoencoderr", "unknown objective 'autoencoderr': did you mean autoencoder"),
        ("source=env:carpole_balance", "unknown task 'carpole_balance': did you mean cartpole_balance"),
        ("source=nowhere", "nowhere"),
        ("noise.kind=shapes", "noise.kind=shapes is for source=env:TASK"),
        ("horizon=0", "horizon must be greater than 0, got 0"),
        ("horizon=8", "8"),
        ("shift=20", "shift must be less than image_size=20, got 20"),
        ("validation_fraction=1", "validation_fraction must be greater than 0 and less than 1"),
        ("patience=0", "patience must be greater than 0"),
        ("+options.feature_dims=1", "unknown option of options 'feature_dims': did you mean feature_dim"),
        ("+options.horizon=2", "options.horizon follows the data: leave it out"),
        ("encoder.precision=float8", "unknown encoder.precision"),
        ("image_size=12", "at least 17 pixels"),
        ("steps=many", "steps: Value 'many'"),
    ],
)
def test_impossible_configurations_are_refused_before_anything_starts(
    run: Run, tmp_path: Path, overrides: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run("curl", *overrides.split())
    assert not (tmp_path / "run").exists()


def test_a_missing_source_is_asked_for(tmp_path: Path) -> None:
    with (
        initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")),
        pytest.raises(ConfigError, match="name the videos: source=FOLDER"),
    ):
        pretrain(compose("pretrain", [f"run_dir={tmp_path}/run"]))


def test_a_folder_that_holds_a_run_is_left_alone(run: Run) -> None:
    folder = run()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="already holds a run: resume with resume=true"):
        run()
    with pytest.raises(ConfigError, match=r"another configuration: lr=0.5 \(the run has 0.001\)"):
        run("temporal_contrastive", "resume=true", "lr=0.5")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_encoder(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = Pretrainer.step

    def diverging(trainer: Pretrainer) -> Any:
        metrics = step(trainer)
        return {name: value * torch.nan for name, value in metrics.items()} if trainer.updates == 6 else metrics

    monkeypatch.setattr(Pretrainer, "step", diverging)
    with pytest.raises(NonFiniteLoss, match=r"loss_temporal=nan, temporal_accuracy=nan at update 6"):
        run()
    assert PixelEncoder.from_pretrained(tmp_path / "run" / "encoder").channels == 2
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")["trainer"]["updates"] == 4


def test_wandb_has_a_row_for_each_validation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []
    fake = SimpleNamespace(log=logged.append, finish=lambda: logged.append({"finished": True}))
    monkeypatch.setattr("rlrep.experiments.run.pretraining.start_wandb", lambda *_: fake)
    monkeypatch.setattr("rlrep.experiments.run.pretraining.check_extras", lambda *_, **__: None)
    run("temporal_contrastive", "use_wandb=true")
    assert [row.get("update") for row in logged] == [4, 8, 12, None]
    assert all("validation_loss" in row and "loss_temporal" in row for row in logged[:-1])
