"""Schedules written as text, as in DrQ-v2's code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

NUMBER = r"\s*([-+.\deE]+)\s*"


def parse_schedule(text: str | float) -> Callable[[Any], Any]:
    """A function of the agent step: a number gives a number, a tensor (in a CUDA graph) gives a tensor.

    Args:
        text: a number, or ``linear(start, end, duration)``: from start to end in `duration` agent steps, then
            constant.

    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(rf"linear\({NUMBER},{NUMBER},{NUMBER}\)", str(text).strip())
    try:
        if match is None:
            start = end = float(text)
            duration = 1.0
        else:
            start, end, duration = map(float, match.groups())
        if not all(map(math.isfinite, (start, end, duration))):
            raise ValueError
    except ValueError:
        raise ValueError(f"a schedule is a number or 'linear(start, end, duration)', got {text!r}") from None
    if duration <= 0:
        raise ValueError(f"the duration of a schedule must be greater than 0 steps, got {text!r}")

    def schedule(step: Any) -> Any:
        progress = step / duration
        progress = progress.clamp(0, 1) if isinstance(progress, Tensor) else min(max(progress, 0.0), 1.0)
        return start + (end - start) * progress

    return schedule
