from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import (
    CURL,
    OBJECTIVES,
    TACO,
    ForwardModel,
    Objective,
    Objectives,
    PixelEncoder,
    RandomShift,
    Window,
    info_nce,
    make_objective,
)
from rlrep.data import EpisodeDataset
from rlrep.objectives.base import FORGOTTEN
from tests.odd_objectives import Follows, MinimisesNothing, Returns, ReturnsAnother, SaysNothing

SHAPE = (9, 20, 20)
BOX = spaces.Box(-1, 1, (2,))
DISCRETE = spaces.Discrete(4)
SMALL: dict[str, dict[str, Any]] = {
    "taco": {"feature_dim": 8, "hidden_dim": 16},
    "curl": {"feature_dim": 8},
    "forward_model": {"feature_dim": 8, "hidden_dim": 16},
    "temporal_contrastive": {"feature_dim": 8},
    "inverse_model": {"hidden_dim": 16},
    "spr": {"feature_dim": 8, "hidden_dim": 16},
    "cvrl": {"feature_dim": 8, "hidden_dim": 16, "clip_length": 2},
    "barlow_twins": {"feature_dim": 4, "hidden_dim": 16},
    "latent_model": {"horizon": 3, "state_dim": 8, "state_action_dim": 8, "latent_action_dim": 4, "hidden_dim": 16},
    "bisimulation": {"feature_dim": 8, "hidden_dim": 16},
    "multistage": {"feature_dim": 8, "clusters": 2},
    "swav": {"feature_dim": 8, "hidden_dim": 16, "prototypes": 4},
    "vip": {"feature_dim": 8, "horizon": 3},
    "r3m": {"feature_dim": 8, "horizon": 3},
    "curved": {"feature_dim": 8, "hidden_dim": 16},
    "gated": {"feature_dim": 8},
    "invariance": {"feature_dim": 8},
    "pixpro": {"feature_dim": 8, "hidden_dim": 16},
    "sepclr": {"feature_dim": 8},
    "autotcl": {"feature_dim": 8, "mask_channels": 4},
    "masked_autoencoder": {"feature_dim": 8, "hidden_dim": 16, "clip_length": 2},
    "motion": {"feature_dim": 8, "hidden_dim": 16, "clip_length": 2},
    "state_space": {"feature_dim": 8, "hidden_dim": 16, "state_dim": 4, "horizon": 2},
    "supremix": {"feature_dim": 8, "horizon": 3},
    "lapo": {"feature_dim": 8, "hidden_dim": 16, "latent_action_dim": 4},
    "laom": {"horizon": 3, "feature_dim": 8, "hidden_dim": 16, "latent_action_dim": 4},
}
VARIANTS = [
    *(pytest.param(name, {}, id=name) for name in OBJECTIVES),
    pytest.param("taco", {"curl": False}, id="taco without curl"),
    pytest.param("taco", {"reward": False}, id="taco without reward"),
    pytest.param("laom", {"labelled": 0.9}, id="laom with labels"),
    pytest.param("autoencoder", {"denoise": 0.1}, id="denoising autoencoder"),
    pytest.param("autoencoder", {"codes": 8}, id="vector-quantised autoencoder"),
]


@pytest.fixture
def encoder() -> PixelEncoder:
    torch.manual_seed(0)
    return PixelEncoder(SHAPE, channels=4)


def build(name: str, encoder: PixelEncoder, action_space: Any = BOX, **options: Any) -> Objective:
    return make_objective(name, encoder, action_space, **(SMALL.get(name, {}) | options))


def make_batch(action_space: Any = BOX, batch_size: int = 5, horizon: int = 3) -> TensorDict:
    torch.manual_seed(1)

    def pixels() -> Tensor:
        return torch.randint(0, 256, (batch_size, *SHAPE), dtype=torch.uint8)

    sequence = torch.randint(0, 4, (batch_size, horizon))
    if action_space is BOX:
        sequence = torch.rand(batch_size, horizon, 2) * 2 - 1
    return TensorDict(
        {
            "observation": pixels(),
            "index": torch.arange(batch_size),
            "episode": torch.arange(batch_size) // 2,
            "action": sequence[:, 0],
            "action_sequence": sequence,
            "future_observation": pixels(),
            "gap": torch.arange(batch_size) % horizon + 1,
            "next": {"observation": pixels(), "reward": torch.rand(batch_size, 1)},
            "discount": torch.full((batch_size, 1), 0.97),
        },
        batch_size=[batch_size],
    )


