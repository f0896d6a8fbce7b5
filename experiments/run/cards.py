"""Measures what a pre-trained encoder knows, and writes its card: a README.md for the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from rlrep import PixelEncoder
from rlrep.data import EpisodeDataset
from rlrep.encoder_files import SHIPPED, WEIGHTS
from rlrep.envs.noise import options_of as noise_options
from rlrep.experiments.files import write_atomically
from rlrep.experiments.results.runs import read_column
from rlrep.experiments.run.checkpoint import CONFIG
from rlrep.experiments.run.config_file import load_as
from rlrep.experiments.run.options import options_of
from rlrep.experiments.run.pretrain_config import ENVIRONMENT, PretrainConfig
from rlrep.experiments.run.pretrained import DESCRIPTION
from rlrep.experiments.run.pretraining import ENCODER, action_repeat
from rlrep.experiments.run.sections import NoiseConfig
from rlrep.experiments.run.sources import play
from rlrep.objectives import find_objective
from rlrep.probe import ProbeScore, encode, probe_folds

OTHER_EPISODES = 1_000_003  # added to the training seed, for episodes that the encoder has not seen
FOLDS = 3

CARD = """\
---
license: mit
library_name: rlrep
tags: [reinforcement-learning, representation-learning]
---

# {name}

A small encoder of pictures of `{task}`, to try things out with and to start small agents from. One run, one seed.

```python
from rlrep import PixelEncoder

encoder = PixelEncoder.from_pretrained("{address}")
```

| | |
| --- | --- |
| reads | {shape} uint8: {frames_in_words} |
| gives | {repr_dim:,} features; {parameters:,} parameters, {size:,.0f} kB |
| trained on | {num_frames:,} frames under random actions, {noise} |
| objective | `{objective}`, which reads {reads} |
| licence | MIT, as rlrep |

## What it knows

{question}
A linear probe on the frozen features of {frames:,} frames from other episodes is fitted on two thirds of those episodes
and scored on the others, three times: mean ± standard deviation. Untrained is the same architecture with random
weights.

| pictures | this encoder | untrained |
| --- | --- | --- |
{scores}

## Made by

```
{command}
```

Update {update:,} had the best validation loss, {loss:.3g}. `python -m rlrep.experiments.encoders` makes all of them.
"""


def write_card(name: str, run: Path, folder: Path, command: str, frames: int) -> None:
    """Copies the encoder of a finished pre-training to a folder, with its card.

    Args:
        name: the encoder's name.
        run: folder of the pre-training, whose source is an environment.
        folder: where to write the encoder.
        command: the command that made the run.
        frames: how many frames each probe is fitted and scored on.
    """
    config = load_as(PretrainConfig, run / CONFIG)
    encoder = PixelEncoder.from_pretrained(run / ENCODER)
    torch.manual_seed(config.seed)
    untrained = PixelEncoder(**encoder.options).eval()
    scores, question = [], ""
    clean = NoiseConfig(**{option: known.default for option, known in options_of(NoiseConfig).items()})
    for pictures in {in_words(noise): noise for noise in (clean, config.noise)}.values():
        asked_of = replace(config, noise=pictures, seed=config.seed + OTHER_EPISODES, num_frames=frames)
        with TemporaryDirectory() as played:
            data = play(asked_of, Path(played), state=True)
        question, target = asked(data)
        both = [knowledge(each, data, target) for each in (encoder, untrained)]
        scores.append(f"| {in_words(pictures)} | {' | '.join(map(str, both))} |")
    losses, updates = (read_column(run / "train.csv", column) for column in ("validation_loss", "update"))
    best = losses.argmin()
    for file in (WEIGHTS, DESCRIPTION):
        write_atomically(folder / file, (run / ENCODER / file).read_bytes())
    card = CARD.format(
        name=name,
        task=config.source.removeprefix(ENVIRONMENT),
        address=SHIPPED + name,
        shape=encoder.observation_shape,
        frames_in_words=frames_in_words(config),
        repr_dim=encoder.repr_dim,
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        size=(folder / WEIGHTS).stat().st_size / 1000,
        num_frames=config.num_frames,
        noise=in_words(config.noise),
        objective=config.objective,
        reads="frames and actions" if find_objective(config.objective).needs_actions else "frames alone",
        question=question,
        frames=frames,
        scores="\n".join(scores),
        command=command,
        update=int(updates[best]),
        loss=losses[best],
    )
    write_atomically(folder / "README.md", card.encode())


def asked(data: EpisodeDataset) -> tuple[str, torch.Tensor]:
    """The probes' question in words, and the targets: (N,) classes for states of whole numbers, else (N, S)."""
    assert data.state is not None
    if data.state.dtype.kind in "iu":
        states, number = np.unique(data.state, axis=0, return_inverse=True)
        question = f"The share of states read right, of {len(states)} that were seen; clean, each has one picture."
        return question, torch.from_numpy(number.ravel())
    question = f"Mean R² of the {data.state.shape[1]} numbers of the state: 1 is perfect, 0 as good as their means."
    return question, torch.from_numpy(data.state).float()


def knowledge(encoder: PixelEncoder, data: EpisodeDataset, target: torch.Tensor) -> ProbeScore:
    """How well the target can be read from the encoder's features of all frames."""
    episode = np.repeat(np.arange(data.num_episodes), data.lengths)
    features = encode(encoder, data.stack(data.index))
    return probe_folds(features, target, groups=torch.from_numpy(episode), folds=FOLDS)


def frames_in_words(config: PretrainConfig) -> str:
    """The frames of an observation, in words."""
    if config.frame_stack == 1:
        return "one RGB frame"
    apart = action_repeat(config.source.removeprefix(ENVIRONMENT), config.env)
    return f"{config.frame_stack} RGB frames, {apart} step{'s' * (apart != 1)} apart, oldest first"


def in_words(noise: NoiseConfig) -> str:
    """The noise on the pictures, in words."""
    if noise.kind is None:
        return "clean"
    shapes = f"covered by {noise.num_shapes} coloured shapes of {noise.size:.0%} of the picture's side"
    what, moving = {
        "shapes": (shapes, "that drift on by themselves"),
        "drift": (shapes, "that drift to the right and down by themselves"),
        "pixels": (f"with offsets of up to {noise.size:.0%} on all values", "that change by themselves"),
        "camera": (f"seen by a camera of strength {noise.strength:g}", "that moves by itself"),
        "color": (f"in a light of strength {noise.strength:g}", "that changes by itself"),
        "video": (f"mixed with videos, at most {noise.strength:.0%} of a pixel,", "that play by themselves"),
    }[noise.kind]
    where = " in the background" if noise.background_only and "background_only" in noise_options(noise.kind) else ""
    if noise.persistence == 0:
        return f"{what}{where}, drawn anew in each frame"
    anew = f", drawn anew in {100 * (1 - noise.persistence):.3g}% of the frames" if noise.persistence < 1 else ""
    return f"{what} {moving}{where}{anew}"
