"""LeRobot data sets of version 3.0, without lerobot (huggingface.co/docs/lerobot/lerobot-dataset-v3).

Many episodes share a Parquet file of rows, and an MP4 file of each camera's pictures. The tables in `meta/episodes`
give each episode's rows and seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.arguments import checked_numbers
from rlrep.data.episode import Episode
from rlrep.data.formats.base import Format, Wanted, normalized
from rlrep.data.formats.image_folder import PictureDecoder
from rlrep.data.formats.video import Video
from rlrep.data.pictures import Layout, newest_frames, resize
from rlrep.data.reading import (
    AT_ONCE,
    Unreadable,
    check_inside,
    check_unpacked,
    read_json,
    regular_size,
    reported_as_unreadable,
)
from rlrep.data.safe_arrow import ParquetRows
from rlrep.data.transitions import ActionScale, Provenance

INFO, STATS, EPISODES = "meta/info.json", "meta/stats.json", "meta/episodes"
VERSION = "v3.0"
ACTION, REWARD, DONE = "action", "next.reward", "next.done"
ROWS = ("episode_index", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index")
PLACE = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
# The parts of file names; nothing else in braces is replaced.
BLANK = re.compile(r"\{(video_key|chunk_index|file_index)(?::0?(\d)d)?\}")
# How far rounding may move an action beyond its bounds, as a share of their range.

Pictures = Iterator[tuple[float, np.ndarray]]


class LeRobot(Format):
    """A LeRobot data set: rows of actions and perhaps rewards, and pictures of cameras in videos or in the rows.

    Row i is taken at frame i. Continuous actions are scaled to [-1, 1] by the least and greatest values in
    `meta/stats.json`; `Provenance.action_scale` has the inverse. The format does not store the frame after an episode's
    last action, so for whole episodes (`open_dataset`) the last frame is used twice. An episode whose last row has
    `next.done` counts as really ended: the format does not say whether a time limit ended it. Without `next.reward`
    rewards are 0, and `Provenance.rewards` says so. The robot's state is not read.

    Args:
        camera: the feature whose pictures are read, such as "observation.images.top"; None takes the only one. Depth is
            not read.
        image_size: height and width of the frames of whole episodes after resizing, in pixels; None keeps the size.
            `open_video` has its own argument.
    """

    name = "lerobot"

    @checked_numbers
    def __init__(self, camera: str | None = None, image_size: int | None = None) -> None:
        self.camera, self.image_size = camera, image_size

    def matches(self, path: Path) -> bool:
        return (path / INFO).is_file()

    def read(self, path: Path, wanted: Wanted) -> Iterator[Episode]:
        with reported_as_unreadable():
            files = _Files(path, self.camera, wanted)
            episodes = files.episodes()
        for number in range(len(episodes["episode_index"])):
            with reported_as_unreadable():
                yield files.episode({name: column[number] for name, column in episodes.items()}, self.image_size)

    def provenance(self, path: Path) -> Provenance:
        """The bounds of the actions, whether there are rewards, and the robot."""
        with reported_as_unreadable():
            about = _info(path)
            made = {name: about[name] for name in ("robot_type", "fps") if about.get(name) is not None}
            scale = _scale(path, about)
            low, high = (None, None) if scale is None else (list(scale.low), list(scale.high))
            return Provenance(made=made, rewards=REWARD in about["features"], action_low=low, action_high=high)

    def describe(self, path: Path) -> str:
        return f"LeRobot {VERSION}"


class _Files:
    """The files of a data set. The last table and the last video stay open, because episodes are read in order."""

    def __init__(self, root: Path, camera: str | None, wanted: Wanted) -> None:
        self.root, self.wanted = root, wanted
        self.about = _info(root)
        self.features = self.about["features"]
        self.camera = _camera(self.features, camera)
        self.in_video = self.features[self.camera]["dtype"] == "video"
        self.scale = _scale(root, self.about) if wanted.actions or wanted.rewards else None
        self.table: tuple[Path, ParquetRows, dict[str, np.ndarray]] | None = None
        self.pictures: tuple[Path, _InOrder] | None = None

    def episodes(self) -> dict[str, np.ndarray]:
        """The columns of `meta/episodes` that are read, in the order of the episodes."""
        names = [*ROWS, *(self._own(name) for name in PLACE if self.in_video)]
        parts = sorted((self.root / EPISODES).rglob("*.parquet"))
        if not parts:
            raise Unreadable(f"its {EPISODES} holds no .parquet file: lerobot writes them when `finalize()` is called")
        tables = [ParquetRows(part, self.root) for part in parts]
        found = {name: np.concatenate([_one_each(table, name) for table in tables]) for name in names}
        order = np.argsort(found["episode_index"], kind="stable")
        numbers = found["episode_index"][order]
        if len(numbers) != self.about.get("total_episodes") or (np.diff(numbers) < 1).any():
            told = self.about.get("total_episodes")
            raise Unreadable(f"its {INFO} tells of {told!r} episodes, and {EPISODES} lists {len(numbers)}")
        return {name: column[order] for name, column in found.items()}

    def episode(self, about: dict[str, Any], image_size: int | None) -> Episode:
        """The episode that a row of `episodes` describes."""
        name = f"{self.root.name}, episode {about['episode_index']}"
        path = self._path("data_path", about, "data/")
        rows, columns = self._table(path)
        at = np.flatnonzero(columns["episode_index"] == about["episode_index"])
        first, end = about["dataset_from_index"], about["dataset_to_index"]
        if not len(at) or len(at) != end - first or (columns["index"][at] - first != np.arange(len(at))).any():
            raise Unreadable(f"{name} must be rows {first} to {end - 1}, which are not its rows in {path.name}")
        own = {each: column[at] for each, column in columns.items()}
        if not self.in_video:
            size, pictures = rows.size, self._in_order(path, lambda: _stored(rows, self.camera))
            places, within = at.astype(float), 0.0
        else:
            video = self._path("video_path", about, self._own(""))
            size, pictures = regular_size(video), self._in_order(video, lambda: _shown(video))
            places, within = own["timestamp"] + about[self._own("from_timestamp")], 0.5 / self.fps
            if not np.isfinite(places).all() or places[-1] >= about[self._own("to_timestamp")] + within:
                raise Unreadable(f"{name} has rows after the end of its video, {self._own('to_timestamp')}")
        times: list[Fraction] = []
        chunks = _in_chunks(pictures.at(places, within, name), own["timestamp"], times)
        if self.wanted.rewards:
            chunks = _whole(chunks, image_size, name, size)
        return self._with_steps(Episode(name, chunks, Fraction(self.fps).limit_denominator(1001), times), own)

    def _with_steps(self, episode: Episode, own: dict[str, np.ndarray]) -> Episode:
        episode.rows = "taken at"
        if ACTION in own:
            action = own[ACTION]
            if self.scale is not None:
                action = normalized(
                    action, self.scale, episode.name, STATS, ": compute the statistics anew with lerobot"
                )
            episode.action = action
        if self.wanted.rewards:
            episode.reward = own[REWARD] if REWARD in own else np.zeros(len(own["index"]), np.float32)
        if DONE in own:
            if own[DONE][:-1].any():
                raise Unreadable(f"{episode.name} continues after its end")
            episode.terminated = bool(own[DONE][-1])
        return episode

    @property
    def fps(self) -> float:
        fps = self.about.get("fps")
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0.001 <= fps <= 1e6:
            raise Unreadable(f"its {INFO} must say how many frames a second it has, got fps={fps!r}")
        return float(fps)

    def _own(self, name: str) -> str:
        """The tables' name for an entry of the camera."""
        return f"videos/{self.camera}/{name}"

    def _path(self, template: str, about: dict[str, Any], prefix: str) -> Path:
        """The file that a row of `episodes` names, in columns that begin with `prefix`."""
        text = self.about.get(template)
        if not isinstance(text, str):
            raise Unreadable(f"its {INFO} has no {template}")
        numbers = {name: int(about[f"{prefix}{name}"]) for name in ("chunk_index", "file_index")}

        def fill(blank: re.Match[str]) -> str:
            return self.camera if blank[1] == "video_key" else f"{numbers[blank[1]]:0{blank[2] or 1}d}"

        path = self.root / BLANK.sub(fill, text)
        check_inside(path, self.root)
        return path

    def _table(self, path: Path) -> tuple[ParquetRows, dict[str, np.ndarray]]:
        if self.table is None or self.table[0] != path:
            rows = ParquetRows(path, self.root)
            names = ["index", "episode_index", "timestamp"]
            if self.wanted.rewards:
                names += [name for name in (REWARD, DONE) if REWARD in self.features and name in self.features]
            columns = {name: _one_each(rows, name) for name in names}
            if ACTION in self.features and (self.wanted.actions or self.wanted.rewards):
                columns[ACTION] = rows.numbers(ACTION)
            self.table = path, rows, columns
        return self.table[1:]

    def _in_order(self, path: Path, pictures: Callable[[], Pictures]) -> _InOrder:
        if self.pictures is None or self.pictures[0] != path:
            self.pictures = path, _InOrder(pictures)
        return self.pictures[1]