def batch_for(objective: Objective, action_space: Any = BOX) -> TensorDict:
    """A batch with everything that the objective may read."""
    batch = make_batch(action_space)
    following = torch.randint(0, 256, (5, len(objective.window.observations), *SHAPE), dtype=torch.uint8)
    sequence = {"observation": following, "reward": torch.rand(5, 3, 1)}
    ends = {"terminated": torch.arange(15).view(5, 3, 1) == 14, "valid": torch.ones(5, 3, 1, dtype=torch.bool)}
    batch["sequence"] = TensorDict(sequence | ends, batch_size=[5])
    return batch


def losses(out: TensorDict) -> dict[str, Tensor]:
    return {name: value for name, value in out.items() if name.startswith("loss_")}


@pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_protocol(name: str, options: dict[str, Any], action_space: Any, encoder: PixelEncoder) -> None:
    objective = build(name, encoder, action_space, **options)
    batch = batch_for(objective, action_space)
    out = objective(batch.select(*objective.in_keys))  # it needs no other entries
    assert list(out.keys()) == objective.out_keys
    assert losses(out)
    for key, value in out.items():
        assert value.shape == () and value.isfinite()
        assert value.requires_grad == key.startswith("loss_"), key
    sum(losses(out).values()).backward()
    for key, parameter in objective.named_parameters():
        moved = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert moved == parameter.requires_grad, key  # momentum copies get no gradient
    assert {id(p) for p in encoder.parameters()} < {id(p) for p in objective.parameters()}


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_missing_entries_are_named_with_who_has_them(name: str, options: dict[str, Any], encoder: PixelEncoder) -> None:
    objective = build(name, encoder, **options)
    for key in objective.in_keys:
        batch = batch_for(objective)
        del batch[key]
        with pytest.raises(KeyError) as error:
            objective(batch)
        text = str(error.value)
        assert type(objective).__name__ in text and repr(key) in text
        assert ("video" if key != "observation" else "every batch of a replay buffer") in text


@pytest.mark.parametrize("name", ["taco", "forward_model"])
def test_sequences_of_another_length_are_refused(name: str, encoder: PixelEncoder) -> None:
    objective = build(name, encoder, horizon=2)
    assert objective.horizon == 2
    with pytest.raises(ValueError, match="horizon=2, the batch holds sequences of 3 actions"):
        objective(make_batch(horizon=3))


@pytest.mark.parametrize("name", ["taco", "forward_model"])
def test_horizon_below_one_is_refused(name: str, encoder: PixelEncoder) -> None:
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        build(name, encoder, horizon=0)


def test_unknown_name_suggests_the_nearest(encoder: PixelEncoder) -> None:
    with pytest.raises(ValueError, match="unknown objective 'taca': did you mean taco"):
        build("taca", encoder)


def test_switches_of_taco(encoder: PixelEncoder) -> None:
    full = build("taco", encoder)
    assert {"loss_taco", "loss_curl", "loss_reward"} == {name for name in full.out_keys if name.startswith("loss_")}
    bare = build("taco", encoder, curl=False, reward=False)
    assert bare.out_keys == ["loss_taco", "taco_accuracy"]
    assert ("next", "reward") not in bare.in_keys
    assert not any("reward" in name for name, _ in bare.named_parameters())
    bare.load_state_dict(full.state_dict(), strict=False)
    torch.manual_seed(2)
    expected = full(make_batch())["loss_taco"]
    torch.manual_seed(2)
    torch.testing.assert_close(bare(make_batch())["loss_taco"], expected)


def test_taco_reads_the_reward_and_the_order_of_actions(encoder: PixelEncoder) -> None:
    taco = build("taco", encoder, augment=RandomShift(0))
    before = taco(make_batch())
    batch = make_batch()
    batch["next", "reward"] += 1
    after = taco(batch)
    assert after["loss_reward"] != before["loss_reward"] and after["loss_taco"] == before["loss_taco"]
    batch["action_sequence"] = batch["action_sequence"].flip(1)
    assert taco(batch)["loss_taco"] != before["loss_taco"]


