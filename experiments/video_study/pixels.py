"""One job of the study from pixels: from video to an encoder, its probes, and the return of PPO on it."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from rlrep import Objective, PixelEncoder, RandomShift, make_objective
from rlrep.data import EpisodeDataset
from rlrep.experiments.files import write_atomically
from rlrep.experiments.video_study.cells import DOMAINS
from rlrep.experiments.video_study.cloning import DEMONSTRATIONS, cloned_return
from rlrep.experiments.video_study.domain import Domain, Samples, Settings, under_two_noises, with_background
from rlrep.experiments.video_study.jobs import BESIDE, GIVEN_ACTIONS, VARIANTS, Job
from rlrep.experiments.video_study.labels import SomeLabels, first_frames
from rlrep.experiments.video_study.ppo import Curve, FrozenEncoder, Schedule, learn, mean_return
from rlrep.experiments.video_study.supervised import train_on_labels
from rlrep.objectives import find_objective
from rlrep.pretrain import Pretrainer
from rlrep.probe import alignment, effective_rank, encode, probe, reconstruction, tolerance, uniformity
from rlrep.registry import look_up, parameters_of

MADE_BY = "made_by.json"
VALIDATION = 0.1  # of the recordings, held out
# Where few actions are known, the inverse model sees pictures that are shifted by up to so many pixels, as it overfits
# without. Its loss on held-out actions rises all the same while a probe reads more: the last weights are taken.
LABELLED_SHIFT = 8
PRETRAINING = ("frames", "horizon", "steps", "batch_size", "lr", "encoder")
# Options of the objectives that differ from their defaults. `shift` is the augmentation: objectives that predict or
# compare views of one encoder's own features need one, as their papers have.
OPTIONS: dict[str, dict[str, Any]] = {
    "autoencoder": dict(feature_dim=128, decoder_channels=16),
    "vq_autoencoder": dict(feature_dim=128, decoder_channels=16, codes=64, codebooks=8),
    "forward_model": dict(decoder_channels=16, feature_dim=128, hidden_dim=256),
    "temporal_contrastive": dict(feature_dim=64),
    "inverse_model": dict(hidden_dim=256, feature_dim=128),
    "curl": dict(shift=4),
    "pixpro": dict(shift=4),
    "taco": dict(shift=4, reward=False),
    "taco_alone": dict(reward=False, curl=False),
    "cvrl": dict(shift=4, clip_length=2),  # longer clips within the horizon would share most frames
    "spr": dict(shift=4),
    "spr_actions": dict(shift=4),
    "latent_model": dict(shift=4),
    "lapo": dict(decoder_channels=16, latent_action_dim=8),  # as wide as the features, it could hold the next frame
    "laom": dict(shift=4, momentum=0.99),  # 0.999 would leave a third of the initial weights in the target
    "swav": dict(prototypes=64),  # half a batch
    "curved_ahead": dict(past=0.0),
    "invariance": dict(groups=8),  # so that each risk averages several rows
    "masked_autoencoder": dict(decoder_channels=16),
    "state_space": dict(decoder_channels=16),
    "supremix": dict(horizon=20),  # of rewards; a goal is further away than other horizons
}
NEEDED = {
    "action": "the actions taken",
    "reward": "rewards",
    "label": "labels of the state",
    "background": "recordings of the background alone",
}
BEHIND_NO_HEAD: dict[str, float | None] = dict.fromkeys(("state_head", "uniformity_head", "tolerance_head"))
# The objectives' name of the layer behind the features that their loss reads, if it is not "state_projection".
HEADS = dict.fromkeys(("autoencoder", "vq_autoencoder", "barlow_twins", "cvrl", "swav"), "projection")
HEADS["sepclr"] = "salient"


def domain(name: str, layout: int = 0) -> Domain:
    if name == "gridworld":
        from rlrep.experiments.video_study.gridworld import GridDomain

        return GridDomain(layout)
    from rlrep.experiments.video_study.doom import DoomDomain

    return DoomDomain(name.removeprefix("vizdoom_"), layout)


def domain_of(job: Job) -> Domain:
    """The job's domain, with the behaviour that it asks for."""
    if not job.random_actions:
        return domain(job.domain, job.layout)
    from rlrep.experiments.video_study.gridworld import GridDomain

    return GridDomain(job.layout, optimal=0.0)


