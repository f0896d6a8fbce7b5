"""The device of a run, and the storage of its frames."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from rlrep.experiments.run.options import ConfigError
from rlrep.registry import look_up

log = logging.getLogger(__name__)


def resolve_device(device: str) -> str:
    """The device for "auto"; checks any other name."""
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        if Path("/dev/nvidia0").exists():
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
            log.warning(
                "there is an NVIDIA GPU, but PyTorch can't use it, so this runs on the CPU: PyTorch %s is built for "
                "%s; update the GPU's driver, or install a build for an older CUDA (README, Install)",
                torch.__version__,
                built,
            )
        return "cpu"
    try:
        kind, index = torch.device(device).type, torch.device(device).index or 0
    except RuntimeError:
        kind, index = "unknown", 0
    if kind not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device={device} is not a device to train on: use auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and index >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise ConfigError(f"device={device}, but PyTorch finds {found} here: use another, or device=cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device={device}, but PyTorch finds no MPS device here: use device=cpu")
    return device


def check_storage(storage: str, device: str) -> None:
    """Refuses a storage of the replay's frames that does not exist, or does not fit the run's device."""
    if not storage.startswith("cuda"):
        look_up("replay_storage", storage, dict.fromkeys(("auto", "memory", "disk", "cuda")))
    elif not device.startswith("cuda"):
        raise ConfigError(f"replay_storage={storage} needs device=cuda, this run has {device}")