class Recorder(RandomShift):
    """Passes every view on as floats, whose gradients show what the loss reaches."""

    def __init__(self) -> None:
        super().__init__(0)
        self.views: list[Tensor] = []

    def forward(self, observation: Tensor) -> Tensor:
        self.views.append(observation.float().requires_grad_(torch.is_grad_enabled()))
        return self.views[-1]


@pytest.mark.parametrize(("name", "with_gradient"), [("taco", 1), ("curl", 1)])
def test_targets_carry_no_gradient(name: str, with_gradient: int, encoder: PixelEncoder) -> None:
    augment = Recorder()
    objective = build(name, encoder, augment=augment)
    batch = make_batch()
    sum(losses(objective(batch)).values()).backward()
    reached = [view for view in augment.views if view.requires_grad]
    assert len(reached) == with_gradient < len(augment.views)
    assert all(view.grad is not None and view.grad.abs().sum() > 0 for view in reached)
    assert all(torch.equal(view, batch["observation"]) for view in reached)


def test_taco_draws_a_view_for_each_use(encoder: PixelEncoder) -> None:
    augment = Recorder()
    batch = make_batch()
    build("taco", encoder, augment=augment)(batch)
    seen = [[torch.equal(view, batch[key]) for view in augment.views] for key in ("observation", "future_observation")]
    assert [sum(row) for row in seen] == [2, 1]


def test_pixels_predicted_are_the_newest_frame_unshifted(encoder: PixelEncoder) -> None:
    model = build("forward_model", encoder)
    assert isinstance(model, ForwardModel)
    batch = make_batch()
    for parameter in model.decoder.parameters():
        nn.init.zeros_(parameter)
    expected = (batch["future_observation"][:, 6:].float() / 255 - 0.5).square().mean()
    torch.testing.assert_close(model(batch)["loss_forward"], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_channels": 10}, "frame_channels must lie in 1..9"),
        ({"frame_channels": 0}, "frame_channels must be at least 1, got 0"),
    ],
)
def test_impossible_forward_models_are_refused(options: dict[str, Any], message: str, encoder: PixelEncoder) -> None:
    with pytest.raises(ValueError, match=message):
        build("forward_model", encoder, **options)


def test_curl_needs_no_action_space(encoder: PixelEncoder) -> None:
    assert CURL(encoder, feature_dim=8)(make_batch().select("observation"))["loss_curl"].isfinite()


def test_curl_by_its_formula(encoder: PixelEncoder) -> None:
    curl = CURL(encoder, feature_dim=8, augment=RandomShift(0))
    z = curl.state_projection(encoder(make_batch()["observation"]))
    torch.testing.assert_close(curl(make_batch())["loss_curl"], info_nce(z @ curl.bilinear, z.detach())[0])


def moved_dots(batch_size: int, generator: torch.Generator) -> TensorDict:
    """A bright dot that starts in the middle of a dark image and moves by 5 pixels times each of two actions."""
    actions = torch.rand(batch_size, 2, 2, generator=generator) * 2 - 1
    start = torch.full((batch_size, 2), 12.0)

    def image(position: Tensor) -> Tensor:
        grid = torch.stack(torch.meshgrid(torch.arange(25.0), torch.arange(25.0), indexing="ij"))
        distance = (grid - position[:, :, None, None]).square().sum(1, keepdim=True)
        return (255 * torch.exp(-distance / 8)).to(torch.uint8)

    return TensorDict(
        {
            "observation": image(start),
            "action_sequence": actions,
            "future_observation": image(start + 5 * actions.sum(1)),
        },
        batch_size=[batch_size],
    )


