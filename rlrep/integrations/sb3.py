"""Objectives in Stable-Baselines3's SAC, TD3 (DDPG), DQN, PPO and A2C, and in sb3-contrib's TQC, CrossQ and QR-DQN.

    from rlrep.integrations.sb3 import SequenceReplayBuffer, attach

    model = SAC("PixelPolicy", env, buffer_size=100_000, replay_buffer_class=SequenceReplayBuffer)
    attach(model, ["taco"])
    model.learn(100_000)

"PixelPolicy" is Stable-Baselines3's policy with `PixelEncoder` as its features extractor (options: `PixelFeatures`, in
``policy_kwargs=dict(features_extractor_kwargs=dict(channels=16))``). `attach` replaces ``model.train``. One call then:

1. makes Stable-Baselines3's own updates without changes: the same batches, losses, optimizers;
2. for each step that their optimizer took on the encoder, draws a batch of K-step windows: from the replay, or,
   on-policy, from the last rollout of PPO or A2C;
3. computes the objectives on the encoder: the critic's in SAC, TD3, TQC and CrossQ (whose actor reads it without
   gradient), the online Q network's in DQN and QR-DQN, the one that policy and value share in PPO and A2C; target
   networks (CrossQ has none) follow as usual;
4. steps an Adam for the objectives' heads and one for the encoder, which so has two optimizers, as in TACO's paper;
   their step sizes follow the model's learning rate schedule;
5. records each loss and metric as ``rlrep/<name>`` in the model's logger, as a mean until the logger writes.

Steps 2 to 4 use separate random generators. ``model.save`` stores heads, Adam and generators in the zip; after
``SAC.load(path, env)``, ``attach(model)`` restores them and continues.
"""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.bounds import Count, NonNegative
from rlrep.extras import install

try:
    from stable_baselines3.common.base_class import BaseAlgorithm
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"rlrep.integrations.sb3 needs Stable-Baselines3: {install('sb3')}") from error
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

from rlrep.integrations.sb3_policies import PIXEL_POLICIES, PixelFeatures
from rlrep.integrations.sb3_replay import RolloutSequences, SequenceReplayBuffer
from rlrep.objectives import Objectives, make_objective
from rlrep.optimizers import adam
from rlrep.replay import ReplayError
from rlrep.window import Window

if importlib.util.find_spec("sb3_contrib") is not None:
    import rlrep.integrations.sb3_contrib_policies  # noqa: F401

if TYPE_CHECKING:
    from tensordict import TensorDict

__all__ = ["PixelFeatures", "SequenceReplayBuffer", "attach"]

Options = Mapping[str, Mapping[str, Any]]
SCHEDULE_POINTS = 10_000  # points at which a schedule's largest value is searched


@checked_numbers
def attach(
    model: BaseAlgorithm,
    objectives: Iterable[str] | Options | None = None,
    *,
    coefficient: NonNegative = 1.0,
    lr: float = 1e-4,
    batch_size: int | None = None,
    seed: Count | None = None,
) -> None:
    """Also trains the model's encoder with representation objectives, from the next ``model.learn`` on.

    Args:
        model: SAC, TD3, DDPG, DQN, PPO, A2C, TQC, CrossQ or QRDQN with "PixelPolicy"; all but PPO and A2C with
            `SequenceReplayBuffer` as ``replay_buffer_class``.
        objectives: names in `rlrep.OBJECTIVES`, or a mapping of them to their options: ``{"taco": {"horizon": 5}}``.
            None continues with the objectives of a loaded model; the other arguments are then the saved ones.
        coefficient: factor of the encoder's step size for the objectives, ≥ 0 (Adam ignores the scale of a loss). With
            0 the agent is bit for bit the same as without objectives, and only the heads learn: losses and metrics show
            what the encoder knows. On a frozen encoder, any other value gives a warning and has the effect of 0.
        lr: Adam's step size, > 0, at the model's largest learning rate. It follows the model's schedule: at half of the
            largest rate, it is half of `lr`; at 0, objectives learn nothing.
            A model with a constant learning rate keeps `lr` constant.
        batch_size: windows in the objectives' batch; None takes the model's, for A2C a whole rollout.
        seed: of the heads' initialisation, the windows and the augmentation; None takes the model's, or 0.

    Raises:
        ValueError: for an unknown algorithm or objective, an encoder that objectives can't share, a
            replay buffer without sequences, actions that an objective can't read, too little data for its horizon.
    """
    attached = model.__dict__.get("train")
    attached = attached if isinstance(attached, Attached) else None
    if attached is not None and attached.model is not None:
        raise ValueError(f"this model has {', '.join(attached.settings['objectives'])} attached: attach all at once")
    if objectives is None and attached is None:
        raise ValueError("no objectives given, and this model was not saved with any: name some of rlrep.OBJECTIVES")
    if objectives is not None and attached is not None:
        raise ValueError(
            f"this model was saved with {', '.join(attached.settings['objectives'])}: attach(model) continues with "
            f"them; `del model.train` first to begin with others"
        )
    given = {"coefficient": coefficient, "lr": lr, "batch_size": batch_size, "seed": seed}
    defaults = {"coefficient": 1.0, "lr": 1e-4, "batch_size": None, "seed": None}
    if attached is not None:
        for name, value in given.items():
            if value not in (defaults[name], attached.settings[name]):
                raise ValueError(
                    f"this model was saved with {name}={attached.settings[name]}, and {name}={value} would have no "
                    f"effect: leave it out, or `del model.train` first to begin anew"
                )
    if attached is None:
        assert objectives is not None
        named = dict(objectives) if isinstance(objectives, Mapping) else {name: {} for name in _names(objectives)}
        for name, options in named.items():
            if not isinstance(options, Mapping):
                raise ValueError(f"the options of {name} must be a mapping such as {{'horizon': 5}}, got {options!r}")
        if seed is None:
            seed = model.seed or 0
        attached = Attached(objectives=named, coefficient=coefficient, lr=lr, batch_size=batch_size, seed=seed)
    attached.bind(model)
    model.train = attached  # type: ignore[attr-defined]


