"""The masked autoencoder: what it hides, what it is scored on, and which clip a frame is from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from rlrep import info_nce
from rlrep.encoders import to_unit_scale
from rlrep.objectives.masked_autoencoder import MaskedAutoencoder, hidden_patches
from tests.rlrep.objectives.toy import SHAPE, gradients, made, train, world

SMALL = dict(clip_length=3, patch=4, feature_dim=32, hidden_dim=32, frame_channels=1)


def masked(**options: float) -> MaskedAutoencoder:
    objective = made("masked_autoencoder", **(SMALL | options))
    assert isinstance(objective, MaskedAutoencoder)
    return objective


def batch(rows: int = 6) -> TensorDict:
    return world(episodes=2).data.sample(rows, masked().window)


def clips(objective: MaskedAutoencoder, given: TensorDict) -> torch.Tensor:
    first, others = objective.read(given)
    return torch.cat([first[:, None], others], 1)


@pytest.mark.parametrize(("share", "hides"), [(0.75, 19), (0.01, 1), (1, 24)])
def test_each_clip_hides_as_many_whole_patches(share: float, hides: int) -> None:
    torch.manual_seed(0)
    hidden = hidden_patches(torch.zeros(8, 3, *SHAPE), 4, share)
    patches = hidden.unflatten(3, (5, 4)).unflatten(2, (5, 4)).float().mean((3, 5))
    assert hidden.shape == (8, *SHAPE) and set(patches.flatten().tolist()) == {0, 1}
    assert (patches.sum((1, 2, 3)) == hides).all()
    assert len(patches.unique(dim=0)) > 1


def test_patches_at_the_edge_may_be_cut() -> None:
    hidden = hidden_patches(torch.zeros(4, *SHAPE), 8, 0.5)
    assert hidden.shape == (4, *SHAPE)
    assert (hidden[:, :, 16:, :8] == hidden[:, :, 16:17, :1]).all()


def test_the_losses_are_the_error_of_hidden_pixels_and_the_contrast_of_clip_and_frame() -> None:
    objective, given = masked(), batch()
    torch.manual_seed(3)
    out = objective(given)
    torch.manual_seed(3)
    clip = clips(objective, given)
    hidden = hidden_patches(clip, 4, 0.75)
    states = [objective.state_projection(objective.encoder(clip[:, t].masked_fill(hidden, 128))) for t in range(3)]
    mean = sum(states) / 3
    errors = [
        (objective.decoder(objective.predictor(torch.cat([states[t], mean], 1))) - to_unit_scale(clip[:, t]))[hidden]
        for t in range(3)
    ]
    torch.testing.assert_close(out["loss_masked_pixels"], torch.cat(errors).square().mean())
    frame = objective.state_projection(objective.encoder(clip[:, 0]))
    told, shown = (F.normalize(each, dim=1) for each in (objective.clip_head(mean), objective.frame_head(frame)))
    expected = (info_nce(told, shown, 0.1)[0] + info_nce(shown, told, 0.1)[0]) / 2
    torch.testing.assert_close(out["loss_masked_agreement"], expected)


def test_the_encoder_never_sees_what_a_clip_hides() -> None:
    objective, given = masked(), batch()
    seen: list[torch.Tensor] = []
    objective.encoder.register_forward_pre_hook(lambda module, pixels: seen.append(pixels[0]))
    torch.manual_seed(3)
    objective(given)
    torch.manual_seed(3)
    hidden = hidden_patches(clips(objective, given), 4, 0.75)
    views = seen[0].unflatten(0, (6, 3))
    assert (views[hidden[:, None].expand_as(views)] == 128).all()
    assert (views != 128)[~hidden[:, None].expand_as(views)].all()


def test_the_agreement_trains_both_sides() -> None:
    objective = masked()
    objective(batch())["loss_masked_agreement"].backward()
    for head in (objective.clip_head, objective.frame_head, objective.state_projection):
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())
    assert objective.decoder.patches[0].weight.grad is None


def test_training_draws_hidden_pixels_and_tells_clips_apart() -> None:
    place, objective = world(), masked(hidden_share=0.2)
    before = objective(place.data.sample(32, objective.window))
    out = train(objective, lambda: place.data.sample(32, objective.window), 200)
    assert out["loss_masked_pixels"] < 0.8 * before["loss_masked_pixels"]
    assert out["loss_masked_agreement"] < before["loss_masked_agreement"] - 0.5
    assert all(gradient.any() for gradient in gradients(objective))


def test_a_clip_of_one_observation_reads_no_others() -> None:
    objective = masked(clip_length=1)
    assert objective(batch().select("observation"))["loss_masked_pixels"] > 0


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match=r"MaskedAutoencoder reads \('sequence', 'observation'\), which this batch"):
        masked()(batch().select("observation"))
    with pytest.raises(ValueError, match="patch must be less than the picture's side, got 20 for 20×20 pixels"):
        masked(patch=20)
    with pytest.raises(ValueError, match="hidden_share must be"):
        masked(hidden_share=1.5)
