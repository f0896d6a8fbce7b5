import pytest
import torch

from rlrep.agents.schedule import parse_schedule


def test_linear_schedule_reaches_its_end_and_stays() -> None:
    schedule = parse_schedule("linear(1.0, 0.1,1e2)")
    assert [schedule(step) for step in (0, 50, 100, 10**6)] == pytest.approx([1, 0.55, 0.1, 0.1])


@pytest.mark.parametrize("text", ["0.2", 0.2, " 2e-1 "])
def test_constant_schedule(text: str | float) -> None:
    assert parse_schedule(text)(0) == parse_schedule(text)(10**6) == 0.2


@pytest.mark.parametrize("text", ["linear(1.0,0.1,100)", "linear(0.2, 0.8, 5)", "0.3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_schedule_of_tensors_is_that_of_numbers(text: str, dtype: torch.dtype) -> None:
    """As in a CUDA graph, where a number would be a constant."""
    schedule = parse_schedule(text)
    steps = [0, 1, 3, 50, 99, 100, 10**6]
    values = [schedule(torch.tensor(step, dtype=dtype)) for step in steps]
    assert all(isinstance(value, torch.Tensor) and value.shape == () for value in values)
    assert [value.item() for value in values] == pytest.approx([schedule(step) for step in steps])


@pytest.mark.parametrize(
    "text", ["", "fast", "linear(1,0.1)", "linear(1,0.1,5", "linear(1,e,5)", "step(1,2,3)", "nan", "linear(inf,0,1)"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a schedule is a number or 'linear\(start, end, duration\)', got '"):
        parse_schedule(text)


@pytest.mark.parametrize("duration", [0, -5])
def test_a_schedule_needs_time(duration: int) -> None:
    with pytest.raises(ValueError, match="greater than 0 steps"):
        parse_schedule(f"linear(1,0.1,{duration})")
