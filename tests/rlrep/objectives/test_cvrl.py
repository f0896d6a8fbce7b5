"""CVRL's clips: what they read, how they are augmented, and the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from rlrep import PixelEncoder, RandomShift, temporal_contrastive
from rlrep.data import EpisodeDataset
from rlrep.objectives.cvrl import CVRL

SHAPE = (1, 20, 20)


def made(shift: int = 0, **options: int) -> CVRL:
    torch.manual_seed(0)
    encoder = PixelEncoder(SHAPE, channels=4, precision="float32")
    return CVRL(encoder, feature_dim=8, hidden_dim=16, augment=RandomShift(shift), **({"clip_length": 3} | options))


def video(frames: int = 40) -> EpisodeDataset:
    """Random pictures whose first pixel is their number."""
    pictures = np.random.default_rng(0).integers(0, 256, (frames, *SHAPE), np.uint8)
    pictures[:, 0, 0, 0] = np.arange(frames)
    return EpisodeDataset(pictures, [frames])


def test_two_clips_of_consecutive_frames_whose_distance_falls_linearly() -> None:
    cvrl = made(horizon=4)
    batch = video().sample(6000, cvrl.window)
    observation, others = cvrl.read(batch)
    numbers = torch.cat([observation[:, None], others], 1)[:, :, 0, 0, 0].long()
    first, second = numbers[:, :3], numbers[:, 3:]
    assert (first.diff(dim=1) == 1).all() and (second.diff(dim=1) == 1).all()
    distance = torch.bincount(second[:, 0] - first[:, 0], minlength=5)
    torch.testing.assert_close(distance / 6000, torch.tensor([0, 0.4, 0.3, 0.2, 0.1]), atol=0.025, rtol=0)


def test_one_augmentation_a_clip() -> None:
    """All frames of a clip are shifted equally; different clips are shifted differently."""
    torch.manual_seed(1)
    cvrl = made(shift=4)
    picture = torch.randint(0, 256, (1, 1, *SHAPE), dtype=torch.uint8)
    seen: list[torch.Tensor] = []
    cvrl.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    cvrl.clip(picture.expand(6, 3, *SHAPE))
    views = seen[0].unflatten(0, (6, 3))
    assert (views == views[:, :1]).all()
    assert len({bytes(view.contiguous().numpy()) for view in views[:, 0]}) > 1


def test_the_loss_is_infonce_of_the_clips_mean_features() -> None:
    cvrl = made(horizon=4)
    batch = video().sample(6, cvrl.window)
    observation, others = cvrl.read(batch)
    clips = [torch.cat([observation[:, None], others[:, :2]], 1), others[:, 2:]]
    features = [cvrl.projection(torch.stack([cvrl.encoder(c[:, t]) for t in range(3)]).mean(0)) for c in clips]
    expected, _ = temporal_contrastive(*(F.normalize(each, dim=1) for each in features), temperature=0.1)
    loss = cvrl(batch)["loss_clip"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in cvrl.encoder.parameters())


def test_what_it_lacks_is_named() -> None:
    batch = TensorDict({"observation": torch.zeros(2, *SHAPE, dtype=torch.uint8)}, batch_size=[2])
    with pytest.raises(KeyError, match=r"CVRL reads \('sequence', 'observation'\), which this batch lacks"):
        made()(batch)
    with pytest.raises(ValueError, match=r"an observation 1..90 linear\+2 steps away, and the longest episode"):
        video().check(made(horizon=90).window, "CVRL", "this video")