def settings(name: str, quick: bool = False) -> Settings:
    """The sizes of a domain; `quick` ones only check that everything runs."""
    # A monster may be two pixels wide: a first stride of 4 would step over it.
    doom = Settings(steps=4_000, encoder=dict(channels=16, strides=(2, 2, 2), out_dim=128))
    usual = {
        "gridworld": Settings(),
        "vizdoom_basic": replace(doom, ppo=Schedule(steps=40_000, evaluations=4, episodes=40)),
        "vizdoom_defend_the_center": replace(doom, ppo=Schedule(steps=60_000, evaluations=4, episodes=40)),
    }
    chosen = look_up("domain", name, usual)
    if not quick:
        return chosen
    return replace(
        chosen,
        frames=1_000,
        steps=5,
        batch_size=16,
        labels=2,
        test_labels=1,
        noise_labels=2,
        probe_steps=5,
        ppo=Schedule(2_048, 1, 8),
        ppo_seeds=1,
    )


def settings_of(job: Job, quick: bool = False) -> Settings:
    """The sizes of the job's domain, with the job's own length of training, step size and number of PPO runs."""
    usual = settings(job.domain, quick)
    if quick:
        return usual
    own = dict(steps=job.updates, lr=job.lr, ppo_seeds=job.ppo_runs)
    return replace(usual, **{name: value for name, value in own.items() if value})  # type: ignore[arg-type]


def run(job: Job, settings: Settings, folder: Path) -> dict[str, Any]:
    """Runs a job; returns its measurements, by the report's names. Pictures go to `folder`/pictures."""
    place, noise, oracle = domain_of(job), job.shown_noise, job.method == "oracle"
    row: dict[str, Any] = {"coverage": 0.0 if noise is None else place.coverage(noise), "pictures": None}
    row["predictor"] = predicted(place, job, settings)
    wrap: Callable[[VecEnv], VecEnv] = lambda venv: venv  # noqa: E731
    if not oracle:
        encoder, measured = pretrained_encoder(place, job.trained, settings, folder / "encoders")
        row |= measured | probe_encoder(encoder, place, job, settings, folder)
        wrap = lambda venv: FrozenEncoder(venv, encoder)  # noqa: E731
    if job.only_probes:
        return row
    started = time.perf_counter()
    make: Callable[[int], VecEnv] = lambda seed: wrap(place.environment(noise, oracle, seed))  # noqa: E731
    choices, rng = place.action_space.n, np.random.default_rng(job.seed)
    with closing(make(job.seed + 50_000)) as test:
        row["random_return"] = mean_return(
            test, lambda features: rng.integers(choices, size=len(features)), settings.ppo.episodes
        )
    curves = [learn_once(make, settings, job.seed + 100_000 * again) for again in range(settings.ppo_seeds)]
    row["returns"] = [curve[-1][1] for curve in curves]
    # One encoder is one sample, however often PPO learns on it: PPO's own luck is averaged out.
    row["curve"] = np.mean(curves, axis=0).tolist()
    row["return"] = float(np.mean(row["returns"]))
    if "demonstration" in place.records:
        row |= {f"cloned_{n}": cloned_return(make, n, settings, job.seed) for n in DEMONSTRATIONS}
    return row | {"ppo_seconds": time.perf_counter() - started}


