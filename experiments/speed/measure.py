"""The measurements of agents, the replay and the renderer.

`update`, `sb3_update`, `act` and `replay` build calls, which the parent asks for in turns; `rendering` and
`roofline` do their whole work at once and answer with rows.
"""

from __future__ import annotations

import importlib.util
import itertools
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box

from rlrep import ReplayBuffer
from rlrep.agents import Agent, accelerate, make_agent
from rlrep.encoders import PRECISIONS, supports_bfloat16
from rlrep.experiments.speed.roofline import busiest, ceilings, count_work, timed
from rlrep.extras import install

AGENTS: dict[str, dict[str, Any]] = {
    "drqv2": {"name": "drqv2"},
    "taco": {"name": "drqv2", "objectives": ["taco"], "latent_actions": True},
    "sac": {"name": "sac"},
    "sac+taco": {"name": "sac", "objectives": ["taco"]},
    "mrq": {"name": "mrq", "encoder_options": {"strides": (2, 2, 2, 1), "activation": "elu"}},
}
# One step on the objectives for each update, the average of a run, rather than bursts. The targets are copied each
# time, too, so an update seems a few ms longer than it is.
EVENLY: dict[str, dict[str, int]] = {"mrq": {"target_every": 1}}
FRAME_STACK, N_STEP, HORIZON, ACTION_DIM = 3, 3, 3, 6
STEP = 10_000  # an agent step after exploration
LONG_EPISODE = 250
REFERENCE = Path("agents", "taco.py")  # in a clone of TACO's own code
# Rows of the replay that sampling is timed on: more than it draws from by enumeration, as in a run.
REPLAY_ROWS = 10_000

Row = dict[str, Any]


class Unavailable(Exception):
    """This can't be measured here, which is not an error; the message says why."""


@dataclass
class Subject:
    """Calls to time, by name, with facts about them."""

    calls: dict[str, Callable[[], object]]
    facts: Row = field(default_factory=dict)


def peak_memory(device: torch.device) -> int:
    """Bytes: on CUDA those that torch had allocated there, elsewhere the whole process, Python and torch included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts the parent's memory at the start of this process
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def update(
    agent: str, batch_size: int, path: str, update: str, device: torch.device, image_size: int, channels: int
) -> Subject:
    """An agent's update, with the sampling that it includes."""
    built = build(agent, batch_size, path, update, device, image_size, channels)
    if path == "fast":
        accelerate(built)
    replay = replay_of(built, image_size, device)
    return Subject({"update": lambda: built.update(replay, STEP)}, facts(built))


def act(agent: str, path: str, device: torch.device, image_size: int, channels: int) -> Subject:
    """Encoding one observation, and acting with exploration."""
    built = build(agent, 1, path, "separate", device, image_size, channels)
    observation = random_observations(image_size, 1)
    return Subject({"act": lambda: built.act(observation, STEP)}, facts(built))


def build(
    agent: str, batch_size: int, path: str, update: str, device: torch.device, image_size: int, channels: int
) -> Agent:
    precision = "bfloat16" if path == "fast" and supports_bfloat16(device) else "float32"
    options = {**AGENTS[agent], **EVENLY.get(agent, {})}
    encoder_options = {"channels": channels, "precision": precision, **options.pop("encoder_options", {})}
    return make_agent(
        observation_shape=(3 * FRAME_STACK, image_size, image_size),
        action_space=action_space(),
        objective_options={"taco": {"horizon": HORIZON}},
        encoder_options=encoder_options,
        device=device,
        path=path,
        joint=update == "joint",
        batch_size=batch_size,
        **options,
    )


def replay_of(agent: Agent, image_size: int, device: torch.device) -> ReplayBuffer:
    """A full replay that the agent can learn from."""
    rows = agent.batch_size + 2 * LONG_EPISODE
    return filled_replay(image_size, rows, storage_of(device), device, **agent.replay_options)


def storage_of(device: torch.device) -> str:
    """Where a run stores frames that fit: on the agent's device."""
    return str(device) if device.type == "cuda" else "memory"


def facts(agent: Agent) -> Row:
    return {"precision": agent.encoder.precision, "encoder": type(agent.encoder).__name__}


