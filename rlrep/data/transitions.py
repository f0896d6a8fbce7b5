"""One episode of a data set, and the provenance of a data set."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

__all__ = ["ActionScale", "Provenance", "Transitions"]

# Float32 rounds: an action of 1 may become 1.0000001.
ACTION_TOLERANCE = 1e-6
MOST_CHOICES = 1 << 31


@dataclass(frozen=True, eq=False)
class Transitions:
    """One episode of T ≥ 1 steps.

    Attributes:
        frames: (T + 1, C, H, W) uint8, single frames; the last one follows the last action.
        action: (T, A) float32 in [-1, 1], or (T,) int64 from 0 on; row t was taken at frame t.
        reward: (T,) float32; row t is the reward of row t of `action`.
        terminated: whether the episode really ended, so that the value after it is 0; False at a time limit.
        name: identifies the episode in messages.

    Raises:
        ValueError: for other shapes or types, actions out of range, and values that are not finite.
    """

    frames: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    name: str = ""

    def __post_init__(self) -> None:
        frames, action, reward = self.frames, self.action, self.reward
        if frames.dtype != np.uint8 or frames.ndim != 4:
            raise ValueError(f"frames must be (T + 1, C, H, W) uint8, got {_kind(frames)}")
        if len(frames) < 2:
            raise ValueError(f"an episode must hold at least one step, two frames; got {len(frames)} of them")
        steps = len(frames) - 1
        if reward.dtype != np.float32 or reward.shape != (steps,):
            raise ValueError(f"rewards must be ({steps},) float32, one a step, got {_kind(reward)}")
        wrong = np.flatnonzero(~np.isfinite(reward))
        if len(wrong):
            raise ValueError(f"rewards must be finite, and that of step {wrong[0]} is {reward[wrong[0]]}")
        if self.discrete:
            expected, low, high, bounds = action.shape == (steps,), 0.0, np.inf, "be at least 0"
        else:
            expected = action.dtype == np.float32 and action.ndim == 2 and len(action) == steps and action.shape[1] > 0
            low, high, bounds = -1 - ACTION_TOLERANCE, 1 + ACTION_TOLERANCE, "be finite and lie in [-1, 1]"
        if not expected:
            raise ValueError(f"actions must be ({steps}, A) float32 or ({steps},) int64, got {_kind(action)}")
        outside = np.argwhere(~((action >= low) & (action <= high)))
        if len(outside):
            raise ValueError(
                f"actions must {bounds}, and one of step {outside[0][0]} is {action[tuple(outside[0])]}: rescale them "
                f"to the action space"
            )

    def __len__(self) -> int:
        """T, the steps."""
        return len(self.reward)

    @property
    def discrete(self) -> bool:
        """Whether actions are discrete."""
        return self.action.dtype == np.int64

    @property
    def episode_return(self) -> float:
        """The sum of the rewards."""
        return float(self.reward.sum(dtype=np.float64))


def _kind(array: np.ndarray) -> str:
    return f"{array.shape} {array.dtype}"


@dataclass(frozen=True)
class ActionScale:
    """Converts actions between [-1, 1] and their recorded units: -1 is `low` and 1 is `high`, in each dimension. A
    dimension with equal bounds is 0.

    Attributes:
        low, high: the bounds, one a dimension.

    Raises:
        ValueError: for bounds that are not finite, or not in order.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        low, high = np.asarray(self.low), np.asarray(self.high)
        numbers = low.dtype.kind + high.dtype.kind in ("ff", "fi", "if", "ii")
        if not numbers or low.ndim != 1 or low.shape != high.shape or not np.isfinite([low, high]).all():
            raise ValueError(f"the bounds of actions must be finite numbers, one a dimension, got {low} and {high}")
        if (low > high).any():
            raise ValueError(f"the lower bounds of actions must be below the upper ones, got {low} and {high}")

    def normalized(self, action: np.ndarray) -> np.ndarray:
        """Converts actions (..., A) in recorded units to float32, clipped to [-1, 1].

        Raises:
            ValueError: for other numbers of dimensions.
        """
        low, high = self._bounds(action)
        width = np.where(high > low, high - low, 1)
        return np.clip(2 * (action - low) / width - (high > low), -1, 1).astype(np.float32)

    def restored(self, action: np.ndarray) -> np.ndarray:
        """Converts a policy's actions (..., A) in [-1, 1] to float64 in recorded units.

        Raises:
            ValueError: for other numbers of dimensions.
        """
        low, high = self._bounds(action)
        return low + (np.asarray(action, np.float64) + 1) / 2 * (high - low)

    def _bounds(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if np.shape(action)[-1:] != (len(self.low),):
            raise ValueError(f"actions must have {len(self.low)} dimensions, got the shape {np.shape(action)}")
        return np.asarray(self.low, np.float64), np.asarray(self.high, np.float64)


@dataclass
class Provenance:
    """How a data set was made, as far as known.

    Attributes:
        task: name of the environment.
        level: which policies acted, such as "medium" or "expert".
        made: the run, its checkpoints, the command, …, as plain JSON values.
        random_return, expert_return: mean returns of the random policy and of the expert, for scores.
        num_actions: number of actions of a discrete action space.
        rewards: whether the data have rewards. If not, zeros are stored, and no learner gets them.
        action_low, action_high: the recorded values of actions -1 and 1, one per dimension; None if the actions were
            not normalized. See `action_scale`.

    Raises:
        ValueError: for values of other types.
    """

    task: str | None = None
    level: str | None = None
    made: dict[str, Any] = field(default_factory=dict)
    random_return: float | None = None
    expert_return: float | None = None
    num_actions: int | None = None
    rewards: bool = True
    action_low: list[float] | None = None
    action_high: list[float] | None = None

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = dict(task=str, level=str, made=dict, num_actions=int, rewards=bool)
        kinds |= dict(random_return=(int, float), expert_return=(int, float), action_low=list, action_high=list)
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and (value is not None or name in ("made", "rewards")):
                raise ValueError(f"{name} of a data set's provenance can't be {value!r}")
        count = self.num_actions
        if isinstance(count, bool) or not (count is None or 0 < count < MOST_CHOICES):
            raise ValueError(f"num_actions of a data set's provenance can't be {str(count)[:20]}")
        for text in _texts(asdict(self)):
            if "${" in text:  # a configuration with such a text would read environment variables
                raise ValueError(f"a data set's provenance can't contain ${{, got {text!r}")
        if self.level is not None and {"/", "\\", "\0"} & set(self.level):  # it becomes part of a folder's name
            raise ValueError(f"level of a data set's provenance must be a plain name, got {self.level!r}")
        if (self.action_low is None) != (self.action_high is None):
            raise ValueError("a data set's provenance must have both action_low and action_high, or neither")
        _ = self.action_scale  # which checks its bounds

    @property
    def action_scale(self) -> ActionScale | None:
        """Converts a policy's actions to the recorded units; None if the actions were not normalized."""
        if self.action_low is None or self.action_high is None:
            return None
        return ActionScale(tuple(self.action_low), tuple(self.action_high))

    def to_json(self) -> str:
        """The provenance as text, with a checksum."""
        return sealed(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Provenance:
        """Reads the text of `to_json`.

        Raises:
            ValueError: if it is another text.
        """
        values = unsealed(text)
        unknown = values.keys() - {each.name for each in fields(cls)}
        if unknown:
            raise ValueError(f"its provenance has unknown entries {', '.join(sorted(unknown))}")
        return cls(**values)


def _texts(value: Any) -> Iterator[str]:
    """All strings in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from (*_texts(key), *_texts(entry))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)


def sealed(values: dict[str, Any]) -> str:
    """JSON with a checksum, so that damage is detected."""
    return json.dumps({"crc32": _checksum(values), "content": values})


def unsealed(text: str | bytes) -> dict[str, Any]:
    """Reads the text of `sealed`.

    Raises:
        ValueError: if the text is something else, or damaged.
    """
    try:
        found = json.loads(text)
        if found["crc32"] == _checksum(found["content"]):
            return dict(found["content"])
        reason = "checksum mismatch"
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    raise ValueError(f"the description of the data is damaged ({reason})")


def _checksum(values: Any) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())
