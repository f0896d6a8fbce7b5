"""The base of every objective, a module around a shared encoder that computes losses of a batch; and a list of them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from rlrep.augment import RandomShift
from rlrep.encoders import PixelEncoder, flat
from rlrep.momentum import ema_, momentum_copy
from rlrep.registry import unknown
from rlrep.window import ANY_N_STEP, Window

if TYPE_CHECKING:
    from tensordict import TensorDict

M = TypeVar("M", bound=nn.Module)

PIXELS = ("observation", "future_observation")
FORGOTTEN = 100  # calls with gradients, without `after_step`, until a warning
AWAY = ("future_observation", "gap", ("sequence", "observation"), ("sequence", "name"))  # entries read by offset
WHO_HAS = {
    "action": "data recorded with actions (a replay buffer, offline RL data), not video",
    "action_sequence": "a replay buffer built with horizon=K, or offline RL data, not video",
    "future_observation": "a replay buffer built with horizon=K, offline RL data, and video sources",
    "index": "every batch of a replay buffer or of data, video's too; TorchRL's slices have none",
    "episode": "batches that are drawn for its window, sample(batch_size, objective.window), video's too",
    "gap": "a replay buffer built with horizon=K, offline RL data, and video sources",
    "reward": "a replay buffer or offline RL data, not video",
}
# What the entries of a batch hold, for those who make batches of their own; `rlrep.Window` explains them.
SHAPES = {
    "observation": "(B, C, H, W) uint8",
    "action": "(B, A) float32 in [-1, 1], or (B,) int64",
    "action_sequence": "(B, K, A) float32 in [-1, 1], or (B, K) int64: the actions from the observation on",
    "future_observation": "(B, C, H, W) uint8: the observation `horizon` steps later",
    "gap": "(B,) int64: the steps to the future observation",
    ("next", "observation"): "(B, C, H, W) uint8",
    ("next", "reward"): "(B, 1) float32: the discounted sum until the next observation",
    ("next", "terminated"): "(B, 1) bool",
    ("sequence", "observation"): "(B, T, C, H, W) uint8: the observations of its window, without the one at offset 0",
    ("sequence", "reward"): "(B, T, 1) float32",
    ("sequence", "terminated"): "(B, T, 1) bool",
    ("sequence", "valid"): "(B, T, 1) bool",
}


class Objective(nn.Module):
    """A representation loss on an encoder that it shares with its owner, such as an agent.

    Calling it with a batch returns a TensorDict without batch dimensions: entries named ``loss_*`` are scalars to
    minimise, the others are detached metrics (TorchRL's LossModule convention). Its parameters are the encoder's and
    its own heads'.

    A subclass sets `in_keys`, the entries of a batch that `losses` takes, in that order; and `out_keys`, the names that
    `losses` returns. It also sets `window`, if it reads more than the next `horizon` actions and the observation after
    them. `encode` augments and encodes pixels. `momentum_copy` makes momentum copies; `after_step` moves them, and
    every owner calls it after its optimizer's step.

    The encoder may be any module with the attribute `repr_dim` that maps pixels (B, C, H, W) uint8 to features (B,
    repr_dim) float32. An objective that draws pixels also reads its `observation_shape` (C, H, W).

    Args:
        encoder: the shared encoder.
        augment: the image augmentation; a random shift by 4 pixels if None.

    Attributes:
        in_keys: the entries of a batch that it takes.
        out_keys: the names that it returns.
        horizon: K, how many steps ahead it looks; 0 for the current observation only.
        batch_size: rows of a separate batch that the owner draws for it; None shares the owner's batch. A contrastive
            loss may need more negatives than a critic needs rows.
        loss_weight: factor of its losses, > 0; set it before the training. Metrics have none.
        needs_actions: whether it needs an action space.
        needs_background: whether some episodes must show only a background, without the content to be learned.
        all_ranks: under torch.distributed, whether a contrastive loss takes negatives from all ranks. Then each rank
            must call it with the same number of rows. Set it to False if ranks train separately, or one rank evaluates
            alone.
        moves_copies: whether `after_step` moves the momentum copies; an owner that moves them itself, by
            `restart_copies`, sets it to False.
        comparable: whether losses of the same data can be compared between updates. They can't where targets are
            features that learn as well: early ones are easily predicted. `momentum_copy` sets it to False.
        same_every_update: whether each call runs the same operations and waits for no value, so that one CUDA graph can
            replay it. A method that calls ``item()``, or counts in Python, sets it to False.

    Raises:
        TypeError: for an augmentation that cannot be called, such as an action space.
        ValueError: for an encoder without `repr_dim`.
    """

    in_keys: list[Any]
    out_keys: list[str]
    horizon: int = 0
    batch_size: int | None = None
    loss_weight: float = 1.0
    needs_actions: bool = False
    needs_background: bool = False
    all_ranks: bool = True
    moves_copies: bool = True
    comparable: bool = True
    same_every_update: bool = True

    def __init__(self, encoder: PixelEncoder, augment: RandomShift | None = None) -> None:
        super().__init__()
        if not isinstance(size := getattr(encoder, "repr_dim", None), Integral):
            has = "none" if size is None else f"{size!r}, which is no whole number"
            raise ValueError(
                f"{type(self).__name__} needs an encoder with the attribute repr_dim, the size of its features "
                f"(B, repr_dim): {type(encoder).__name__} has {has}"
            )
        if augment is not None and not callable(augment):
            raise TypeError(
                f"augment must be an image augmentation, such as RandomShift(4), got a {type(augment).__name__}: an "
                f"objective of your own calls super().__init__(encoder, augment=augment)"
            )
        self.encoder = encoder
        self.augment = RandomShift(4) if augment is None else augment
        self._window: Window | None = None
        self._copies: list[tuple[nn.Module, nn.Module, float]] = []
        self._encoded: dict[int, Tensor] = {}  # filled while `forward` runs
        self._calls = 0  # since `after_step`

    @property
    def window(self) -> Window:
        """What it reads around a step; by default the common case, K = `horizon`, for its `in_keys`."""
        if self._window is not None:
            return self._window
        ahead = {"future_observation", "gap"} & {key for key in self.in_keys if isinstance(key, str)}
        if ahead and self.horizon < 1:
            raise ValueError(
                f"{type(self).__name__} reads {' and '.join(sorted(ahead))}: set self.horizon, the number of steps to "
                f"it, to 1 or more in __init__; got {self.horizon}"
            )
        return Window(
            ANY_N_STEP if any(key == "discount" or key[0] == "next" for key in self.in_keys) else 0,
            (self.horizon,) if ahead else (),
            actions=self.horizon if "action_sequence" in self.in_keys else int("action" in self.in_keys),
        )

    @window.setter
    def window(self, window: Window) -> None:
        self._window = window

    def losses(self, *values: Tensor) -> dict[str, Tensor]:
        """The losses and metrics `out_keys`, from the batch's entries `in_keys`."""
        raise NotImplementedError

    @classmethod
    def reads_actions(cls, options: Mapping[str, Any]) -> bool:
        """Whether pre-training with these options builds it with the data's action space."""
        return cls.needs_actions

    def momentum_copy(self, online: M, momentum: float) -> M:
        """A copy of a module without gradients; `after_step` moves it towards the module. Sets `comparable` to False.

        Args:
            online: the trained module. Its buffers, such as the means of batch normalisation, are copied whole.
            momentum: m in [0, 1), near 1: copy ← m copy + (1 - m) online.

        Raises:
            ValueError: for a momentum out of [0, 1).
        """
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and less than 1, got {momentum}")
        copy = momentum_copy(online)
        self._copies.append((copy, online, 1 - momentum))
        self.comparable = False
        return copy

    def after_step(self) -> None:
        """Moves the momentum copies; the owner calls it after each step of its optimizer."""
        self._calls = 0
        for copy, online, rate in self._copies if self.moves_copies else ():
            ema_(copy, online, rate)

    def restart_copies(self) -> None:
        """Restarts momentum copies from the encoder's weights; call it after other weights were loaded."""
        for copy, online, _ in self._copies:
            ema_(copy, online, 1.0)

    def encode(self, observation: Tensor, offset: int | None = None, *, encoder: nn.Module | None = None) -> Tensor:
        """Features (B, repr_dim) float32 of an augmented view of the pixels; arguments as in `view`."""
        return flat(self.view(observation, offset, encoder=encoder))

    def view(self, observation: Tensor, offset: int | None = None, *, encoder: nn.Module | None = None) -> Tensor:
        """An augmented view of the pixels (B, C, H, W) uint8, for a `projection`: its features (B, repr_dim) float32,
        or the encoder's feature map without a copy.

        Args:
            observation: pixels.
            offset: of the observation in the window. The first view reuses the owner's features, if the owner encoded
                this observation in this update and the features carry every needed gradient. Further views, and all
                views without an offset, are augmented and encoded again.
            encoder: encodes the view instead of the shared encoder; for example its momentum copy.
        """
        if observation.ndim != 4:
            raise ValueError(
                f"pixels to encode have shape (B, C, H, W), got {tuple(observation.shape)}: several observations at "
                f"once, (B, T, C, H, W), go in as observations.flatten(0, 1), and come out as features.view(B, T, -1)"
            )
        if isinstance(offset, nn.Module):
            raise TypeError("offset is a number of steps: give another encoder as encoder=…")
        if offset is not None and encoder is None:
            features = self._encoded.get(offset)
            if features is not None and (features.requires_grad or not torch.is_grad_enabled()):
                del self._encoded[offset]
                return features
        reader: Any = self.encoder if encoder is None else encoder
        if hasattr(reader, "encode_view"):
            return reader.encode_view(observation, self.augment)
        return checked_features(reader, reader(self.augment(observation)))

    def clip_view(self, clips: Tensor) -> Tensor:
        """Clips (B, T, C, H, W) uint8 with one augmentation for all observations of each; they are not encoded."""
        return self.augment(clips.flatten(1, 2)).unflatten(1, clips.shape[1:3])

    def forward(self, batch: TensorDict, encoded: Mapping[int, Tensor] | None = None) -> TensorDict:
        """The losses and metrics of a batch.

        Args:
            batch: holds the entries `in_keys`.
            encoded: features (B, repr_dim) or feature maps to share, by offset: of observations that the encoder has
                already read in this update. See `view`.

        Raises:
            KeyError, TypeError, ValueError: see `read`; and for features to share that are not by offset.
        """
        from tensordict import TensorDict  # takes over a second to import

        if not all(isinstance(offset, int) for offset in encoded or ()):
            raise TypeError(f"encoded has features by their offset, 0 for the observation's: got {list(encoded or ())}")
        self._encoded = dict(encoded or {})
        try:
            out = self.losses(*self.read(batch))
        finally:
            self._encoded = {}
        check_returned(self, out)
        self._remind()
        if self.loss_weight != 1:
            out = {name: self.loss_weight * value if name.startswith("loss_") else value for name, value in out.items()}
        return TensorDict(out)

    def _remind(self) -> None:
        """Warns an owner that trains it without moving its momentum copies."""
        # A counter would make torch.compile compile an update again for each of its values.
        if self._copies and self.moves_copies and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._calls += 1
            if self._calls == FORGOTTEN:
                warnings.warn(
                    f"{type(self).__name__} was called {FORGOTTEN} times and its momentum copies have not moved: call "
                    f"its after_step() after each step of the optimizer",
                    stacklevel=5,
                )

    def read(self, batch: TensorDict) -> list[Tensor]:
        """The entries `in_keys` of a batch, in that order.

        The batch may have a larger window, joined from several learners' windows.

        Raises:
            KeyError: naming the missing entry and the kind of data that has it.
            TypeError: for a dictionary, which has no nested keys.
            ValueError: for pixels that are not (B, C, H, W) uint8, observations or actions that are not as many as
                the window has, and on the CPU for a larger gap than `horizon`.
        """
        if not hasattr(batch, "batch_size"):
            raise TypeError(
                f"{type(self).__name__} reads a TensorDict, got a {type(batch).__name__}: "
                f"pass tensordict.TensorDict(batch, batch_size=[B])"
            )
        return [self._checked(key, self._entry(batch, key), batch) for key in self.in_keys]

    def _entry(self, batch: TensorDict, key: Any) -> Tensor:
        value = None
        by_offset = "at" in batch.keys() and self.window.observations  # noqa: SIM118
        if by_offset and key in ("future_observation", "gap"):
            (only,) = self.window.observations
            value = batch.get(("at" if key == "future_observation" else "steps", str(only)), None)
            if value is None:
                raise KeyError(
                    f"{type(self).__name__} reads {key!r} {only} steps away, and this batch was drawn for another "
                    f"window: sample(batch_size, objective.window), or that of all its readers, Objectives.window"
                )
        elif by_offset and key in (("sequence", "observation"), ("sequence", "name")):
            kept = "at" if key[1] == "observation" else "name"
            found = [batch.get((kept, str(offset)), None) for offset in self.window.observations]
            value = torch.stack(found, 1) if all(each is not None for each in found) else None
        if value is None and not (by_offset and key in AWAY):
            value = batch.get(key, None)
        if value is None:
            check_key(self, key)
            name = key if isinstance(key, str) else key[-1]
            has = WHO_HAS.get(name, "every batch of a replay buffer")
            if key[0] == "sequence":
                has = "batches that are drawn for its window, sample(batch_size, objective.window), video's too"
            what = f": {SHAPES[key]}" if key in SHAPES else ""
            raise KeyError(f"{type(self).__name__} reads {key!r}, which this batch lacks{what}. It is in {has}.")
        if key == "action_sequence" and (by_offset or not self.window.observations):
            value = value[:, : self.window.actions]
        if key in (("sequence", "reward"), ("sequence", "terminated"), ("sequence", "valid")):
            value = value[:, : self.window.rewards]
        return value

    def _checked(self, key: Any, value: Tensor, batch: TensorDict) -> Tensor:
        if key in PIXELS and (value.dtype != torch.uint8 or value.ndim != 4):
            raise ValueError(
                f"{key} must be uint8 pixels (B, C, H, W) in 0..255, got {str(value.dtype).removeprefix('torch.')} "
                f"of shape {tuple(value.shape)}: the encoder scales them itself"
            )
        # To look at values costs a GPU's time, and breaks a compiled update in two.
        looked_at = value.device.type == "cpu" and not torch.compiler.is_compiling()
        if key == "gap" and looked_at and value.max() > self.horizon:
            raise ValueError(
                f"{type(self).__name__} was built with horizon={self.horizon}, the batch holds a gap of "
                f"{value.max()} steps: build both with the same number"
            )
        if key == "action_sequence" and value.shape[1] != self.window.actions:
            raise ValueError(
                f"{type(self).__name__} was built with horizon={self.window.actions}, the batch holds sequences of "
                f"{value.shape[1]} actions: build both with the same horizon"
            )
        if key == ("sequence", "observation") and value.shape[1] != len(self.window.observations):
            raise ValueError(
                f"{type(self).__name__} reads {len(self.window.observations)} further observations, "
                f"{self.window.observations} steps away, the batch holds {value.shape[1]}: {SHAPES[key]}"
            )
        return value


class Objectives(nn.ModuleList):
    """Several objectives on one encoder, which an owner trains together: their sum, joined window and momentum copies.

    Args:
        objectives: built on one encoder; a mapping names them.

    Raises:
        ValueError: if two return the same entry or have different encoders, or if one takes an entry that its window
            does not have.
    """

    def __init__(self, objectives: Iterable[Objective] | Mapping[str, Objective] = ()) -> None:
        self.names: list[str] = list(objectives) if isinstance(objectives, Mapping) else []
        super().__init__(objectives.values() if isinstance(objectives, Mapping) else objectives)
        for objective in self:
            check_declared(objective)
            if objective.encoder is not self[0].encoder:
                raise ValueError("every objective must be built around one encoder, that of its owner")
        names = Counter(name for objective in self for name in objective.out_keys)
        shared = sorted(name for name, count in names.items() if count > 1)
        if shared:
            owners = [type(objective).__name__ for objective in self if shared[0] in objective.out_keys]
            raise ValueError(
                f"{' and '.join(owners)} both return {' and '.join(shared)}: leave one of them out (TACO holds CURL "
                f"unless built with curl=False)"
            )

    def __iter__(self) -> Iterator[Objective]:
        return super().__iter__()  # type: ignore[return-value]

    def __getitem__(self, which: Any) -> Any:
        """The objective of that number, or of that name."""
        return super().__getitem__(self.names.index(which) if isinstance(which, str) else which)

    @property
    def out_keys(self) -> list[str]:
        """All names that they return."""
        return [name for objective in self for name in objective.out_keys]

    @property
    def window(self) -> Window:
        """The joined window on the owner's batch; objectives with a separate batch do not count."""
        return Window().join(*(objective.window for objective in self if objective.batch_size is None))

    @property
    def own_batches(self) -> dict[int, Window]:
        """The windows of the separate batches that the owner must draw, by batch size."""
        sizes = {objective.batch_size for objective in self if objective.batch_size is not None}
        return {
            size: Window().join(*(objective.window for objective in self if objective.batch_size == size))
            for size in sorted(sizes)
        }

    def forward(
        self,
        batch: TensorDict,
        encoded: Mapping[int, Tensor] | None = None,
        own: Mapping[int, TensorDict] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of all losses, each with its objective's weight, and all losses and metrics, detached.

        Args:
            batch: the owner's batch, drawn for `window`.
            encoded: features of its observations by offset, see `Objective.forward`.
            own: the batches of `own_batches`, by batch size.

        Raises:
            KeyError: naming an objective whose separate batch is missing.
        """
        out: dict[str, Tensor] = {}
        for objective in self:
            if objective.batch_size is None:
                out.update(objective(batch, encoded).items())
            else:
                own_batch = (own or {}).get(objective.batch_size)
                if own_batch is None:
                    raise KeyError(
                        f"{type(objective).__name__} reads a batch of its own of {objective.batch_size} rows: draw "
                        f"those of `own_batches` and pass them as `own`"
                    )
                out.update(objective(own_batch).items())
        return total_loss(out), {name: value.detach() for name, value in out.items()}

    def after_step(self) -> None:
        """Moves all momentum copies; call it after each step of the optimizer."""
        for objective in self:
            objective.after_step()

    def restart_copies(self) -> None:
        """Restarts all momentum copies; call it after other weights were loaded into the encoder."""
        for objective in self:
            objective.restart_copies()


def checked_features(encoder: nn.Module, features: Any) -> Tensor:
    """What an encoder of the user's returned.

    Raises:
        ValueError: if it is not (B, repr_dim).
    """
    got = tuple(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
    wanted = getattr(encoder, "repr_dim", None)  # a momentum copy of several modules has none
    if not isinstance(features, Tensor) or (wanted is not None and got[1:] != (wanted,)):
        raise ValueError(
            f"{type(encoder).__name__} returned {got}, and its repr_dim is {wanted}: an encoder maps pixels "
            f"(B, C, H, W) to features (B, repr_dim)"
        )
    return features


def check_declared(objective: Objective) -> None:
    """Refuses an objective that does not say what it takes and returns, or that returns no loss.

    Raises:
        ValueError: naming what is missing.
    """
    name = type(objective).__name__
    for keys in ("in_keys", "out_keys"):
        if not hasattr(objective, keys):
            raise ValueError(f"{name} must set {keys} when it is built, see rlrep.Objective")
    if not any(key.startswith("loss_") for key in objective.out_keys):
        raise ValueError(
            f"{name} returns nothing to minimise: name a loss in out_keys loss_…, got {objective.out_keys}"
        )
    for key in objective.in_keys:
        check_key(objective, key)
        if not objective.window.entries[key]:
            raise ValueError(
                f"{name} takes {key!r}, which its window does not hold, {objective.window}: set self.window"
            )
    window, reads_next = objective.window, any(key[0] == "next" for key in objective.in_keys)
    if objective.horizon > 0 and reads_next and not (window.observations or window.actions > 1 or window.rewards):
        raise ValueError(
            f"{name} has horizon={objective.horizon}, and reads nothing that many steps ahead: in_keys with "
            f"'future_observation' or 'action_sequence' do, ('next', …) are the agent's n-step transition"
        )


def check_key(objective: Objective, key: Any) -> None:
    """Refuses a name in `in_keys` that no batch has, with the nearest known ones."""
    entries = objective.window.entries
    if key not in entries:
        raise unknown(f"entry of a batch in in_keys of {type(objective).__name__}:", str(key), map(str, entries))


def check_returned(objective: Objective, out: Any) -> None:
    """Refuses what `losses` returned if it is not a dictionary of the `out_keys`, with scalars and a gradient.

    Raises:
        TypeError: if it is no dictionary.
        ValueError: saying what is wrong with which entry.
    """
    name = type(objective).__name__
    if not isinstance(out, dict):
        raise TypeError(f"{name}.losses must return a dictionary of {objective.out_keys}, got a {type(out).__name__}")
    if out.keys() != set(objective.out_keys):
        raise ValueError(f"{name} says that it returns {objective.out_keys}, and returned {list(out)}")
    for key, value in out.items():
        if not isinstance(value, Tensor) or value.ndim:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"{key} of {name} must be a scalar tensor, the mean over the batch, got {got}")
    losses = [value for key, value in out.items() if key.startswith("loss_")]
    if torch.is_grad_enabled() and not any(loss.requires_grad for loss in losses):
        raise ValueError(
            f"no loss of {name} has a gradient: compute one from self.encode(…) and parameters of its own, outside of "
            f"torch.no_grad() and without detach(); a frozen encoder alone gives none"
        )


def total_loss(values: Mapping[str, Tensor] | TensorDict) -> Tensor:
    """The sum of the entries named ``loss_*``."""
    return torch.stack([value for name, value in values.items() if name.startswith("loss_")]).sum()


def own_number(episode: Tensor) -> Tensor:
    """The numbers of episodes in their own data; in a batch, `Mixture` makes those of its data negative."""
    return torch.where(episode < 0, -1 - episode, episode)


def check_frame_channels(encoder: PixelEncoder, frame_channels: int | None) -> int:
    """The channels of one frame; None: 3 if the observation's are a multiple of 3, else 1.

    Raises:
        ValueError: if the observation's channels are unknown, or not so many times some number.
    """
    if not hasattr(encoder, "observation_shape"):
        raise ValueError(
            f"what draws pixels needs an encoder with the attribute observation_shape, (C, H, W): "
            f"{type(encoder).__name__} has none"
        )
    if frame_channels is None:
        return 1 if encoder.observation_shape[0] % 3 else 3
    if not 1 <= frame_channels <= encoder.observation_shape[0]:
        raise ValueError(
            f"frame_channels must lie in 1..{encoder.observation_shape[0]}, the observation's channels, "
            f"got {frame_channels}"
        )
    if encoder.observation_shape[0] % frame_channels:
        raise ValueError(
            f"the observation's {encoder.observation_shape[0]} channels are no whole number of frames of "
            f"frame_channels={frame_channels}: give the channels of one frame, 1 for grey ones"
        )
    return frame_channels