class Attached:
    """Replaces ``model.train`` after `attach`: the algorithm's own updates, then the objectives' steps.

    The model's zip stores it as settings and a state of tensors, without the model. Until it is bound again, a call is
    an error, so that nobody continues training without the objectives by mistake.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.saved: bytes | None = None
        self.model: Any = None
        self.told_of_rollouts = False

    def bind(self, model: BaseAlgorithm) -> None:
        """Builds the objectives around the model's encoder, with the saved state if there is one."""
        settings = self.settings
        network, features = _learner(model)
        encoder = self.encoder = features.encoder
        self.randomness = OwnRandomness(settings["seed"], model.device)
        self.rng = np.random.default_rng(settings["seed"])
        with self.randomness.used():
            self.objectives = _build(settings["objectives"], encoder, model)
        self.agents_optimizer = network.optimizer if hasattr(network, "optimizer") else model.policy.optimizer
        given = settings["batch_size"]
        self.batch_size: int = _batch_size(model) if given is None else given
        readers = [
            (name, objective.window, objective.batch_size or self.batch_size)
            for name, objective in zip(self.objectives.names, self.objectives, strict=True)
        ]
        batches = [(self.batch_size, self.objectives.window), *self.objectives.own_batches.items()]
        readers += [("the objectives' batch", window, size) for size, window in batches]
        for name, window, size in readers:
            _check_data(model, features.pixel_key, window, size, name)
        owned = set(encoder.parameters())
        heads = [each for each in self.objectives.parameters() if each.requires_grad and each not in owned]
        self.optimizers = [adam(heads, settings["lr"], capturable=False)] if heads else []
        if settings["coefficient"] and features.frozen:
            warnings.warn(
                "the encoder is frozen, so the objectives train only their own heads: pass coefficient=0 to say that "
                "this is meant, or hand over an encoder whose parameters require gradients",
                stacklevel=4,
            )
        elif settings["coefficient"]:
            rate = settings["lr"] * settings["coefficient"]
            self.optimizers.append(adam(encoder.parameters(), rate, capturable=False))
        self.step_sizes = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        # Not the first value, which is 0 with a warm-up.
        self.largest_rate = max(model.lr_schedule(step / SCHEDULE_POINTS) for step in range(SCHEDULE_POINTS + 1))
        self.pixel_key = features.pixel_key
        if self.saved is not None:
            self._restore(self.saved)
        self.model, self.saved = model, None

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        model = self.model
        if model is None:
            raise RuntimeError(
                f"this model was saved with {', '.join(self.settings['objectives'])} attached: call "
                f"rlrep.integrations.sb3.attach(model) after loading it, or `del model.train` to go on without"
            )
        if isinstance(model, OnPolicyAlgorithm):
            squashed = bool(getattr(model.policy, "squash_output", False))
            source: Any = RolloutSequences(model.rollout_buffer, model.action_space, self.pixel_key, squashed)
        else:
            source = model.replay_buffer
        with _counted(self.agents_optimizer) as agents_steps:
            type(model).train(model, *args, **kwargs)
        share = self._share_of_largest_rate()
        for optimizer, step_size in zip(self.optimizers, self.step_sizes, strict=True):
            optimizer.param_groups[0]["lr"] = share * step_size
        recorded: dict[str, list[Tensor]] = defaultdict(list)
        for _ in agents_steps:
            try:
                batch = source.windows(self.batch_size, self.objectives.window, model.gamma, self.rng)
                sizes = self.objectives.own_batches.items()
                own = {size: source.windows(size, window, model.gamma, self.rng) for size, window in sizes}
            except ReplayError as error:
                # The replay of a loaded model starts empty; a short rollout may consist of parts of episodes.
                if isinstance(source, SequenceReplayBuffer) and source.size() >= self.largest_batch:
                    raise
                if isinstance(source, RolloutSequences) and not self.told_of_rollouts:
                    self.told_of_rollouts = True
                    warnings.warn(f"objectives leave out this rollout and those alike: {error}", stacklevel=2)
                break
            for name, value in (self.step(batch, own) if own else self.step(batch)).items():
                recorded[name].append(value)
        for name, values in recorded.items():
            model.logger.record_mean(f"rlrep/{name}", torch.stack(values).mean().item())

    def _share_of_largest_rate(self) -> float:
        """The model's last learning rate as a share of its schedule's largest value.

        Never negative: a rollout beyond the last step makes the progress, and so a linear schedule, negative.
        """
        rate = self.agents_optimizer.param_groups[0]["lr"]
        self.largest_rate = max(self.largest_rate, rate)  # a peak between two of the points
        return max(rate / self.largest_rate, 0.0) if self.largest_rate > 0 else 0.0

    def step(self, batch: TensorDict, own: Mapping[int, TensorDict] | None = None) -> dict[str, Tensor]:
        """One step of Adam on the sum of the objectives' losses; returns losses and metrics, detached."""
        # With a coefficient of 0 nothing of the encoder changes, running averages of its layers included.
        kept = [] if self.settings["coefficient"] else [(each, each.clone()) for each in self.encoder.buffers()]
        with self.randomness.used():
            loss, metrics = self.objectives(batch, own=own)
        self.objectives.zero_grad()
        loss.backward()
        for buffer, before in kept:
            buffer.copy_(before)
        for optimizer in self.optimizers:
            optimizer.step()
        self.objectives.after_step()
        return metrics

    @property
    def largest_batch(self) -> int:
        return max([self.batch_size, *self.objectives.own_batches])

    def __getstate__(self) -> dict[str, Any]:
        saved = self.saved if self.model is None else self._state()
        return {"settings": self.settings, "saved": saved, "model": None, "told_of_rollouts": False}

    def _state(self) -> bytes:
        """All changing state except the encoder, which is in the policy."""
        state = {
            "heads": {name: value for name, value in self.objectives.state_dict().items() if not _is_encoder(name)},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "torch": self.randomness.states,
            "numpy": json.dumps(self.rng.bit_generator.state),
        }
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()

    def _restore(self, saved: bytes) -> None:
        state = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
        encoder = {name: value for name, value in self.objectives.state_dict().items() if _is_encoder(name)}
        self.objectives.load_state_dict({**encoder, **state["heads"]})
        for optimizer, saved_optimizer in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved_optimizer)
        self.randomness.states.update(state["torch"])
        self.rng.bit_generator.state = json.loads(state["numpy"])


