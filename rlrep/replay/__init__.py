"""The shared replay."""

from rlrep.replay.buffer import ReplayBuffer, ReplayError

__all__ = ["ReplayBuffer", "ReplayError"]
