"""Reads damaged files one after the other, in a process of its own: HDF5's library may end it.

python damage.py KIND FIRST COUNT FOLDER prints a line for each: its number, and error, equal, different or what it was.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gymnasium import spaces

from rlrep.data import TransitionFiles, Transitions, open_dataset, write_transitions
from rlrep.replay import ReplayBuffer
from tests.rlrep.data.transition_files import episode

LENGTHS = (7, 4)
CHECKSUMMED = ("vd4rl_64", "drqv2", "vd4rl_84", "rlrep")
KINDS = (*CHECKSUMMED, "plain_hdf5", "run")


def sources() -> list[Transitions]:
    return [episode(number, steps, number % 2 == 1) for number, steps in enumerate(LENGTHS)]


def make(kind: str, folder: Path) -> None:
    """Whole files of a kind."""
    if kind in CHECKSUMMED:
        write_transitions(sources(), folder, format=kind)
    elif kind == "plain_hdf5":
        make_plain_hdf5(folder)
    else:
        replay = ReplayBuffer((3, 8, 8), spaces.Box(-1, 1, (2,)), 20, frame_stack=1, path=folder)
        for source in sources():
            for t in range(len(source)):
                over = np.array([t == len(source) - 1])
                replay.add(
                    observation=source.frames[t : t + 1],
                    action=source.action[t : t + 1],
                    reward=source.reward[t : t + 1],
                    next_observation=source.frames[t + 1 : t + 2],
                    terminated=over & source.terminated,
                    truncated=over,
                )
        replay.flush()


def make_plain_hdf5(folder: Path) -> None:
    """As other programs write it: neither compressed nor checksummed."""
    import h5py

    write_transitions(sources(), folder.with_name("checksummed"), format="vd4rl_84")
    folder.mkdir()
    with h5py.File(folder.with_name("checksummed") / "data.hdf5") as old, h5py.File(folder / "data.hdf5", "w") as new:
        for name in old:
            new[name] = old[name][:]
    shutil.rmtree(folder.with_name("checksummed"))


def damage(folder: Path, rng: np.random.Generator) -> str:
    """Changes one file in a folder; says how."""
    names = ("frame", "action", "reward", "terminated", "step", "episode", "replay", "dataset")
    files = sorted(path for path in folder.iterdir() if path.suffix != ".json" or path.stem in names)
    path = files[rng.integers(len(files))]
    content = bytearray(path.read_bytes())
    how = ("flip", "flips", "truncate", "header", "zeros", "insert", "dtype")[rng.integers(7)]
    if how == "dtype" and swap_dtype(path, rng):
        return how
    at = int(rng.integers(len(content)))
    if how == "truncate":
        del content[at:]
    elif how == "zeros":
        content[at : at + 32] = bytes(len(content[at : at + 32]))
    elif how == "insert":
        content[at:at] = rng.bytes(8)
    elif how == "header":
        content[rng.integers(min(256, len(content)))] = rng.integers(256)
    else:
        for _ in range(8 if how == "flips" else 1):
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return how


def swap_dtype(path: Path, rng: np.random.Generator) -> bool:
    """Writes one of the arrays with another type, in a whole file."""
    dtype = [np.float64, np.int64, np.uint8, np.float16, np.complex64, "S4"][rng.integers(6)]
    if path.suffix == ".npy":
        np.save(path, np.load(path).astype(dtype))
    elif path.suffix == ".npz":
        arrays = dict(np.load(path))
        name = sorted(arrays)[rng.integers(len(arrays))]
        np.savez(path, **(arrays | {name: arrays[name].astype(dtype)}))
    elif path.suffix == ".hdf5":
        import h5py

        with h5py.File(path, "a") as file:
            name = sorted(file)[rng.integers(len(file))]
            array = file[name][:].astype(dtype)
            del file[name]
            file[name] = array
    else:
        return False
    return True


def opened(folder: Path) -> list[Transitions]:
    """The episodes that `open_dataset` has."""
    cache = folder.with_name("cache")
    shutil.rmtree(cache, ignore_errors=True)
    data = open_dataset(folder, cache=cache)
    frames, rows = data.frames[0].numpy(), {name: array[0] for name, array in data.rows.items()}
    starts = np.flatnonzero(rows["step"] == 0)
    return [
        Transitions(
            frames[first:end],
            rows["action"][first : end - 1],
            rows["reward"][first : end - 1],
            bool(rows["terminated"][end - 2]),
        )
        for first, end in zip(starts, [*starts[1:], len(frames)], strict=True)
    ]


def outcome(folder: Path) -> str:
    read, mapped = outcome_of(lambda: list(TransitionFiles(folder))), outcome_of(lambda: opened(folder))
    return read if read == mapped else f"{read} when read, {mapped} when opened"


def outcome_of(reading: Callable[[], list[Transitions]]) -> str:
    try:
        found = reading()
    except ValueError:
        return "error"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    expected = sources()
    same = len(found) == len(expected) and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for one, other in zip(found, expected, strict=True)
        for name in ("frames", "action", "reward", "terminated")
    )
    return "equal" if same else "different"


def main(kind: str, first: int, count: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    whole = folder / "whole"
    make(kind, whole)
    assert outcome(whole) == "equal"
    for number in range(first, first + count):
        copy = folder / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        print(number, "begins", flush=True)
        how = damage(copy, np.random.default_rng(number))
        print(number, how, outcome(copy), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