class _InOrder:
    """The pictures of a file, each with its place (seconds in a video, a row of a table). Its episodes are read in
    order, so the file is decoded once. For an earlier place, it is opened again.
    """

    def __init__(self, pictures: Callable[[], Pictures]) -> None:
        self.open = pictures
        self.rest: Pictures = iter(())
        self.now: tuple[float, np.ndarray] | None = None
        self.next: tuple[float, np.ndarray] | None = None

    def at(self, places: np.ndarray, within: float, name: str) -> Iterator[np.ndarray]:
        """The nearest picture to each of `places`, which must rise.

        Raises:
            Unreadable: if there is no picture `within` that distance.
        """
        if self.now is None or places[0] < self.now[0] - within:
            self.rest = self.open()
            self.now, self.next = next(self.rest, None), next(self.rest, None)
        if self.now is None:
            raise Unreadable(f"{name} has no picture: its file holds none")
        for place in places:
            while self.next is not None and abs(self.next[0] - place) < abs(self.now[0] - place):
                self.now, self.next = self.next, next(self.rest, None)
            if abs(self.now[0] - place) > within:
                raise Unreadable(f"{name} has no picture at {place:g}, the nearest is at {self.now[0]:g}")
            yield self.now[1]


def _shown(path: Path) -> Pictures:
    """The pictures (3, H, W) of a video, at the seconds at which they are shown."""
    for episode in Video().read(path, Wanted()):
        assert episode.times is not None
        count = 0
        for chunk in episode.chunks:
            for picture, time in zip(chunk, episode.times[count:], strict=True):
                yield float(time), picture
            count += len(chunk)


