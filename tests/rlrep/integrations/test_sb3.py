"""Objectives that are attached to Stable-Baselines3's algorithms."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, CrossQ, MaskablePPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from torch import nn

from rlrep import CURL, OBJECTIVES, Objective, PixelEncoder, Window
from rlrep.integrations.sb3 import PixelFeatures, SequenceReplayBuffer, attach
from tests.rlrep.integrations.sb3_environments import Counter

ALGORITHMS = [SAC, TD3, DQN, PPO, A2C, TQC, CrossQ, QRDQN]
ON_POLICY = (PPO, A2C)
DISCRETE = (DQN, QRDQN)
# Each algorithm with TACO, and each objective with one of the algorithms; the other pairs are slow tests.
PAIRS = [
    pytest.param(
        algorithm,
        name,
        marks=() if name == "taco" or number % len(ALGORITHMS) == place else pytest.mark.slow,
    )
    for number, name in enumerate(sorted(OBJECTIVES))
    for place, algorithm in enumerate(ALGORITHMS)
]
SHORT = {"cvrl": {"horizon": 2, "clip_length": 2}}  # episodes have six steps
SHORT |= {name: {"horizon": 2} for name in ("laom", "vip", "r3m", "curved")}
OFF_POLICY = dict(replay_buffer_class=SequenceReplayBuffer, buffer_size=200, learning_starts=20, train_freq=4)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Such small networks do not benefit from more threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(algorithm, env=None, features=None, **options):
    """A tiny model."""
    new = {} if "encoder" in (features or {}) else dict(channels=4, strides=(2, 2))
    pixels = new | dict(features_dim=8) | (features or {})
    own = {PPO: dict(n_steps=16, n_epochs=1, batch_size=8), A2C: dict(n_steps=16)}
    settings = own.get(algorithm, OFF_POLICY | dict(batch_size=8))
    policy = dict(features_extractor_kwargs=pixels, net_arch=[8])
    env = Counter(discrete=algorithm in DISCRETE) if env is None else env
    return algorithm(**dict(dict(policy="PixelPolicy", env=env, policy_kwargs=policy, seed=1, **settings), **options))


def encoder_of(model) -> PixelEncoder:
    names = {PPO: "policy", A2C: "policy", DQN: "q_net", QRDQN: "quantile_net"}
    return getattr(model, names.get(type(model), "critic")).features_extractor.encoder


def losses(model) -> dict[str, float]:
    return {name: value for name, value in model.logger.name_to_value.items() if name.startswith("rlrep/")}


def parameters(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Batches(BaseCallback):
    """Keeps the batches that the agent draws from its replay."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = []

    def _on_training_start(self) -> None:
        sample = self.model.replay_buffer.sample
        self.model.replay_buffer.sample = lambda *a, **k: self.drawn.append(sample(*a, **k)) or self.drawn[-1]

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(("algorithm", "name"), PAIRS)
def test_every_objective_trains_with_every_algorithm_and_is_logged(algorithm, name: str) -> None:
    model = build(algorithm)
    attach(model, {name: SHORT.get(name, {})})
    model.learn(33)
    logged = losses(model)
    assert any(key.startswith("rlrep/loss_") for key in logged) and np.isfinite(list(logged.values())).all()


class Taken(BaseCallback):
    """Counts the steps of the agent's optimizer and of the objectives."""

    def _on_training_start(self) -> None:
        train, self.agents, self.objectives = self.model.train, 0, 0
        step = train.step

        def of_the_agent(*_) -> None:
            self.agents += 1

        def of_the_objectives(*batches):
            self.objectives += 1
            return step(*batches)

        train.agents_optimizer.register_step_post_hook(of_the_agent)
        train.step = of_the_objectives

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("algorithm", "options", "steps"),
    [
        (PPO, dict(n_epochs=2), 8),  # two rollouts in two minibatches
        (PPO, dict(n_epochs=2, target_kl=1e-9), None),  # target_kl ends epochs early
        (A2C, {}, 2),
        (TQC, dict(gradient_steps=2), 6),  # after 24, 28 and 32 steps
        (CrossQ, dict(gradient_steps=2), 6),
        (QRDQN, {}, 3),
    ],
)
def test_objectives_take_a_step_for_each_of_the_agents(algorithm, options, steps: int | None) -> None:
    model, taken = build(algorithm, **options), Taken()
    attach(model, ["curl"])
    model.learn(32, callback=taken)
    assert taken.objectives == taken.agents > 0
    assert taken.agents == steps if steps else taken.agents < 8