def predicted(place: Domain, job: Job, settings: Settings) -> float | None:
    """The number known before the training, see `predictor`; only for the grid world, whose states are a table."""
    from rlrep.experiments.video_study.gridworld import GridDomain
    from rlrep.experiments.video_study.predictor import predict

    if not isinstance(place, GridDomain) or job.drift or job.random_actions or job.mixed:
        return None
    width = OPTIONS["temporal_contrastive"]["feature_dim"]
    return predict(job.method, place, job.noise_options, settings.horizon, width)


def learn_once(make: Callable[[int], VecEnv], settings: Settings, seed: int) -> Curve:
    """The curve of one PPO run, on its own environments."""
    with closing(make(seed + 40_000)) as venv, closing(make(seed + 50_000)) as test:
        return learn(venv, test, settings.ppo, seed)


def pretrained_encoder(
    place: Domain, job: Job, settings: Settings, folder: Path
) -> tuple[PixelEncoder, dict[str, Any]]:
    """What `train_encoder` yields for the job itself.

    This and the results of shorter trainings are saved in `folder`, so that they need not be trained again.
    """
    ends = {end: replace(settings, steps=min(end.updates or settings.steps, settings.steps)) for end in job.shorter}
    ends[job] = settings
    if (measured := kept_encoder(job, settings, folder)) is None:
        trained = train_encoder(place, job, settings, [end.steps for end in ends.values()])
        for (end, own), (encoder, measured) in zip(ends.items(), trained, strict=True):
            if kept_encoder(end, own, folder) is None:
                encoder.save_pretrained(folder / end.name)
                noted = json.dumps({"description": training(end, own), "measured": measured})
                write_atomically(folder / end.name / MADE_BY, noted.encode())
    assert measured is not None
    return PixelEncoder.from_pretrained(folder / job.name).requires_grad_(False).eval(), measured


def training(job: Job, settings: Settings) -> dict[str, Any]:
    """Everything that determines an encoder."""
    own = {name: value for name, value in asdict(settings).items() if name in PRETRAINING}
    asked = {name: value for name, value in job.description.items() if name != "only_probes"}
    return json.loads(json.dumps(asked | own | {"options": OPTIONS.get(job.method)}))


def kept_encoder(job: Job, settings: Settings, folder: Path) -> dict[str, Any] | None:
    """The measurements of the job's encoder, if the folder has it and it was trained with these settings."""
    with suppress(OSError, ValueError):
        noted = json.loads((folder / job.name / MADE_BY).read_text())
        return noted["measured"] if noted["description"] == training(job, settings) else None
    return None


def train_encoder(
    place: Domain, job: Job, settings: Settings, lengths: Sequence[int]
) -> Iterator[tuple[PixelEncoder, dict[str, Any]]]:
    """For each length: the job's encoder, frozen, with its training speed and measurements of the layer that its loss
    reads. The encoder is random if the method learns nothing.

    Each equals a separate training of that length, bit for bit: the step size is constant, and a validation does not
    change the random streams. All methods are probed and used at the same depth, before any head. `state_head` is
    the linear probe behind it.

    Args:
        lengths: in updates, in their order; multiples of 200, the updates between two validations, or the only one.
    """
    torch.manual_seed(job.seed)
    encoder = PixelEncoder(place.shape, **settings.encoder)
    if job.method == "random":
        measured: dict[str, Any] = {"updates_per_second": None, "pretrain_seconds": 0.0, **BEHIND_NO_HEAD}
        yield from [(encoder.requires_grad_(False).eval(), measured)] * len(lengths)
        return
    if job.method == "supervised":
        supervised = train_on_labels(encoder, place, job.noise_options, settings, job.seed, lengths)
        ends: Iterator[tuple[nn.Module | None, dict[str, Any]]] = ((head, {}) for head in supervised)
    else:
        ends = train_on_video(encoder, place, job, settings, lengths)
    seconds, started = 0.0, time.perf_counter()
    for updates, (head, found) in zip(lengths, ends, strict=True):
        seconds += time.perf_counter() - started
        behind = BEHIND_NO_HEAD
        if head is not None:
            behind = behind_head(head, encoder, probed_states(place, job, settings), settings)
        measured = {"updates_per_second": updates / seconds, "pretrain_seconds": seconds, **behind, **found}
        yield copy.deepcopy(encoder).requires_grad_(False).eval(), measured
        started = time.perf_counter()


