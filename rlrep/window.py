"""What a learner reads around step t."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from rlrep.arguments import whole

__all__ = ["ANY_N_STEP", "Gap", "Offset", "Window"]

ANY_N_STEP: Final = -1
"""An `n_step` for learners that use their owner's n."""


def check_whole(made: Any, *names: str) -> None:
    """Converts values of a frozen dataclass to Python's whole numbers; refuses other values."""
    for name in names:
        object.__setattr__(made, name, whole(name, getattr(made, name)))


@dataclass(frozen=True)
class Gap:
    """A random number of steps, k + `plus` with k in 1..`most`; each row of a batch draws its own k.

    All gaps of one batch with the same `most` and `linear` share one k per row, so that ``Gap(8)`` and
    ``Gap(8, plus=1)`` are two consecutive observations.

    Args:
        most: K ≥ 1.
        plus: steps added to k, ≥ 0.
        linear: draw k with a probability that falls linearly, P(k) ∝ K + 1 - k, rather than uniformly.

    Raises:
        ValueError: for numbers out of range.
    """

    most: int
    plus: int = 0
    linear: bool = False

    def __post_init__(self) -> None:
        check_whole(self, "most", "plus")
        if self.most < 1:
            raise ValueError(f"a gap must be at least 1 step, got {self.most}")
        if self.plus < 0:
            raise ValueError(f"plus must be at least 0, got {self.plus}")

    def __str__(self) -> str:
        return f"1..{self.most}{' linear' * self.linear}{f'+{self.plus}' * bool(self.plus)}"

    @property
    def drawn(self) -> Gap:
        """The gap without `plus`; equal results share one k."""
        return Gap(self.most, linear=self.linear)

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """(size,) int64 in 1..`most`."""
        if not self.linear:
            return rng.integers(1, self.most + 1, size)
        weights = np.arange(self.most, 0, -1)
        return rng.choice(self.most, size, p=weights / weights.sum()) + 1


Offset = int | Gap
"""Steps from t to another observation."""


def furthest(offset: Offset) -> int:
    """The largest number of steps of an offset."""
    return offset.most + offset.plus if isinstance(offset, Gap) else offset