def test_sb3_contrib_may_be_missing() -> None:
    code = (
        "import sys; sys.modules['sb3_contrib'] = None\n"
        "from rlrep.integrations.sb3 import PIXEL_POLICIES; print(len(PIXEL_POLICIES))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["6"]


def with_and_without(algorithm, steps: int, **options):
    """Two models trained in the same way, the first with TACO at coefficient 0, and the batches that they drew."""
    models, drawn = [], []
    for objectives in (["taco"], []):
        model, callback = build(algorithm, **options), Batches()
        if objectives:
            attach(model, objectives, coefficient=0)
        model.learn(steps, callback=None if algorithm in ON_POLICY else callback)
        models.append(model)
        drawn.append(callback.drawn)
    return models, drawn


@pytest.mark.parametrize("train_freq", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_with_coefficient_0_sac_is_bit_identical_after_500_steps(train_freq: int) -> None:
    models, drawn = with_and_without(SAC, 500, train_freq=train_freq)
    assert equal(parameters(models[0]), parameters(models[1]))
    assert losses(models[0]) and not losses(models[1])
    assert len(drawn[0]) == len(drawn[1]) == 480 // train_freq
    for one, other in zip(*drawn, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:5], other[:5], strict=True))


@pytest.mark.parametrize("algorithm", [algorithm for algorithm in ALGORITHMS if algorithm is not SAC])
def test_with_coefficient_0_the_others_are_bit_identical_too(algorithm) -> None:
    (model, without), _ = with_and_without(algorithm, 40)
    assert equal(parameters(model), parameters(without))
    assert losses(model) and not losses(without)


def test_with_coefficient_0_the_heads_learn() -> None:
    model = build(SAC)
    attach(model, ["curl"], coefficient=0)
    heads, encoder = model.train.objectives["curl"].state_projection, encoder_of(model)
    before = [[value.clone() for value in part.parameters()] for part in (heads, encoder)]
    for _ in range(3):
        model.learn(24, reset_num_timesteps=False)
    after = [list(part.parameters()) for part in (heads, encoder)]
    assert not any(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_objectives_gradient_reaches_the_agents_encoder_and_nothing_else(algorithm) -> None:
    model = build(algorithm)
    attach(model, ["taco"])
    step, steps = model.train.step, []

    def watched(batch):
        before, owned = parameters(model), {id(parameter) for parameter in encoder_of(model).parameters()}
        for parameter in model.policy.parameters():
            parameter.grad = None
        out = step(batch)
        reached = {id(parameter) for parameter in model.policy.parameters() if parameter.grad is not None}
        after = model.policy.state_dict(keep_vars=True)
        moved = {id(value) for name, value in after.items() if not torch.equal(value, before[name])}
        steps.append(reached == moved == owned)
        return out

    model.train.step = watched
    model.learn(33)
    assert len(steps) > 1 and all(steps)


@pytest.mark.parametrize("algorithm", [SAC, TD3, TQC, CrossQ])
def test_the_actor_reads_the_critics_encoder_without_training_it(algorithm) -> None:
    model = build(algorithm)
    actor, critic = model.actor.features_extractor, model.critic.features_extractor
    assert actor.encoder is critic.encoder and actor.trunk is not critic.trunk
    if algorithm is not CrossQ:
        assert model.critic_target.features_extractor.encoder is not critic.encoder
    owned = {id(parameter) for parameter in critic.encoder.parameters()}
    trained = {
        name: {id(parameter) for parameter in getattr(model, name).optimizer.param_groups[0]["params"]}
        for name in ("actor", "critic")
    }
    assert owned <= trained["critic"] and not owned & trained["actor"]
    actor(torch.zeros(1, 6, 20, 20)).sum().backward()
    assert all(parameter.grad is None for parameter in critic.encoder.parameters())
    if algorithm is TD3:
        assert model.actor_target.features_extractor.encoder is model.critic_target.features_extractor.encoder


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_loaded_model_goes_on_as_one_that_was_not_stopped(algorithm, tmp_path) -> None:
    model = build(algorithm)
    attach(model, {"taco": {"hidden_dim": 16}}, lr=1e-3)
    model.learn(40)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=model.get_env(), force_reset=False)
    assert equal(parameters(loaded), parameters(model))
    attach(loaded)
    assert loaded.train.settings == model.train.settings
    if algorithm not in ON_POLICY:
        model.save_replay_buffer(tmp_path / "replay")
        loaded.load_replay_buffer(tmp_path / "replay")
    results = []
    for one in (loaded, model):
        one.set_logger(model.logger)
        one.set_random_seed(5)
        one.env.envs[0].unwrapped.episode = 0
        one._last_obs = None
        if algorithm not in ON_POLICY:
            one.replay_buffer.frames.end_episodes()
        one.learn(40, reset_num_timesteps=False)
        results.append((parameters(one), one.train.objectives.state_dict()))
    assert all(equal(one, other) for one, other in zip(*results, strict=True))
    assert loaded.num_timesteps == model.num_timesteps >= 80


