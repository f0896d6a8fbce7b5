"""A combination lock that cannot be learned from videos: the lower bound of arXiv 2403.13765 as an environment.

At each of `horizon` levels one of two actions is right. A controlled bit starts on and stays on as long as every action
was right; once off, it stays off. If it is on at the end, the reward is 1. An exogenous bit also starts on, and stays
on as long as a fair coin, tossed at each level, shows heads. The picture shows both bits by the same two glyphs, one on
the left and one on the right.

Why this family is hard:

- Under uniform actions, whether an action is right is itself a fair coin. Both bits are then independent copies of one
  process, from any initial state, and the distribution of the pictures does not change when the places are swapped: no
  method can tell from videos which bit is controlled. Action labels show it at once.
- An encoder whose codes per level are as many as one bit's states keeps at most one of the two bits. If it keeps the
  exogenous bit, it shows nothing of the actions: the learner must open the lock blindly, in 2^horizon episodes on
  average.
- With the controlled bit, a wrong action is visible at once; tabular learning with optimism needs polynomially many
  episodes.

A bit that is off must stay off: otherwise a blind learner could recover. But then, under uniform actions from the
start, only one of 2^h episodes is still on at level h. So recordings may begin anywhere (`reset(options=...)`). The
paper assumes this coverage of its videos, and the collector need not know the combination. If fair coins choose the
initial bits, a binary code is best when it keeps one bit, by squared error and by mutual information with the future.
With other odds, "both on" or "either on" can be better, and would tell a learner something about both bits.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rlrep.envs.arguments import at_least

Place = Literal["left", "right"]
Bits = npt.NDArray[np.bool_]

LARGEST_HORIZON = 23

_SIZE = 24
_GREY, _CONTRAST, _NOISE = 128.0, 48.0, 24.0  # of 255
_GLYPH = 8
_GLYPH_ROW, _GLYPH_COLUMN = 4, {"left": 2, "right": 14}
_LEVEL_ROWS = slice(18, 22)


class CombinationLock(gym.Env[npt.NDArray[np.uint8], np.int64]):
    """See the module's docstring. `instance` seeds the right actions, the glyphs and the places.

    Observations are uint8 (3, 24, 24): a glyph for each bit, on the left and on the right, a mark below whose column is
    the level, and independent Gaussian noise in every pixel. Actions: 0 or 1. An episode terminates after `horizon`
    steps with a reward of 1 if all actions were right, else 0. ``info["state"]`` is (level, controlled bit) int64,
    ``info["noise"]`` (exogenous bit,) float32.

    Args:
        horizon: number of levels, 1 to 23.
        instance: the member of the family, 0 or more.
        controlled_place: "left" or "right" shows the controlled bit there; None lets `instance` decide. Two locks that
            differ only in this have the same combination and glyphs.

    Attributes:
        combination: (horizon,) int64, the right action of each level.

    Raises:
        ValueError: for an argument out of range.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (as gymnasium)

    def __init__(self, horizon: int, *, instance: int = 0, controlled_place: Place | None = None) -> None:
        self.horizon = at_least(1, horizon, "horizon", LARGEST_HORIZON)
        rng = np.random.default_rng(at_least(0, instance, "instance"))
        if controlled_place not in (None, "left", "right"):
            raise ValueError(f"controlled_place is {controlled_place!r}; expected 'left', 'right' or None")
        drawn: Place = "left" if rng.random() < 0.5 else "right"
        self.controlled_place = controlled_place or drawn
        self.combination = rng.integers(2, size=self.horizon)
        # One glyph lights half of the cells, the other glyph the other half: both are equally bright.
        lit = rng.permutation(np.repeat([-1.0, 1.0], _GLYPH)).reshape(4, 4).repeat(2, 0).repeat(2, 1)
        self._glyphs = _GREY + _CONTRAST * np.stack([-lit, lit])
        self.action_space = gym.spaces.Discrete(2)
        self.observation_space = gym.spaces.Box(0, 255, (3, _SIZE, _SIZE), np.uint8)
        self._level = self.horizon
        self._controlled = self._exogenous = np.array(True)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Start at level 0 with both bits on, or as in `options`: "level", "controlled" and "exogenous".

        Raises:
            ValueError: for an option that is not known or out of range.
        """
        super().reset(seed=seed)
        start = {"level": 0, "controlled": 1, "exogenous": 1} | (options or {})
        if unknown := set(start) - {"level", "controlled", "exogenous"}:
            raise ValueError(f"unknown reset options {sorted(unknown)}; known: level, controlled, exogenous")
        self._level = at_least(0, start["level"], "level", self.horizon - 1)
        bits = {name: int(bit) if isinstance(bit := start[name], bool) else bit for name in ("controlled", "exogenous")}
        self._controlled, self._exogenous = (np.array(bool(at_least(0, bit, name, 1))) for name, bit in bits.items())
        return self._observe()

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Take an action at the current level.

        Raises:
            ValueError: if the action is neither 0 nor 1.
            gymnasium.error.ResetNeeded: before the first reset and after an episode's end.
        """
        if self._level >= self.horizon:
            raise gym.error.ResetNeeded("the lock has no episode to step in: call reset() first")
        if not self.action_space.contains(action):
            raise ValueError(f"action is {action!r}; expected 0 or 1")
        level = np.array(self._level)
        self._controlled, self._exogenous = self.advance(
            level, self._controlled, self._exogenous, np.array(action), self.np_random
        )
        self._level += 1
        terminated = self._level == self.horizon
        observation, info = self._observe()
        return observation, float(terminated and self._controlled), terminated, False, info

    def advance(
        self,
        level: npt.NDArray[np.int64],
        controlled: Bits,
        exogenous: Bits,
        action: npt.NDArray[np.int64],
        rng: np.random.Generator,
    ) -> tuple[Bits, Bits]:
        """The next bits of many locks at once; all arrays have one shape, `level` is in [0, horizon)."""
        coins = rng.random(np.shape(exogenous)) < 0.5
        return controlled & (action == self.combination[level]), exogenous & coins

    def draw(
        self, level: npt.NDArray[np.int64], controlled: Bits, exogenous: Bits, rng: np.random.Generator
    ) -> npt.NDArray[np.uint8]:
        """Pictures (N, 3, 24, 24) of states, arrays of shape (N,), each with fresh noise."""
        pictures = np.full((len(level), 1, _SIZE, _SIZE), _GREY, np.float32)
        exogenous_place: Place = "right" if self.controlled_place == "left" else "left"
        rows = slice(_GLYPH_ROW, _GLYPH_ROW + _GLYPH)
        for place, bits in ((self.controlled_place, controlled), (exogenous_place, exogenous)):
            column = _GLYPH_COLUMN[place]
            pictures[:, 0, rows, column : column + _GLYPH] = self._glyphs[bits.astype(int)]
        pictures[np.arange(len(level)), 0, _LEVEL_ROWS, level] += 2 * _CONTRAST
        noise = _NOISE * rng.standard_normal((len(level), 3, _SIZE, _SIZE), np.float32)
        return np.clip(pictures + noise, 0, 255).astype(np.uint8)

    def _observe(self) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        (picture,) = self.draw(np.array([self._level]), self._controlled[None], self._exogenous[None], self.np_random)
        state = np.array([self._level, self._controlled], np.int64)
        return picture, {"state": state, "noise": np.array([self._exogenous], np.float32)}