class OwnRandomness:
    """A separate stream of torch's random numbers; the global stream does not change."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.cuda = [device] if device.type == "cuda" else []
        self.states = {"cpu": torch.Generator().manual_seed(seed).get_state()}
        if self.cuda:
            self.states["cuda"] = torch.Generator(device).manual_seed(seed).get_state()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside this context, torch's global generators use this stream."""
        with torch.random.fork_rng(self.cuda):
            torch.set_rng_state(self.states["cpu"])
            for device in self.cuda:
                torch.cuda.set_rng_state(self.states["cuda"], device)
            yield
            self.states["cpu"] = torch.get_rng_state()
            for device in self.cuda:
                self.states["cuda"] = torch.cuda.get_rng_state(device)


def _names(objectives: Iterable[str]) -> list[str]:
    if isinstance(objectives, str):
        raise ValueError(f"objectives is a list of names, got {objectives!r}: write [{objectives!r}]")
    return list(objectives)


def _is_encoder(name: str) -> bool:
    """Whether an entry <number>.<attribute>… of the objectives' state belongs to the shared encoder."""
    return name.split(".")[1] == "encoder"


def _learner(model: BaseAlgorithm) -> tuple[Any, PixelFeatures]:
    """The network that trains the encoder, and its features extractor, whose encoder the objectives train too.

    Raises:
        ValueError: if it is not `PixelFeatures`, or if objectives can't share it.
    """
    policy: Any = type(model).policy_aliases.get("PixelPolicy")
    if policy is None:
        known = ", ".join(algorithm.__name__ for algorithm in PIXEL_POLICIES)
        raise ValueError(
            f'objectives can be attached to the algorithms that know "PixelPolicy", not to {type(model).__name__}: '
            f"take one of {known}"
        )
    network = getattr(model, policy.learner)
    if isinstance(model, OnPolicyAlgorithm) and not network.share_features_extractor:
        raise ValueError("policy and value must read one encoder: leave share_features_extractor out")
    features = network.features_extractor
    if not isinstance(features, PixelFeatures) or network.normalize_images:
        raise ValueError(
            f"objectives share a PixelEncoder that scales pixels itself, this policy reads through "
            f'{type(features).__name__}: build it as {type(model).__name__}("PixelPolicy", env, ...)'
        )
    return network, features


