"""The store of episodes and its samplers."""

from rlrep.replay.buffer import ReplayBuffer
from rlrep.replay.episodes import Episodes
from rlrep.replay.mixture import Mixture
from rlrep.replay.storage import ReplayError

__all__ = ["Episodes", "Mixture", "ReplayBuffer", "ReplayError"]