def test_a_loaded_model_does_not_train_on_without_its_objectives(tmp_path) -> None:
    model = build(SAC)
    attach(model, ["curl"])
    model.save(tmp_path / "model")
    loaded = SAC.load(tmp_path / "model", env=Counter())
    loaded.predict(Counter().reset()[0])
    loaded.save(tmp_path / "again")
    with pytest.raises(RuntimeError, match=r"attach\(model\)"):
        loaded.learn(40)
    loaded = SAC.load(tmp_path / "again", env=Counter())
    attach(loaded)
    loaded.learn(40, reset_num_timesteps=False)  # its replay is empty again
    assert losses(loaded)
    del loaded.train
    loaded.learn(40)


@pytest.mark.parametrize("algorithm", [algorithm for algorithm in ALGORITHMS if algorithm is not CrossQ])
def test_dict_observations_in_several_environments(algorithm) -> None:
    env = make_vec_env(Counter, 3, env_kwargs=dict(vectors=True, discrete=algorithm in DISCRETE))
    model = build(algorithm, env)
    attach(model, ["taco"])
    model.learn(100)
    assert losses(model)


def test_frames_stacked_by_stable_baselines_and_ddpg() -> None:
    model = build(DDPG, VecFrameStack(DummyVecEnv([lambda: Counter(frames=1)] * 2), 3))
    assert encoder_of(model).observation_shape == (9, 20, 20)
    attach(model, ["taco"])
    model.learn(60)
    model.learn(60)  # the environments restart in the middle of an episode
    assert losses(model)


def pretrained(frozen: bool = False, out_dim: int | None = None) -> PixelEncoder:
    """An encoder whose weights and biases differ from any initialisation."""
    torch.manual_seed(3)
    encoder = PixelEncoder((6, 20, 20), channels=4, strides=(2, 2), out_dim=out_dim)
    for parameter in encoder.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return encoder.requires_grad_(not frozen)


def extractors(model) -> list[PixelFeatures]:
    return [module for module in model.policy.modules() if isinstance(module, PixelFeatures)]


def keeps(model, encoder: PixelEncoder) -> bool:
    """Whether all networks use the encoder's weights, in modules of their own."""
    found = [features.encoder for features in extractors(model)]
    return bool(found) and all(equal(one.state_dict(), encoder.state_dict()) and one is not encoder for one in found)


EVERY = [*ALGORITHMS, DDPG]
WAYS = {
    "PixelPolicy": dict(),
    "another policy": dict(features_extractor_class=PixelFeatures, normalize_images=False),
    "an extractor a network": dict(share_features_extractor=False),
}


