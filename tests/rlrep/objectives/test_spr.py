"""SPR against the paper's formula, and its momentum copies."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import PixelEncoder, RandomShift
from rlrep.objectives.spr import SPR

SHAPE, BOX = (3, 20, 20), spaces.Box(-1, 1, (2,))


def made(space: spaces.Space | None = BOX, **options: float) -> SPR:
    torch.manual_seed(0)
    encoder = PixelEncoder(SHAPE, channels=4, precision="float32")
    return SPR(encoder, space, horizon=2, feature_dim=8, hidden_dim=16, augment=RandomShift(0), **options)  # type: ignore[arg-type]


def batch(seed: int = 0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (5, 3, *SHAPE), generator=generator).to(torch.uint8)
    entries = {"observation": pixels[:, 0], "sequence": {"observation": pixels[:, 1:]}}
    actions = torch.rand(5, 2, 2, generator=generator) * 2 - 1
    return TensorDict(entries | {"action_sequence": actions}, batch_size=[5])


@pytest.mark.parametrize("space", [BOX, None], ids=["actions", "video"])
def test_the_loss_is_the_mean_cosine_of_unrolled_predictions_and_targets(space: spaces.Space | None) -> None:
    spr, given = made(space), batch()
    spr.target_encoder.load_state_dict(PixelEncoder(SHAPE, channels=4, precision="float32").state_dict())
    with torch.no_grad():
        for parameter in spr.target_head.parameters():
            parameter.mul_(0.5)
            parameter[..., 0].add_(0.3)

    def target(k: int) -> Tensor:
        return spr.target_head(spr.target_encoder(given["sequence", "observation"][:, k]))

    state, cosines = spr.state_projection(spr.encoder(given["observation"])), []
    for k in range(2):
        parts = [state]
        if spr.action_encoder is not None:
            parts.append(spr.action_encoder(given["action_sequence"][:, k]))
        state = spr.transition(torch.cat(parts, 1))
        cosines.append(F.cosine_similarity(spr.predictor(spr.head(state)), target(k)).mean())
    torch.testing.assert_close(spr(given)["loss_spr"], -(cosines[0] + cosines[1]) / 2)


def test_a_gradient_reaches_the_encoder_and_never_the_copies() -> None:
    spr = made()
    spr(batch())["loss_spr"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in spr.encoder.parameters())
    copies = [*spr.target_encoder.parameters(), *spr.target_head.parameters()]
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in copies)


def test_learning_aligns_predictions_with_the_targets() -> None:
    spr, given = made(), batch()
    optimizer = torch.optim.Adam([p for p in spr.parameters() if p.requires_grad], 3e-3)
    for _ in range(40):
        loss = spr(given)["loss_spr"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        spr.after_step()
    assert loss.item() < -0.9


def test_copies_follow_by_the_momentum() -> None:
    spr = made(momentum=0.75)
    for target, online in (
        (spr.target_encoder, spr.encoder),
        (spr.target_head, nn.Sequential(spr.state_projection, spr.head)),
    ):
        before = [parameter.clone() for parameter in target.parameters()]
        with torch.no_grad():
            for parameter in online.parameters():
                parameter.add_(1)
        spr.after_step()
        for old, new in zip(before, target.parameters(), strict=True):
            torch.testing.assert_close(new, old + 0.25)
        spr.restart_copies()  # as after loading the encoder
        assert all(map(torch.equal, target.parameters(), online.parameters()))


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match=r"SPR reads 'action_sequence', which this batch lacks"):
        made()(batch().exclude("action_sequence"))
    with pytest.raises(ValueError, match="momentum must be at least 0 and less than 1"):
        made(momentum=1.0)


def test_actions_matter() -> None:
    spr, given = made(), batch()
    changed = given.clone()
    changed["action_sequence"] = -given["action_sequence"]
    assert not torch.allclose(spr(given)["loss_spr"], spr(changed)["loss_spr"])
    assert isinstance(made(None).transition, nn.Module) and made(None).window.needs == ()
