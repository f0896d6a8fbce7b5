"""Episodes that can be replayed one by one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rlrep.envs.arguments import at_least


class EpisodeSeeds(gym.Wrapper[Any, Any, Any, Any]):
    """Makes episode k of a run a pure function of the run's seed and k.

    `reset()` starts the next episode, `reset(seed=s)` starts the run of seed `s` at episode 0, and
    `reset(options={"episode": k})` jumps to episode k, as a resumed run does. Each inner reset is seeded from
    `numpy.random.SeedSequence([seed, k])`, so an environment whose reset is a function of its seed behaves in episode k
    as if all earlier episodes had been played. `info["episode_index"]` is k after a reset.

    In a vector environment all sub-environments get the same options; there, set the next episodes with
    `vector_env.set_attr("next_episode", [k0, k1, ...])`.

    Args:
        env: the environment.
        seed: the run's seed, at least 0; None draws one from the system.
    """

    next_episode: int
    """The index of the episode that the next `reset()` starts; may be set."""

    def __init__(self, env: gym.Env[Any, Any], seed: int | None = None) -> None:
        super().__init__(env)
        self._seed = _seed(seed)
        self.next_episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the next episode, or the one that `seed` and `options["episode"]` name.

        Raises:
            ValueError: if the seed or the episode is negative.
        """
        options = dict(options or {})
        if seed is not None:
            self._seed, self.next_episode = _seed(seed), 0
        episode = at_least(0, options.pop("episode", self.next_episode), "episode")
        episode_seed = np.random.SeedSequence([self._seed, episode]).generate_state(1, np.uint64).item()
        observation, info = self.env.reset(seed=episode_seed, options=options or None)
        self.next_episode = episode + 1
        return observation, {**info, "episode_index": episode}


def _seed(seed: int | None) -> int:
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64).item())
    return at_least(0, seed, "seed")
