"""The study itself, at tiny sizes: what a job measures, and that a stopped study resumes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrep import OBJECTIVES, PixelEncoder
from rlrep.envs.gridworld import VectorGridWorld, grid_table
from rlrep.experiments import video_theory
from rlrep.experiments.video_study import jobs, pixels, study
from rlrep.experiments.video_study.cells import METHODS, read_results
from rlrep.experiments.video_study.cloning import cloned_return, demonstrations
from rlrep.experiments.video_study.criteria import FOLDER, Longer, ManyCodes, read, read_criteria
from rlrep.experiments.video_study.domain import with_background
from rlrep.experiments.video_study.gridworld import GridDomain
from rlrep.experiments.video_study.jobs import BESIDE, Job, LockJob
from rlrep.experiments.video_study.labels import SomeLabels, first_frames
from rlrep.experiments.video_study.origin import FILE, FILES, claim
from rlrep.experiments.video_study.ppo import FrozenEncoder, GridVecEnv, Schedule, learn, mean_return
from rlrep.experiments.yaml_files import read_yaml

TINY = pixels.Settings(
    frames=640,
    batch_size=8,
    labels=1,
    test_labels=1,
    noise_labels=2,
    probe_steps=2,
    encoder=dict(channels=4, strides=(4, 2, 2), out_dim=16),
)
NOISE: dict[str, Any] = {"num_shapes": 2, "size": 0.2, "persistence": 1.0}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(place: GridDomain) -> GridDomain:
    """The domain with few states to probe."""
    place.seen = place.seen[:40]
    return place


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("random", "vq_autoencoder", "inverse_model")]


@pytest.mark.parametrize("method", ["oracle", "supervised", "forward_model", *SLOW])
def test_a_job_measures_what_the_report_reads(method: str, tmp_path: Path) -> None:
    job = Job("gridworld", "core", method, "exogenous", 0, 1.0)
    row = pixels.run(job, pixels.settings("gridworld", quick=True), tmp_path)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / f"{job.name}.json").write_text(json.dumps(job.description | row))
    (cell,) = read_results(tmp_path).cells
    assert cell.method == method and cell.final_return == pytest.approx(row["return"])
    assert 0.2 < cell.coverage < 0.3
    assert [steps for steps, _ in cell.curve] == [0, 2048]
    if method != "oracle":
        assert cell.pictures is not None and np.load(cell.pictures)["reconstruction"].shape == (8, 56, 56, 3)
        assert 0 <= cell.state_linear <= 1 and np.isfinite(cell.noise_linear)
        assert np.isfinite(cell.state_head) == (method != "random")  # all other methods have a head, at the same depth


@pytest.mark.parametrize("method", OBJECTIVES)
def test_every_objective_may_be_a_cell_of_the_grid_world(method: str) -> None:
    place, sizes = small(GridDomain()), replace(TINY, steps=2)
    job = Job("gridworld", "core", method, "exogenous", 0, 1.0)
    pixels.check_methods([job])
    ((encoder, measured),) = pixels.train_encoder(place, job, sizes, [sizes.steps])
    assert measured["diverged"] is None and not any(p.requires_grad for p in encoder.parameters())


def test_methods_read_the_actions_only_if_they_say_so() -> None:
    place, settings = GridDomain(), pixels.settings("gridworld")
    encoder = PixelEncoder(place.shape, 4, strides=(4, 2, 2), out_dim=16)
    windows = {m: pixels.build(m, encoder, place, settings).window for m in ("taco", "spr", "spr_actions", "laom")}
    assert {m: w.actions for m, w in windows.items()} == {"taco": 3, "spr": 0, "spr_actions": 3, "laom": 0}


@pytest.mark.slow
def test_the_same_job_measures_the_same(tmp_path: Path) -> None:
    job = Job("gridworld", "core", "temporal_contrastive", "iid", 3)
    rows = [pixels.run(job, pixels.settings("gridworld", quick=True), tmp_path) for _ in range(2)]
    timed = {"updates_per_second", "pretrain_seconds", "ppo_seconds"}
    assert all(rows[0][key] == rows[1][key] for key in rows[0].keys() - timed)


def test_videos_hold_whole_episodes_with_the_actions_that_were_taken() -> None:
    settings = pixels.Settings(frames=2_000, horizon=2)
    data, table = GridDomain().record(None, settings, seed=0), grid_table()
    number = {frame.tobytes(): i for i, frame in enumerate(table.frames)}
    state = np.array([number[frame.tobytes()] for frame in data.frames])
    assert data.action is not None and data.lengths.max() <= 12 and data.num_frames >= 2_000
    for first, end in data.episodes:
        inside = np.arange(first, end - 1)
        assert (table.next_state[state[inside], data.action[inside]] == state[inside + 1]).all()


def test_rewards_come_with_the_goals_that_were_reached() -> None:
    settings, place = pixels.Settings(frames=832), GridDomain()
    plain, data = (place.record(NOISE, settings, 0, rewards=rewards) for rewards in (False, True))
    (reward,), (terminated,) = data.rows["reward"], data.rows["terminated"]
    goals = np.flatnonzero(terminated) + 1
    assert len(goals) and (reward[terminated] == np.float32(0.99)).all()
    others = np.delete(np.arange(len(data.frames)), goals)
    assert (data.frames[others] == plain.frames).all() and (data.action[others] == plain.action).all()
    assert (reward[np.setdiff1d(others, goals - 1)] == np.float32(-0.01)).all()
    # A shape moves by at most a tenth of the side in a step: the noise at the goal follows from the frame before.
    moved = (data.frames[goals].astype(int) - place.record(None, settings, 0, rewards=True).frames[goals]) != 0
    before = (data.frames[goals - 1].astype(int) - place.record(None, settings, 0, rewards=True).frames[goals - 1]) != 0
    overlap = (moved & before).any(1).sum((1, 2)) / moved.any(1).sum((1, 2))
    assert overlap.mean() > 0.3
    window = pixels.build("bisimulation", PixelEncoder(place.shape, **TINY.encoder), place, settings).window
    assert (data.sample(512, window)["sequence", "reward"] > 0).any()


def test_every_second_recording_is_of_the_background_alone() -> None:
    place = GridDomain()
    data = place.record(NOISE, pixels.Settings(frames=640), 0)
    both = with_background(data, NOISE, seed=1)
    videos = both.videos()
    assert all((own == video).all() for own, video in zip(data.videos(), videos[1::2], strict=True))
    for video in videos[::2]:
        walls = (video == place.table.frames[0].max()).all(1)
        assert (video > 0).any() and (video == 0).all(1).mean() > 0.5 and not walls.any()
    black = with_background(place.record(None, pixels.Settings(frames=640), 0), None, seed=1)
    assert not any(video.any() for video in black.videos()[::2])


def test_every_second_recording_has_iid_noise_where_they_differ() -> None:
    place, settings = GridDomain(), replace(TINY, frames=1_280)
    job = next(job for job in study.recordings(["invariance"], 1) if job.mixed)
    objective = pixels.build("invariance", PixelEncoder(place.shape, **TINY.encoder), place, settings, job)
    shown = pixels.recordings(objective, place, job, settings)
    plain = place.record(None, settings, job.seed)
    assert shown.action is not None and plain.action is not None and (shown.action == plain.action).all()
    lasting: list[list[float]] = [[], []]
    for number, (noisy, clean) in enumerate(zip(shown.videos(), plain.videos(), strict=True)):
        covered = (noisy != clean).any(1)
        both = (covered[1:] & covered[:-1]).sum() / np.maximum(covered[1:].sum(), 1)
        lasting[number % 2].append(float(both))
    assert np.mean(lasting[1]) > np.mean(lasting[0]) + 0.1
    usual = replace(job, mixed=False)
    assert (pixels.recordings(objective, place, usual, settings).frames != shown.frames).any()
    names = [each.name for each in study.recordings(None, 1)]
    assert len(names) == len(set(names)) == 6


def test_few_labels_are_those_of_the_first_recordings() -> None:
    data = GridDomain().record(None, pixels.Settings(frames=640), 0)
    part = first_frames(data, 100)
    assert 100 <= part.num_frames < 112 and (part.episodes == data.episodes[: part.num_episodes]).all()
    assert first_frames(data, 10_000).num_frames == data.num_frames


def test_labels_train_the_encoder_beside_the_videos() -> None:
    place, sizes = small(GridDomain()), replace(TINY, steps=1)
    job = Job("gridworld", "labels", "temporal_contrastive", "exogenous", 0, 1.0, only_probes=True, labels=64)
    with pytest.MonkeyPatch.context() as patch:
        made: list[Any] = []
        patch.setattr(pixels, "Pretrainer", lambda objective, *rest, **options: made.append(objective) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(pixels.train_encoder(place, job, sizes, [1]))
    (objective,) = made
    assert isinstance(objective, SomeLabels) and 57 <= objective.labelled.num_frames < 57 + 12
    batch = place.record(NOISE, sizes, 0).sample(8, objective.window)
    out = objective(batch)
    assert set(out.keys()) == {"loss_temporal", "temporal_accuracy", "loss_inverse", "inverse_accuracy"}
    assert objective.inverse.augment.pad == pixels.LABELLED_SHIFT and objective.video.augment.pad == 0
    objective.eval()
    torch.testing.assert_close(
        out["loss_temporal"], BESIDE["temporal_contrastive"] * objective.video(batch)["loss_temporal"]
    )
    objective.train()
    out["loss_inverse"].backward()
    assert objective.encoder.convolutions[0].weight.grad.abs().sum() > 0
    objective.eval()
    first, second = (objective.inverse.read(objective.held_out.sample(8, objective.inverse.window))[0] for _ in "ab")
    assert not torch.equal(first, second)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)  # of the shifts
        losses.append(objective(batch)["loss_inverse"].item())
    assert losses[0] == losses[1]  # validations compare the same rows


@pytest.mark.parametrize("job", [job for job in study.labels(None, 1) if job.labels == 1_000], ids=lambda job: job.name)
def test_jobs_with_labels_train_an_encoder(job: Job) -> None:
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels.Pretrainer, "load_best", lambda trainer: taken.append(trainer))
        ((_, measured),) = pixels.train_encoder(small(GridDomain()), job, replace(TINY, steps=1), [1])
    assert measured["held_out_loss"] > 0 and not taken  # the last weights


def test_a_training_that_diverges_is_measured_at_its_best_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "Pretrainer", partial(pixels.Pretrainer, validate_every=2))
    place, job = small(GridDomain()), Job("gridworld", "core", "temporal_contrastive", "none", 0)
    ((best, measured),) = pixels.train_encoder(place, job, TINY, [2])
    assert measured["diverged"] is None
    validate = pixels.Pretrainer.func.validate

    def fails_later(trainer: Any) -> Any:
        if trainer.updates > 2:
            raise FloatingPointError("the validation loss is nan")
        return validate(trainer)

    monkeypatch.setattr(pixels.Pretrainer.func, "validate", fails_later)
    ((encoder, measured),) = pixels.train_encoder(place, job, TINY, [8])
    assert measured["diverged"] == 4
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), best.parameters(), strict=True))


def test_a_temperature_is_the_losses_own() -> None:
    place = GridDomain()
    encoder = PixelEncoder(place.shape, **TINY.encoder)
    for job in study.temperatures(["multistage", "forward_model"], 1):
        assert pixels.build(job.method, encoder, place, TINY, job).temperature == job.temperature


@pytest.mark.parametrize("method", ["temporal_contrastive", "cvrl", "swav"])
def test_uniformity_and_tolerance_are_of_the_layer_that_the_temperature_is_about(method: str) -> None:
    place, job = small(GridDomain()), next(iter(study.temperatures([method], 1)))
    ((_, measured),) = pixels.train_encoder(place, job, replace(TINY, steps=1, test_labels=2), [1])
    assert measured["uniformity_head"] < 0 and -1 <= measured["tolerance_head"] <= 1


def test_unseen_noise_is_shown_to_the_cores_encoder(tmp_path: Path) -> None:
    place, sizes = small(GridDomain()), replace(TINY, steps=1)
    (job,) = [job for job in study.transfer(["curl"], 1) if job.noise == "exogenous"]
    (core,) = [job for job in study.core("gridworld", ["curl"], 1) if job.noise == "exogenous"]
    pixels.pretrained_encoder(place, core, sizes, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "train_encoder", lambda *_: pytest.fail("trained again"))
        pixels.pretrained_encoder(place, job.trained, sizes, tmp_path)
    shown, known = (pixels.probed_states(place, each, sizes)[0].observation for each in (job, core))
    clean = place.samples(None, 1, 0, False).observation
    assert ((shown != clean).float().mean() > 0.5) and ((known != clean).float().mean() < 0.4)


def test_demonstrations_are_whole_episodes_of_the_best_player() -> None:
    venv = GridVecEnv(VectorGridWorld(8, seed=0), oracle=True)
    features, action = demonstrations(venv, 3)
    state, table = features.argmax(1).numpy(), grid_table()
    assert (table.optimal_action(state) == action.numpy()).all()
    reached = table.distance[table.next_state[state, action.numpy()]] == 0
    assert reached.sum() == 3


def test_cloning_the_best_player_from_the_true_state_earns_more_with_more_demonstrations() -> None:
    make = lambda seed: GridVecEnv(VectorGridWorld(64, seed=seed), oracle=True)  # noqa: E731
    settings = pixels.Settings(probe_steps=60)
    few, many = (cloned_return(make, count, settings, 0) for count in (4, 64))
    assert few < many and many > 0.4


def test_margin_of_the_block_mdp_is_the_reviews() -> None:
    """The numbers that a review of the study computed independently: 1/6, 1/36 and 1/216."""
    assert GridDomain().margins(3) == pytest.approx([0.167, 0.028, 0.005], abs=5e-4)


def test_states_that_the_recordings_never_show_are_counted() -> None:
    place, settings = GridDomain(1), pixels.Settings(frames=2_000)
    shown = {frame.tobytes() for frame in place.record(None, settings, seed=3).frames}
    number = {frame.tobytes(): i for i, frame in enumerate(place.table.frames)}
    assert place.visited(settings, seed=3) == len({number[frame] for frame in shown}) / 336 < 1


def test_each_seed_has_its_own_map_and_each_encoder_more_than_one_ppo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def learn(venv: Any, test: Any, schedule: Schedule, seed: int) -> list[tuple[int, float]]:
        seen.append((venv.world.table is grid_table(4), seed))
        return [(0, 0.0), (8, float(len(seen)))]

    monkeypatch.setattr(pixels, "learn", learn)
    job = Job("gridworld", "core", "oracle", "none", seed=4)
    row = pixels.run(job, replace(pixels.settings("gridworld", quick=True), ppo_seeds=3), tmp_path)
    assert job.description["layout"] == 4
    assert all(own_map for own_map, _ in seen) and len({seed for _, seed in seen}) == 3
    assert row["returns"] == [1.0, 2.0, 3.0] and row["return"] == 2.0 and row["curve"] == [[0, 0], [8, 2]]


def test_a_cell_is_made_again_for_more_ppo_runs_and_not_for_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "learn", lambda *_: [(0, 0.0)])
    monkeypatch.setattr(pixels, "cloned_return", lambda *_: 0.0)
    job = Job("gridworld", "core", "oracle", "none", 0)
    short, probes = replace(job, ppo_runs=1), replace(job, only_probes=True)
    claim(tmp_path)
    study.run_job(short, tmp_path)
    assert study.without_cell([short], tmp_path, quick=False) == []
    assert study.without_cell([job], tmp_path, quick=False) == [job]
    path = study.run_job(job, tmp_path)
    assert len(json.loads(path.read_text())["returns"]) == 3
    assert study.without_cell([short, job], tmp_path, quick=False) == []
    with pytest.raises(ValueError, match="only_probes=False"):
        study.without_cell([probes], tmp_path, quick=False)


def test_of_several_studies_jobs_for_one_cell_that_with_the_most_ppo_runs_is_made() -> None:
    jobs = study.chosen_jobs(["tour", "core"], ["oracle"], 1)
    assert jobs == study.chosen_jobs(["core", "tour"], ["oracle"], 1) == study.chosen_jobs(["core"], ["oracle"], 1)
    assert [job.ppo_runs for job in study.chosen_jobs(["tour"], ["oracle"], 1) if isinstance(job, Job)] == [1]


def test_a_first_seed_leaves_the_ones_before_it_out() -> None:
    whole = study.chosen_jobs(["lock", "arrow"], None, 5)
    assert study.chosen_jobs(["lock", "arrow"], None, 2, 3) == [job for job in whole if job.seed in (3, 4)]
    assert {job.seed for job in study.chosen_jobs(["replication"], None, 2)} == {6, 7}  # it has seeds of its own
    with pytest.raises(ValueError, match="replication has seeds of its own"):
        study.chosen_jobs(["replication"], None, 2, 6)


def test_the_tour_shows_every_method_under_exogenous_noise_once() -> None:
    own = [job for job in study.chosen_jobs(["tour"], None, 1) if isinstance(job, Job) and job.study != "phase"]
    assert sorted(job.method for job in own if job.noise == "exogenous") == sorted({*study.FIELD_METHODS} - {"oracle"})
    assert {job.study for job in own if job.method == "supervised"} == {"field"}
    iid = {job.method for job in own if job.noise == "iid"}
    assert {"temporal_contrastive", "forward_model", "autoencoder", "random", "supervised"} == iid


def test_the_arrow_of_time_has_each_change_alone_and_the_ends_once() -> None:
    own = [job for job in study.arrow(None, 1)]
    assert {job.noise for job in own} == {"exogenous"} and len({job.name for job in own}) == len(own) == 12
    changed = {(job.method, job.drift, job.random_actions) for job in own if job.drift or job.random_actions}
    assert changed == {
        (method, drift, not drift)
        for method in ("curved", "temporal_contrastive", "inverse_model")
        for drift in (False, True)
    }
    drifting = next(job.noise_options for job in own if job.drift)
    usual = next(job.noise_options for job in own if not job.drift)
    assert drifting is not None and usual is not None and drifting == usual | {"kind": "drift"}


def test_recordings_of_random_actions_have_no_optimal_ones_but_by_chance() -> None:
    job = Job("gridworld", "arrow", "curved", "exogenous", 0, 1.0, random_actions=True)
    place, usual = pixels.domain_of(job), pixels.domain_of(replace(job, random_actions=False))
    state = np.repeat(np.arange(len(GridDomain().table.states)), 20)
    shares = [
        (each.behave(state, np.random.default_rng(0)) == each.table.optimal_action(state)).mean()
        for each in (place, usual)
        if isinstance(each, GridDomain)
    ]
    assert shares == pytest.approx([1 / 3, 1 / 2 + 1 / 6], abs=0.02)


def test_samples_are_of_the_same_states_whatever_the_noise() -> None:
    place = GridDomain()
    clean, noisy = place.samples(None, 2, 0, False), place.samples(NOISE, 2, 0, False)
    other = place.samples(NOISE, 2, 1, False)
    assert torch.equal(clean.state, noisy.state) and clean.noise is None and noisy.noise is not None
    assert (clean.state.bincount() == 2).all()
    assert (noisy.observation != clean.observation).any() and (noisy.observation != other.observation).any()
    assert noisy.noise.shape == (len(noisy.state), 48) and 0 <= noisy.noise.min() < noisy.noise.max() <= 1


@pytest.mark.slow
def test_ppo_learns_the_grid_world_from_its_state() -> None:
    venv, test = (GridVecEnv(VectorGridWorld(64, seed=seed), oracle=True) for seed in (0, 1))
    curve = learn(venv, test, Schedule(30_000, 1, 128), seed=0)
    assert curve[0][0] == 0 and curve[0][1] < 0.2 and curve[-1][1] > 0.5


def test_a_frozen_encoder_sees_what_the_environment_shows() -> None:
    encoder = PixelEncoder((3, 56, 56), 4, strides=(4, 2, 2), out_dim=8).requires_grad_(False)
    world = VectorGridWorld(4, seed=0)
    venv = FrozenEncoder(GridVecEnv(world), encoder)
    assert venv.observation_space == spaces.Box(-np.inf, np.inf, (8,), np.float32)
    venv.reset()
    for _ in range(13):
        features, _, _, _ = venv.step(np.zeros(4, np.int64))
        np.testing.assert_allclose(features, encoder(torch.from_numpy(world.observe())), rtol=1e-5)


def test_returns_count_as_many_episodes_in_every_environment() -> None:
    world = VectorGridWorld(8, seed=0)
    optimal = mean_return(GridVecEnv(world), lambda _: world.table.optimal_action(world.state), 64)
    turning = mean_return(GridVecEnv(world), lambda _: np.zeros(8, np.int64), 64)
    assert 0.88 < optimal < 0.96 and turning == pytest.approx(-0.12)


def test_a_study_runs_what_is_missing_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["core", "--quick", "--methods", "oracle", "--out", str(tmp_path), "--workers", "1"]
    assert video_theory.main([*command, "--seeds", "1"]) == 0
    kept = tmp_path / "quick" / "cells" / "gridworld-core-oracle-none-seed0.json"
    before = kept.stat().st_mtime_ns
    assert video_theory.main([*command, "--seeds", "2"]) == 0
    assert kept.stat().st_mtime_ns == before
    assert len(list(kept.parent.iterdir())) == 2
    assert "report.md" in capsys.readouterr().out
    assert not (tmp_path / "cells").exists()
    cell = json.loads(kept.read_text())
    assert cell["criteria"] == read_criteria().digest and datetime.fromisoformat(cell["made"]).tzinfo is not None
    assert f"2 cells by the present code ({cell['code']})" in (tmp_path / "quick" / "report.md").read_text()


def test_a_job_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    jobs = [Job("gridworld", "core", "nothing", "none", 0), Job("gridworld", "core", "oracle", "none", 0)]
    (failure,) = study.run_missing(jobs, tmp_path, workers=2, quick=True)
    assert "nothing" in failure
    assert [path.stem for path in (tmp_path / "cells").iterdir()] == [jobs[1].name]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["cores"], "unknown study 'cores': did you mean core"),
        (["--methods", "acro"], "unknown method 'acro'"),
        (["lock", "--methods", "vq_autoencoder"], "lock has no job for vq_autoencoder"),
        (
            ["vizdoom_basic", "--methods", "curl", "bisimulation"],
            "bisimulation needs rewards, which the recordings of ViZDoom Basic",
        ),
        (["vizdoom_basic", "--methods", "sepclr"], "sepclr needs recordings of the background alone, which the"),
        (["labels", "--methods", "taco", "sepclr"], "labels has no job for taco or sepclr"),
        (["temperature", "--methods", "forward_model"], "temperature has no job for forward_model"),
    ],
)
def test_unknown_names_are_refused(
    command: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert video_theory.main([*command, "--out", str(tmp_path / "study")]) == 1
    assert message in capsys.readouterr().err


def test_cells_have_names_of_their_own() -> None:
    jobs = {job for name in study.STUDIES for job in study.STUDIES[name](tuple(METHODS), 2)}
    cells = {replace(job, ppo_runs=None) if isinstance(job, Job) else job for job in jobs}  # more runs make it anew
    assert len({job.name for job in jobs}) == len(cells)
    assert any(isinstance(job, LockJob) for job in jobs)


@pytest.mark.parametrize("name", ["replication", "longer"])
def test_a_study_of_its_own_seeds_makes_the_committed_cells(name: str) -> None:
    """`longer` has exploratory cells of other seeds beside."""
    jobs = list(study.STUDIES[name](None, 5))
    committed = {path.stem for path in (FOLDER / name / "cells").glob("*.json")}
    if name == "longer":
        committed = {stem for stem in committed if int(stem.rpartition("seed")[2]) in read(Longer).seeds}
    assert {job.name for job in jobs} == committed and len(jobs) == len(committed)
    assert {job.seed for job in study.STUDIES[name](None, 1)} == {jobs[0].seed}


@pytest.mark.parametrize("name", ["vizdoom_basic", "vizdoom_defend_the_center"])
def test_a_vizdoom_study_has_what_verdicts_compare_under_the_grid_worlds_noise(name: str) -> None:
    own = list(study.STUDIES[name](None, 5))
    assert len(own) == 5 * (2 * 6 + 1) and {job.method for job in own if job.noise == "none"} == {"oracle"}
    noises = [{str(job.noise_options) for job in jobs} for jobs in (own, study.STUDIES["core"](None, 1))]
    assert noises[0] == noises[1]


@pytest.mark.parametrize("method", ["temporal_contrastive", "supervised"])
def test_a_shorter_training_is_the_beginning_of_a_longer_one(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With probes of a head in between, equally frequent validations, and steps that increase the loss."""
    monkeypatch.setattr(pixels, "Pretrainer", partial(pixels.Pretrainer, validate_every=2))
    place, job = small(GridDomain()), Job("gridworld", "phase", method, "persistence", 0, 0.8)
    sizes = replace(TINY, lr=0.06)
    whole = list(pixels.train_encoder(place, job, sizes, [2, 6, 12]))
    for length, (encoder, measured) in zip((2, 6, 12), whole, strict=True):
        ((alone, same),) = pixels.train_encoder(place, job, sizes, [length])
        assert measured["state_head"] == same["state_head"]
        for name, weight in alone.state_dict().items():
            assert torch.equal(weight, encoder.state_dict()[name]), (length, name)
    assert not torch.equal(*(encoder.convolutions[0].weight for encoder, _ in whole[::2]))


