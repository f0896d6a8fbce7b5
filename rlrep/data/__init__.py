"""Offline data: videos and episode files, with or without actions and rewards."""

from rlrep.data.dataset import Dataset, open_dataset
from rlrep.data.episodes import EpisodeDataset
from rlrep.data.record import record
from rlrep.data.transition_files import TransitionFiles, write_transitions
from rlrep.data.transitions import ActionScale, Provenance, Transitions
from rlrep.data.video import open_video

__all__ = [
    "ActionScale",
    "Dataset",
    "EpisodeDataset",
    "Provenance",
    "TransitionFiles",
    "Transitions",
    "open_dataset",
    "open_video",
    "record",
    "write_transitions",
]
