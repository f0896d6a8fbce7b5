"""Offline data: videos and episode files, with or without actions."""

from rlrep.data.episodes import EpisodeDataset
from rlrep.data.record import record
from rlrep.data.video import open_video

__all__ = ["EpisodeDataset", "open_video", "record"]