def test_taco_learns_what_actions_do() -> None:
    """All start the same, so only the actions distinguish the futures: a guess is right in 1 of 32 cases."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    encoder = PixelEncoder((1, 25, 25), channels=8)
    taco = TACO(encoder, BOX, 2, 32, 128, curl=False, reward=False, augment=RandomShift(0))
    optimizer = torch.optim.Adam(taco.parameters(), lr=5e-3)
    for _ in range(200):
        optimizer.zero_grad()
        taco(moved_dots(32, generator))["loss_taco"].backward()
        optimizer.step()
    with torch.no_grad():
        held_out = [moved_dots(32, generator) for _ in range(8)]
        accuracy = sum(taco(batch)["taco_accuracy"].item() for batch in held_out) / 8
        assert accuracy > 0.3
        for batch in held_out:
            batch["action_sequence"].zero_()
        blind = sum(taco(batch)["taco_accuracy"].item() for batch in held_out) / 8
        assert blind < 0.1


def test_a_forward_model_learns_what_actions_do() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    encoder = PixelEncoder((1, 28, 28), channels=8)
    model = ForwardModel(encoder, BOX, 2, 1, 16, 64, augment=RandomShift(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def padded_dots() -> TensorDict:
        batch = moved_dots(32, generator)
        for key in ("observation", "future_observation"):
            batch[key] = nn.functional.pad(batch[key], (1, 2, 1, 2))
        return batch

    held_out = padded_dots()
    for _ in range(250):
        optimizer.zero_grad()
        model(padded_dots())["loss_forward"].backward()
        optimizer.step()
    with torch.no_grad():
        right = model(held_out)["loss_forward"]
        held_out["action_sequence"] = held_out["action_sequence"].roll(1, 0)
        assert model(held_out)["loss_forward"] > 1.5 * right


class OwnEncoder(nn.Module):
    """A user's encoder: not a `PixelEncoder`, with the one attribute that objectives need."""

    repr_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(9 * 20 * 20, 6))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels.float() / 255)


@pytest.mark.parametrize("name", ["taco", "curl", "temporal_contrastive", "inverse_model"])
def test_an_encoder_of_ones_own_serves(name: str) -> None:
    encoder: Any = OwnEncoder()
    out = losses(build(name, encoder)(make_batch()))
    torch.stack(list(out.values())).sum().backward()
    assert encoder.layers[1].weight.grad.abs().sum() > 0


class Returning(OwnEncoder):
    """Returns something else than it says."""

    def __init__(self, result: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.result = result

    def forward(self, pixels: Tensor) -> Any:
        return self.result(super().forward(pixels))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda features: (features, None), "Returning returned a tuple, and its repr_dim is 6"),
        (lambda features: features[:, :5], r"Returning returned \(5, 5\), and its repr_dim is 6"),
        (lambda features: features[None], r"Returning returned \(1, 5, 6\), and its repr_dim is 6"),
    ],
)
def test_an_encoder_that_returns_something_else_is_refused(result: Callable[[Tensor], Any], message: str) -> None:
    encoder: Any = Returning(result)
    with pytest.raises(ValueError, match=message):
        build("curl", encoder)(make_batch())


@pytest.mark.parametrize(
    ("size", "message"),
    [(6.0, "6.0, which is no whole number"), (None, "needs an encoder with.*: OwnEncoder has none")],
)
def test_the_size_of_features_is_a_whole_number(size: Any, message: str) -> None:
    encoder: Any = OwnEncoder()
    encoder.repr_dim = size
    with pytest.raises(ValueError, match=message):
        build("curl", encoder)
    encoder.repr_dim = np.prod([2, 3])  # NumPy's
    build("curl", encoder)(make_batch())


@pytest.mark.parametrize(("factor", "found"), [(3.0, "-3 to 3"), (float("nan"), "nan")])
@pytest.mark.parametrize("name", ["taco", "forward_model", "spr", "latent_model", "inverse_model"])
def test_actions_out_of_range_are_refused_where_they_are_read(
    name: str, factor: float, found: str, encoder: PixelEncoder
) -> None:
    objective = build(name, encoder)
    batch = batch_for(objective)
    for key in ("action", "action_sequence"):
        batch[key] = factor * batch[key].sign()
    if name == "inverse_model":  # it predicts them
        assert bool(objective(batch)["loss_inverse"].isfinite()) == (factor == 3)
        return
    with pytest.raises(ValueError, match=rf"actions must lie in \[-1, 1\], the batch holds {found}"):
        objective(batch)


