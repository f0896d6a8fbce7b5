"""The update on an accelerator: compiled encodings, and a CUDA graph around each of its bodies."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from rlrep.agents.base import Agent, Metrics
from rlrep.contrast import is_distributed

Body = Callable[[TensorDict, int], Metrics]

# Calls before the capture: cuDNN chooses kernels, the compiler runs, and Adam creates its state.
WARM_UP = 3


def accelerate(agent: Agent) -> None:
    """Makes `agent.update` as fast as the agent's device allows.

    On CUDA the encoder compiles shift, cast and layout into one pass, and each of the agent's `bodies` becomes one
    graph. On other devices, with several ranks, or if updates differ, the bodies do not change.

    Args:
        agent: in its final state: a graph does not see a state that is loaded later.
    """
    if agent.device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = True
    if can_compile(agent.device):
        compile_encoder(agent)
    else:
        warnings.warn(
            "the encoder is not compiled: that takes Triton, a C compiler and Python's headers (install gcc and "
            "python3-dev), and a GPU of compute capability 7.0",
            stacklevel=2,
        )
    for body in agent.bodies:
        if can_capture(agent, body):
            setattr(agent, body, CudaGraph(getattr(agent, body), agent.device))


def can_capture(agent: Agent, body: str) -> bool:
    """Whether one CUDA graph can replay all calls of a body: no message to other ranks, no value that the host waits
    for."""
    objectives = all(objective.same_every_update for objective in agent.objectives)
    computes_objectives = agent.joint or body == "step_objectives"
    same = agent.same_every_update or body == "step_objectives"
    return not is_distributed() and same and (objectives or not computes_objectives)


def can_compile(device: torch.device) -> bool:
    """Whether Triton, which torch.compile uses on CUDA, is installed and finds its dependencies."""
    compiler = any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    triton = importlib.util.find_spec("triton") is not None
    return triton and compiler and headers and torch.cuda.get_device_capability(device) >= (7, 0)


def compile_encoder(agent: Agent) -> None:
    """Compiles the steps around the convolutions into one pass, for the views of the agent and its objectives."""
    agent.encoder.encode_view = torch.compile(agent.encoder.encode_view, dynamic=False)  # type: ignore[method-assign]


class CudaGraph:
    """A body of an update, captured once and replayed on new batches without work of the host.

    The first `WARM_UP` calls run normally, on the tensors that the graph reads: a batch's own may be views with other
    strides, for which the compiler would have to run again during the capture, where it can't. All batches must have
    the shapes of the first; if entries of the first batch share one tensor, they must do so in all batches. The next
    call overwrites the metrics of a call.
    """

    def __init__(self, body: Body, device: torch.device) -> None:
        self.body, self.device = body, device
        self.calls = 0
        self.stream = torch.cuda.Stream(device)
        self.step = torch.zeros((), device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.metrics: Metrics = {}
        self.inputs: dict[int, Tensor] = {}
        self.static: TensorDict | None = None

    def __call__(self, batch: TensorDict, step: int) -> Metrics:
        self.step.fill_(step)
        self.calls += 1
        static = self._copy(batch)
        if self.calls <= WARM_UP:
            return self._warm_up(static)
        if self.graph is None:
            self.graph = self._capture(static)
        self.graph.replay()
        return self.metrics

    def _copy(self, batch: TensorDict) -> TensorDict:
        """Copies a batch to the tensors that the graph reads."""
        if self.static is None:
            self.inputs = {key: tensor.clone() for key, tensor in distinct(batch).items()}
            self.static = batch.apply(lambda tensor: self.inputs[id(tensor)])
            assert self.static is not None
        else:
            for target, source in zip(self.inputs.values(), distinct(batch).values(), strict=True):
                target.copy_(source, non_blocking=True)
        return self.static

    def _warm_up(self, batch: TensorDict) -> Metrics:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            metrics = self.body(batch, self.step)  # type: ignore[arg-type]
        current.wait_stream(self.stream)
        return metrics

    def _capture(self, batch: TensorDict) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.metrics = self.body(batch, self.step)  # type: ignore[arg-type]
        return graph


def distinct(batch: TensorDict) -> dict[int, Tensor]:
    """The distinct tensors of a batch by identity, in the order of its keys."""
    leaves = batch.values(include_nested=True, leaves_only=True)
    return {id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}
