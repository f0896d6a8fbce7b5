"""Episodes to open a combination lock with the encoder of each method: the experiment behind prediction P4.

Every encoder gives one of two codes to a picture, as one factor of the lock has two states; the level is known. Both
factors together have four states, so with four codes the bound should vanish. An encoder is a small convolutional
network whose output gives the distribution of a code z, and each loss is an expectation over that code, so nothing but
the code passes: Σ_z q(z | x) loss(z). All models get the level and the gap as inputs, so the code need not hold them.

Swapping the places of a lock's factors doesn't change the distribution of its videos. So an encoder from videos is
trained once and used on both locks; the worse result counts, as in the lower bound. Action labels do depend on the
places, so the inverse model is trained on the recordings of each lock; again the worse result counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrep.encoders import PixelEncoder, mlp, to_unit_scale
from rlrep.envs.combination_lock import CombinationLock
from rlrep.experiments.results.runs import Array
from rlrep.experiments.video_study.jobs import LockJob
from rlrep.registry import look_up

MAX_GAP = 3
CLIPS = 5000
UPDATES = 400
BATCH_SIZE = 128
ENCODER_LR, TABLE_LR, DECODER_LR = 3e-3, 0.1, 3e-3
SHARPNESS = 4.0  # slope of the codes' logits per standard deviation of the encoder's output
HELD_OUT = 100  # pictures of each state
MAX_EPISODES = 30_000  # after which a learner gives up
LEARNERS = 5


@dataclass(frozen=True)
class Clips:
    """Two pictures of each recording, the gap and the action between; all tensors have N rows, pictures are uint8."""

    early: Tensor
    late: Tensor
    level: Tensor
    """The level of the early picture."""
    gap: Tensor
    """Steps from the early to the late picture, 1 to `MAX_GAP`."""
    action: Tensor
    """The first action taken."""


def record(lock: CombinationLock, clips: int, rng: np.random.Generator) -> Clips:
    """Uniform actions from states drawn uniformly; the gap is uniform too, as far as the last level allows."""
    level = rng.integers(lock.horizon, size=clips)
    gap = rng.integers(1, np.minimum(MAX_GAP, lock.horizon - level) + 1)
    controlled, exogenous = rng.random((2, clips)) < 0.5
    early = lock.draw(level, controlled, exogenous, rng)
    actions = rng.integers(2, size=(MAX_GAP, clips))
    for step in range(MAX_GAP):
        at = np.minimum(level + step, lock.horizon - 1)
        moved = lock.advance(at, controlled, exogenous, actions[step], rng)
        controlled, exogenous = np.where(step < gap, moved, (controlled, exogenous))
    late = lock.draw(level + gap, controlled, exogenous, rng)
    return Clips(*(torch.from_numpy(values) for values in (early, late, level, gap, actions[0])))


def scores_of(shape: tuple[int, ...], scores: int) -> nn.Module:
    """A network of pictures (B, *shape) uint8 to (B, scores), standardised over the batch, so that all codes are in use
    from the start.
    """
    features = PixelEncoder(shape, channels=8, strides=(2, 2))
    return nn.Sequential(features, nn.Linear(features.repr_dim, scores), nn.BatchNorm1d(scores, affine=False))


def as_codes(scores: Tensor) -> Tensor:
    """(B, scores) to probabilities of the codes (B, scores + 1). Code 0: all scores are low."""
    return F.pad(SHARPNESS * scores, (1, 0)).softmax(1)


class CodeModel(nn.Module):
    """An encoder of pictures to one of `codes` codes, and the loss that trains it."""

    def __init__(self, lock: CombinationLock, codes: int) -> None:
        super().__init__()
        self.codes = codes
        shape = lock.observation_space.shape
        assert shape is not None
        self.encoder = scores_of(shape, codes - 1)

    def code(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to probabilities of the codes (B, codes)."""
        return as_codes(self.encoder(pictures))

    def loss(self, clips: Clips) -> Tensor:
        """Scalar: the method's loss, minus the weighted `usage` of the codes."""
        raise NotImplementedError


def usage(code: Tensor) -> Tensor:
    """Entropy of the codes' shares in a batch (B, codes), to keep all in use (arXiv 2006.11477, equation 4)."""
    share = code.mean(0)
    return -(share * share.clamp_min(1e-6).log()).sum()