def _stored(rows: ParquetRows, camera: str) -> Pictures:
    """The pictures (C, H, W) of a table, at its rows."""
    decode = PictureDecoder()
    layout = Layout(channels_last=True)
    with reported_as_unreadable():
        for row, content in enumerate(rows.strings(camera)):
            picture = decode(BytesIO(content), len(content))
            yield float(row), newest_frames(picture[None], layout)[0]


def _in_chunks(pictures: Iterator[np.ndarray], seconds: np.ndarray, times: list[Fraction]) -> Iterator[np.ndarray]:
    chunk: list[np.ndarray] = []
    with reported_as_unreadable():
        for picture, time in zip(pictures, seconds.tolist(), strict=True):
            chunk.append(picture)
            times.append(Fraction(time).limit_denominator(1_000_000))
            if len(chunk) == AT_ONCE:
                yield np.stack(chunk)
                chunk.clear()
    if chunk:
        yield np.stack(chunk)


def _whole(chunks: Iterator[np.ndarray], image_size: int | None, name: str, size: int) -> Iterator[np.ndarray]:
    """The frames of a whole episode in memory, the last one twice."""
    held = 0
    for chunk in chunks:
        frames = chunk if image_size is None else resize(chunk, image_size)
        held += frames.nbytes
        check_unpacked(name, held, size, "make its frames smaller, with image_size=84 of the format")
        yield frames
    yield frames[-1:]


def _info(root: Path) -> dict[str, Any]:
    """Reads `meta/info.json`, and checks its version."""
    check_inside(root / INFO, root)
    about = read_json(root / INFO)
    version = about.get("codebase_version") if isinstance(about, dict) else None
    if version != VERSION:
        raise Unreadable(
            f"it is a LeRobot data set of version {version}, and only {VERSION} is read: lerobot converts v2.1, with "
            f"python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=ID"
        )
    if about.get("storage_format") == "lance":
        raise Unreadable(
            "it is stored as Lance tables, and only Parquet and MP4 are read: take the data set it is from"
        )
    features = about.get("features")
    if not isinstance(features, dict) or not all(isinstance(each, dict) for each in features.values()):
        raise Unreadable(f"its {INFO} has no features")
    return about


def _camera(features: dict[str, Any], wanted: str | None) -> str:
    """The camera of that name, or the only one."""
    cameras = [
        name for name, each in features.items() if each.get("dtype") in ("video", "image") and not _is_depth(each)
    ]
    listed = ", ".join(cameras) or "none"
    if wanted is None and len(cameras) > 1:
        raise Unreadable(
            f"it has several cameras, {listed}: name one, such as format=lerobot format_options.camera={cameras[0]} "
            f"(in Python, format=LeRobot(camera={cameras[0]!r}))"
        )
    if not cameras or (wanted is not None and wanted not in cameras):
        raise Unreadable(f"it has no camera {wanted or 'at all'}; its cameras: {listed}")
    return wanted or cameras[0]


def _is_depth(feature: dict[str, Any]) -> bool:
    info = feature.get("info")
    return isinstance(info, dict) and bool(info.get("video.is_depth_map") or info.get("is_depth_map"))


def _scale(root: Path, about: dict[str, Any]) -> ActionScale | None:
    """The scale that normalizes actions; None for discrete actions, and without actions."""
    feature = about["features"].get(ACTION)
    if feature is None or str(feature.get("dtype")).startswith("int"):
        return None
    check_inside(root / STATS, root)
    if not (root / STATS).exists():
        raise Unreadable(
            f"it has no {STATS}, by which actions are normalized: compute the statistics with lerobot. To pre-train on "
            f"frames alone, they are not needed"
        )
    stats = read_json(root / STATS)
    try:
        return ActionScale(*(tuple(np.ravel(stats[ACTION][name]).tolist()) for name in ("min", "max")))
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(
            f"its {STATS} has no min and max of each dimension of {ACTION}, by which actions are normalized "
            f"({type(error).__name__}: {error}): compute the statistics anew with lerobot"
        ) from error


def _one_each(rows: ParquetRows, name: str) -> np.ndarray:
    """(T,) numbers of a column."""
    numbers = rows.numbers(name)
    if numbers.size != len(numbers):
        raise Unreadable(f"its {name} must have one number in each row, got lists of {numbers.shape[1]}")
    return numbers.reshape(-1)