@dataclass(frozen=True)
class Window:
    """What a learner reads around step t of an episode, as offsets in steps; any data source serves it.

    Every window contains the observation at t. Batches have these entries:

    - `observation`, `index`, and `action` where the data have actions;
    - with `n_step`: `discount` and the entries of `next`;
    - with `actions` = K: `action_sequence`, the actions at t, ..., t + K - 1;
    - with one entry in `observations`: `future_observation` and `gap`, the steps to it;
    - with `rewards` = T: (`sequence`, `reward`), (`sequence`, `terminated`) and (`sequence`, `valid`), (B, T, 1) each;
    - with `names`: (`name`, …), (B,) int64, a name for each observation, by its offset or "0": equal names mean equal
      observations of one store, so that a cache can use them;
    - with `episode`: `episode`, (B,) int64, the number of each row's episode.

    Args:
        n_step: n of the transition (t, t + n) with its summed reward; 0 for no transition, `ANY_N_STEP` for the owner's
            n.
        observations: further observations, each some steps after t (before it, if negative) or a `Gap`.
        actions: how many actions from t on.
        rewards: how many single rewards from t on.
        names: whether the observations have names.
        episode: whether to say which episode each row is from.

    Raises:
        ValueError: for counts below 0, and an offset that is 0 or named twice.
    """

    n_step: int = 0
    observations: tuple[Offset, ...] = ()
    actions: int = 0
    rewards: int = 0
    names: bool = False
    episode: bool = False

    def __post_init__(self) -> None:
        check_whole(self, "n_step", "actions", "rewards")
        offsets = (each if isinstance(each, Gap) else whole("an offset", each) for each in self.observations)
        object.__setattr__(self, "observations", tuple(offsets))
        if self.n_step < ANY_N_STEP or self.actions < 0 or self.rewards < 0:
            raise ValueError(f"n_step, actions and rewards of a window must be at least 0, got {self}")
        if 0 in self.observations:
            raise ValueError("the observation at offset 0 belongs to every window: leave it out of `observations`")
        if len(set(self.observations)) < len(self.observations):
            raise ValueError(f"an offset is named twice in {self}")

    @classmethod
    def ahead(cls, n_step: int, horizon: int) -> Window:
        """The common case: a transition of `n_step` steps and, with K = `horizon` ≥ 1, K actions and their result."""
        return cls(n_step, (horizon,) if horizon else (), actions=horizon)

    @property
    def span(self) -> int:
        """The number of steps that the window reaches after t."""
        return max(self.n_step, self.actions, self.rewards, *map(furthest, self.observations), 0)

    @property
    def least_span(self) -> int:
        """The number of steps that it reaches after t if every gap is shortest."""
        steps = (1 + offset.plus if isinstance(offset, Gap) else offset for offset in self.observations)
        return max(self.n_step, self.actions, self.rewards, *steps, 0)

    @property
    def lookback(self) -> int:
        """The number of steps that it reaches before t, without stacked frames."""
        return max([0, *(-offset for offset in self.observations if isinstance(offset, int))])

    @property
    def gaps(self) -> list[Gap]:
        """The gaps that a batch draws, each once."""
        return list(dict.fromkeys(offset.drawn for offset in self.observations if isinstance(offset, Gap)))

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that data must have besides frames: "action", "reward"."""
        return ("action",) * bool(self.actions) + ("reward",) * bool(self.n_step or self.rewards)

    def join(self, *others: Window) -> Window:
        """The smallest window that holds this one and the others.

        Raises:
            ValueError: for two different `n_step`.
        """
        windows = (self, *others)
        steps = sorted({window.n_step for window in windows if window.n_step > 0})
        if len(steps) > 1:
            raise ValueError(f"one batch has one n_step, and its learners read {' and '.join(map(str, steps))}")
        return Window(
            steps[0] if steps else min(window.n_step for window in windows),
            tuple(dict.fromkeys(offset for window in windows for offset in window.observations)),
            max(window.actions for window in windows),
            max(window.rewards for window in windows),
            any(window.names for window in windows),
            any(window.episode for window in windows),
        )

    def with_n_step(self, n_step: int) -> Window:
        """This window, with `n_step` in place of `ANY_N_STEP`."""
        return replace(self, n_step=n_step) if self.n_step == ANY_N_STEP else self

    @property
    def reach(self) -> str:
        """The furthest entries that it reads, in words."""
        parts = {f"n_step={self.n_step}": self.n_step, f"{self.actions} actions": self.actions}
        parts |= {f"{self.rewards} rewards": self.rewards}
        parts |= {f"an observation {offset} steps away": furthest(offset) for offset in self.observations}
        ahead = max(parts, key=lambda name: parts[name]) if self.span else "one observation"
        back = f"an observation {self.lookback} steps back"
        return ahead if not self.lookback else f"{ahead} and {back}" if self.span else back

    @property
    def entries(self) -> dict[Any, bool]:
        """Every entry that a learner may read, and whether this window's batches have it."""
        has: dict[Any, bool] = {
            "observation": True,
            "index": True,
            "episode": self.episode,
            "action": bool(self.actions or self.n_step),
            "discount": bool(self.n_step),
            "action_sequence": bool(self.actions),
            "future_observation": len(self.observations) == 1,
            "gap": len(self.observations) == 1,
            ("sequence", "observation"): len(self.observations) > 0,
            ("sequence", "name"): len(self.observations) > 0 and self.names,
        }
        has |= {("next", name): bool(self.n_step) for name in ("observation", "reward", "terminated")}
        has |= {("sequence", name): bool(self.rewards) for name in ("reward", "terminated", "valid")}
        return has
