"""Bounds of the numbers that a class takes, in the annotations of its arguments: ``momentum: Momentum = 0.99``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a number may be; the commands refuse others. Without bounds, a number of this project's classes is > 0."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None

    def fits(self, value: float) -> bool:
        """Whether a number is within the bounds; NaN never is."""
        return all(
            (
                self.above is None or value > self.above,
                self.least is None or value >= self.least,
                self.below is None or value < self.below,
                self.most is None or value <= self.most,
                value == value,
            )
        )

    @property
    def bounds(self) -> str:
        """In words; empty without any."""
        words = {"greater than": self.above, "at least": self.least, "less than": self.below, "at most": self.most}
        return " and ".join(f"{word} {bound:g}" for word, bound in words.items() if bound is not None)


Count = Annotated[int, Bounds(least=0)]
Several = Annotated[int, Bounds(least=2)]
NonNegative = Annotated[float, Bounds(least=0)]
Momentum = Annotated[float, Bounds(least=0, below=1)]
Share = Annotated[float, Bounds(least=0, most=1)]
Rate = Annotated[float, Bounds(above=0, most=1)]
