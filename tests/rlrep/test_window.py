"""Windows: what they hold, how they join, and how a store serves them."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict

from rlrep import Gap, PixelEncoder, ReplayBuffer, Window, make_objective
from rlrep.data import EpisodeDataset
from rlrep.replay import Episodes, Mixture, ReplayError
from rlrep.window import ANY_N_STEP

BOX = spaces.Box(-1, 1, (2,))
SIZE = (2, 2)
LENGTHS = (9, 14, 5, 30)


def replay(frame_stack: int = 1, terminated: bool = False, lengths: tuple[int, ...] = LENGTHS, **options: Any) -> Any:
    """Episodes whose frames hold (episode, step), and whose actions and rewards hold the step. All episodes end: with
    `terminated` at a real end, otherwise by a time limit.
    """
    options = {"capacity": 200, "discount": 0.5, "frame_stack": frame_stack} | options
    made = ReplayBuffer((frame_stack, *SIZE), BOX, **options)

    def stack(episode: int, t: int) -> np.ndarray:
        steps = [max(0, t - back) for back in range(frame_stack)][::-1]
        return np.stack([np.array([[episode, step], [0, 0]], np.uint8) for step in steps])

    for episode, length in enumerate(lengths):
        for t in range(length):
            last = t == length - 1
            made.add(
                observation=stack(episode, t),
                action=np.full(2, t / 100),
                reward=float(t),
                next_observation=stack(episode, t + 1),
                terminated=last and terminated,
                truncated=last and not terminated,
            )
    return made


def sampled(store: Any, count: int, window: Window | None = None) -> TensorDict:
    """Samples `count` rows, in batches of 10."""
    return torch.cat([store.sample(10, window) for _ in range(count // 10)])


def place(pixels: torch.Tensor) -> torch.Tensor:
    """Episode and step of each newest frame, (…, 2)."""
    return pixels[..., -1, 0, :].long()


def test_windows_join_into_the_smallest_that_holds_all() -> None:
    joined = Window.ahead(3, 2).join(Window(ANY_N_STEP, (Gap(5), 2)), Window(observations=(-1,), rewards=4))
    assert joined == Window(3, (2, Gap(5), -1), actions=2, rewards=4)
    assert (joined.span, joined.lookback, joined.needs) == (5, 1, ("action", "reward"))
    assert Window().join(Window(ANY_N_STEP)).n_step == ANY_N_STEP
    with pytest.raises(ValueError, match="one batch has one n_step, and its learners read 2 and 3"):
        Window(2).join(Window(3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Window(-2), "at least 0"),
        (lambda: Window(observations=(0,)), "offset 0 belongs to every window"),
        (lambda: Window(observations=(2, Gap(3), 2)), "named twice"),
        (lambda: Gap(0), "at least 1 step"),
        (lambda: Gap(3, plus=-1), "plus must be at least 0"),
    ],
)
def test_impossible_windows_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_every_offset_of_a_joined_window(frame_stack: int) -> None:
    store = replay(frame_stack)
    window = Window(2, (1, 2, 3, -2, Gap(4), Gap(4, plus=1)), actions=3, rewards=4)
    batch = sampled(store, 400, window)
    now = place(batch["observation"])
    episode, step = now[:, 0], now[:, 1]
    assert (step >= 2).all() and (step + 4 <= torch.tensor(LENGTHS)[episode]).all()
    gap = batch["steps", "1..4"]
    assert set(gap.tolist()) == {1, 2, 3, 4}
    offsets = {"1": 1, "2": 2, "3": 3, "-2": -2, "1..4": gap, "1..4+1": gap + 1}
    for name, offset in offsets.items():
        torch.testing.assert_close(place(batch["at", name]), torch.stack([episode, step + offset], 1))
        stacked = batch["at", name][:, 0, 0, 1].long()  # the oldest frame of the stack
        torch.testing.assert_close(stacked, (step + offset - frame_stack + 1).clamp(min=0))
    torch.testing.assert_close(place(batch["next", "observation"]), torch.stack([episode, step + 2], 1))
    torch.testing.assert_close(batch["next", "reward"][:, 0], step + 0.5 * (step + 1))
    torch.testing.assert_close(batch["action_sequence"][..., 0], (step[:, None] + torch.arange(3)) / 100)
    torch.testing.assert_close(batch["sequence", "reward"][..., 0], (step[:, None] + torch.arange(4)).float())
    assert batch["sequence", "valid"].all() and not batch["sequence", "terminated"].any()


def test_a_window_is_cut_short_at_a_real_end_only() -> None:
    window = Window(observations=(2, 5), actions=5, rewards=5)
    ended = sampled(replay(terminated=True), 600, window)
    now = place(ended["observation"])
    left = torch.tensor(LENGTHS)[now[:, 0]] - now[:, 1]
    assert left.min() == 1
    steps = torch.arange(5) < left[:, None]
    assert torch.equal(ended["sequence", "valid"][..., 0], steps)
    assert torch.equal(ended["sequence", "terminated"][..., 0], torch.arange(5) == left[:, None] - 1)
    assert not ended["sequence", "reward"][~ended["sequence", "valid"]].any()
    assert not ended["action_sequence"][~steps].any()
    assert torch.equal(ended["steps", "5"], left.clamp(max=5))
    torch.testing.assert_close(place(ended["at", "5"])[:, 1], now[:, 1] + left.clamp(max=5))
    torch.testing.assert_close(place(ended["at", "2"])[:, 1], now[:, 1] + left.clamp(max=2))
    limited = place(sampled(replay(), 600, window)["observation"])
    assert (torch.tensor(LENGTHS)[limited[:, 0]] - limited[:, 1]).min() == 5


def test_the_gap_is_uniform_and_the_start_uniform_given_the_gap() -> None:
    """Also if long gaps fit only in a few places."""
    store = replay(lengths=(4, 4, 4, 4))
    batch = sampled(store, 9000, Window(observations=(Gap(4),)))
    counts = torch.bincount(batch["gap"], minlength=5)[1:] / 9000
    torch.testing.assert_close(counts, torch.full((4,), 0.25), atol=0.02, rtol=0)
    starts = torch.bincount(place(batch["observation"])[batch["gap"] == 2][:, 1])
    assert len(starts) == 3 and (starts / starts.sum() - 1 / 3).abs().max() < 0.04


def test_a_linear_gap_falls_linearly() -> None:
    drawn = Gap(3, linear=True).draw(np.random.default_rng(0), 9000)
    np.testing.assert_allclose(np.bincount(drawn)[1:] / 9000, [3 / 6, 2 / 6, 1 / 6], atol=0.02)


def test_check_names_what_a_window_reads_and_video_lacks() -> None:
    video = EpisodeDataset(np.zeros((20, 1, *SIZE), np.uint8), [12, 8])
    for window, message in (
        (Window(3), "Learner reads rewards, which these videos lack"),
        (Window(actions=2), "Learner reads actions, which these videos lack: use data recorded with actions"),
        (Window(observations=(12,)), "reads an observation 12 steps away, and the longest episode .* has 11 steps"),
        (Window(observations=(Gap(4, plus=8),)), r"reads an observation 1\.\.4\+8 steps away"),
    ):
        with pytest.raises(ValueError, match=message):
            video.check(window, "Learner", "these videos")
    video.check(Window(observations=(Gap(11),)), "Learner")
    with pytest.raises(ValueError, match="reads an observation 50 steps back, and the longest"):
        video.check(Window(observations=(-50,)), "Learner")
    with pytest.raises(ValueError, match="reads an observation 6 steps away and an observation 6 steps back, and"):
        video.check(Window(observations=(-6, 6)), "Learner")


def finished(terminated: bool) -> Episodes:
    """Three steps of a finished episode, with a real end or a time limit."""
    rows = {
        "step": np.arange(4)[None],
        "episode": np.zeros((1, 4), np.int64),
        "reward": np.ones((1, 4), np.float32),
        "terminated": np.array([[False, False, terminated, False]]),
    }
    return Episodes(torch.zeros(1, 4, 1, *SIZE, dtype=torch.uint8), rows, Window(1))


@pytest.mark.parametrize("window", [Window(5), Window(observations=(-1, 4)), Window(rewards=9)])
def test_data_are_refused_where_nothing_can_be_drawn_and_only_there(window: Window) -> None:
    """A window longer than the longest episode is served at a real end, which shortens it."""
    ended, limited = finished(terminated=True), finished(terminated=False)
    ended.check(window, "Learner")
    assert len(ended.sample(2, window)) == 2
    with pytest.raises(ValueError, match="the longest episode in these data has 3 steps"):
        limited.check(window, "Learner")
    with pytest.raises(ReplayError):
        limited.sample(2, window)
    with pytest.raises(ValueError, match="3 steps back"):
        ended.check(Window(observations=(-3,), rewards=1), "Learner")


def test_what_a_ring_can_never_hold_is_named() -> None:
    message = (
        r"Learner reads an observation 250 steps away, and this replay .*capacity=200 leaves 200 rows .* spans 251"
    )
    with pytest.raises(ValueError, match=message):
        replay().check(Window(observations=(250,)), "Learner")
    with pytest.raises(ValueError, match=r"Learner reads batches of 500, and this replay hold at most 199 transitions"):
        replay().check(Window(), "Learner", batch_size=500)


# Priorities


def test_rows_are_drawn_by_their_priority_and_new_rows_by_the_largest() -> None:
    store = replay(prioritized=True)
    batch = sampled(store, 4000)
    index, counts = batch["index"].unique(return_counts=True)
    assert len(index) == sum(max(0, length - 2) for length in LENGTHS)  # whole windows of n_step = 3
    assert counts.max() / counts.min() < 3
    store.update_priority(index, torch.where(index == index[7], 200.0, 1.0)[:, None])
    drawn = sampled(store, 2000)["index"]
    assert (drawn == index[7]).float().mean() == pytest.approx(200 / (200 + len(index) - 1), abs=0.04)
    assert store.largest_priority == 200


@pytest.mark.parametrize("many", [False, True])
def test_priorities_stay_with_their_rows_and_leave_with_them(many: bool) -> None:
    store = ReplayBuffer((1, *SIZE), BOX, 5000 if many else 40, frame_stack=1, n_step=1, prioritized=True)
    for t in range(6000 if many else 60):
        frame = np.full((1, *SIZE), t % 251, np.uint8)
        after = np.full((1, *SIZE), (t + 1) % 251, np.uint8)
        store.add(
            observation=frame, action=np.zeros(2), reward=t, next_observation=after, terminated=False, truncated=False
        )
    batch = store.sample(32)
    store.update_priority(batch["index"], np.full(32, 1e-6))
    assert not set(store.sample(32)["index"].tolist()) & set(batch["index"].tolist())
    assert (store.rows["priority"] > 0).sum() == len(store)


def test_a_resumed_replay_draws_by_the_same_priorities(tmp_path: Any) -> None:
    store = replay(prioritized=True, path=tmp_path / "replay")
    store.update_priority(store.sample(20)["index"], np.arange(1, 21))
    store.flush()
    state = store.state_dict()
    expected = store.sample(16)["index"]
    resumed = replay(prioritized=True, path=tmp_path / "replay", lengths=())
    resumed.load_state_dict(state)
    assert torch.equal(resumed.sample(16)["index"], expected)
    plain = replay(path=tmp_path / "replay", lengths=())
    with pytest.raises(ReplayError, match="prioritised"):
        plain.load_state_dict(state)
    with pytest.raises(ReplayError, match="prioritized=True"):
        plain.update_priority(expected, np.ones(16))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_priorities_that_nothing_can_be_drawn_by_are_refused(value: float) -> None:
    store = replay(prioritized=True)
    index = store.sample(8)["index"]
    before = store.rows["priority"].copy()
    with pytest.raises(ValueError, match="priorities must be finite and greater than 0"):
        store.update_priority(index, np.array([1.0] * 7 + [value]))
    with pytest.raises(ValueError, match="each row has one priority, got 8 rows and 7"):
        store.update_priority(index, np.ones(7))
    np.testing.assert_array_equal(store.rows["priority"], before)


def test_priorities_of_other_stores_rows_do_not_count() -> None:
    store = replay(prioritized=True)
    store.update_priority(np.array([-1, -1]), np.array([1e9, 2e9]))
    assert store.largest_priority == 1


# Two stores in one batch


def test_a_mixture_draws_its_share_and_keeps_what_is_shared() -> None:
    data, store = replay(terminated=True), replay(prioritized=True)
    mixture = Mixture(store, data, 0.25)
    batch = mixture.sample(40, Window.ahead(3, 3))
    assert len(batch) == 40 and (batch["index"][:30] >= 0).all() and (batch["index"][30:] == -1).all()
    assert batch["future_observation"] is batch["next", "observation"]  # one tensor under both names
    before = store.rows["priority"].copy()
    mixture.update_priority(batch["index"], np.full(40, 7.0))
    changed = np.flatnonzero((store.rows["priority"] != before).reshape(-1))
    assert set(changed) == set(batch["index"][:30].tolist())
    with pytest.raises(ValueError, match="share must be at least 0 and at most 1"):
        Mixture(store, data, 1.5)
    assert len(Mixture(store, data, 1.0).sample(8)) == len(Mixture(store, data, 0.0).sample(8)) == 8


def test_a_mixture_of_other_pictures_or_discounts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"discount is 0\.5 in the replay and 0\.99 in the data: build both alike"):
        Mixture(replay(discount=0.5), replay(discount=0.99), 0.5)
    with pytest.raises(ValueError, match=r"observation_shape is .* in the replay and .* in the data"):
        Mixture(replay(frame_stack=2), replay(), 0.5)


# Vector environments


class Counter:
    """Environments like those of `gymnasium.vector`: pictures hold (episode, step), episodes have three steps, and each
    step gives the same reward.
    """

    def __init__(self, num_envs: int, mode: str, reward: float = 1.0) -> None:
        self.mode, self.value = mode, reward
        self.episode, self.step = np.arange(num_envs) * 10, np.zeros(num_envs, int)

    def picture(self) -> np.ndarray:
        frames = np.zeros((len(self.step), 1, *SIZE), np.uint8)
        frames[:, 0, 0] = np.stack([self.episode, self.step], 1)
        return frames

    def advance(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        reset = (self.step == 3) if self.mode == "next step" else np.zeros(len(self.step), bool)
        self.step = np.where(reset, 0, self.step + 1)
        self.episode = self.episode + reset
        done, final = (self.step == 3) & ~reset, None
        if self.mode == "same step" and done.any():
            final = self.picture()
            self.step, self.episode = np.where(done, 0, self.step), self.episode + done
        return self.picture(), np.where(reset, 0.0, self.value), done, final


def play(counter: Counter, steps: int, use_final: bool = True, frame_stack: int = 1) -> ReplayBuffer:
    num_envs = len(counter.step)
    made = ReplayBuffer((frame_stack, *SIZE), BOX, 300, frame_stack=frame_stack, n_step=1, num_envs=num_envs)
    observation = np.repeat(counter.picture(), frame_stack, 1)
    for _ in range(steps):
        newest, reward, done, final = counter.advance()
        following = np.concatenate([observation[:, 1:], newest], 1)
        begins = counter.step == 0
        following[begins] = np.repeat(newest[begins], frame_stack, 1)
        after = following.copy()
        if final is not None and use_final:
            after[done] = np.concatenate([observation[:, 1:], final], 1)[done]
        made.add(
            observation=observation,
            action=np.zeros((num_envs, 2)),
            reward=reward,
            next_observation=after,
            terminated=np.zeros(num_envs, bool),
            truncated=done,
        )
        observation = following
    return made


@pytest.mark.parametrize("frame_stack", [1, 2])
@pytest.mark.parametrize("mode", ["next step", "same step"])
def test_the_obvious_vector_loop_stores_transitions_alone(mode: str, frame_stack: int) -> None:
    """By default, Gymnasium resets in a separate step, which leads from one episode to the next."""
    context = pytest.warns(UserWarning, match="NEXT_STEP") if mode == "next step" else warnings.catch_warnings()
    with context:
        store = play(Counter(3, mode), 24, frame_stack=frame_stack)
    batch = sampled(store, 300)
    now, after = place(batch["observation"]), place(batch["next", "observation"])
    torch.testing.assert_close(after, now + torch.tensor([0, 1]))
    assert batch["next", "reward"].min() == 1
    assert len(store) == 3 * (24 - 6 + 0 if mode == "next step" else 24)


@pytest.mark.parametrize("reset_steps", [True, False])
def test_a_transition_that_looks_like_a_reset_is_stored_where_there_are_none(reset_steps: bool) -> None:
    """An episode is truncated where it began, and the first move of the next one earns nothing."""
    store = ReplayBuffer((1, *SIZE), BOX, 50, frame_stack=1, n_step=1, num_envs=1, reset_steps=reset_steps)
    start, away = np.zeros((1, 1, *SIZE), np.uint8), np.ones((1, 1, *SIZE), np.uint8)
    context = pytest.warns(UserWarning, match="NEXT_STEP") if reset_steps else warnings.catch_warnings()
    with context:
        for after, truncated in ((start, True), (away, False), (start, True)):
            store.add(
                observation=away if store.running.any() else start,
                action=np.zeros((1, 2)),
                reward=np.zeros(1),
                next_observation=after,
                terminated=np.zeros(1, bool),
                truncated=np.full(1, truncated),
            )
    assert len(store) == (2 if reset_steps else 3)


def test_a_vector_loop_without_final_observations_is_noticed() -> None:
    with pytest.raises(ValueError, match="final_obs"):
        play(Counter(2, "same step"), 9, use_final=False, frame_stack=2)
    with pytest.warns(UserWarning, match="final_obs"):
        play(Counter(2, "same step"), 9, use_final=False)


def test_pictures_that_never_change_are_stored_whole() -> None:
    store = ReplayBuffer((1, *SIZE), BOX, 50, frame_stack=1, n_step=1, num_envs=2)
    still = np.zeros((2, 1, *SIZE), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t in range(12):
            store.add(
                observation=still,
                action=np.zeros((2, 2)),
                reward=np.zeros(2),
                next_observation=still,
                terminated=np.zeros(2, bool),
                truncated=np.full(2, t % 3 == 2),
            )
    assert len(store) == 24


def test_other_bounds_and_negative_strides() -> None:
    with pytest.raises(ValueError, match="RescaleAction"):
        ReplayBuffer((1, *SIZE), spaces.Box(-2, 2, (2,)), 50, frame_stack=1)
    store = ReplayBuffer((1, *SIZE), BOX, 50, frame_stack=1, n_step=1)
    frame = np.arange(4, dtype=np.uint8).reshape(1, *SIZE)
    mirrored = frame[..., ::-1]
    store.add(
        observation=mirrored, action=np.zeros(2), reward=0, next_observation=mirrored, terminated=False, truncated=False
    )
    assert torch.equal(store.sample(1)["observation"][0], torch.from_numpy(mirrored.copy()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reward": "1"}, "reward must be a number"),
        ({"reward": None}, "reward must be a number"),
        ({"terminated": None}, "terminated must be a number|terminated must be true or false"),
        ({"terminated": 0.5}, "terminated must be true or false"),
        ({"truncated": np.nan}, "truncated must be true or false"),
    ],
)
def test_rewards_and_ends_of_other_kinds_are_refused(changed: dict[str, Any], message: str) -> None:
    store = ReplayBuffer((1, *SIZE), BOX, 50, frame_stack=1, n_step=1)
    picture = np.zeros((1, *SIZE), np.uint8)
    usual = {"observation": picture, "action": np.zeros(2), "reward": 0.0, "next_observation": picture}
    with pytest.raises(ValueError, match=message):
        store.add(**(usual | {"terminated": False, "truncated": False} | changed))
    assert len(store) == 0


@pytest.mark.parametrize(
    "options", [{"temperature": float("nan")}, {"temperature": 0.0}, {"horizon": 2.5}, {"horizon": "3"}, {"horizon": 0}]
)
@pytest.mark.parametrize("name", ["temporal_contrastive", "cvrl"])
def test_impossible_numbers_of_objectives_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make_objective(name, PixelEncoder((3, 20, 20), channels=4), None, **options)


def test_a_sampler_state_is_plain() -> None:
    state = replay().state_dict()
    assert json.loads(json.dumps(state)) == state


@pytest.mark.parametrize("terminated", [False, True])
def test_observations_of_one_name_are_one_observation(terminated: bool) -> None:
    store = replay(frame_stack=2, terminated=terminated, n_step=3)
    window = Window(3, (1, -1, Gap(4)), names=True)
    assert window.join(Window(rewards=2)).names and not Window(3).join(Window()).names
    drawn = sampled(store, 400, window)
    pictures: dict[int, torch.Tensor] = {}
    seen = {"0": drawn["observation"], "3": drawn["next", "observation"]}
    seen |= {str(offset): drawn["at", str(offset)] for offset in window.observations}
    assert seen.keys() == set(drawn["name"].keys())
    for offset, observations in seen.items():
        for name, picture in zip(drawn["name", offset].tolist(), observations, strict=True):
            assert torch.equal(pictures.setdefault(name, picture), picture)
    distinct = {tuple(picture.flatten().tolist()) for picture in pictures.values()}
    assert len(distinct) == len(pictures)


def test_names_of_finished_data_are_not_those_of_the_replay() -> None:
    ours, theirs = replay(), replay()
    drawn = sampled(Mixture(ours, theirs, 0.5), 200, Window(1, names=True))
    assert (drawn["name", "0"] >= 0).sum() == 100 and (drawn["name", "0"] < 0).sum() == 100


@pytest.mark.parametrize("many", [False, True], ids=["listed", "proposed"])
def test_priorities_fade_with_age_down_to_a_tenth(many: bool) -> None:
    """In a ring that has wrapped, with equal priorities for all rows."""
    fade, kept, steps = (0.999, 5000, 6000) if many else (0.9, 60, 100)
    store = ReplayBuffer((1, *SIZE), BOX, kept, frame_stack=1, n_step=1, prioritized=True, fade=fade)
    picture = np.zeros((1, *SIZE), np.uint8)
    for t in range(steps):
        picture, before = picture.copy(), picture
        picture[0, 0, 0] = t % 251
        store.add(
            observation=before,
            action=np.zeros(2),
            reward=1.0,
            next_observation=picture,
            terminated=False,
            truncated=False,
        )
    index = np.concatenate([store.sample(50)["index"].numpy() for _ in range(400)])
    age = (store.head[0] - 1 - index) % store.length
    ages = np.arange(1, kept)  # the newest row is not a transition yet
    expected = np.maximum(0.1, fade**ages)
    expected /= expected.sum()
    for most in (kept // 20, kept // 4, kept // 2):
        share = expected[ages <= most].sum()
        assert (age <= most).mean() == pytest.approx(share, abs=4 * (share * (1 - share) / len(age)) ** 0.5), most


def test_the_mean_size_of_rewards_is_that_of_the_transitions_held() -> None:
    store = replay(capacity=9, lengths=(4, 3, 5), n_step=1)
    held = [t for length in (4, 3, 5) for t in (*range(length), None)][-9:]
    rewards = [t for t in held if t is not None]
    assert len(store) == len(rewards) and store.mean_absolute_reward() == pytest.approx(np.mean(rewards))
    assert replay(lengths=()).mean_absolute_reward() == 0
    video = EpisodeDataset(np.zeros((6, 1, *SIZE), np.uint8), [6])
    with pytest.raises(ReplayError, match="no rewards"):
        video.mean_absolute_reward()