@pytest.mark.parametrize("name", ["taco", "curl", "temporal_contrastive", "cvrl", "gated"])
def test_one_row_has_nothing_to_be_told_from(name: str, encoder: PixelEncoder) -> None:
    objective = build(name, encoder)
    with pytest.raises(ValueError, match="at least two rows"):
        objective(batch_for(objective)[:1])


def test_sequences_of_another_length_than_the_window_are_refused(encoder: PixelEncoder) -> None:
    spr = build("spr", encoder, horizon=3)
    batch = batch_for(spr)
    first = batch["observation"][:, None]
    batch["sequence", "observation"] = torch.cat([first, batch["sequence", "observation"]], 1)
    with pytest.raises(ValueError, match=r"reads 3 further observations.*holds 4.*without the one at offset 0"):
        spr(batch)


def test_a_missing_entry_is_described(encoder: PixelEncoder) -> None:
    with pytest.raises(KeyError, match=r"lacks: \(B, K, A\) float32 in \[-1, 1\].*the actions from the observation on"):
        build("taco", encoder)(make_batch().exclude("action_sequence"))


def test_features_to_share_are_by_offset(encoder: PixelEncoder) -> None:
    wrong: Any = {"0": encoder(make_batch()["observation"])}
    with pytest.raises(TypeError, match=r"by their offset, 0 for the observation's: got \['0'\]"):
        build("taco", encoder)(make_batch(), wrong)


@pytest.mark.parametrize("name", ["taco", "curl", "spr", "forward_model"])
def test_a_loss_is_compiled_in_one_graph_and_not_for_each_call(name: str, encoder: PixelEncoder) -> None:
    objective = build(name, encoder, augment=RandomShift(0))
    batch, compiled = batch_for(objective), []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    def loss() -> Tensor:
        return torch.stack(list(losses(objective(batch)).values())).sum()

    update = torch.compile(loss, backend=backend, fullgraph=True)
    for _ in range(4):
        update().backward()
    first = len(compiled)
    for _ in range(4):
        update().backward()
    assert first == len(compiled) > 0
    torch.testing.assert_close(update(), loss())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_method_of_ones_own_gets_flat_float32_features(precision: str) -> None:
    encoder = PixelEncoder(SHAPE, channels=4, precision=precision)
    objective = CURL(encoder, augment=RandomShift(0))
    pixels = make_batch()["observation"]
    shared = objective.view(pixels)
    for objective._encoded in ({}, {0: shared}):  # encoded by the objective, and by its owner
        features = objective.encode(pixels, offset=0)
        assert features.dtype == torch.float32 and features.shape == (5, encoder.repr_dim)
        assert torch.equal(features, encoder(pixels))
    own = OwnEncoder()
    assert torch.equal(objective.encode(pixels, encoder=own), own(pixels))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_losses_and_gradients_from_feature_maps_are_near_those_from_features(
    name: str, options: dict[str, Any], precision: str
) -> None:
    """Heads compute the same from feature maps as from features."""
    if "codes" in options:
        pytest.skip("a code is not continuous")
    results = []
    for flat_features in (False, True):
        torch.manual_seed(0)
        encoder = PixelEncoder(SHAPE, channels=4, precision=precision)
        objective = build(name, encoder, augment=RandomShift(0), **options)
        if flat_features:
            encoder.encode_view = lambda pixels, augment, encoder=encoder: encoder(augment(pixels))  # type: ignore[method-assign]
        batch = batch_for(objective)
        torch.manual_seed(2)
        loss = torch.stack([value for key, value in objective(batch).items() if key.startswith("loss_")]).sum()
        loss.backward()
        gradients = [p.grad.flatten() for p in objective.parameters() if p.grad is not None]
        results.append((loss.detach(), torch.cat(gradients)))
    tolerance = 1e-4 if precision == "float32" else 0.05
    for ours, plain in zip(*results, strict=True):
        assert (ours - plain).norm() <= tolerance * plain.norm()