class PixelModel(CodeModel):
    """Predicts a picture for each code, by squared error: `gap` steps later, or with `future=False` the same one."""

    def __init__(self, lock: CombinationLock, codes: int, future: bool, given: int = 0) -> None:
        super().__init__(lock, codes)
        self.future = future
        self.levels = lock.horizon
        width = codes + self.levels + MAX_GAP + given
        self.decoder = mlp(width, (64,), int(np.prod(lock.observation_space.shape or ())))

    def errors(self, clips: Clips, *known: Tensor) -> Tensor:
        """(B, codes) squared errors, each picture's sum, given each code, the level, the gap and `known` (B, given)."""
        target = to_unit_scale(clips.late if self.future else clips.early).flatten(1)
        known = (F.one_hot(clips.level, self.levels), F.one_hot(clips.gap * self.future, MAX_GAP + 1)[:, 1:], *known)
        codes = torch.eye(self.codes).expand(len(target), -1, -1)
        given = torch.cat([codes, torch.cat(known, 1)[:, None].expand(-1, self.codes, -1)], 2)
        return (self.decoder(given) - target[:, None]).square().sum(2)

    def loss(self, clips: Clips) -> Tensor:
        code = self.code(clips.early)
        return (code * self.errors(clips)).sum(1).mean() - 10 * usage(code)


class LatentActionModel(PixelModel):
    """Predicts the later picture for each code and each of two latent actions, of which a network of its own chooses
    one from both pictures, as LAPO's inverse model does (arXiv 2312.10812).

    There are two, as many as actions; over a gap of several steps, one stands for all of them.
    """

    ACTIONS = 2

    def __init__(self, lock: CombinationLock, codes: int) -> None:
        super().__init__(lock, codes, future=True, given=self.ACTIONS)
        shape = lock.observation_space.shape
        assert shape is not None
        self.inverse = scores_of((2 * shape[0], *shape[1:]), self.ACTIONS - 1)

    def loss(self, clips: Clips) -> Tensor:
        latent = torch.eye(self.ACTIONS)
        errors = torch.stack([self.errors(clips, each.expand(len(clips.early), -1)) for each in latent], 2)
        code = self.code(clips.early)
        action = as_codes(self.inverse(torch.cat([clips.early, clips.late], 1)))
        return torch.einsum("bij,bi,bj->b", errors, code, action).mean() - 10 * (usage(code) + usage(action))


class PairModel(CodeModel):
    """A logit for the codes of both pictures: a table for each gap, and for the inverse model also for each level.

    Temporal contrast tells a clip's pair of pictures (logit high) from pairs whose late picture is from a different
    clip of the same level and gap; the inverse model predicts the first action.
    """

    def __init__(self, lock: CombinationLock, codes: int, actions: bool) -> None:
        super().__init__(lock, codes)
        self.actions = actions
        # Which action is right depends on the level. How a code persists does not: the table starts as "it persists".
        lasting = (2 * torch.eye(codes) - 1).repeat(1, MAX_GAP, 1, 1)
        self.table = nn.Parameter(torch.randn(lock.horizon, MAX_GAP, codes, codes) if actions else lasting)

    def loss(self, clips: Clips) -> Tensor:
        early, late = self.code(clips.early), self.code(clips.late)
        logits = self.table[clips.level * self.actions, clips.gap - 1]
        if self.actions:
            action = clips.action.float()[:, None, None].expand_as(logits)
            told = F.binary_cross_entropy_with_logits(logits, action, reduction="none")
            return expected(told, early, late) - 0.1 * usage(early)
        strangers = late.reshape(-1, 2, self.codes).flip(1).reshape(-1, self.codes)
        pairs = expected(F.softplus(-logits), early, late) + expected(F.softplus(logits), early, strangers)
        return pairs - 0.1 * usage(early)


def expected(values: Tensor, early: Tensor, late: Tensor) -> Tensor:
    """Mean over the batch of Σ_zz' early_z late_z' values_zz'; (B, Z, Z), (B, Z), (B, Z) to a scalar."""
    return torch.einsum("bij,bi,bj->b", values, early, late).mean()


MODELS: dict[str, Callable[[CombinationLock, int], CodeModel]] = {
    "inverse_model": lambda lock, codes: PairModel(lock, codes, actions=True),
    "temporal_contrastive": lambda lock, codes: PairModel(lock, codes, actions=False),
    "forward_model": lambda lock, codes: PixelModel(lock, codes, future=True),
    "autoencoder": lambda lock, codes: PixelModel(lock, codes, future=False),
    "lapo": LatentActionModel,
}
METHODS = ("oracle", *MODELS)


