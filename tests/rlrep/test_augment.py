from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from rlrep import RandomShift
from rlrep.augment import _shift_by_index, shift


def by_slices(images: Tensor, offset: Tensor, pad: int) -> Tensor:
    assert images.device.type == "cpu"
    return shift(images, offset, pad)


def by_index(images: Tensor, offset: Tensor, pad: int) -> Tensor:
    """The way that runs on accelerators."""
    return _shift_by_index(images, offset - pad)


def padded_and_cropped(images: np.ndarray, offset: np.ndarray, pad: int) -> np.ndarray:
    """The rule of tests/golden/README.md."""
    height, width = images.shape[-2:]
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="edge")
    crops = [image[:, y : y + height, x : x + width] for image, (x, y) in zip(padded, offset, strict=True)]
    return np.stack(crops)


def images(batch_size: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.randint(0, 256, (batch_size, 3, 7, 9), generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("implementation", [by_slices, by_index])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("pad", [1, 2, 4, 6])
def test_every_shift_is_a_crop_of_the_padded_image(
    implementation: Callable[[Tensor, Tensor, int], Tensor], dtype: torch.dtype, pad: int
) -> None:
    offset = torch.tensor(list(product(range(2 * pad + 1), repeat=2)))
    observation = images(len(offset), dtype)
    before = observation.clone()
    out = implementation(observation, offset, pad)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out.numpy(), padded_and_cropped(before.numpy(), offset.numpy(), pad))
    assert torch.equal(observation, before)


def test_middle_offset_leaves_images_as_they_are() -> None:
    assert torch.equal(shift(images(2), torch.full((2, 2), 4), 4), images(2))


def test_no_padding_is_the_identity() -> None:
    observation = images(2)
    assert RandomShift(0)(observation) is observation


def test_frames_of_a_stack_move_together_and_samples_apart() -> None:
    torch.manual_seed(0)
    frame = images(1)[:, :1].expand(64, 9, 7, 9)
    out = RandomShift(2)(frame)
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert len({image.numpy().tobytes() for image in out}) > 10


def test_all_offsets_are_drawn_equally_often() -> None:
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    observation = (10 * rows + columns).to(torch.uint8).expand(5000, 1, 9, 9)
    counts = Counter(RandomShift(2)(observation)[:, 0, 4, 4].tolist())  # the middle pixel shows where a picture moved
    assert set(counts) == {10 * y + x for y in range(2, 7) for x in range(2, 7)}
    statistic = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert statistic < 24 + 5 * 48**0.5


def test_each_call_draws_anew_from_the_global_generator() -> None:
    observation, augment = images(32), RandomShift(4)
    torch.manual_seed(3)
    first, second = augment(observation), augment(observation)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(augment(observation), first)


def test_impossible_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0, got -1"):
        RandomShift(-1)
    with pytest.raises(ValueError, match="less than the image's side, got 7"):
        RandomShift(7)(images(1))
