"""Episodes as `.npz` files of every layout, their frames and their actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlrep.data import open_video
from rlrep.data.formats import Episode, Unreadable, Wanted, npz
from tests.rlrep.data.formats.numbered import SMALL, numbered, numbers, stacked


@pytest.mark.parametrize(
    ("key", "pictures"),
    [
        ("observation", numbered()),
        ("image", numbered().transpose(0, 2, 3, 1)),
        ("frames", numbered(channels=1).transpose(0, 2, 3, 1)),
        ("obs", numbered(channels=1)),
        ("observation", stacked(numbered())),
        ("observation", stacked(numbered()).transpose(0, 2, 3, 1)),
    ],
)
def test_npz_episodes_of_every_layout_give_the_newest_frame(tmp_path: Path, key: str, pictures: np.ndarray) -> None:
    np.savez(tmp_path / "episode.npz", **{key: pictures, "reward": np.zeros(6)})
    data = open_video(tmp_path, **SMALL)
    assert numbers(data) == list(range(6))
    assert data.frames.shape[1] == (1 if 1 in pictures.shape else 3)
    assert data.action is None


@pytest.mark.parametrize("rows", [5, 6], ids=["one fewer than frames", "led to their frames"])
@pytest.mark.parametrize("discrete", [False, True])
def test_actions_are_those_taken_at_their_frames(tmp_path: Path, rows: int, discrete: bool) -> None:
    taken = np.arange(1, 6)
    written = taken if discrete else np.stack([taken, -taken], 1).astype(np.float64)
    if rows == 6:
        written = np.concatenate([np.zeros_like(written[:1]), written])
    np.savez(tmp_path / "episode.npz", observation=numbered(), action=written)
    data = open_video(tmp_path, actions=True, **SMALL)
    batch = data.sample(30)
    assert batch["action"].shape == ((30,) if discrete else (30, 2))
    assert str(batch["action"].dtype) == ("torch.int64" if discrete else "torch.float32")
    first = batch["action"] if discrete else batch["action"][:, 0]
    assert (first.long() == batch["observation"][:, 0, 0, 0].long() + 1).all()
    assert "action" not in open_video(tmp_path, **SMALL).sample(1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"reward": np.zeros(6)}, "holds none of observation, image, .*, only reward"),
        ({"observation": numbered().astype(np.float32)}, r"must be uint8 .* got float32 of shape \(6, 3, 8, 8\)"),
        ({"observation": numbered()[:, :, 0]}, r"must be uint8 .* got uint8 of shape \(6, 3, 8\)"),
        ({"observation": numbered(channels=4)}, "1 or 3 channels"),
        ({"observation": numbered(0)}, "without frames"),
        ({"observation": numbered(), "action": np.ones((6, 2))}, "the first all zeros"),
        ({"observation": numbered(), "action": np.ones((9, 2))}, r"for each of 6 frames or one fewer, got .*\(9, 2\)"),
        ({"observation": np.array([{"a": 1}], dtype=object)}, "pickled objects, which can run any code"),
    ],
)
def test_an_npz_without_an_episode_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "episode.npz", **arrays)
    with pytest.raises(ValueError, match=rf"(?s)episode\.npz can't be used: .*{message}"):
        open_video(tmp_path, actions="action" in message or "action" in arrays, **SMALL)


def test_an_npz_without_actions_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "episode.npz", observation=numbered())
    with pytest.raises(ValueError, match=r"episode\.npz holds no actions"):
        open_video(tmp_path, actions=True, image_size=8)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_npz_is_named(tmp_path: Path, share: float) -> None:
    np.savez_compressed(tmp_path / "episode.npz", observation=np.random.default_rng(0).bytes(10), image=numbered())
    content = (tmp_path / "episode.npz").read_bytes()
    (tmp_path / "episode.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"episode\.npz can't be used: it is corrupt or truncated"):
        open_video(tmp_path, **SMALL)


def test_channels_and_actions_must_be_the_same_everywhere(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", observation=numbered(), action=np.zeros((5, 2)))
    np.savez(tmp_path / "b.npz", observation=numbered(channels=1), action=np.zeros((5, 2)))
    np.savez(tmp_path / "c.npz", observation=numbered(), action=np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"different channels: .*a\.npz has 3, .*b\.npz has 1"):
        open_video([tmp_path / "a.npz", tmp_path / "b.npz"], mixed_sizes=True, **SMALL)
    with pytest.raises(ValueError, match=r"different actions: .*a\.npz has float32 of shape \(2,\), .*c\.npz"):
        open_video([tmp_path / "a.npz", tmp_path / "c.npz"], actions=True, **SMALL)


def test_a_frame_rate_needs_videos(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", observation=numbered())
    with pytest.raises(ValueError, match=r"a\.npz has none: leave fps out"):
        open_video(tmp_path, fps=5, **SMALL)


def test_a_file_that_breaks_off_in_its_second_episode_is_dropped_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = npz.Npz.read

    def breaking(self: npz.Npz, path: Path, wanted: Wanted) -> Any:
        for number, one in enumerate(read(self, path, wanted)):
            yield one
            if path.name == "b.npz":
                yield Episode("second", iter([numbered(2)]))
                raise Unreadable(f"broken after {number + 2}")

    monkeypatch.setattr(npz.Npz, "read", breaking)
    for name, start in (("a", 0), ("b", 10), ("c", 20)):
        np.savez(tmp_path / f"{name}.npz", observation=numbered(4, start))
    with pytest.warns(UserWarning, match=r"skipped 1 of 3"):
        data = open_video(tmp_path, skip_corrupt=True, **SMALL)
    assert numbers(data) == [0, 1, 2, 3, 20, 21, 22, 23]


def test_an_encrypted_file_is_called_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", observation=numbered())
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1  # only the flag
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz can't be used: its observation is encrypted"):
        open_video(tmp_path / "a.npz", **SMALL)
