"""Compiled encodings, and the update as one CUDA graph: the same updates, only faster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

import rlrep.encoders
from rlrep import Autoencoder, Gap, Window
from rlrep.agents import Agent, accelerate
from rlrep.agents.graph import WARM_UP, CudaGraph, can_capture, compile_encoder, distinct
from rlrep.replay import ReplayBuffer
from tests.agents.test_agents import BOX, SHAPE, SMALL, Fixed, build, make_batch

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")

Metrics = dict[str, Tensor]


def replay(horizon: int, device: str = "cpu", frame_stack: int = 1) -> ReplayBuffer:
    """A replay with a few episodes of random pictures."""
    storage = "memory" if device == "cpu" else device
    made = ReplayBuffer(SHAPE, BOX, 200, frame_stack=frame_stack, n_step=3, horizon=horizon, storage=storage)
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (61 + frame_stack, SHAPE[0] // frame_stack, *SHAPE[1:]), dtype=np.uint8)
    pictures = [np.concatenate(frames[i : i + frame_stack])[None] for i in range(61)]
    for i in range(60):
        made.add(
            observation=pictures[i],
            action=generator.uniform(-1, 1, (1, 2)),
            reward=generator.uniform(0, 1, 1),
            next_observation=pictures[i + 1],
            terminated=np.array([False]),
            truncated=np.array([i % 20 == 19]),
        )
    return made


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    # By a function of our own: in torch.zeros_like's place, torch would take it for one that can't be overridden.
    monkeypatch.setattr(torch, "randn_like", lambda tensor: torch.zeros_like(tensor))


@pytest.mark.parametrize("name", ["drqv2", "taco", "sac with taco"])
def test_a_step_that_is_a_tensor_changes_nothing(name: str) -> None:
    options = {} if name.startswith("sac") else {"stddev_schedule": "linear(1.0,0.1,100)"}
    both = []
    for step in (40, torch.tensor(40.0)):
        agent = build(name, **options)
        torch.manual_seed(1)
        both.append(agent.update(Fixed(make_batch()), step))  # type: ignore[arg-type]
    torch.testing.assert_close(both[1], both[0])


def test_an_objective_that_waits_for_a_value_is_not_captured() -> None:
    agent = build("taco")
    assert can_capture(agent, "learn") and can_capture(agent, "step_objectives")
    agent.objectives[0].same_every_update = False
    assert can_capture(agent, "learn") and not can_capture(agent, "step_objectives")
    agent = build("taco", joint=True)
    agent.objectives[0].same_every_update = False
    assert not can_capture(agent, "learn")


def test_an_update_that_differs_leaves_the_objectives_their_graph() -> None:
    agent = build("td3_bc", objectives=["curl"])  # its actor learns in every second update
    assert not can_capture(agent, "learn") and can_capture(agent, "step_objectives")


def test_codes_that_die_are_not_captured() -> None:
    pytest.importorskip("vector_quantize_pytorch")
    encoder = build("taco").encoder
    assert Autoencoder(encoder, frame_channels=1).same_every_update
    assert not Autoencoder(encoder, frame_channels=1, codes=4).same_every_update


def test_the_cpu_has_no_update_of_its_own() -> None:
    agent = build("taco")
    accelerate(agent)
    assert not {"learn", "step_objectives"} & vars(agent).keys()
    assert "encode_view" not in vars(agent.encoder)


@pytest.mark.parametrize(("horizon", "shared"), [(3, True), (2, False)])
def test_what_the_replay_holds_once_is_one_input(horizon: int, shared: bool) -> None:
    sampler = replay(horizon)
    batch = sampler.sample(4)
    inputs = {key: tensor.clone() for key, tensor in distinct(batch).items()}
    leaves = len(list(batch.keys(include_nested=True, leaves_only=True)))
    assert len(inputs) == leaves - shared
    static = batch.apply(lambda tensor: inputs[id(tensor)])
    assert (static["future_observation"] is static["next", "observation"]) == shared
    # The next batch has different tensors, in the same order.
    for first, second in zip(inputs.values(), distinct(sampler.sample(4)).values(), strict=True):
        assert (first.shape, first.dtype) == (second.shape, second.dtype) and first is not second


@pytest.fixture
def dynamo() -> Iterator[Any]:
    """The compiler's counters, from zero; everything compiled is discarded afterwards."""
    import torch._dynamo.utils
    import torch._inductor.config

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._inductor.config.patch(fallback_random=True):  # the same shifts as without a compiler
        yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def two_updates(name: str, compiled: bool, **options: Any) -> tuple[list[Metrics], Agent]:
    agent = build(name, **options)
    if compiled:
        compile_encoder(agent)
    torch.manual_seed(1)
    return [agent.update(Fixed(make_batch(seed=step)), step) for step in range(2)], agent


