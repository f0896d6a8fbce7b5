"""Shows the content of finished data, and converts formats."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from rlrep.data import TransitionFiles, Transitions, write_transitions
from rlrep.experiments.files import write_atomically
from rlrep.experiments.run.offline_config import told_by_run
from rlrep.experiments.run.reconstructions import COLUMNS, pictures, png

# Episodes in the picture, from the lowest return to the highest.
SHOWN = 5


@dataclass
class Summary:
    """The stored values of each episode while a data set is read."""

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    terminated: int = 0
    image_shape: tuple[int, ...] = ()
    actions: str = ""
    lowest: np.ndarray = field(default_factory=lambda: np.array(np.inf))
    highest: np.ndarray = field(default_factory=lambda: np.array(-np.inf))

    def add(self, episode: Transitions) -> None:
        self.returns.append(episode.episode_return)
        self.lengths.append(len(episode))
        self.terminated += episode.terminated
        self.image_shape = episode.frames.shape[1:]
        self.actions = "choices" if episode.discrete else f"vectors of {episode.action.shape[1]}"
        self.lowest = np.minimum(self.lowest, episode.action.min(0))
        self.highest = np.maximum(self.highest, episode.action.max(0))


def info(files: TransitionFiles, picture: Path | None, settings: Sequence[str] = ()) -> None:
    """Prints the content of a data set, and draws a contact sheet.

    Args:
        files: the data set.
        picture: where the contact sheet goes; None puts it beside the data.
        settings: with which other commands open the data, too.

    Raises:
        ValueError: for a picture that would replace data, and data that can't be used.
    """
    target = picture or default_picture(files.root)
    if target.suffix.lower() != ".png":
        raise ValueError(f"the picture is a PNG: name a file that ends in .png, not {target}")
    if any(target.resolve().is_relative_to(source.path.resolve()) for source in files.sources):
        raise ValueError(f"{target} is one of the files of the data: name another one for the picture")
    summary = Summary()
    sheet: dict[int, np.ndarray] = {}
    for number, episode in enumerate(files):
        summary.add(episode)
        sheet[number] = thumbnails(episode)
    print("\n".join(f"{name:<16}{value}" for name, value in lines(files, summary)))
    rows = shown(summary.returns)
    known = files.provenance
    named = {f"episode {n}" + f"\nreturn {summary.returns[n]:.4g}" * known.rewards: sheet[n] for n in rows}
    columns = [f"{round(100 * i / (COLUMNS - 1))} %" for i in range(COLUMNS)]
    title = f"{printable(files.root.name)}: from an episode's first frame to its last"
    write_atomically(target, png(named, columns, title))
    print(f"{'picture':<16}{target}")
    choices = summary.actions == "choices"
    following = learning(files.root, task=known.task is not None, rewards=known.rewards, choices=choices)
    print(f"{'next':<16}{' '.join([following, *settings])}")


def lines(files: TransitionFiles, summary: Summary) -> Iterator[tuple[str, str]]:
    """Name and text of each line that `info` prints."""
    returns, lengths = np.array(summary.returns), np.array(summary.lengths)
    quartiles = " ".join(f"{value:.4g}" for value in np.quantile(returns, (0, 0.25, 0.5, 0.75, 1)))
    yield "path", str(files.root)
    yield "format", files.format
    yield "episodes", f"{len(returns)}, {summary.terminated} of which ended in a terminal state"
    yield "steps", str(lengths.sum())
    yield "episode length", f"{lengths.min()} to {lengths.max()}, mean {lengths.mean():.4g}"
    if files.provenance.rewards:
        yield "return", f"mean {returns.mean():.4g}, standard deviation {returns.std():.4g}"
        yield "", f"minimum, quartiles, maximum: {quartiles}"
    else:
        yield "return", "none: the data hold no rewards"
    yield "image", " x ".join(map(str, summary.image_shape)) + " (channels, height, width) uint8"
    yield "actions", f"{summary.actions}, from {span(summary.lowest)} to {span(summary.highest)}"
    for name, value in vars(files.provenance).items():
        if value not in (None, {}) and name != "rewards":
            yield name.replace("_", " "), json.dumps(value) if isinstance(value, dict) else str(value)
    for path, reason in files.skipped.items():
        yield "skipped", f"{path}: {reason}"


def span(values: np.ndarray) -> str:
    return " ".join(f"{value:.3g}" for value in np.atleast_1d(values))


def thumbnails(episode: Transitions) -> np.ndarray:
    """(COLUMNS, H, W, 3), evenly spaced frames, including the first and the last."""
    at = np.linspace(0, len(episode), COLUMNS).round().astype(int)
    return pictures(torch.from_numpy(episode.frames[at]))


def shown(returns: Sequence[float]) -> list[int]:
    """The episodes with the lowest and the highest return, and some between."""
    order = np.argsort(returns, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int)].tolist()


def default_picture(root: Path) -> Path:
    """A path beside the data, so that the data set's folder does not change."""
    return root.with_name(f"{root.name}.png")


def printable(name: str) -> str:
    """A file's name as text: names need not be UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def convert(files: TransitionFiles, target: str, format: str, known: dict[str, object]) -> None:
    """Writes a data set in another format; `known` is the provenance that the user gives.

    Raises:
        ValueError: for a target inside of the data, data that can't be used, and a target that can't be written to.
    """
    if Path(target).resolve().is_relative_to(files.root.resolve()):
        raise ValueError(f"{target} lies inside of the data, and would be read as a part of them: name another folder")
    told = {name: value for name, value in known.items() if value is not None}
    provenance = dataclasses.replace(told_by_run(files.provenance), **told)  # type: ignore[arg-type]
    write_transitions(files, target, provenance, format=format)
    for path, reason in files.skipped.items():
        print(f"skipped {path}: {reason}", file=sys.stderr)
    print(f"wrote {target}\nnext: python -m rlrep.experiments.data info {shlex.quote(target)}")


def learning(folder: Path, *_: object, task: bool = True, rewards: bool = True, choices: bool = False) -> str:
    """The command that learns from a data set. ``task`` says whether its task is known."""
    if choices or not (task or rewards):  # the agents' actions are continuous, and a robot has no simulated task
        return f"python -m rlrep.experiments.pretrain source={shlex.quote(str(folder))}"
    agent = "td3_bc" if rewards else "bc"
    named = "" if task else " task=TASK"
    return f"python -m rlrep.experiments.offline agent={agent}{named} dataset={shlex.quote(str(folder))}"