def replay(storage: str, batch_sizes: list[int], device: torch.device, image_size: int) -> Subject:
    """Sampling batches, and adding a transition."""
    held = filled_replay(image_size, REPLAY_ROWS, storage, device)
    calls: dict[str, Callable[[], object]] = {
        f"sample {size}": lambda size=size: held.sample(size)  # type: ignore[misc]
        for size in batch_sizes
    }
    calls["add"] = adding(held, image_size)
    return Subject(calls, {"bytes_per_transition": held.nbytes / (held.num_envs * held.length)})


def filled_replay(image_size: int, rows: int, storage: str, device: torch.device, **options: Any) -> ReplayBuffer:
    """A replay full of random frames, in episodes that time limits end."""
    folder = tempfile.mkdtemp() if storage == "disk" else None
    shape = (3 * FRAME_STACK, image_size, image_size)
    options |= {"n_step": N_STEP, "horizon": HORIZON, "storage": storage, "path": folder}
    held = ReplayBuffer(shape, action_space(), rows, frame_stack=FRAME_STACK, device=device, **options)
    add = adding(held, image_size)
    for _ in range(rows):
        add()
    return held


def adding(replay: ReplayBuffer, image_size: int) -> Callable[[], None]:
    """A call that adds one transition to `replay`."""
    rng = np.random.default_rng(0)
    observations = random_observations(image_size, 64)
    actions = rng.uniform(-1, 1, (64, 1, ACTION_DIM)).astype(np.float32)
    step = place = 0

    def add() -> None:
        nonlocal step, place
        step, ends = step + 1, (step + 1) % LONG_EPISODE == 0
        replay.add(
            observation=observations[place][None],
            action=actions[place],
            reward=np.ones(1),
            next_observation=observations[(place + 1) % 64][None],
            terminated=np.zeros(1, bool),
            truncated=np.array([ends]),
        )
        place = (place + (FRAME_STACK if ends else 1)) % 64  # an episode starts elsewhere than the last one ended

    return add


def random_observations(image_size: int, number: int) -> np.ndarray:
    """(number, 3·F, H, W): stacks of frames; each continues the previous one, and the first continues the last."""
    frames = np.random.default_rng(0).integers(0, 256, (number, 3, image_size, image_size), dtype=np.uint8)
    return np.concatenate([np.roll(frames, back, axis=0) for back in reversed(range(FRAME_STACK))], axis=1)


def action_space() -> Box:
    return Box(-1, 1, (ACTION_DIM,))


def sb3_update(batch_size: int, path: str, device: torch.device, image_size: int) -> Subject:
    """One gradient step of Stable-Baselines3's SAC with its CnnPolicy and defaults; it samples its replay each time."""
    try:
        from stable_baselines3 import SAC
        from stable_baselines3.common.buffers import ReplayBuffer as Buffer
        from stable_baselines3.common.logger import configure
    except ImportError as error:
        raise Unavailable(f"Stable-Baselines3 is not here ({error}): {install('sb3')}") from error
    if image_size < 36:
        raise Unavailable(f"Stable-Baselines3's CnnPolicy needs images of at least 36 pixels, got {image_size}")
    rows = 1024
    model = SAC("CnnPolicy", Still(image_size), batch_size=batch_size, buffer_size=rows, device=device)
    model.set_logger(configure(format_strings=[]))
    held = model.replay_buffer
    assert isinstance(held, Buffer)
    observations = random_observations(image_size, 64)
    for start in range(0, rows, 64):
        held.observations[start : start + 64, 0] = observations
        held.next_observations[start : start + 64, 0] = observations
    held.actions[:] = np.random.default_rng(0).uniform(-1, 1, held.actions.shape)
    held.full = True
    known = {"precision": "float32", "encoder": type(model.actor.features_extractor).__name__}
    return Subject({"update": lambda: model.train(gradient_steps=1, batch_size=batch_size)}, known)