# The compiler itself takes half a minute; tracing our code, which comes before, is quick.
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, needs_compiler])])
@pytest.mark.parametrize("joint", [False, True], ids=["separate", "joint"])
def test_compiled_encodings_make_the_same_updates(
    backend: str, joint: bool, dynamo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    expected, plain = two_updates("taco", compiled=False, joint=joint)
    assert not dynamo["stats"]
    metrics, agent = two_updates("taco", compiled=True, joint=joint)
    # With and without a gradient, each in one piece.
    assert dynamo["stats"]["unique_graphs"] == 2 and not dynamo["graph_break"]
    torch.testing.assert_close(metrics, expected, rtol=1e-4, atol=1e-5)
    for (key, ours), theirs in zip(agent.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
    assert agent.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, needs_compiler])])
def test_compiled_features_and_gradients_are_the_plain_ones(
    backend: str, dynamo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    both = []
    for compiled in (False, True):
        agent = build("taco", shift=0)
        if compiled:
            compile_encoder(agent)
        features = agent.view(make_batch()["observation"])
        features.square().mean().backward()
        both.append([features, *(parameter.grad for parameter in agent.encoder.parameters())])
    assert dynamo["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(both[1], both[0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@needs_compiler
def test_a_compiled_shift_is_a_shift(dynamo: Any) -> None:
    """Each image is shifted by whole pixels with its edges repeated; shifts differ between images and calls."""
    agent = build("drqv2", shift=2)
    encode = agent.encoder.encode_view
    agent.encoder.forward = lambda view: view.clone()  # type: ignore[method-assign]
    assert agent.encoder.encode_view == encode
    compile_encoder(agent)
    images = make_batch(16)["observation"]
    height, width = SHAPE[1:]
    padded = torch.nn.functional.pad(images.float(), [2] * 4, "replicate").to(torch.uint8)
    found = []
    for _ in range(2):
        views = agent.view(images)
        places = [
            [
                (x, y)
                for y in range(5)
                for x in range(5)
                if torch.equal(padded[i, :, y : y + height, x : x + width], views[i])
            ]
            for i in range(16)
        ]
        assert all(len(place) == 1 for place in places)
        found.append(places)
    assert found[0] != found[1] and len({place[0] for place in found[0]}) > 1


class Tape:
    """Replaces torch.cuda on machines without it: a graph keeps the captured body for its replays."""

    def __init__(self, agent: Agent, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plain_update = getattr(agent, body)
        self.capturing = False
        self.captured: tuple[TensorDict, Any] | None = None
        self.metrics: Metrics = {}
        self.wait_stream = lambda stream: None
        for name, value in {
            "Stream": lambda device: self,
            "current_stream": lambda device: self,
            "stream": lambda stream: nullcontext(),
            "CUDAGraph": lambda: self,
            "graph": self.capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        setattr(agent, body, CudaGraph(self.update, agent.device))

    @contextmanager
    def capture(self, graph: Any, stream: Any) -> Iterator[None]:
        assert graph is self and stream is self
        self.capturing = True
        yield
        self.capturing = False

    def update(self, batch: TensorDict, step: Any) -> Metrics:
        if self.capturing:
            assert self.captured is None, "captured twice"
            self.captured = (batch, step)
            return self.metrics
        assert self.captured is None, "an update outside the graph"
        return self.plain_update(batch, step)

    def replay(self) -> None:
        assert self.captured is not None
        self.metrics.update(self.plain_update(*self.captured))


def test_batches_of_a_window_have_the_same_inputs_each_time() -> None:
    """Also if a real end shortens a window."""
    sampler, window = replay(3), Window(3, (1, 2, 3, Gap(3)), actions=3)
    for first, second in zip(*(distinct(sampler.sample(4, window)).values() for _ in range(2)), strict=True):
        assert (first.shape, first.dtype) == (second.shape, second.dtype)
    batch = sampler.sample(4, Window.ahead(3, 3))
    assert batch["gap"] is batch["steps", "3"] and batch["future_observation"] is batch["at", "3"]


def test_all_calls_read_tensors_of_the_same_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks that share frames are views: code compiled in the warm-up must fit the capture."""
    agent, batches = build("drqv2", batch_size=4, n_step=1), replay(3, frame_stack=3)
    learn, strides = agent.learn, []

    def noting(batch: TensorDict, step: Any) -> Metrics:
        strides.append([batch[name].stride() for name in ("observation", ("next", "observation"))])
        return learn(batch, step)

    monkeypatch.setattr(agent, "learn", noting)
    Tape(agent, "learn", monkeypatch)
    for step in range(WARM_UP + 2):
        agent.update(batches, step)
    assert not batches.sample(4, agent.window)["observation"].is_contiguous()
    assert len(strides) == WARM_UP + 2 and all(each == strides[0] for each in strides)


@pytest.mark.parametrize("body", ["learn", "step_objectives"])
@pytest.mark.parametrize("own", [None, 6], ids=["one batch", "a batch of its own"])
def test_a_graph_of_one_body_beside_the_other(body: str, own: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With momentum copies, which are updated in the captured body."""
    sizes = {"taco": {"horizon": 2, "batch_size": own} | SMALL, "spr": {"momentum": 0.5}}
    options: dict[str, Any] = {"objectives": ["taco", "spr"], "objective_options": sizes, "batch_size": 4}
    plain, agent = (build("drqv2", stddev_schedule="0.2", **options) for _ in range(2))
    tape = Tape(agent, body, monkeypatch)
    batches, same_batches = replay(3), replay(3)
    for step in range(WARM_UP + 3):
        torch.manual_seed(step)
        expected = plain.update(batches, step)
        torch.manual_seed(step)
        metrics = agent.update(same_batches, step)
        torch.testing.assert_close(dict(metrics), dict(expected), rtol=1e-5, atol=1e-6)
        assert (tape.captured is not None) == (step >= WARM_UP)
    for (key, ours), theirs in zip(agent.state_dict().items(), plain.state_dict().values(), strict=True):
        if isinstance(ours, Tensor):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("horizon", [3, 2], ids=["next is the future", "next is not the future"])
def test_a_graph_makes_one_update_a_call_of_the_batch_and_step_it_is_given(
    horizon: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"joint": True, "stddev_schedule": "linear(1.0,0.1,5)"}
    options |= {"objectives": ["curl"]} if horizon == 2 else {}
    plain, agent = (build("taco" if horizon == 3 else "drqv2", **options) for _ in range(2))
    tape = Tape(agent, "learn", monkeypatch)
    update = agent.learn
    batches, same_batches = replay(horizon), replay(horizon)
    for step in range(WARM_UP + 4):
        torch.manual_seed(step)
        expected = plain.update(Fixed(batches.sample(4)), step)
        torch.manual_seed(step)
        metrics = update(same_batches.sample(4), step)
        assert metrics.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(metrics[key], value, rtol=1e-6, atol=1e-7)
        assert (tape.captured is not None) == (step >= WARM_UP)
        times = {int(state["step"]) for optimizer in agent.optimizers.values() for state in optimizer.state.values()}
        assert times == {step + 1}
    assert tape.captured is not None
    static = tape.captured[0]
    assert (static["future_observation"] is static["next", "observation"]) == (horizon == 3)


CUDA_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "drqv2": ("drqv2", {}),
    "taco": ("taco", {}),
    "taco, joint": ("taco", {"joint": True}),
    "drqv2 with all": ("drqv2 with all", {}),
    "sac with taco": ("sac with taco", {}),
    "momentum": ("drqv2", {"objectives": ["spr"]}),
    "momentum, joint": ("drqv2", {"objectives": ["spr", "barlow_twins"], "joint": True}),
    "a batch of its own": ("taco", {"objective_options": {"taco": {"batch_size": 8} | SMALL}}),
}


def capture(agent: Agent) -> None:
    """Captures the graphs only, without compiled encodings."""
    for body in agent.bodies:
        setattr(agent, body, CudaGraph(getattr(agent, body), agent.device))


def build_on_cuda(case: str, **options: Any) -> Agent:
    name, usual = CUDA_CASES[case]
    return build(name, device="cuda", **({"batch_size": 4} | usual | options))


@pytest.mark.cuda
@pytest.mark.parametrize("accelerated", [capture, accelerate])
@pytest.mark.parametrize("case", CUDA_CASES)
def test_a_cuda_graph_makes_the_same_updates(
    case: str, accelerated: Any, no_noise: None, dynamo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # accelerate turns it on
    plain, agent = build_on_cuda(case, shift=0), build_on_cuda(case, shift=0)
    accelerated(agent)
    assert isinstance(agent.learn, CudaGraph)
    observation = make_batch()["observation"].numpy()
    batches, same_batches = replay(3, "cuda"), replay(3, "cuda")
    history = []
    for step in range(10):
        expected, metrics = plain.update(batches, step), agent.update(same_batches, step)
        assert metrics.keys() == expected.keys()
        for key in set(metrics) - {"taco_accuracy", "curl_accuracy"}:  # these are not continuous
            torch.testing.assert_close(metrics[key], expected[key], rtol=2e-3, atol=1e-4)
        history.append(metrics["critic_loss"].item())
        times = {int(state["step"]) for optimizer in agent.optimizers.values() for state in optimizer.state.values()}
        assert times == {step + 1}  # in warm-up, capture and replay
        actions = [built.act(observation, 10**6, eval_mode=True) for built in (agent, plain)]
        np.testing.assert_allclose(*actions, rtol=0, atol=1e-2)
    assert len(set(history)) == 10
    assert agent.learn.graph is not None and agent.learn.calls == 10
    for (key, ours), theirs in zip(agent.named_parameters(), plain.parameters(), strict=True):
        # For gradients near 0, the sign of Adam's steps may differ: 10 steps of 1e-4 each.
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=2e-3, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.cuda
def test_stacks_that_share_frames_are_captured_with_compiled_encodings(dynamo: Any) -> None:
    agent = build_on_cuda("drqv2", n_step=1)
    accelerate(agent)
    batches = replay(3, "cuda", frame_stack=3)
    losses = [agent.update(batches, step)["critic_loss"].item() for step in range(WARM_UP + 3)]
    assert isinstance(agent.learn, CudaGraph) and agent.learn.graph is not None
    assert len(set(losses)) == WARM_UP + 3 and np.isfinite(losses).all()


@contextmanager
def no_synchronisation() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.parametrize("case", CUDA_CASES)
def test_the_host_never_waits_for_the_device(case: str) -> None:
    """From the replay on the device to the metrics, after the graph was captured."""
    agent = build_on_cuda(case)
    capture(agent)
    batches = replay(3, "cuda")
    for step in range(WARM_UP + 1):
        agent.update(batches, step)
    kept = []
    with no_synchronisation():
        for step in range(5):
            metrics = agent.update(batches, step)
            kept.append(torch.stack(list(metrics.values())))
    assert torch.stack(kept).isfinite().all()
    assert len({values[list(metrics).index("critic_loss")].item() for values in kept}) == 5


@pytest.mark.cuda
def test_a_wait_for_the_device_would_be_noticed() -> None:
    with no_synchronisation(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones((), device="cuda").item()


@pytest.mark.cuda
def test_a_cuda_graph_keeps_what_is_shared() -> None:
    agent = build_on_cuda("taco, joint")
    capture(agent)
    batches = replay(3, "cuda")
    for step in range(WARM_UP):
        agent.update(batches, step)
    passes: list[bool] = []
    agent.encoder.register_forward_hook(lambda module, given, features: passes.append(features.requires_grad))
    batch = batches.sample(4, agent.window)
    agent.update(Fixed(batch), WARM_UP)  # the capture
    assert passes == [True, False, False]  # observation, next observation and future in one, second view
    assert isinstance(agent.learn, CudaGraph)
    # The future observation is also the next one and at["3"]; the gap is also steps["3"].
    assert len(agent.learn.inputs) == len(distinct(batch)) == len(list(batch.keys(True, True))) - 3
    agent.update(batches, WARM_UP + 1)
    assert len(passes) == 3  # replays run no Python


@pytest.mark.cuda
@pytest.mark.parametrize("accelerated", [capture, accelerate])
@pytest.mark.parametrize("shift", [0, 4])
def test_each_replay_of_a_graph_draws_its_own_shifts(
    shift: int, accelerated: Any, no_noise: None, dynamo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one batch, and steps too small to matter: only the shifts differ."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # accelerate turns it on
    agent = build_on_cuda("drqv2", shift=shift, lr=1e-12, critic_target_tau=1e-12)
    accelerated(agent)
    batch = make_batch().to("cuda")
    losses = [agent.update(Fixed(batch), 0)["critic_loss"].item() for _ in range(WARM_UP + 6)][WARM_UP:]
    differences = [abs(a - b) for i, a in enumerate(losses) for b in losses[:i]]
    assert max(differences) < 1e-5 if shift == 0 else min(differences) > 1e-6


@pytest.mark.cuda
def test_convolutions_and_feature_maps_are_bfloat16_and_heads_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = build_on_cuda("taco", precision="bfloat16")
    convolved: set[torch.dtype] = set()
    maps: set[torch.dtype] = set()
    heads: set[torch.dtype] = set()
    plain_convolution = rlrep.encoders.F.conv2d

    def convolution(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        convolved.update({x.dtype, weight.dtype})
        return plain_convolution(x, weight, *rest)

    monkeypatch.setattr(rlrep.encoders.F, "conv2d", convolution)

    def look(module: Any, given: tuple[Tensor, ...], out: Any) -> None:
        for tensor in (*given, *(out if isinstance(out, tuple) else (out,))):
            (maps if tensor.ndim == 4 else heads).add(tensor.dtype)

    taco = agent.objectives[0]
    for module in (agent.actor, agent.critic, agent.critic_target, taco.state_projection, taco.state_action_projection):
        module.register_forward_hook(look)
    capture(agent)
    for step in range(WARM_UP + 3):
        metrics = agent.update(Fixed(make_batch(seed=step).to("cuda")), step)
    assert convolved == maps == {torch.bfloat16} and heads == {torch.float32}
    assert {value.dtype for value in metrics.values()} == {torch.float32}
    assert {parameter.dtype for parameter in agent.parameters()} == {torch.float32}
    assert all(value.isfinite() for value in metrics.values())