def _batch_size(model: Any) -> int:
    """Transitions in the model's own gradient steps."""
    return model.batch_size if hasattr(model, "batch_size") else model.n_steps * model.n_envs


@contextmanager
def _counted(optimizer: torch.optim.Optimizer) -> Iterator[list[None]]:
    """A list that gets an entry for each step that the optimizer takes inside."""
    steps: list[None] = []
    hook = optimizer.register_step_post_hook(lambda *_: steps.append(None))
    try:
        yield steps
    finally:
        hook.remove()


def _build(objectives: Options, encoder: nn.Module, model: BaseAlgorithm) -> Objectives:
    """Builds the objectives by name, on the model's device.

    Raises:
        ValueError: for no objectives, unknown names, actions that an objective can't read, or two equal losses.
    """
    if not objectives:
        raise ValueError("no objectives given: name some of rlrep.OBJECTIVES")
    built = {}
    for name, options in objectives.items():
        try:
            built[name] = make_objective(name, encoder, model.action_space, **options)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} can't be attached to this {type(model).__name__}: {error}") from error
    return Objectives(built).to(model.device)


def _check_data(model: Any, pixel_key: str | None, window: Window, batch_size: int, learner: str) -> None:
    """Refuses settings that allow no batch of windows, before the training instead of in the middle."""
    steps, n_envs = max(window.span, 1) + window.lookback, model.n_envs
    reads = f"{learner} reads {window.reach}, and "
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2, for objectives that compare samples, got {batch_size}")
    if isinstance(model, OnPolicyAlgorithm):
        if (windows := n_envs * (model.n_steps - steps)) < 2:
            raise ValueError(
                f"{reads}a rollout of n_steps={model.n_steps} in {n_envs} environments holds {max(windows, 0)} windows "
                f"of {steps} steps: make n_steps larger than {steps + 1}, or the horizon smaller"
            )
        return
    buffer = model.replay_buffer
    if not isinstance(buffer, SequenceReplayBuffer):
        raise ValueError(
            f"{type(buffer).__name__} gives no sequences of steps: build the model with "
            f"replay_buffer_class=SequenceReplayBuffer"
        )
    if buffer.pixel_key != pixel_key:
        raise ValueError(f"the policy reads pixels from {pixel_key!r}, the replay keeps {buffer.pixel_key!r}: use one")
    if buffer.n_steps > 1 and buffer.gamma != model.gamma:
        raise ValueError(
            f"the replay discounts rewards by gamma={buffer.gamma:g}, the model by {model.gamma:g}: give "
            f"replay_buffer_kwargs=dict(n_steps={buffer.n_steps}, gamma={model.gamma:g})"
        )
    windows = n_envs * (buffer.frames.kept - steps - buffer.frames.frame_stack + 1)
    if windows < batch_size:
        raise ValueError(
            f"{reads}buffer_size={model.buffer_size} in {n_envs} environments holds at most {max(windows, 0)} windows "
            f"of {steps} steps, a batch is {batch_size}: make buffer_size larger"
        )
    frequency, unit = model.train_freq
    if unit != TrainFrequencyUnit.STEP:
        frequency = 1
    first = frequency * (model.learning_starts // (frequency * n_envs) + 1)
    if model.num_timesteps == 0 and first < steps:
        raise ValueError(
            f"{reads}with learning_starts={model.learning_starts}, train_freq={frequency} and {n_envs} environments, "
            f"the first update comes after {first} steps of each, fewer than the {steps} of a window: set "
            f"learning_starts to at least {steps * n_envs}"
        )