@pytest.mark.parametrize(
    ("algorithm", "way"),
    [
        (algorithm, way)
        for way in WAYS
        for algorithm in EVERY
        if not (algorithm in DISCRETE and way == "an extractor a network")
    ],
)
def test_an_encoder_that_is_handed_over_keeps_its_weights(algorithm, way: str) -> None:
    encoder = pretrained(out_dim=8 if way == "PixelPolicy" else None)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    policy = dict(features_extractor_kwargs=dict(encoder=encoder, features_dim=8), net_arch=[8], **WAYS[way])
    another = "MlpPolicy" if algorithm is CrossQ else "CnnPolicy"  # CrossQ has no CnnPolicy
    model = build(algorithm, policy=another if way == "another policy" else "PixelPolicy", policy_kwargs=policy)
    model.set_env(Counter(discrete=algorithm in DISCRETE))
    if way == "PixelPolicy":
        attach(model, ["curl"])
    assert keeps(model, encoder)
    model.learn(33)
    trained = extractors(model)[0].encoder
    assert not keeps(model, encoder) and not equal(trained.state_dict(), before)
    assert equal(encoder.state_dict(), before), "the encoder that was handed over must not be trained itself"


@pytest.mark.parametrize("algorithm", EVERY)
def test_a_frozen_encoder_stays_as_it_is_in_every_network(algorithm, tmp_path) -> None:
    encoder = pretrained(frozen=True)
    policy = dict(
        features_extractor_kwargs=dict(encoder=encoder, features_dim=8),
        net_arch=[8],
        optimizer_kwargs=dict(weight_decay=0.1),
    )
    tau = dict(tau=0.005) if algorithm not in (*ON_POLICY, CrossQ) else {}
    model = build(algorithm, policy_kwargs=policy, **tau)
    others = {name: value for name, value in parameters(model).items() if ".encoder." not in f".{name}"}
    model.learn(60)
    assert keeps(model, encoder)
    assert not equal(others, {name: parameters(model)[name] for name in others}), "the rest must be trained"
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=model.get_env())
    assert keeps(loaded, encoder) and equal(parameters(loaded), parameters(model))
    loaded.learn(40)
    assert keeps(loaded, encoder)


class Normalised(nn.Module):
    """An encoder of someone else, with running averages."""

    repr_dim, observation_shape = 8, (6, 20, 20)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(2400, 8), nn.BatchNorm1d(8))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels / 255)


@pytest.mark.parametrize("algorithm", [SAC, DQN, PPO])
def test_running_averages_of_a_frozen_encoder_are_frozen_too(algorithm) -> None:
    torch.manual_seed(0)
    encoder = Normalised().requires_grad_(False)
    model = build(algorithm, features=dict(encoder=encoder))
    attach(model, ["curl"], coefficient=0)
    model.learn(40)
    for features in extractors(model):
        assert equal(features.encoder.state_dict(), encoder.state_dict()) and not features.encoder.training


def test_with_coefficient_0_running_averages_are_those_of_the_agent_alone() -> None:
    found = []
    for objectives in ([], ["curl"]):
        torch.manual_seed(0)
        model = build(SAC, features=dict(encoder=Normalised()))
        if objectives:
            attach(model, objectives, coefficient=0)
        model.learn(40)
        found.append(encoder_of(model).state_dict())
    assert equal(*found)


def test_an_encoder_is_handed_over_on_the_cpu() -> None:
    with pytest.raises(ValueError, match=r"the encoder is on meta, .*: give encoder\.cpu\(\)"):
        build(SAC, features=dict(encoder=pretrained().to("meta")))


@pytest.mark.parametrize("steps", [5, 7])
def test_rollouts_without_a_window_are_left_out_with_one_warning(steps: int) -> None:
    model = build(A2C, env=Counter(length=3), n_steps=steps)
    attach(model, {"taco": {"horizon": 3}})
    with pytest.warns(UserWarning, match="leave out this rollout") as told:
        model.learn(8 * steps)
    assert len([each for each in told if "leave out" in str(each.message)]) == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_objectives_on_a_frozen_encoder_train_their_heads_and_say_so(algorithm) -> None:
    encoder = pretrained(frozen=True)
    model = build(algorithm, features=dict(encoder=encoder))
    with pytest.warns(UserWarning, match="frozen"):
        attach(model, ["curl"])
    heads = model.train.objectives["curl"].state_projection
    before = {name: value.clone() for name, value in heads.state_dict().items()}
    model.learn(33)
    assert keeps(model, encoder) and losses(model) and not equal(heads.state_dict(), before)


