"""User-defined objectives that read unusual things or are wrong, for import paths: `tests.odd_objectives:Back`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rlrep import Objective, PixelEncoder, RandomShift, Window


class Odd(Objective):
    """Minimises the mean square of the features."""

    def __init__(
        self, encoder: PixelEncoder, action_space: Any = None, horizon: int = 2, augment: RandomShift | None = None
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon = horizon
        self.in_keys, self.out_keys = ["observation"], [f"loss_{type(self).__name__.lower()}"]
        self.window = self.reads(horizon)

    def reads(self, horizon: int) -> Window:
        return Window()

    def losses(self, observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {self.out_keys[0]: self.encode(observation).square().mean()}


class Back(Odd):
    def reads(self, horizon: int) -> Window:
        return Window(observations=(-horizon,))


class Far(Odd):
    def reads(self, horizon: int) -> Window:
        return Window(observations=(horizon,))


class CURL(Odd):
    """Has the same name as an objective of the package."""


class Weighed(Odd):
    def __init__(self, encoder: PixelEncoder, action_space: Any = None, weight: float = 0.5, **options: Any) -> None:
        super().__init__(encoder, action_space, **options)
        self.weight = weight


class TakesNoActionSpace(Objective):
    def __init__(self, encoder: PixelEncoder, augment: RandomShift | None = None) -> None:
        super().__init__(encoder, augment)


class SaysNothing(Objective):
    def __init__(self, encoder: PixelEncoder, action_space: Any = None, augment: RandomShift | None = None) -> None:
        super().__init__(encoder, augment)


class MinimisesNothing(Odd):
    def __init__(self, encoder: PixelEncoder, action_space: Any = None, **options: Any) -> None:
        super().__init__(encoder, action_space, **options)
        self.out_keys = ["brightness"]


class ForgetsHorizon(Objective):
    in_keys, out_keys = ["observation", "future_observation"], ["loss_future"]

    def __init__(self, encoder: PixelEncoder, action_space: Any = None, augment: RandomShift | None = None) -> None:
        super().__init__(encoder, augment)


class UnknownEntry(Odd):
    def __init__(self, encoder: PixelEncoder, action_space: Any = None, **options: Any) -> None:
        super().__init__(encoder, action_space, **options)
        self.in_keys = ["obs"]


class Returns(Odd):
    """Returns what it was given, in place of a loss."""

    returned: Any = None

    def losses(self, observation: Tensor) -> Any:  # type: ignore[override]
        return self.returned


class Follows(Odd):
    """Has a momentum copy."""

    def __init__(
        self, encoder: PixelEncoder, action_space: Any = None, momentum: float = 0.5, augment: RandomShift | None = None
    ) -> None:
        super().__init__(encoder, action_space, augment=augment)
        self.target = self.momentum_copy(encoder, momentum)


class ReturnsAnother(Odd):
    def losses(self, observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss_another": self.encode(observation).mean()}
