"""Bounds of the numbers that functions take, in the annotations of arguments: ``momentum: Momentum = 0.99``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, get_args


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The range that a number must be in."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None

    def fits(self, value: float) -> bool:
        """Whether a number is within the bounds; NaN and infinity never are."""
        return all(
            (
                self.above is None or value > self.above,
                self.least is None or value >= self.least,
                self.below is None or value < self.below,
                self.most is None or value <= self.most,
                math.isfinite(value),
            )
        )

    @property
    def bounds(self) -> str:
        """The bounds in words; empty without bounds."""
        words = {"greater than": self.above, "at least": self.least, "less than": self.below, "at most": self.most}
        return " and ".join(f"{word} {bound:g}" for word, bound in words.items() if bound is not None)


Count = Annotated[int, Bounds(least=0)]
Several = Annotated[int, Bounds(least=2)]
NonNegative = Annotated[float, Bounds(least=0)]
Momentum = Annotated[float, Bounds(least=0, below=1)]
Share = Annotated[float, Bounds(least=0, most=1)]
Between = Annotated[float, Bounds(above=0, below=1)]
Rate = Annotated[float, Bounds(above=0, most=1)]


def of(hint: Any, otherwise: Bounds | None = None) -> Bounds:
    """The bounds in an annotation, `NonNegative` or ``int | None``; without any, `otherwise`, by default > 0."""
    parts = [each for part in (hint, *get_args(hint)) for each in (part, *getattr(part, "__metadata__", ()))]
    declared = [each for each in parts if isinstance(each, Bounds)]
    return declared[0] if declared else otherwise or (Bounds(least=1) if int in parts else Bounds(above=0))