def test_an_encoder_says_the_size_of_its_features() -> None:
    network: Any = OwnEncoder().layers
    with pytest.raises(ValueError, match=r"TACO needs an encoder with the attribute repr_dim.*Sequential has none"):
        TACO(network, BOX)
    with pytest.raises(ValueError, match="observation_shape"):
        build("autoencoder", OwnEncoder())  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["observation", "future_observation"])
@pytest.mark.parametrize("change", [lambda x: x.float() / 255, lambda x: x[:, None]])
def test_pixels_that_the_encoder_would_misread_are_refused(key: str, change: Any, encoder: PixelEncoder) -> None:
    batch = make_batch()
    batch[key] = change(batch[key])
    with pytest.raises(ValueError, match=f"{key} must be uint8 pixels"):
        build("taco", encoder)(batch)


def test_a_dictionary_is_no_batch(encoder: PixelEncoder) -> None:
    batch: Any = make_batch().to_dict()
    with pytest.raises(TypeError, match="TensorDict"):
        build("taco", encoder)(batch)


@pytest.mark.parametrize(("name", "action_space"), [("inverse_model", BOX), ("forward_model", None)])
def test_a_gap_beyond_the_horizon_is_refused(name: str, action_space: Any, encoder: PixelEncoder) -> None:
    objective = build(name, encoder, action_space, horizon=2)
    batch = make_batch()
    batch["gap"] = torch.tensor([1, 2, 2, 3, 1])
    with pytest.raises(ValueError, match="horizon=2, the batch holds a gap of 3"):
        objective(batch)


@pytest.mark.parametrize("option", ["feature_dim", "hidden_dim"])
def test_heads_of_no_size_are_refused(option: str, encoder: PixelEncoder) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        build("taco", encoder, **{option: 0})


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (4, 1), (3, 3), (9, 3)])
def test_a_frame_of_pictures_without_threes_is_grey(channels: int, expected: int) -> None:
    model = ForwardModel(PixelEncoder((channels, 20, 20), channels=4), BOX)
    assert model.frame_channels == expected and model.decoder.grid[2] == expected


class Actions(Objective):
    """Reads actions only."""

    def __init__(self, encoder: PixelEncoder) -> None:
        super().__init__(encoder)
        self.window, self.in_keys, self.out_keys = Window(actions=2), ["action_sequence"], ["loss_actions"]
        self.weight = nn.Parameter(torch.ones(()))

    def losses(self, action_sequence: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        assert action_sequence.shape[1] == 2
        return {"loss_actions": self.weight * action_sequence.square().mean()}


@pytest.mark.parametrize("others", [["spr"], [], ["barlow_twins"]])
def test_each_reads_its_own_part_of_a_larger_window(encoder: PixelEncoder, others: list[str]) -> None:
    objectives = Objectives([Actions(encoder), *(build(name, encoder) for name in others)])
    frames = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)
    data = EpisodeDataset(frames, [20], action=np.ones((20, 2), np.float32))
    for window in (objectives.window, objectives.window.join(Window(actions=5))):
        assert objectives(data.sample(4, window))[0].isfinite()


@pytest.mark.parametrize("name", ["barlow_twins", "inverse_model", "spr"])
def test_no_other_offset_is_read_in_the_place_of_ones_own(name: str, encoder: PixelEncoder) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)
    data = EpisodeDataset(frames, [20], action=np.ones((20, 2), np.float32))
    with pytest.raises(KeyError, match=r"reads .*window"):
        build(name, encoder, horizon=5)(data.sample(4, build(name, encoder, horizon=3).window))


def test_a_missing_batch_of_its_own_is_named(encoder: PixelEncoder) -> None:
    objectives = Objectives([build("curl", encoder, batch_size=7)])
    with pytest.raises(KeyError, match="CURL reads a batch of its own of 7 rows"):
        objectives(make_batch())


def test_what_is_returned_is_what_was_said(encoder: PixelEncoder) -> None:
    """Names are compared before the training, so that no loss replaces another with the same name."""
    with pytest.raises(
        ValueError, match=r"says that it returns \['loss_returnsanother'\], and returned \['loss_another'\]"
    ):
        ReturnsAnother(encoder)(make_batch())


