"""What offline data hold, and from one format to another.

python -m experiments.data info PATH: format, episodes, returns, actions, provenance, and a picture of frames
python -m experiments.data convert SRC DST --format vd4rl_84
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from experiments.files import write_atomically
from experiments.run.offline_config import told_by_run
from experiments.run.reconstructions import COLUMNS, pictures, png
from rlrep.data import TransitionFiles, Transitions, write_transitions
from rlrep.data.dataset import WRITERS

# Episodes in the picture, from the lowest return to the highest.
SHOWN = 5


@dataclass
class Summary:
    """What is kept of each episode while a data set is read."""

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


def info(path: str, picture: Path | None, skip_corrupt: bool) -> None:
    """Prints what a data set holds, and draws a contact sheet of it."""
    files = TransitionFiles(path, skip_corrupt)
    summary = Summary()
    sheet: dict[int, np.ndarray] = {}
    for number, episode in enumerate(files):
        summary.add(episode)
        sheet[number] = thumbnails(episode)
    print("\n".join(f"{name:<16}{value}" for name, value in lines(files, summary)))
    target = picture or default_picture(files.root)
    rows = shown(summary.returns)
    named = {f"episode {number}\nreturn {summary.returns[number]:.4g}": sheet[number] for number in rows}
    columns = [f"{round(100 * i / (COLUMNS - 1))} %" for i in range(COLUMNS)]
    write_atomically(target, png(named, columns, f"{files.root.name}: from an episode's first frame to its last"))
    print(f"{'picture':<16}{target}")


def lines(files: TransitionFiles, summary: Summary) -> Iterator[tuple[str, str]]:
    """Name and text of each line that `info` prints."""
    returns, lengths = np.array(summary.returns), np.array(summary.lengths)
    quartiles = " ".join(f"{value:.4g}" for value in np.quantile(returns, (0, 0.25, 0.5, 0.75, 1)))
    yield "path", str(files.root)
    yield "format", files.format
    yield "episodes", f"{len(returns)}, {summary.terminated} of which really ended"
    yield "steps", str(lengths.sum())
    yield "episode length", f"{lengths.min()} to {lengths.max()}, mean {lengths.mean():.4g}"
    yield "return", f"mean {returns.mean():.4g}, standard deviation {returns.std():.4g}"
    yield "", f"minimum, quartiles, maximum: {quartiles}"
    yield "image", " x ".join(map(str, summary.image_shape)) + " (channels, height, width) uint8"
    yield "actions", f"{summary.actions}, from {span(summary.lowest)} to {span(summary.highest)}"
    for name, value in vars(files.provenance).items():
        if value not in (None, {}):
            yield name.replace("_", " "), json.dumps(value) if isinstance(value, dict) else str(value)
    for path, reason in files.skipped.items():
        yield "skipped", f"{path}: {reason}"


def span(values: np.ndarray) -> str:
    return " ".join(f"{value:.3g}" for value in np.atleast_1d(values))


def thumbnails(episode: Transitions) -> np.ndarray:
    """(COLUMNS, H, W, 3), frames at even distances, the first and the last among them."""
    at = np.linspace(0, len(episode), COLUMNS).round().astype(int)
    return pictures(torch.from_numpy(episode.frames[at]))


def shown(returns: Sequence[float]) -> list[int]:
    """Episodes with the lowest and the highest return, and some between."""
    order = np.argsort(returns, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int)].tolist()


def default_picture(root: Path) -> Path:
    """Beside the data, so that a data set's folder stays as it is."""
    return root.with_name(f"{root.name}.png")


def convert(source: str, target: str, format: str, skip_corrupt: bool, known: dict[str, object]) -> None:
    """Writes a data set in another format; `known` is what the person tells of how it was made."""
    files = TransitionFiles(source, skip_corrupt)
    told = {name: value for name, value in known.items() if value is not None}
    provenance = dataclasses.replace(told_by_run(files.provenance), **told)  # type: ignore[arg-type]
    write_transitions(files, target, provenance, format=format)
    for path, reason in files.skipped.items():
        print(f"skipped {path}: {reason}", file=sys.stderr)
    print(f"wrote {target}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("info", help="what a data set holds")
    one.add_argument("path", help="of the data: a file, a folder, or the id of a Minari data set")
    one.add_argument("--picture", type=Path, help="where the PNG of frames goes; PATH.png by default")
    two = commands.add_parser("convert", help="from one format to another")
    two.add_argument("source", help="any data that info reads")
    two.add_argument("target", help="a new folder")
    two.add_argument("--format", choices=sorted(WRITERS), default="rlrep")
    for name, kind in (("task", str), ("level", str), ("random-return", float), ("expert-return", float)):
        two.add_argument(f"--{name}", type=kind, help="recorded, where the source does not say it or says it wrongly")
    for command in (one, two):
        command.add_argument("--skip-corrupt", action="store_true", help="leave out files that can't be used")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="minari")
    try:
        if options.command == "info":
            info(options.path, options.picture, options.skip_corrupt)
        else:
            known = {name: getattr(options, name) for name in ("task", "level", "random_return", "expert_return")}
            convert(options.source, options.target, options.format, options.skip_corrupt, known)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}".replace("skip_corrupt=True", "--skip-corrupt"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
