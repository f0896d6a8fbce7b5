"""Numbers and paths from users: any type of number becomes Python's, and all functions refuse everything else."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlrep
from rlrep import Gap, PixelEncoder, ReplayBuffer, Window, agents
from rlrep.arguments import checked_numbers, kind_of, real, several, whole
from rlrep.data import TransitionFiles, open_dataset, open_video, write_transitions

MODULES = ["rlrep", "rlrep.data", "rlrep.pretrain", "rlrep.probe", "rlrep.replay", "rlrep.agents"]
MODULES += ["rlrep.integrations.sb3", "rlrep.integrations.torchrl", "rlrep.objectives"]

# They run in each update, with numbers that objectives have already checked.
LOSSES = (rlrep.info_nce, rlrep.temporal_contrastive)


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """What users call, with its name: functions, and constructors that a class defines itself."""
    for name in MODULES:
        module = importlib.import_module(name)
        own = [each for each, value in vars(module).items() if getattr(value, "__module__", None) == name]
        own = ["ObjectiveLoss"] if name.endswith("torchrl") else own  # the other names are internal
        for each in getattr(module, "__all__", own):
            value = getattr(module, each)
            if inspect.isclass(value) and "__init__" in vars(value) and not hasattr(value, "__dataclass_fields__"):
                yield f"{name}.{each}", vars(value)["__init__"]
            elif inspect.isfunction(value) and not each.startswith("_") and value not in LOSSES:
                yield f"{name}.{each}", value


def kind(annotation: Any) -> Any:
    """`int` or `float` for an argument that is one number, `tuple` for several integers, None for anything else."""
    check = kind_of(annotation)
    return tuple if check is several else check and {whole: int, real: float}[check.args[1]]  # type: ignore[attr-defined]


def arguments(*kinds: type) -> list[Any]:
    found = []
    for name, function in public():
        for parameter in inspect.signature(function).parameters.values():
            if kind(parameter.annotation) in kinds:
                found.append(pytest.param(function, parameter.name, id=f"{name}-{parameter.name}"))
    return found


def others(function: Callable[..., Any]) -> dict[str, Any]:
    """A value for each argument without a default."""
    return {
        each.name: {int: 3, float: 0.5, tuple: (3, 3, 3), None: None}[kind(each.annotation)]
        for each in inspect.signature(function).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }


@pytest.mark.parametrize(("function", "name"), arguments(int, tuple))
def test_what_is_no_whole_number_is_refused_by_its_name(function: Callable[..., Any], name: str) -> None:
    several = kind(inspect.signature(function).parameters[name].annotation) is tuple
    for value in (True, False, 1.5, 2.0, "3", np.float32(1), np.bool_(True), 1j):
        with pytest.raises(ValueError, match=rf"^{name} must be (a whole number|whole numbers), got"):
            function(**others(function) | {name: [value] if several else value})


@pytest.mark.parametrize(("function", "name"), arguments(int, float))
def test_what_is_out_of_bounds_is_refused_by_its_name(function: Callable[..., Any], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be (greater than 0|at least \d).*, got -1"):
        function(**others(function) | {name: -1})


@pytest.mark.parametrize(("function", "name"), arguments(float))
def test_what_is_no_finite_number_is_refused_by_its_name(function: Callable[..., Any], name: str) -> None:
    for value in (True, "0.5", 1j, None):
        if value is None and "None" in inspect.signature(function).parameters[name].annotation:
            continue
        with pytest.raises(ValueError, match=rf"^{name} must be a number, got"):
            function(**others(function) | {name: value})
    for value in (float("nan"), float("inf"), -np.inf):
        with pytest.raises(ValueError, match=rf"^{name} must be finite, got"):
            function(**others(function) | {name: value})


def test_all_entrances_are_tried() -> None:
    names = {each.id for each in arguments(int, float, tuple)}
    assert {"rlrep.PixelEncoder-channels", "rlrep.ReplayBuffer-capacity", "rlrep.data.open_dataset-n_step"} <= names
    assert {"rlrep.agents.DrQV2-hidden_dim", "rlrep.TACO-horizon", "rlrep.integrations.sb3.attach-batch_size"} <= names
    assert len(names) > 80


@pytest.mark.parametrize("made", [lambda n: Gap(n), lambda n: Gap(2, plus=n), lambda n: Window(n)])
@pytest.mark.parametrize("made_of", [True, 1.0, "1"])
def test_windows_are_of_checked_numbers(made: Callable[[Any], Any], made_of: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        made(made_of)
    with pytest.raises(ValueError, match="an offset must be a whole number"):
        Window(observations=(made_of,))  # type: ignore[arg-type]


def test_checked_numbers_of_any_type_are_pythons() -> None:
    for value in (np.int64(3), np.uint8(3), np.array(3), 3):
        assert type(whole("n", value)) is int
    encoder = PixelEncoder(np.array([9, 20, 24]), channels=np.int32(2))  # type: ignore[arg-type]
    assert all(type(n) is int for n in (*encoder.observation_shape, encoder.channels, encoder.repr_dim))
    assert Window(np.int64(3)) == Window(3)  # type: ignore[arg-type]


def test_a_float_that_is_whole_is_told_how_to_be_written() -> None:
    from gymnasium import spaces

    with pytest.raises(ValueError, match=r"^capacity must be a whole number, got 1000.0: write 1000$"):
        ReplayBuffer((9, 20, 20), spaces.Box(-1, 1, (1,)), 1e3)  # type: ignore[arg-type]


def test_other_mistakes_keep_their_own_errors() -> None:
    @checked_numbers
    def function(a: "int", b: "int | None" = None) -> "int":
        return a

    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        function(1, c=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        function()  # type: ignore[call-arg]
    assert function(np.int8(2), None) == 2  # type: ignore[arg-type]


def test_every_agent_refuses_them() -> None:
    from gymnasium import spaces

    for name in agents.AGENTS:
        with pytest.raises(ValueError, match="batch_size must be a whole number, got True"):
            agents.make_agent(name, (9, 20, 20), spaces.Box(-1, 1, (1,)), batch_size=True)


@pytest.mark.parametrize("denoise", [2, 16.0, float("nan"), -0.1])
def test_the_autoencoders_noise_is_a_share(denoise: float) -> None:
    with pytest.raises(ValueError, match=r"denoise must be (at least 0 and at most 1|finite), got"):
        rlrep.Autoencoder(PixelEncoder((3, 20, 20), channels=2), denoise=denoise)


def test_a_path_with_a_null_byte_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    np.savez(tmp_path / "a/a.npz", observation=np.zeros((5, 3, 8, 8), np.uint8))
    readers: list[Callable[..., Any]] = [open_video, open_dataset, TransitionFiles, PixelEncoder.from_pretrained]
    readers += [lambda path: open_video(tmp_path / "a", cache=path), lambda path: write_transitions([], path)]
    for read in readers:
        with pytest.raises(ValueError, match=r"can't hold a null byte, got '.*a\\x00b'"):
            read(str(tmp_path / "a\0b"))
