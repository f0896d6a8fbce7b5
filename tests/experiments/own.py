"""An objective from outside the package, as users write theirs."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rlrep import Objective, PixelEncoder, RandomShift
from rlrep.window import Window


class Own(Objective):
    """Minimises the mean square of the features; its option `scales` is a list."""

    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        scales: Sequence[float] = (1.0,),
        bias: float = 0.0,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.window = Window()
        self.in_keys, self.out_keys = ["observation"], ["loss_own"]
        self.scales, self.bias = list(scales), bias
        self.head = nn.Linear(encoder.repr_dim, 1)

    def losses(self, observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss_own": self.head(self.encode(observation)).square().mean() * sum(self.scales) + self.bias}
