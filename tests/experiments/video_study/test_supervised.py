"""The ceiling: an encoder trained on labels keeps the state, also if it can only be seen after learning."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlrep import PixelEncoder
from rlrep.experiments.video_study.domain import Samples, Settings
from rlrep.experiments.video_study.supervised import standardised, train_on_labels
from rlrep.probe import encode, probe

SHAPE = (3, 12, 12)
NOISE = {"num_shapes": 1}


class Stripes:
    """Four states: two faint stripes, each present or absent, below much brighter noise."""

    shape: tuple[int, ...] = SHAPE
    action_space: Any = None
    state_chance = 0.25

    def __init__(self, numbers: bool) -> None:
        self.numbers, self.asked = numbers, 0

    def samples(self, noise: dict[str, Any] | None, per_state: int, seed: int, held_out: bool) -> Samples:
        generator = torch.Generator().manual_seed(seed)
        number = torch.arange(4).repeat(per_state)
        bits = torch.stack([number % 2, number // 2], 1)
        frames = torch.randint(0, 200, (len(number), *SHAPE), generator=generator) * int(noise is not None)
        frames[:, :, 3:5] += 40 * bits[:, 0].view(-1, 1, 1, 1)
        frames[:, :, 8:10] += 40 * bits[:, 1].view(-1, 1, 1, 1)
        self.asked = len(number)
        state: Tensor = number if self.numbers else torch.cat([3.0 * bits + 7, torch.ones(len(bits), 1)], 1)
        return Samples(frames.to(torch.uint8), state, None)


@pytest.mark.parametrize("numbers", [True, False])
def test_labels_teach_an_encoder_what_noise_hides_from_a_random_one(numbers: bool) -> None:
    place: Any = Stripes(numbers)
    settings = Settings(frames=2_000, batch_size=64, lr=3e-3)
    scores = []
    for learns in (False, True):
        torch.manual_seed(0)
        encoder = PixelEncoder(SHAPE, 8, strides=(2, 1), out_dim=8)
        if learns:
            *_, head = train_on_labels(encoder, place, NOISE, settings, seed=0, lengths=[100, 150])
            assert head(torch.zeros(2, 8)).shape == (2, 8)
            assert place.asked == settings.frames
        parts = [place.samples(NOISE, 100, seed, True) for seed in (1, 2)]
        states = [(encode(encoder, part.observation), part.state) for part in parts]
        scores.append(probe(states[0], states[1]))
    assert scores[1] > 0.9 and scores[0] < scores[1] - 0.2


def test_what_does_not_vary_is_no_target() -> None:
    state = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert standardised(state).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
