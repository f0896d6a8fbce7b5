"""The study on a user's own videos, where no state is known: what probes read of the video and of noise drawn on it.

Shapes are drawn on the videos. As the shapes and the videos without them are known, linear probes can measure what
frozen features keep: 4×4 mean colours of the video's picture alone (`content`), and of the noise alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlrep import PixelEncoder
from rlrep.data import EpisodeDataset, open_video
from rlrep.experiments.files import write_atomically
from rlrep.experiments.results import tables
from rlrep.experiments.run.log import Progress
from rlrep.experiments.video_study import pixels
from rlrep.experiments.video_study.cells import METHODS, NOISES, read_content, reads
from rlrep.experiments.video_study.domain import Settings, coarse, under_noise
from rlrep.experiments.video_study.jobs import NOISES as PERSISTENCE
from rlrep.pretrain import pretrain
from rlrep.probe import effective_rank, encode, probe
from rlrep.registry import look_up

USUAL = ("random", "temporal_contrastive", "forward_model", "autoencoder", "curved")
IMAGE_SIZE = 56
CLIP = 100  # frames: longer videos are cut, so that parts of one video can be held out
SHAPES = {"num_shapes": 4, "size": 0.25}
PROBED = (1_000, 500)  # how many frames probes are fitted to, and scored on
MEASURES = ("content", "noise_read", "effective_rank")
TEXT = (
    "content and noise read: R² of linear probes for 4×4 mean colours of the video alone and of the noise alone, from "
    "frozen features of frames of held-out clips. effective rank: of these {features} features; near 1 the method has "
    "collapsed. Look at the rows of the noise that is most like yours: a method that keeps about the content that it "
    "has without noise, and more than the random encoder, survives it. Content is what the picture shows and not a "
    "state, so that a method that ignores what never moves has less of it, too."
)


class Videos:
    """What `pixels.build` reads from a domain: pictures without actions."""

    action_space = None
    shape = (3, IMAGE_SIZE, IMAGE_SIZE)


def study(
    source: Path, methods: Sequence[str] | None, seeds: int, out: Path, quick: bool, **reading: Any
) -> list[dict[str, Any]]:
    """Measures methods on videos under each noise, and writes `out/videos.md` and `out/videos.csv`.

    Each result is a file in `out/videos`. Existing results are not measured again.

    Args:
        source: what `rlrep.data.open_video` reads.
        methods: methods that read videos alone; None for the usual ones.
        seeds: of noise and training.
        out: the folder.
        quick: tiny sizes, to check that everything runs.
        reading: further options of `open_video`.

    Raises:
        ValueError: for a method that reads more than videos, videos that are too short, and a folder of other videos.
    """
    for method in methods or ():
        look_up("method", method, METHODS)
        if reads(method) not in ("video", "nothing"):
            raise ValueError(f"{method} reads {reads(method)}, which --source lacks: leave it out of --methods")
    sizes = replace(pixels.settings("gridworld", quick), test_labels=1)
    asked = list(product(range(seeds), methods or USUAL, PERSISTENCE))
    reading |= dict(image_size=IMAGE_SIZE, frame_stack=1, cache=out / "decoded", mixed_sizes=True)
    opened = open_video(source, **reading)
    clips = cut(opened, sizes)
    checksum = f"{zlib.crc32(clips.frames.tobytes(), zlib.crc32(clips.lengths.tobytes())):08x}"
    rows: list[dict[str, Any]] = []
    progress = Progress("own videos", len(asked), 0, "training")
    for seed, method, noise in asked:
        path = out / "videos" / f"{method}-{noise}-seed{seed}.json"
        about = {"source": str(source.resolve()), "checksum": checksum, "updates": sizes.steps}
        about |= {"method": method, "noise": noise, "seed": seed}
        if not path.exists():
            write_atomically(path, json.dumps(about | measured(clips, method, noise, seed, sizes), indent=1).encode())
        found = read_content(path)
        if other := [f"{name}={found.get(name)}" for name, value in about.items() if found.get(name) != value]:
            raise ValueError(f"{path} is of other videos or sizes ({', '.join(other)}): choose another folder by --out")
        rows.append(found)
        progress.advance(len(rows))
    progress.close()
    text = TEXT.format(features=sizes.encoder["out_dim"])
    tables.write_csv(out / "videos.csv", rows)
    write_atomically(out / "videos.md", f"{tables.markdown(lines(rows))}\n\n{text}\n".encode())
    return rows


def cut(data: EpisodeDataset, sizes: Settings) -> EpisodeDataset:
    """Clips of about `CLIP` frames of the first videos, with as many frames as the study has.

    Raises:
        ValueError: for fewer than two clips that are long enough for one pair.
    """
    parts = [part for video in data.videos() for part in np.array_split(video, max(1, round(len(video) / CLIP)))]
    whole = [part for part in parts if len(part) > sizes.horizon]
    count = int(np.searchsorted(np.cumsum([len(part) for part in whole]), sizes.frames)) + 1
    if len(whole) < 2:
        raise ValueError(
            f"the videos have {int(data.lengths.sum())} frames, which are less than two clips of {CLIP}: give more"
        )
    lengths = [len(part) for part in whole[:count]]
    return EpisodeDataset(np.concatenate(whole[:count]), lengths, max_gap=sizes.horizon)


def measured(clips: EpisodeDataset, method: str, noise: str, seed: int, sizes: Settings) -> dict[str, float | None]:
    """What probes read of one method's features, and the features' rank. `noise_read` is None without noise, and all
    three are if the training diverges.
    """
    shapes = None if noise == "none" else {**SHAPES, "persistence": PERSISTENCE[noise]}
    frames = under_noise(clips.frames, clips.lengths, shapes, seed)
    alone = under_noise(np.zeros_like(clips.frames), clips.lengths, shapes, seed)
    data = EpisodeDataset(frames, clips.lengths, max_gap=sizes.horizon, seed=seed)
    train, held_out = data.split(0.2, seed)
    torch.manual_seed(seed)
    encoder = PixelEncoder(Videos.shape, **sizes.encoder)
    if method != "random":
        objective = pixels.build(method, encoder, Videos(), sizes)  # type: ignore[arg-type]
        try:
            pretrain(objective, train, held_out, steps=sizes.steps, batch_size=sizes.batch_size, lr=sizes.lr)
        except FloatingPointError:  # a result, and no reason to measure nothing else
            return dict.fromkeys(MEASURES)
    encoder.requires_grad_(False).eval()
    rng = np.random.default_rng(seed)
    chosen = [
        rng.choice(part.index, min(n, len(part.index)), False)
        for part, n in zip((train, held_out), PROBED, strict=True)
    ]
    features = [encode(encoder, torch.from_numpy(frames[rows])) for rows in chosen]

    def read(pictures: np.ndarray) -> float:
        fitted, scored = zip(features, [coarse(pictures[rows]) for rows in chosen], strict=True)
        return probe(fitted, scored, steps=sizes.probe_steps)

    noise_read = None if shapes is None else read(alone)
    return {"content": read(clips.frames), "noise_read": noise_read, "effective_rank": effective_rank(features[1])}


def lines(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each method and noise, with means over seeds."""
    table = []
    for method, noise in dict.fromkeys((row["method"], row["noise"]) for row in rows):
        own = [row for row in rows if (row["method"], row["noise"]) == (method, noise)]
        line = {"method": METHODS[method], "noise": NOISES[noise]}
        for measure in MEASURES:
            known = [row[measure] for row in own if row[measure] is not None]
            line[measure.replace("_", " ")] = f"{np.mean(known):.2f}" if known else ""
        lost = sum(row["content"] is None for row in own)
        table.append(line | {"seeds": f"{len(own)}, {lost} diverged" if lost else str(len(own))})
    return table