def train(model: CodeModel, clips: Clips, rng: np.random.Generator) -> None:
    """Batches hold pairs of clips of the same level and gap, so that each clip has a negative."""
    head = [parameter for name, parameter in model.named_parameters() if not name.startswith("encoder")]
    head_lr = TABLE_LR if isinstance(model, PairModel) else DECODER_LR
    groups = [{"params": model.encoder.parameters(), "lr": ENCODER_LR}, {"params": head, "lr": head_lr}]
    optimizer = torch.optim.Adam(groups)
    kind = (clips.level * (MAX_GAP + 1) + clips.gap).numpy()
    order = np.argsort(kind, kind="stable")
    first, last = np.searchsorted(kind[order], kind), np.searchsorted(kind[order], kind, side="right")
    for _ in range(UPDATES):
        one = rng.integers(len(kind), size=BATCH_SIZE // 2)
        other = order[rng.integers(first[one], last[one])]
        rows = torch.from_numpy(np.stack([one, other], 1).reshape(-1))
        loss = model.loss(Clips(*(values[rows] for values in vars(clips).values())))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def code_probabilities(model: CodeModel, lock: CombinationLock, rng: np.random.Generator) -> Array:
    """(horizon, 2, 2, codes) how often a held-out picture of (level, controlled bit, exogenous bit) gets each code."""
    states = np.indices((lock.horizon, 2, 2)).reshape(3, -1).repeat(HELD_OUT, 1)
    pictures = lock.draw(states[0], states[1] == 1, states[2] == 1, rng)
    codes = torch.cat([model.code(part).argmax(1) for part in torch.from_numpy(pictures).split(512)])
    return np.eye(model.codes)[codes.numpy().reshape(lock.horizon, 2, 2, HELD_OUT)].mean(3)


def accuracy(codes: Array, bit: Literal["controlled", "exogenous"]) -> float:
    """How well the code of a level determines a bit, with the best naming of each level's codes: 0.5 to 1."""
    return float(codes.mean(2 if bit == "controlled" else 1).max(1).sum(1).mean() / 2)


class OptimisticLearner:
    """Tabular value iteration on (level, code) with an optimistic prior: as if each action had once led to the reward.

    Q_h(z, a) = (1 + Σ_z' n(h, z, a, z') V_{h+1}(z')) / (1 + n(h, z, a)), at the last level with the rewards seen

    An action that was tried rarely looks good, so the learner explores it. If the actions' values differ by less than
    `TIE`, it chooses at random. `greedy` is the policy for opening the lock.
    """

    TIE = 0.02

    def __init__(self, horizon: int, codes: int) -> None:
        self.visits = np.zeros((horizon, codes, 2, codes))
        """Counts by level, code, action and next code, which is 0 after the last level."""
        self.rewards = np.zeros((horizon, codes, 2))

    def values(self) -> Array:
        """(horizon, codes, 2) Q."""
        q = np.empty_like(self.rewards)
        tried = self.visits.sum(3)
        for level in reversed(range(len(q))):
            last = level == len(q) - 1
            gained = self.rewards[level] if last else self.visits[level] @ q[level + 1].max(1)
            q[level] = (1 + gained) / (1 + tried[level])
        return q

    def greedy(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """(horizon, codes) for each level and code, the action with the highest mean return of its episodes.

        An average over episodes, not a backup over codes: it does not treat the code as a state, so a code that is not
        a state costs the learner no more than necessary.
        """
        mean = self.rewards / np.maximum(self.visits.sum(3), 1)
        ahead = mean[..., 1] - mean[..., 0]
        return np.where(ahead == 0, rng.integers(2, size=ahead.shape), ahead > 0)

    def play(self, lock: CombinationLock, codes: Array, episodes: int, rng: np.random.Generator) -> bool:
        """Play episodes by the present values and learn from them. Returns whether one opened the lock.

        A fresh picture's code depends on the state alone, so it is drawn from `codes` rather than from a picture.
        """
        q = self.values()
        controlled = exogenous = np.ones(episodes, bool)
        steps: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        for level in range(lock.horizon):
            beyond = 1 - codes[level, controlled.astype(int), exogenous.astype(int)].cumsum(1)[:, :-1]
            code = (rng.random(episodes)[:, None] < beyond).sum(1)
            ahead = (q[level, :, 1] - q[level, :, 0])[code]
            action = np.where(np.abs(ahead) < self.TIE, rng.integers(2, size=episodes), ahead > 0)
            steps.append((code, action))
            at = np.full(episodes, level)
            controlled, exogenous = lock.advance(at, controlled, exogenous, action, rng)
        following = [code for code, _ in steps[1:]] + [np.zeros(episodes, int)]
        for level, (code, action) in enumerate(steps):
            np.add.at(self.visits[level], (code, action, following[level]), 1)
            np.add.at(self.rewards[level], (code, action), controlled)
        return bool(controlled.any())


def opening_probability(policy: npt.NDArray[np.int64], codes: Array, combination: npt.NDArray[np.int64]) -> float:
    """The exact probability that a policy (horizon, codes) over codes opens the lock."""
    on_track = np.array([0.0, 1.0])  # with the controlled bit on: probability of the exogenous bit
    for right, seen, chosen in zip(combination, codes[:, 1], policy, strict=True):
        on_track = on_track * (seen @ (chosen == right))
        on_track = np.array([on_track[0] + on_track[1] / 2, on_track[1] / 2])
    return float(on_track.sum())


def episodes_to_solve(lock: CombinationLock, codes: Array, max_episodes: int, rng: np.random.Generator) -> int | None:
    """Episodes until the greedy policy opens the lock at least every other time; None if `max_episodes` do not suffice.

    Values are computed again after every further 2 % of the episodes so far, so the result is exact to 2 %.
    """
    learner = OptimisticLearner(lock.horizon, codes.shape[-1])
    played = 0
    while played < max_episodes:
        episodes = min(max(1, played // 50), max_episodes - played)
        opened = learner.play(lock, codes, episodes, rng)
        played += episodes
        if opened and opening_probability(learner.greedy(rng), codes, lock.combination) >= 0.5:
            return played
    return None


@dataclass(frozen=True)
class Outcome:
    """The result of one encoder on one lock."""

    episodes: int
    solved: bool
    controlled_accuracy: float
    exogenous_accuracy: float


def solve(lock: CombinationLock, codes: Array, max_episodes: int, rng: np.random.Generator) -> Outcome:
    """The median of `LEARNERS` learners."""
    runs = [episodes_to_solve(lock, codes, max_episodes, rng) for _ in range(LEARNERS)]
    median = sorted(runs, key=lambda run: max_episodes + 1 if run is None else run)[LEARNERS // 2]
    return Outcome(
        max_episodes if median is None else median,
        median is not None,
        accuracy(codes, "controlled"),
        accuracy(codes, "exogenous"),
    )


def run_lock_cell(
    method: str, horizon: int, seed: int, max_episodes: int = MAX_EPISODES, codes: int = 2
) -> dict[str, Any]:
    """One cell of the study: the method's encoder on both locks of an instance; the worse result is reported.

    Args:
        method: one of `METHODS`.
        horizon: levels of the lock, at least 1.
        seed: of the lock's instance, the recordings, the network and the learners.
        max_episodes: after which a learner gives up, at least 1.
        codes: how many an encoder has, at least 2.

    Returns:
        What `cells.LockCell` reads, and `episodes_to_solve_other`, `solved_other` for the better lock. If
        unsolved, `episodes_to_solve` is `max_episodes`.

    Raises:
        ValueError: for an unknown method or a number that is too small.
    """
    if method != "oracle":
        look_up("method", method, MODELS)
    for name, value, least in (("max_episodes", max_episodes, 1), ("codes", codes, 2)):
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    locks = [CombinationLock(horizon, instance=seed, controlled_place=place) for place in ("left", "right")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rng = np.random.default_rng([seed, horizon, METHODS.index(method)])
        learned = learn_codes(method, locks, rng, codes)
    outcomes = [solve(lock, code, max_episodes, rng) for lock, code in zip(locks, learned, strict=True)]
    better, worse = sorted(outcomes, key=lambda outcome: (outcome.episodes, not outcome.solved))
    return {
        **LockJob(method, horizon, seed, codes).description,
        "episodes_to_solve": worse.episodes,
        "solved": worse.solved,
        "max_episodes": max_episodes,
        "controlled_accuracy": worse.controlled_accuracy,
        "exogenous_accuracy": worse.exogenous_accuracy,
        "episodes_to_solve_other": better.episodes,
        "solved_other": better.solved,
    }


def learn_codes(method: str, locks: list[CombinationLock], rng: np.random.Generator, codes: int) -> list[Array]:
    """What `code_probabilities` returns, for each lock; the oracle's code is the controlled bit."""
    if method == "oracle":
        known = np.eye(codes)[:2, None]
        return [np.broadcast_to(known, (lock.horizon, 2, 2, codes)) for lock in locks]

    def learn(lock: CombinationLock) -> CodeModel:
        model = MODELS[method](lock, codes)
        train(model, record(lock, CLIPS, rng), rng)
        return model.eval()

    models = [learn(lock) for lock in locks] if method == "inverse_model" else [learn(locks[0])] * len(locks)
    return [code_probabilities(model, lock, rng) for model, lock in zip(models, locks, strict=True)]