def behind_head(
    head: nn.Module, encoder: PixelEncoder, parts: tuple[Samples, Samples], settings: Settings
) -> dict[str, float | None]:
    """State probe, uniformity and tolerance of the layer that a loss reads."""
    train, test = ((head(encode(encoder, part.observation)).detach(), part.state) for part in parts)
    found: dict[str, float | None] = {"state_head": probe(train, test, steps=settings.probe_steps)}
    alike = not test[1].is_floating_point() and len(test[1].unique()) < len(test[1])  # states are shown repeatedly
    found |= {"uniformity_head": uniformity(test[0]), "tolerance_head": tolerance(*test) if alike else None}
    return found


def train_on_video(
    encoder: PixelEncoder, place: Domain, job: Job, settings: Settings, lengths: Sequence[int]
) -> Iterator[tuple[nn.Module | None, dict[str, Any]]]:
    """Trains the encoder by the job's objective. At each of the lengths the encoder has the weights of the best
    validation so far; yields the layer that the loss reads, and as a cell's measurements that validation's loss and the
    updates after which the loss was not a number.

    A training that diverges ends there, with the best earlier weights, or the initial ones.
    """
    objective = build(job.method, encoder, place, settings, job)
    train, validation = recordings(objective, place, job, settings).split(VALIDATION, job.seed)
    if job.labels is not None:
        held = round(VALIDATION * job.labels)
        labelled, held_out = first_frames(train, job.labels - held), first_frames(validation, held)
        if job.method == "inverse_model":
            train, validation = labelled, held_out
        elif job.labels:
            inverse = build("inverse_model", encoder, place, settings, job)
            weight = BESIDE[job.method]
            objective = SomeLabels(objective, weight, inverse, labelled, held_out, settings.batch_size)
    trainer = Pretrainer(objective, train, validation, steps=lengths[0], batch_size=settings.batch_size, lr=settings.lr)
    weights = first = weights_of(objective)
    diverged = None
    for length in lengths:
        trainer.steps = length
        while diverged is None and not trainer.finished:
            trainer.step()
            if trainer.validation_due:
                try:
                    trainer.validate()
                except FloatingPointError:
                    diverged = trainer.updates
        if diverged is None:
            weights = weights_of(objective)
        else:
            objective.load_state_dict(first)
        if job.labels is None:
            trainer.load_best()
        objective.eval()
        loss = trainer.best_loss if trainer.best_updates else None
        head = getattr(objective, HEADS.get(job.method, "state_projection"), None)
        yield head, {"held_out_loss": loss, "diverged": diverged}
        objective.train()
        objective.load_state_dict(weights)


def weights_of(objective: Objective) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in objective.state_dict().items()}


def recordings(objective: Objective, place: Domain, job: Job, settings: Settings) -> EpisodeDataset:
    """What the objective reads: the same number of frames for every method, and the background too if it needs it."""
    rewards = "reward" in objective.window.needs
    if job.mixed:
        return under_two_noises(place.record(None, settings, job.seed, rewards), job.noise_options, job.seed + 80_000)
    data = place.record(job.noise_options, settings, job.seed, rewards)
    return with_background(data, job.noise_options, job.seed + 70_000) if objective.needs_background else data