def test_a_long_training_keeps_the_encoders_of_the_shorter_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LENGTHS", (200, 400))
    place = small(GridDomain())
    long = Job("gridworld", "phase", "supervised", "persistence", 0, 0.8, updates=400)
    pixels.pretrained_encoder(place, long, replace(TINY, steps=400), tmp_path)
    monkeypatch.setattr(pixels, "train_encoder", lambda *_: pytest.fail("trained again"))
    for asked in (replace(long, updates=200, only_probes=True), long):
        _, measured = pixels.pretrained_encoder(place, asked, replace(TINY, steps=asked.updates), tmp_path)
        assert measured["updates_per_second"] > 0
    with pytest.raises(pytest.fail.Exception):
        pixels.pretrained_encoder(place, long, replace(TINY, steps=400, lr=0.1), tmp_path)


def test_linear_probes_alone_are_what_all_probes_have(tmp_path: Path) -> None:
    """And what a random encoder and labels know about single pictures does not depend on the persistence."""
    place, job = small(GridDomain()), Job("gridworld", "phase", "random", "persistence", 0, 0.0)
    encoder = PixelEncoder(place.shape, **TINY.encoder)
    measured = pixels.probe_encoder(encoder, place, job, TINY, tmp_path)
    alone = pixels.probe_encoder(encoder, place, replace(job, persistence=1.0, only_probes=True), TINY, tmp_path)
    assert {name: measured[name] for name in alone} == alone
    assert {*measured} - {*alone} == {"state_mlp", "noise_mlp", "reconstruction", "pictures"}


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["basic", "defend_the_center"])
def test_vizdoom_jobs_run(scenario: str, tmp_path: Path) -> None:
    for method in ("oracle", "inverse_model"):
        job = Job(f"vizdoom_{scenario}", "core", method, "exogenous", 0, 1.0, 4)
        row = pixels.run(job, pixels.settings("vizdoom_basic", quick=True), tmp_path)
        assert np.isfinite(row["return"])


