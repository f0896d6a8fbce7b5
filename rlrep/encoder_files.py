"""Encoders on disk: ``config.json`` holds the constructor's arguments, ``model.safetensors`` the weights.

Each file has a checksum of its content, so that a changed bit is detected and each file can be replaced separately.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rlrep.arguments import as_path
from rlrep.registry import look_up

Encoder = TypeVar("Encoder", bound=nn.Module)
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1
MAX_CONFIG_BYTES = 10_000
# Encoders that come with this package: rlrep://NAME is a folder in this one.
SHIPPED, SHIPPED_FOLDER = "rlrep://", Path(__file__).parent / "pretrained"


def place_of(encoder: str | Path) -> Path:
    """The folder of an encoder, which ``rlrep://NAME`` stands for if it comes with this package.

    Raises:
        ValueError: for a name that none of those has, with the nearest ones.
    """
    if not str(encoder).startswith(SHIPPED):
        return as_path(encoder)
    shipped = {config.parent.name: config.parent for config in SHIPPED_FOLDER.glob(f"*/{CONFIG}")}
    return look_up("encoder", str(encoder).removeprefix(SHIPPED), shipped)


def write_encoder(folder: Path, options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Writes both files.

    Args:
        folder: an existing folder.
        options: the constructor's arguments, in JSON's types.
        weights: the state dictionary, float32.

    Raises:
        ValueError: for weights of another type, and for weights that are not finite.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    for name, value in tensors.items():
        if value.dtype != torch.float32:
            raise ValueError(f"encoders are saved in float32, {name} is {value.dtype}: call encoder.float() first")
        if not value.isfinite().all():
            raise ValueError(f"encoders are saved with finite weights, those of {name} are not: train it again")
    config = {"format": FORMAT, **options}
    config["sha256"] = _config_checksum(config)
    contents = {
        # One entry of metadata: safetensors writes several in any order, and equal encoders make equal files.
        WEIGHTS: save(tensors, {"sha256": _weights_checksum(tensors)}),
        CONFIG: json.dumps(config, indent=2).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def read_encoder(folder: Path, build: Callable[..., Encoder], names: Iterable[str], **changes: Any) -> Encoder:
    """Reads the encoder that `write_encoder` wrote to `folder`.

    Args:
        build: the encoder's class.
        names: of the class's arguments; the folder must hold exactly these.
        changes: arguments that replace those in the folder, without changing the weights' shapes.

    Raises:
        FileNotFoundError: without such a folder, or one of the two files.
        ValueError: if `write_encoder` did not write the content of the files.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            what = f"has no {name}" if folder.is_dir() else "is no folder"
            raise FileNotFoundError(
                f"no encoder at {folder}, which {what}: name a folder that encoder.save_pretrained(folder) wrote, "
                f"hf://OWNER/NAME for one on the Hugging Face Hub, or {SHIPPED}NAME for one that comes with rlrep"
            )
    arguments = _read_config(folder / CONFIG, set(names)) | changes
    try:
        with torch.device("meta"):  # allocates nothing
            expected = {name: tuple(value.shape) for name, value in build(**arguments).state_dict().items()}
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{folder / CONFIG} describes no encoder ({_first_line(error)}): save it again") from error
    weights = _read_weights(folder / WEIGHTS, expected)
    with torch.random.fork_rng([]):  # the weights are replaced, so the initialisation must not use up random numbers
        encoder = build(**arguments)
    encoder.load_state_dict(weights)
    return encoder


def _read_config(path: Path, names: set[str]) -> dict[str, Any]:
    """The constructor's arguments."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise ValueError(f"it is larger than {MAX_CONFIG_BYTES:,} bytes")
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} describes no encoder ({_first_line(error)}): save it again") from error
    checksum, version = config.pop("sha256", None), config.get("format")
    if version != FORMAT:
        advice = "save the encoder again" if version is None else "update rlrep"
        raise ValueError(f"{path} has format {version!r}, this version of rlrep reads format {FORMAT}: {advice}")
    if checksum != _config_checksum(config):
        raise ValueError(f"{path}: checksum mismatch, it was changed after it was saved: save the encoder again")
    del config["format"]
    if config.keys() != names:
        unknown, missing = sorted(config.keys() - names), sorted(names - config.keys())
        raise ValueError(
            f"{path} must hold {', '.join(sorted(names))}; missing: {', '.join(missing) or 'none'}; unknown: "
            f"{', '.join(map(repr, unknown)) or 'none'}: save the encoder again with this version of rlrep"
        )
    return config


def _read_weights(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The weights, if they are exactly of the `expected` shapes, finite and unchanged."""
    largest = 8 * sum(map(math.prod, expected.values())) + MAX_CONFIG_BYTES
    if path.stat().st_size > largest:  # a sparse file may state any size
        raise ValueError(
            f"{path} is larger than the encoder that {CONFIG} describes ({largest:,} bytes): save it again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
            if wrong:
                name = wrong[0]
                raise ValueError(
                    f"{path} holds other weights than {CONFIG} describes: {name} has shape {found.get(name, 'none')}, "
                    f"expected {expected.get(name, 'none')} (and {len(wrong) - 1} more): save the encoder again"
                )
            checksum = (file.metadata() or {}).get("sha256")
            weights = {name: file.get_tensor(name) for name in found}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({_first_line(error)}): save the encoder again") from error
    if checksum != _weights_checksum(weights):
        raise ValueError(f"{path}: checksum mismatch, it was changed after it was saved: save the encoder again")
    for name, value in weights.items():
        if value.dtype != torch.float32 or not value.isfinite().all():
            raise ValueError(
                f"{path}: weights must be finite float32, and {name} is "
                f"{'not finite' if value.dtype == torch.float32 else value.dtype}: train the encoder again"
            )
    return weights


def _config_checksum(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _weights_checksum(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