def reference_update(
    folder: Path, batch_size: int, path: str, device: torch.device, image_size: int, channels: int
) -> Subject:
    """One update of TACO's own agent, from a clone of its code, at the paper's sizes; its batch is prepared, not
    sampled."""
    if (image_size, channels) != (84, 32):
        raise Unavailable("TACO's code knows no other sizes than image_size=84 channels=32")
    sys.path.insert(0, str(folder))  # for its `utils`; its `agents` is loaded by file, as this name may be taken
    spec = importlib.util.spec_from_file_location("taco", folder / REFERENCE)
    assert spec is not None and spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    agent = theirs.TACOAgent(
        obs_shape=(3 * FRAME_STACK, image_size, image_size),
        action_shape=(ACTION_DIM,),
        device=device,
        lr=1e-4,
        encoder_lr=1e-4,
        feature_dim=50,
        hidden_dim=1024,
        critic_target_tau=0.01,
        num_expl_steps=2000,
        update_every_steps=1,
        stddev_schedule="linear(1.0,0.1,500000)",
        stddev_clip=0.3,
        use_tb=False,
        reward=True,
        multistep=HORIZON,
        latent_a_dim="none",
        curl=True,
    )
    rng = np.random.default_rng(0)
    now, n_steps_on, horizon_on = (
        rng.integers(0, 256, (batch_size, 3 * FRAME_STACK, image_size, image_size), np.uint8) for _ in range(3)
    )
    actions = rng.uniform(-1, 1, (batch_size, HORIZON, ACTION_DIM)).astype(np.float32)
    ones = np.ones((batch_size, 1), np.float32)
    batches = itertools.repeat((now, actions[:, 0], actions, ones, 0.97 * ones, n_steps_on, horizon_on))
    known = {"precision": "float32", "encoder": type(agent.encoder).__name__}
    return Subject({"update": lambda: agent.update(batches, STEP)}, known)


class Still(gymnasium.Env[np.ndarray, np.ndarray]):
    """An environment with our observation and action spaces that does nothing."""

    def __init__(self, image_size: int) -> None:
        self.observation_space = Box(0, 255, (3 * FRAME_STACK, image_size, image_size), np.uint8)
        self.action_space = action_space()


def rendering(task: str, device: torch.device, image_size: int) -> list[Row]:
    """The time to draw a frame of a task with both renderings."""
    from rlrep.envs import OpenGLError
    from rlrep.envs.check import compare

    try:
        compared = compare(task, image_size)
    except OpenGLError as error:
        raise Unavailable(f"no OpenGL: {str(error).splitlines()[0]}") from error
    exact, fast, difference = compared.exact_seconds, compared.fast_seconds, compared.mean_difference
    return [
        {"rendering": "exact", "seconds": exact, "device": "cpu"},
        {"rendering": "fast", "seconds": fast, "device": "cpu", "mean_difference": difference},
    ]


def roofline(
    agent: str, batch_size: int, path: str, update: str, device: torch.device, image_size: int, channels: int
) -> list[Row]:
    """The work of one update, the device's ceilings, the time that the update takes next to them, and where it goes."""
    built = build(agent, batch_size, path, update, device, image_size, channels)
    replay = replay_of(built, image_size, device)
    run = lambda: built.update(replay, STEP)  # noqa: E731
    run()  # Adam makes its state
    operations, moved = count_work(run)
    operations_per_second, bytes_per_second = ceilings(device, PRECISIONS[built.encoder.precision])
    if path == "fast":
        accelerate(built)
    timed(run, device, 5 if device.type == "cuda" else 1)
    repeats = 50 if device.type == "cuda" else 1
    seconds = statistics.median(timed(run, device, repeats) for _ in range(5))
    limits = {"compute": operations / operations_per_second, "memory": moved / bytes_per_second}
    return [
        {
            "seconds": seconds,
            "peak_memory_bytes": peak_memory(device),
            "repeats": 5,
            "operations": operations,
            "bytes_moved": moved,
            "operations_per_second_ceiling": operations_per_second,
            "bytes_per_second_ceiling": bytes_per_second,
            "compute_ceiling_seconds": limits["compute"],
            "memory_ceiling_seconds": limits["memory"],
            "bound_by": max(limits, key=lambda name: limits[name]),
            "share_of_roofline": max(limits.values()) / seconds,
            "kernels": busiest(run, device),
            **facts(built),
        }
    ]