def test_an_encoder_is_kept_and_trained_anew_only_for_other_settings(tmp_path: Path) -> None:
    place, settings = GridDomain(), pixels.settings("gridworld", quick=True)
    job = Job("gridworld", "core", "temporal_contrastive", "none", 0)
    first, measured = pixels.pretrained_encoder(place, job, settings, tmp_path)
    again, same = pixels.pretrained_encoder(place, job, settings, tmp_path)
    other, new = pixels.pretrained_encoder(place, job, replace(settings, steps=6), tmp_path)
    assert same == measured and new != measured
    weights = [encoder.convolutions[0].weight for encoder in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_cell_of_other_noise_is_not_taken_for_done(tmp_path: Path) -> None:
    job = Job("vizdoom_basic", "core", "oracle", "none", 0, num_shapes=4, size=0.15)
    claim(tmp_path)
    (tmp_path / "cells").mkdir()
    cell = tmp_path / "cells" / f"{job.name}.json"
    cell.write_text(json.dumps(job.description))
    assert study.without_cell([job], tmp_path, quick=False) == []
    for change, told in (({"size": 0.3}, "size=0.3"), ({"settings": {"frames": 1}}, "settings={'frames': 1}")):
        cell.write_text(json.dumps(job.description | change))
        with pytest.raises(ValueError, match=rf"seed0.json is of another study \({told}\).*--out"):
            study.without_cell([job], tmp_path, quick=False)


def test_code_of_a_cell_is_all_that_it_is_computed_with() -> None:
    """What these files import of the study, except how cells are read and by which criteria jobs are chosen."""
    imported = re.compile(r"from rlrep\.experiments\.video_study\.(\w+) import")
    folder = Path(pixels.__file__).parent
    used = {name for own in FILES for name in imported.findall((folder / f"{own}.py").read_text())}
    assert used - {"cells"} <= set(FILES)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("criteria", {"keeps": 0.8}, r"other criteria \(keeps is 0.8 there and 0.9 here\): choose another folder"),
        (
            "further_criteria",
            {"codes_criteria.yaml": read_yaml(ManyCodes.file) | {"codes": 5}},
            r"other codes_criteria.yaml \(codes is 5 there and 4 here\): choose another folder",
        ),
        ("code", {"envs/noise.py": "abc", "rlrep/old.py": "1"}, r"other code \(envs/noise.py, rlrep/old.py\): choose"),
    ],
)
def test_a_folder_of_other_criteria_or_code_is_refused_with_the_difference(
    name: str, value: dict[str, Any], told: str, tmp_path: Path
) -> None:
    claim(tmp_path)
    job = LockJob("oracle", 2, 0)
    study.run_job(job, tmp_path)
    claim(tmp_path)  # the same study may continue
    made_by = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**made_by, name: {**made_by[name], **value}}))
    with pytest.raises(ValueError, match=told):
        study.run_missing([job], tmp_path, workers=1, quick=True)
    assert study.run_missing([], tmp_path, workers=1, quick=True) == []  # --report
    (tmp_path / FILE).unlink()
    with pytest.raises(ValueError, match=r"what made them is not known.*--out"):
        study.run_missing([job], tmp_path, workers=1, quick=True)
