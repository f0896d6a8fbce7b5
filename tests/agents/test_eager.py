"""The eager path, the baseline for speed, computes the same as the fast path."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from rlrep import PixelEncoder, RandomShift
from rlrep.agents import Agent, make_agent
from rlrep.agents.eager import EagerEncoder, GridSampleShift
from tests.agents.test_agents import BOX, SHAPE, Fixed, build, make_batch

NAMES = ["drqv2", "taco", "sac with taco", "drqv2 with all"]


def pixels(batch_size: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch_size, *shape), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_a_shift_by_interpolation_is_a_shift_by_whole_pixels(pad: int) -> None:
    images = pixels(32, 6, 20, 24)
    torch.manual_seed(1)
    expected = RandomShift(pad)(images)
    torch.manual_seed(1)
    shifted = GridSampleShift(pad)(images)
    assert shifted.dtype == torch.float32
    torch.testing.assert_close(shifted, expected.float(), rtol=0, atol=0.01)
    assert torch.equal(expected, images) == (pad == 0)


def encoders(precision: str = "float32") -> tuple[PixelEncoder, EagerEncoder]:
    torch.manual_seed(2)
    fast, eager = PixelEncoder((6, 20, 24), 5, precision), EagerEncoder((6, 20, 24), 5)
    for name, parameter in fast.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    eager.load_state_dict(fast.state_dict())
    return fast, eager


def features_and_gradients(encoder: PixelEncoder) -> list[Tensor]:
    features = encoder(pixels(8, 6, 20, 24))
    (features * torch.linspace(-1, 1, encoder.repr_dim)).mean().backward()
    gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
    assert len(gradients) == 8 and all(gradient.abs().sum() > 0 for gradient in gradients)
    return [features.detach(), *gradients]


def test_the_plain_encoder_equals_the_fast_one_in_float32() -> None:
    fast, eager = map(features_and_gradients, encoders())
    torch.testing.assert_close(eager, fast, rtol=1e-5, atol=1e-5)


def test_the_fast_encoder_in_bfloat16_is_near_the_plain_one() -> None:
    fast, eager = map(features_and_gradients, encoders("bfloat16"))
    for i, (ours, exact) in enumerate(zip(fast, eager, strict=True)):
        assert ours.dtype == torch.float32
        assert 0 < (ours - exact).norm() < (0.2 if i else 0.03) * exact.norm()


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("joint", [False, True], ids=["separate", "joint"])
@pytest.mark.parametrize("name", NAMES)
def test_an_update_is_that_of_the_fast_path(name: str, joint: bool, shift: int) -> None:
    both: list[dict[str, Tensor]] = []
    for path in ("fast", "eager"):
        agent = build(name, path=path, joint=joint, shift=shift)
        torch.manual_seed(3)
        for step in range(2):
            metrics = agent.update(Fixed(make_batch(seed=step)), step)
        both.append(metrics)
    fast, eager = both
    assert fast.keys() == eager.keys()
    for key, value in fast.items():
        # Interpolation is off by up to 0.004 of 255.
        torch.testing.assert_close(
            eager[key], value, rtol=1e-4 if shift == 0 else 1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )


def kernels(agent: Agent) -> set[tuple[bool | None, bool | None]]:
    """Whether Adam is fused, and whether it steps all tensors at once, of all optimizers; None is torch's choice."""
    groups = [group for optimizer in agent.optimizers.values() for group in optimizer.param_groups]
    return {(group["fused"], group["foreach"]) for group in groups}


@pytest.mark.parametrize("name", ["taco", "sac"])
def test_every_acceleration_is_off(name: str) -> None:
    eager, fast = build(name, path="eager"), build(name)
    assert kernels(eager) == {(False, False)} and kernels(fast) == {(True, None)}
    assert eager.optimizers.keys() == fast.optimizers.keys()
    for key, optimizer in fast.optimizers.items():
        (ours,), (theirs,) = eager.optimizers[key].param_groups, optimizer.param_groups
        assert (ours["lr"], ours["betas"], ours["eps"]) == (theirs["lr"], theirs["betas"], theirs["eps"])
        assert [p.shape for p in ours["params"]] == [p.shape for p in theirs["params"]]
    assert type(eager.encoder) is EagerEncoder and type(eager.augment) is GridSampleShift
    assert all(objective.augment is eager.augment for objective in eager.objectives)


@pytest.mark.parametrize("path", ["fast", "eager"])
def test_mrqs_weights_decay_on_either_path(path: str) -> None:
    sizes = {"state_dim": 8, "state_action_dim": 8, "latent_action_dim": 4, "hidden_dim": 8}
    agent = make_agent(
        "mrq",
        SHAPE,
        BOX,
        path=path,
        hidden_dim=8,
        lr=0.1,
        value_lr=0.1,
        weight_decay=0.25,
        encoder_options={"channels": 4},
        objective_options={"latent_model": sizes},
    )
    for optimizer in agent.optimizers.values():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for old, new in zip(before, parameters, strict=True):
            torch.testing.assert_close(new.detach(), old * (1 - 0.1 * 0.25))


@pytest.mark.parametrize(("saved_by", "read_by"), [("eager", "fast"), ("fast", "eager")])
def test_either_path_goes_on_from_what_the_other_saved(saved_by: str, read_by: str) -> None:
    first, second = build("taco", path=saved_by, shift=0), build("taco", path=read_by, shift=0)
    for step in range(2):
        first.update(Fixed(make_batch(seed=step)), step)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    own = kernels(second)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert kernels(second) == own  # the path's own, not the saved agent's

    both: list[Any] = []
    for agent in (first, second):
        torch.manual_seed(4)
        both.append(agent.update(Fixed(make_batch(seed=5)), 5))
    torch.testing.assert_close(both[1], both[0], rtol=1e-4, atol=1e-5)
    moments = [agent.optimizers["critic"].state_dict()["state"][0] for agent in (first, second)]
    assert moments[0]["step"] == moments[1]["step"] == 3
    torch.testing.assert_close(moments[1]["exp_avg"], moments[0]["exp_avg"], rtol=1e-3, atol=1e-6)


def test_a_checkpoint_of_a_gpu_resumes_on_the_cpu() -> None:
    """Adam's saved state is marked as capturable by CUDA graphs, which is not allowed on the CPU."""
    agent = build("taco")
    agent.update(Fixed(make_batch()), 0)
    state = agent.state_dict()
    for optimizer in state["_extra_state"].values():
        for group in optimizer["param_groups"]:
            group["capturable"] = True
    resumed = build("taco", path="eager")
    resumed.load_state_dict(state)
    resumed.update(Fixed(make_batch()), 1)
    assert not any(o.param_groups[0]["capturable"] for o in resumed.optimizers.values())


def test_an_unknown_path_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown path 'eagr': did you mean eager"):
        build("drqv2", path="eagr")
