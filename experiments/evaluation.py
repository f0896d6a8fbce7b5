"""Playing episodes without exploring, and filming one."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs import make_env
from experiments.config import TrainConfig
from experiments.files import write_atomically

# Evaluation draws its episodes from another seed than training; they are the same at every evaluation of a run.
EVALUATION_SEED = 1_000_003

Policy = Callable[[np.ndarray], np.ndarray]


@dataclass
class Evaluation:
    """Returns of episodes, and the pictures (T, H, W, 3) uint8 of the first if it was filmed."""

    returns: np.ndarray
    film: list[np.ndarray]
    frames_per_second: float

    @property
    def row(self) -> dict[str, Any]:
        return {
            "episode_return": float(self.returns.mean()),
            "episode_return_std": float(self.returns.std()),
            "episode_return_min": float(self.returns.min()),
            "episode_return_max": float(self.returns.max()),
            "episodes": len(self.returns),
        }


def evaluate(policy: Policy, env: Any, episodes: int, film: bool = False) -> Evaluation:
    """Plays episodes 0 to `episodes` - 1 of an environment made by `make_evaluation_env`.

    Args:
        policy: from (1, F·C, H, W) uint8 to (1, A) actions.
        env: the environment.
        episodes: how many.
        film: keep the pictures of the first.
    """
    returns, pictures = np.zeros(episodes), []
    for episode in range(episodes):
        observation, _ = env.reset(options={"episode": episode})
        done = False
        while not done:
            if film and episode == 0:
                pictures.append(env.render())
            observation, reward, terminated, truncated, _ = env.step(policy(observation[None])[0])
            returns[episode] += reward
            done = terminated or truncated
    return Evaluation(returns, pictures, env.unwrapped.metadata["render_fps"])


def environment_options(config: TrainConfig) -> dict[str, Any]:
    """The keyword arguments that `envs` takes from a configuration."""
    names = ("image_size", "action_repeat", "frame_stack", "camera", "rendering")
    return {name: getattr(config, name) for name in names}


def make_evaluation_env(config: TrainConfig, film: bool = False) -> Any:
    """The environment that a run is evaluated in; with `film` it can render."""
    options = environment_options(config) | ({"render_mode": "rgb_array"} if film else {})
    return make_env(config.task, seed=config.seed + EVALUATION_SEED, **options)


def write_video(path: Path, pictures: list[np.ndarray], frames_per_second: float) -> None:
    """An MP4 (H.264) of pictures (H, W, 3) uint8, at real speed up to 50 pictures a second."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=max(1, round(frames_per_second)))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    write_atomically(path, buffer.getvalue())