def build(method: str, encoder: PixelEncoder, place: Domain, settings: Settings, job: Job | None = None) -> Objective:
    """A method's objective, with the study's horizon if it has one, the actions if it reads them, and what a job sets.

    Raises:
        ValueError: for a method that is no objective.
    """
    name = VARIANTS.get(method, method)
    kind, options = find_objective(name), dict(OPTIONS.get(method, {}))
    few = job is not None and job.labels is not None and method == "inverse_model"
    augment = RandomShift(LABELLED_SHIFT if few else options.pop("shift", 0))
    if "horizon" in parameters_of(kind):
        options.setdefault("horizon", settings.horizon)
    if job is not None and job.temperature is not None:
        options["temperature"] = job.temperature
    space = place.action_space if method in GIVEN_ACTIONS or kind.reads_actions(options) else None
    return make_objective(name, encoder, space, augment=augment, **options)


def check_methods(jobs: Iterable[Job]) -> None:
    """Refuses, before anything runs, a method that reads what the recordings of its domain do not hold.

    Raises:
        ValueError: the message names the method, what it needs and where that is missing.
    """
    for name, method in dict.fromkeys((job.domain, job.method) for job in jobs):
        place, chosen = domain(name), settings(name)
        needs: tuple[str, ...] = ("label",) * (method in ("oracle", "supervised"))
        if method not in ("oracle", "supervised", "random"):
            objective = build(method, PixelEncoder(place.shape, **chosen.encoder), place, chosen)
            needs = objective.window.needs + ("background",) * objective.needs_background
        if lacks := [need for need in needs if need not in place.records]:
            raise ValueError(
                f"{method} needs {' and '.join(NEEDED[need] for need in lacks)}, which the recordings of "
                f"{DOMAINS[name]} do not hold: leave it out of --methods"
            )


def probed_states(place: Domain, job: Job, settings: Settings) -> tuple[Samples, Samples]:
    """The observations that probes of the state are fitted to, and those that they are scored on."""
    noise, seed = job.shown_noise, job.seed
    return (
        place.samples(noise, settings.labels, seed + 10_000, held_out=False),
        place.samples(noise, settings.test_labels, seed + 20_000, held_out=True),
    )


def probe_encoder(encoder: PixelEncoder, place: Domain, job: Job, settings: Settings, folder: Path) -> dict[str, Any]:
    """What probes read of state and noise, the geometry of the features, and reconstructions from them."""
    noise, seed, steps = job.shown_noise, job.seed, settings.probe_steps
    train, test = probed_states(place, job, settings)
    again = place.samples(noise, settings.test_labels, seed + 30_000, held_out=True)
    features, test_features = encode(encoder, train.observation), encode(encoder, test.observation)
    states = (features, train.state), (test_features, test.state)
    out: dict[str, Any] = {
        "state_linear": probe(*states, steps=steps),
        "state_chance": place.state_chance,
        # Two observations of one state, each with noise of its own, should have features alike.
        "alignment": alignment(test_features, encode(encoder, again.observation)),
        "uniformity": uniformity(test_features),
        "effective_rank": effective_rank(test_features),
    }
    noises = None
    if test.noise is not None:
        labelled = place.samples(noise, settings.noise_labels, seed + 40_000, held_out=False)
        assert labelled.noise is not None
        noises = (encode(encoder, labelled.observation), labelled.noise), (test_features, test.noise)
        out["noise_linear"] = probe(*noises, steps=steps)
    if job.only_probes:
        return out
    out["state_mlp"] = probe(*states, hidden_dim=256, steps=steps)
    if noises is not None:
        out["noise_mlp"] = probe(*noises, hidden_dim=256, steps=steps // 3 + 1)  # with more steps it overfits
    frames, test_frames = train.observation[:, -3:], test.observation[:, -3:]
    out["reconstruction"], images = reconstruction(
        (features, frames), (test_features, test_frames), steps=steps, seed=seed
    )
    chosen = np.random.default_rng(0).choice(len(images), 8, replace=False)
    path = folder / "pictures" / f"{job.name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    shown, drawn = (x[chosen].permute(0, 2, 3, 1).numpy() for x in (test_frames, images))
    np.savez_compressed(path, observation=shown, reconstruction=drawn)
    return out | {"pictures": str(path.relative_to(folder))}