@pytest.mark.parametrize("wrong", [SaysNothing, MinimisesNothing])
def test_an_objective_without_a_loss_is_refused_before_anything_is_drawn(wrong: Any, encoder: PixelEncoder) -> None:
    with pytest.raises(ValueError, match=wrong.__name__):
        Objectives([wrong(encoder)])


class Wrong(Objective):
    """A user-defined objective with one mistake."""

    in_keys: ClassVar = ["observation", ("next", "observation")]
    out_keys: ClassVar = ["loss_wrong"]

    def __init__(self, encoder: PixelEncoder, action_space: object = None, horizon: int = 0) -> None:
        super().__init__(encoder)
        self.horizon = horizon


def test_a_horizon_that_nothing_is_read_at_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Wrong has horizon=5, and reads nothing that many steps ahead: .*'future_obs"
    ):
        make_objective("tests.rlrep.test_objectives:Wrong", PixelEncoder((3, 20, 20), channels=4), None, horizon=5)


def test_a_weight_is_a_factor_of_the_losses_alone(encoder: PixelEncoder) -> None:
    found = []
    for weight in (None, 0.25):
        torch.manual_seed(0)
        objectives = Objectives([build("taco", encoder, weight=weight), build("inverse_model", encoder)])
        encoder.zero_grad()
        total, out = objectives(make_batch())
        total.backward()
        found.append((out, total.item()))
    (plain, sum_of_plain), (weighted, sum_of_weighted) = found
    for name, value in plain.items():
        factor = 0.25 if name in ("loss_taco", "loss_curl", "loss_reward") else 1
        torch.testing.assert_close(weighted[name], factor * value)
    taken = 0.75 * sum(float(plain[name]) for name in ("loss_taco", "loss_curl", "loss_reward"))
    assert sum_of_weighted == pytest.approx(sum_of_plain - taken)
    with pytest.raises(ValueError, match="weight must be greater than 0, got 0"):
        build("taco", encoder, weight=0)


def test_a_class_with_an_argument_weight_gets_it_itself(encoder: PixelEncoder) -> None:
    for options, weight in (({"weight": 3.0}, 3.0), ({}, 0.5)):
        made: Any = build("tests.odd_objectives:Weighed", encoder, **options)
        assert (made.weight, made.loss_weight) == (weight, 1)


def test_an_objective_without_the_argument_gets_the_augmentation_too() -> None:
    shift = RandomShift(2)
    encoder = PixelEncoder((3, 20, 20), channels=4)
    assert make_objective("tests.rlrep.test_objectives:Wrong", encoder, None, augment=shift).augment is shift


def test_arguments_in_each_others_places_are_refused() -> None:
    encoder = PixelEncoder((3, 20, 20), channels=4)
    with pytest.raises(TypeError, match=r"augment must be an image augmentation, .* got a Box: .*super\(\).__init__"):
        Objective(encoder, spaces.Box(-1, 1, (2,)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="offset is a number of steps: give another encoder as encoder="):
        Objective(encoder).encode(torch.zeros(1, 3, 20, 20, dtype=torch.uint8), encoder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (torch.ones(()), TypeError, "must return a dictionary of .* got a Tensor"),
        (
            {"loss_returns": torch.ones(5)},
            ValueError,
            r"must be a scalar tensor, the mean over the batch, got shape \(5,\)",
        ),
        ({"loss_returns": 1.0}, ValueError, "must be a scalar tensor, .* got a float"),
        ({"loss_returns": torch.ones(())}, ValueError, "no loss of Returns has a gradient"),
    ],
)
def test_what_is_no_loss_is_refused(returned: Any, error: type[Exception], message: str, encoder: PixelEncoder) -> None:
    objective = Returns(encoder)
    objective.returned = returned
    with pytest.raises(error, match=message):
        objective(make_batch())


def test_momentum_copies_that_never_move_are_reported_once(encoder: PixelEncoder) -> None:
    batch = make_batch()
    for forgets in (True, False):
        objective = Follows(encoder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2 * FORGOTTEN):
                objective(batch)
                if not forgets:
                    objective.after_step()
        reminders = [each for each in caught if "call its after_step()" in str(each.message)]
        assert len(reminders) == forgets
        assert not reminders or reminders[0].filename == __file__