@pytest.mark.parametrize("algorithm", EVERY)
def test_load_restores_the_trained_encoder_not_the_one_that_was_handed_over(algorithm, tmp_path) -> None:
    encoder = pretrained()
    model = build(algorithm, features=dict(encoder=encoder))
    model.learn(33)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=model.get_env())
    assert equal(parameters(loaded), parameters(model)) and not keeps(loaded, encoder)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy")
    assert equal(policy.state_dict(), model.policy.state_dict())


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_a_new_encoder_keeps_its_own_initialisation_and_the_layers_after_it_get_the_algorithms(algorithm) -> None:
    model = build(algorithm)
    weight = extractors(model)[0].encoder.convolutions[0].weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(4), rtol=0, atol=1e-5)
    assert model.policy.action_net.weight.norm() < 0.05


def test_what_is_no_encoder_is_refused_with_how_to_load_one() -> None:
    with pytest.raises(TypeError, match="from_pretrained"):
        build(PPO, features=dict(encoder="my_encoder"))


class Steps(BaseCallback):
    """Keeps how far the objectives move the encoder in each call of `train`, and their step sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.moved, self.step_sizes = [], []

    def _on_training_start(self) -> None:
        train = self.model.train
        step = train.step

        def watched(batch):
            encoder = encoder_of(self.model)
            before = [value.clone() for value in encoder.parameters()]
            out = step(batch)
            pairs = zip(before, encoder.parameters(), strict=True)
            self.moved.append(max(float((one - other).detach().abs().max()) for one, other in pairs))
            self.step_sizes.append([optimizer.param_groups[0]["lr"] for optimizer in train.optimizers])
            return out

        train.step = watched

    def _on_step(self) -> bool:
        return True


def steps_of(algorithm, learning_rate, steps: int = 64) -> Steps:
    model, callback = build(algorithm, learning_rate=learning_rate), Steps()
    attach(model, ["curl"], lr=1e-3, coefficient=0.5)
    model.learn(steps, callback=callback)
    assert callback.moved
    return callback


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_objectives_follow_a_learning_rate_that_reaches_0(algorithm) -> None:
    kept = steps_of(algorithm, lambda progress: 3e-4 * float(progress > 0.5))
    half = [moved > 0 for moved in kept.moved]
    assert half[0] and not half[-1] and half == sorted(half, reverse=True)
    sizes = steps_of(algorithm, lambda progress: 3e-4 * progress).step_sizes
    heads = [size for size, _ in sizes]
    assert heads == sorted(heads, reverse=True) and 0 < heads[0] < 1e-3 and 0 <= heads[-1] < 1e-4
    assert all(size == pytest.approx(2 * encoder) for size, encoder in sizes)


def test_the_largest_rate_of_a_schedule_counts_not_its_first() -> None:
    warm_up = steps_of(SAC, lambda progress: 3e-4 * min(1 - progress, 0.5)).step_sizes
    assert 0 < warm_up[0][0] < warm_up[-1][0] == pytest.approx(1e-3)


def test_a_narrow_peak_of_a_schedule_is_its_largest_rate() -> None:
    """A warm-up shorter than a hundredth, and a peak between the points of the search."""
    model = build(SAC, learning_rate=lambda progress: 3e-4 * (1e-3 if progress > 0.994 else progress / 0.994))
    attach(model, ["curl"], lr=1e-3)
    assert model.train.largest_rate == pytest.approx(3e-4, rel=1e-3)
    narrow = steps_of(SAC, lambda progress: 1e-3 if abs(progress - 0.5) < 1e-9 + 0.4 / 64 else 1e-5, steps=64)
    narrow.model.train.largest_rate = 1e-5  # as if the search had missed the peak
    narrow.model.learn(64, callback=narrow)
    assert max(size for size, _ in narrow.step_sizes) == pytest.approx(1e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_constant_learning_rate_leaves_the_step_size_as_it_was_given(algorithm) -> None:
    assert all(sizes == [1e-3, 5e-4] for sizes in steps_of(algorithm, 3e-4).step_sizes)


def test_a_rate_that_is_0_throughout_or_negative_moves_nothing() -> None:
    assert not any(steps_of(SAC, 0.0).moved)
    overshooting = steps_of(PPO, lambda progress: 3e-4 * progress, steps=40)  # rollouts of 16 steps end at 48
    assert overshooting.moved[0] and not overshooting.moved[-1]


AS_EXTRACTOR = dict(features_extractor_class=PixelFeatures, normalize_images=False)
BAD = {
    "an encoder for other pictures": (lambda: build(SAC, features=dict(encoder=PixelEncoder((3, 84, 84)))), "84"),
    "no pixels": (lambda: build(SAC, "Pendulum-v1"), "pixels"),
    "no sequences": (lambda: build(SAC, replay_buffer_class=None), "SequenceReplayBuffer"),
    "another policy": (lambda: build(PPO, policy="MlpPolicy", policy_kwargs=None), "PixelPolicy"),
    "pixels scaled twice": (
        lambda: build(SAC, policy="CnnPolicy", policy_kwargs=dict(features_extractor_class=PixelFeatures)),
        "PixelPolicy",
    ),
    "an algorithm without gradients": (lambda: ARS("LinearPolicy", Counter()), r"SAC, .*, QRDQN"),
    "an algorithm that is not in the list": (
        lambda: MaskablePPO("CnnPolicy", Counter(discrete=True), policy_kwargs=AS_EXTRACTOR),
        "not to MaskablePPO: take one of SAC",
    ),
    "dictionaries for CrossQ": (lambda: build(CrossQ, Counter(vectors=True)), "CrossQ .* Dict observations"),
    "another policy of sb3-contrib": (lambda: build(TQC, policy="MlpPolicy", policy_kwargs=None), 'TQC."PixelPolicy"'),
    "two encoders in CrossQ": (lambda: build(CrossQ, policy_kwargs=dict(share_features_extractor=True)), "share"),
    "A2C's own length of a rollout": (lambda: build(A2C, n_steps=4), "n_steps"),
    "too few steps at the first update": (
        lambda: build(SAC, make_vec_env(Counter, 8), learning_starts=8, train_freq=1),
        "learning_starts",
    ),
    "too small a replay": (lambda: build(SAC, make_vec_env(Counter, 4), buffer_size=20), "buffer_size"),
    "too short a rollout": (lambda: build(PPO, n_steps=4, batch_size=4), "n_steps"),
    "actions that are no vector": (lambda: build(PPO, _Buttons()), "actions"),
    "its own way of sharing": (lambda: build(TD3, policy_kwargs=dict(share_features_extractor=True)), "share"),
    "two encoders in PPO": (lambda: build(PPO, policy_kwargs=dict(share_features_extractor=False)), "share"),
}


class _Buttons(Counter):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.MultiBinary(3)


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_work_is_refused_when_it_is_attached(what: str) -> None:
    make, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        attach(make(), ["taco"])


@pytest.mark.parametrize(
    ("objectives", "options", "message"),
    [
        ([], {}, "no objectives"),
        (None, {}, "not saved with any"),
        ("taco", {}, r"\['taco'\]"),
        (["tako"], {}, "taco"),
        ({"taco": {"horizons": 2}}, {}, "horizons"),
        (["taco", "curl"], {}, "loss_curl"),
        ({"taco": {"batch_size": 10**6}}, {}, "batch is 1000000"),
        (["taco"], {"lr": 0.0}, "lr"),
        (["taco"], {"coefficient": -1.0}, "coefficient"),
        (["taco"], {"batch_size": 1}, "batch_size"),
    ],
)
def test_bad_arguments_are_refused(objectives, options, message: str) -> None:
    model = build(SAC)
    with pytest.raises(ValueError, match=message):
        attach(model, objectives, **options)
    assert "train" not in vars(model)


def test_attaching_twice_is_refused() -> None:
    model = build(SAC)
    attach(model, ["taco"])
    with pytest.raises(ValueError, match="at once"):
        attach(model, ["curl"])


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_what_an_objective_reads_is_named_where_nothing_can_serve_it(algorithm) -> None:
    model = build(algorithm)
    far = {"curl": {}, "barlow_twins": {"horizon": 300}}
    with pytest.raises(ValueError, match=r"barlow_twins reads an observation 1\.\.300 steps away, and"):
        attach(model, far)


def test_the_shared_batch_is_checked_beside_an_own_one_of_its_size() -> None:
    model = build(SAC)
    with pytest.raises(ValueError, match="barlow_twins reads"):
        attach(model, {"curl": {"batch_size": 8}, "barlow_twins": {"horizon": 300}})


class LooksBack(CURL):
    """Also reads an observation `back` steps before."""

    def __init__(self, encoder, action_space=None, back: int = 3, **options) -> None:
        super().__init__(encoder, action_space, **options)
        self.window = Window(observations=(-back,))


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_steps_back_count_too(algorithm) -> None:
    name = f"{__name__}:LooksBack"
    model = build(algorithm)
    attach(model, {name: {}})
    model.learn(33)
    assert np.isfinite(losses(model)["rlrep/loss_curl"])
    with pytest.raises(ValueError, match=r"LooksBack reads an observation 300 steps back, and"):
        attach(build(algorithm), {name: {"back": 300}})


class Headless(Objective):
    """Trains the encoder alone."""

    def __init__(self, encoder, action_space=None, augment=None) -> None:
        super().__init__(encoder, augment)
        self.window = Window()
        self.in_keys, self.out_keys = ["observation"], ["loss_small"]

    def losses(self, observation):
        return {"loss_small": self.view(observation).square().mean()}


class Copied(Headless):
    """Its own parameters are a momentum copy alone. `action_space` is the second argument, of its own `__init__`."""

    def __init__(self, encoder, action_space=None, horizon: int = 3, **options) -> None:
        super().__init__(encoder, **options)
        self.horizon = horizon
        self.target = self.momentum_copy(encoder, 0.9)

    def losses(self, observation):
        with torch.no_grad():
            target = self.view(observation, encoder=self.target)
        return {"loss_small": (self.view(observation) - target).square().mean()}


@pytest.mark.parametrize("objective", [Headless, Copied])
def test_an_objective_without_parameters_to_train_trains_the_encoder(objective) -> None:
    model = build(SAC)
    attach(model, [f"{__name__}:{objective.__name__}"])
    model.learn(33)
    assert np.isfinite(losses(model)["rlrep/loss_small"])


@pytest.mark.parametrize("option", [{"channels": 4}, {"strides": (2, 2)}, {"precision": "float32"}])
def test_an_option_of_a_new_encoder_beside_a_given_one_is_refused(option) -> None:
    policy = dict(features_extractor_kwargs={"encoder": pretrained(), **option})
    with pytest.raises(ValueError, match=f"{next(iter(option))}=.* would have no effect beside encoder"):
        PPO("PixelPolicy", Counter(), policy_kwargs=policy)


def test_pixels_are_never_scaled_twice() -> None:
    policy = dict(features_extractor_kwargs=dict(channels=4))
    with pytest.raises(ValueError, match="leave normalize_images out"):
        A2C("PixelPolicy", Counter(), policy_kwargs=policy | dict(normalize_images=True))
    model = A2C("CnnPolicy", Counter(size=36), policy_kwargs=policy | dict(features_extractor_class=PixelFeatures))
    with pytest.raises(ValueError, match=r"got floats of 0.* policy_kwargs=dict\(normalize_images=False\)"):
        model.learn(1)


def test_a_setting_that_a_loaded_model_has_no_use_for_is_refused(tmp_path) -> None:
    model = build(DQN)
    attach(model, ["curl"], lr=1e-3)
    model.save(tmp_path / "model")
    loaded = DQN.load(tmp_path / "model", env=Counter(discrete=True))
    with pytest.raises(ValueError, match=r"saved with lr=0.001, and lr=0.01 would have no effect"):
        attach(loaded, lr=1e-2)
    attach(loaded, lr=1e-3)


def test_options_of_an_objective_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the options of curl must be a mapping such as \{'horizon': 5\}, got None"):
        attach(build(DQN), {"curl": None})
