"""The samples of the sampler of episodes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from rlrep.data import EpisodeDataset

LENGTHS = [3, 1, 10, 6]


def numbered(lengths: list[int] = LENGTHS, channels: int = 1, **options: Any) -> EpisodeDataset:
    """Frames whose pixels all hold the number of the row."""
    rows = sum(lengths)
    frames = np.broadcast_to(np.arange(rows, dtype=np.uint8)[:, None, None, None], (rows, channels, 2, 2)).copy()
    return EpisodeDataset(frames, lengths, **options)


def ends(lengths: list[int] = LENGTHS) -> np.ndarray:
    """The end of the episode of each row."""
    return np.repeat(np.cumsum(lengths), lengths)


def test_pairs_are_a_gap_apart_in_one_episode_and_all_of_them_come_up() -> None:
    data = numbered(max_gap=4)
    batch = data.sample(5000)
    first, later = batch["observation"][:, 0, 0, 0].long(), batch["future_observation"][:, 0, 0, 0].long()
    assert torch.equal(later - first, batch["gap"])
    seen = set(zip(first.tolist(), batch["gap"].tolist(), strict=True))
    possible = {(t, k) for k in range(1, 5) for t in range(sum(LENGTHS)) if t + k < ends()[t]}
    assert seen == possible
    assert len(data) == len({t for t, k in possible if k == 1})


def test_gaps_and_frames_are_drawn_uniformly() -> None:
    batch = numbered(max_gap=3).sample(30_000)
    gaps = np.bincount(batch["gap"].numpy(), minlength=4)[1:]
    np.testing.assert_allclose(gaps / 30_000, 1 / 3, atol=0.015)
    starts = np.bincount(batch["observation"][:, 0, 0, 0][batch["gap"] == 3].numpy())
    starts = starts[starts > 0]
    assert len(starts) == 7 + 3
    np.testing.assert_allclose(starts / starts.sum(), 1 / 10, atol=0.015)


def test_a_stack_is_oldest_first_and_repeats_the_first_frame_of_its_episode() -> None:
    data = numbered(channels=3, frame_stack=3)
    stacks = data.stack(np.array([0, 1, 4, 9]))
    assert stacks.shape == (4, *data.observation_shape) == (4, 9, 2, 2)
    assert stacks.dtype == torch.uint8
    assert stacks[:, ::3, 0, 0].tolist() == [[0, 0, 0], [0, 0, 1], [4, 4, 4], [7, 8, 9]]


def test_samples_are_stacks_too() -> None:
    data = numbered(frame_stack=3, max_gap=2)
    batch = data.sample(200)
    for name in ("observation", "future_observation"):
        newest = batch[name][:, -1, 0, 0].numpy().astype(int)
        assert torch.equal(batch[name], data.stack(newest))


def test_the_action_is_the_one_taken_at_the_observation() -> None:
    action = np.arange(sum(LENGTHS), dtype=np.float32)[:, None] * [1, -1]
    batch = numbered(max_gap=2, action=action.astype(np.float32)).sample(50)
    assert torch.equal(batch["action"][:, 0], batch["observation"][:, 0, 0, 0].float())
    assert "action" not in numbered().sample(2).keys()  # noqa: SIM118


def test_the_same_seed_gives_the_same_samples() -> None:
    assert (numbered(seed=1).sample(50) == numbered(seed=1).sample(50)).all()
    assert not (numbered(seed=1).sample(50) == numbered(seed=2).sample(50)).all()


def test_a_sampler_goes_on_from_its_saved_state() -> None:
    data, other = numbered(seed=1), numbered(seed=2)
    data.sample(7)
    other.load_state_dict(json.loads(json.dumps(data.state_dict())))
    assert (data.sample(50) == other.sample(50)).all()


def test_videos_are_the_frames_of_each_episode_without_a_copy() -> None:
    data = numbered(max_gap=2)
    videos = data.select(np.array([0, 2])).videos()
    assert [video[:, 0, 0, 0].tolist() for video in videos] == [[0, 1, 2], [*range(4, 14)]]
    assert all(np.shares_memory(video, data.frames) for video in videos)


def test_a_split_is_by_whole_episodes_and_copies_no_frames() -> None:
    data = numbered([5] * 10, max_gap=4)
    train, validation = data.split(0.2, seed=3)
    assert (train.num_episodes, validation.num_episodes) == (8, 2)
    assert train.frames is data.frames is validation.frames
    assert sorted([*train.index, *validation.index]) == list(range(50))
    for part in (train, validation):
        batch = part.sample(300)
        seen = {*batch["observation"][:, 0, 0, 0].tolist(), *batch["future_observation"][:, 0, 0, 0].tolist()}
        assert seen == set(part.index.tolist())
        assert part.num_frames == len(part.index) == 5 * part.num_episodes
    again, _ = data.split(0.2, seed=3)
    assert np.array_equal(again.index, train.index)
    with pytest.raises(ValueError, match="outside"):
        validation.stack(train.index[:1])


def test_frames_may_be_mapped_from_a_file(tmp_path: Any) -> None:
    data = numbered(max_gap=4, seed=1)
    np.save(tmp_path / "frames.npy", data.frames)
    mapped = EpisodeDataset(np.load(tmp_path / "frames.npy", mmap_mode="r"), LENGTHS, max_gap=4, seed=1)
    assert (data.sample(50) == mapped.sample(50)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_gap": 0}, "max_gap must be at least 1, got 0"),
        ({"frame_stack": 0}, "frame_stack must be at least 1, got 0"),
        ({"max_gap": 10}, "no episode is longer than max_gap=10 frames.*the longest has 10"),
        ({"action": np.zeros((3, 1), np.float32)}, "a row for each of the 20 frames, got float32 and 3 rows"),
        ({"action": np.zeros((20, 1))}, "action must be float32 or int64, .* got float64 and 20 rows"),
    ],
)
def test_options_that_can_not_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numbered(**options)


@pytest.mark.parametrize("lengths", [[3, 4], [20, 0], [21, -1], []])
def test_lengths_that_do_not_add_up_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="sum to the 20 frames"):
        EpisodeDataset(np.zeros((20, 1, 2, 2), np.uint8), lengths)


def test_frames_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, C, H, W\) uint8, got \(4, 2, 2\)"):
        EpisodeDataset(np.zeros((4, 2, 2), np.uint8), [4])
    with pytest.raises(ValueError, match=r"uint8, got .* float32"):
        EpisodeDataset(np.zeros((4, 1, 2, 2), np.float32), [4])


@pytest.mark.parametrize(("lengths", "fraction"), [([20], 0.5), ([10, 10], 0.0), ([10, 10], 1.0)])
def test_what_can_not_be_split_is_refused(lengths: list[int], fraction: float) -> None:
    with pytest.raises(ValueError, match=r"split|fraction"):
        numbered(lengths).split(fraction)
