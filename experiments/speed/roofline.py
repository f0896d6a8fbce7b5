"""How close an update is to the device's limits: counts its work, and measures the device's two ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

# They only create or reshape a tensor.
MOVE_NOTHING = ("aten::empty", "aten::new_empty", "aten::_unsafe_view", "aten::_reshape_alias")
# They do not read their output tensor.
OVERWRITE = ("aten::copy_", "aten::fill_", "aten::zero_")


def count_work(call: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations, and bytes that its operations read and write, of one call.

    Operations are counted separately, as if each read its inputs from memory: with a compiler that fuses operations,
    and with caches, less memory moves. Work outside torch is not counted.
    """
    known = {}
    if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        known[torch.ops.mkldnn._convolution_pointwise] = _with_relu
    with FlopCounterMode(display=False, custom_mapping=known) as operations, TrafficCounter() as traffic:
        call()
    return operations.get_total_flops(), traffic.bytes


def _with_relu(x: list[int], weight: list[int], *_: Any, out_shape: list[int]) -> int:
    """Operations of the encoder's convolution, which torch's counter does not know, from shapes; not the ReLU's."""
    return conv_flop_count(x, weight, out_shape)


class TrafficCounter(TorchDispatchMode):
    """Adds up the bytes of the tensors that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        schema = func._schema
        view = bool(schema.returns) and all(r.alias_info and not r.alias_info.is_write for r in schema.returns)
        if not view and not schema.name.startswith(MOVE_NOTHING):
            given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
            changed = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
            overwrites = schema.name in OVERWRITE
            read = [value for name, value in given.items() if not (overwrites and name in changed)]
            self.bytes += size(read) + size([out, [given.get(name) for name in changed]])
        return out


def size(values: Iterable[Any]) -> int:
    """Bytes of the tensors in nested lists, each once; an expanded tensor counts with its storage."""
    tensors = {
        (leaf.data_ptr(), leaf.shape): min(leaf.numel() * leaf.itemsize, leaf.untyped_storage().nbytes())
        for leaf in tree_leaves(list(values))
        if isinstance(leaf, Tensor)
    }
    return sum(tensors.values())


def busiest(call: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """Where the time of one call goes: the 20 busiest kernels on CUDA, elsewhere torch's operations, the busiest
    first, with its launches and their total seconds, without what it calls."""
    cuda = device.type == "cuda"
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        call()
        synchronize(device)
    microseconds = attrgetter("self_device_time_total" if cuda else "self_cpu_time_total")
    events = sorted(found.key_averages(), key=microseconds, reverse=True)[:20]
    return [{"name": event.key, "seconds": microseconds(event) / 1e6, "launches": event.count} for event in events]


def ceilings(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Floating-point operations a second of a large matrix product in `dtype`, and bytes a second of a large copy."""
    cuda = device.type == "cuda"
    side, length = (8192, 1 << 30) if cuda else (2048, 1 << 28)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.ones(length, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    repeats = 20 if cuda else 1
    return (
        2 * side**3 / fastest(lambda: left @ right, device, repeats),
        2 * length / fastest(lambda: target.copy_(source), device, repeats),
    )


def fastest(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of one call in the best of five blocks, because a ceiling is the best possible value."""
    return min(timed(call, device, repeats) for _ in range(5))


def timed(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Mean seconds of a call in a block of `repeats`; the host waits for the device before and after the block."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
