"""Opens damaged and hostile files with every reader, and counts the outcomes: `make fuzz`.

`python -m tests.fuzz --seed 1 --count 3000` makes 3,000 inputs, each by one change to intact files of one kind, and
opens each in a process with limited memory and time. It fails if an input causes a traceback, a crash, a hang or too
much memory, or silently gives different data although the format has checksums. `--kind npz --number 7 --keep FOLDER`
only makes input 7 of a kind, and keeps it.

The columns count outcomes: `refused` is an error that the reader documents; `same` means the data that were written;
`told` means different data with a warning (the complete episodes of a truncated file); `changed` means different data
without a warning, which is allowed for formats without checksums only; `edited` means different data that were saved
with valid checksums.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
MEMORY = 1 << 30  # in addition to what the process uses after it has loaded its packages
SECONDS = 30.0
OUTCOMES = ("refused", "same", "told", "edited", "changed", "traceback", "crash", "hang", "memory")
LENGTHS = (7, 4)
VIDEOS = {"mp4": ("libx264", "yuv420p"), "webm": ("libvpx-vp9", "yuv420p"), "mkv": ("mpeg4", "yuv420p")}
VIDEOS |= {"avi": ("mjpeg", "yuvj420p"), "gif": ("gif", "rgb8")}
LEROBOT = {"lerobot": "video", "lerobot_images": "image"}
TRANSITIONS = ("vd4rl_64", "drqv2", "vd4rl_84", "minari", "minari_arrow", *LEROBOT, "rlrep", "plain_hdf5", "run")
# Pixels and values in these have no checksum, so changed values cannot be noticed: experiments/README.md.
UNCHECKED = {"plain_hdf5", "minari_arrow", "run", "config", *LEROBOT, *VIDEOS}
KINDS = (*TRANSITIONS, *VIDEOS, "encoder", "checkpoint", "config")
HDF5 = ("vd4rl_84", "minari", "plain_hdf5")


# ---- intact files


def make(kind: str, folder: Path) -> None:
    """Writes intact files of a kind."""
    if kind in VIDEOS:
        make_video(kind, folder)
    elif kind == "encoder":
        from rlrep import PixelEncoder

        PixelEncoder((3, 20, 20), channels=4).save_pretrained(folder)
    elif kind == "checkpoint":
        import torch

        from rlrep.experiments.run.checkpoint import save_checkpoint

        generator = torch.Generator().manual_seed(0)
        weights = {f"weight_{number}": torch.randn(9, 7, generator=generator) for number in range(4)}
        folder.mkdir()
        save_checkpoint(folder / "latest.pt", {"agent": weights, "frame": 1000, "rng": [1, 2, 3]})
    elif kind == "config":
        from omegaconf import OmegaConf

        folder.mkdir()
        agent = {"name": "taco", "lr": 1e-4, "latent_actions": True}
        values = {"task": "walker_walk", "seed": 1, "agent": agent, "objectives": ["curl"], "noise": {"kind": None}}
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    else:
        make_transitions(kind, folder)


def make_video(kind: str, folder: Path) -> None:
    import av

    folder.mkdir()
    rng = np.random.default_rng(0)
    codec, pixels = VIDEOS[kind]
    with av.open(str(folder / f"video.{kind}"), "w") as file:
        stream = file.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, pixels
        for number in range(12):
            picture = rng.integers(0, 20, (32, 32, 3), np.uint8) + np.uint8(20 * number)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def sources() -> list[Any]:
    from tests.rlrep.data.transition_files import episode

    return [episode(number, steps, number % 2 == 1) for number, steps in enumerate(LENGTHS)]


def make_transitions(kind: str, folder: Path) -> None:
    from rlrep.data import write_transitions

    if kind == "run":
        make_run(folder)
    elif kind == "minari_arrow":
        from tests.rlrep.data.arrow_files import write_arrow

        write_arrow(sources(), folder)
    elif kind in LEROBOT:
        from tests.rlrep.data.lerobot_files import TOP, write_lerobot

        write_lerobot(folder, LEROBOT[kind], cameras=(TOP,))
    elif kind == "plain_hdf5":  # as other programs write it: without compression and checksums
        import h5py

        write_transitions(sources(), folder.with_name("checksummed"), format="vd4rl_84")
        folder.mkdir()
        old_path = folder.with_name("checksummed") / "data.hdf5"
        with h5py.File(old_path) as old, h5py.File(folder / "data.hdf5", "w") as new:
            for name in old:
                new[name] = old[name][:]
        shutil.rmtree(old_path.parent)
    else:
        write_transitions(sources(), folder, format=kind)


def make_run(folder: Path) -> None:
    """Writes the replay of a run."""
    from gymnasium import spaces

    from rlrep.replay import ReplayBuffer

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


# ---- changes


def damage(folder: Path, rng: random.Random, kind: str) -> str:
    """Changes one file in a folder; returns a description of the change."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    if rng.random() < 0.15:
        return replace(path, rng)
    if rng.random() < 0.3:
        with contextlib.suppress(Exception):  # some changes do not fit every file
            return f"{change_content(path, rng, kind)} of {path.name}"
    content = bytearray(path.read_bytes())
    how = rng.choice(("flip", "flips", "truncate", "header", "zeros", "insert", "repeat", "append", "remove"))
    at = rng.randrange(len(content))
    if how == "truncate":
        del content[at:]
    elif how == "zeros":
        content[at : at + 32] = bytes(len(content[at : at + 32]))
    elif how == "insert":
        content[at:at] = rng.randbytes(8)
    elif how == "header":
        content[rng.randrange(min(256, len(content)))] = rng.randrange(256)
    elif how == "repeat":
        content[at:at] = content[at // 2 : at]
    elif how == "append":
        content += rng.randbytes(rng.randrange(1, 200))
    elif how == "remove":
        del content[at : at + rng.randrange(1, 64)]
    else:
        for _ in range(8 if how == "flips" else 1):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{how} in {path.name}"


def replace(path: Path, rng: random.Random) -> str:
    """Replaces a file by something that is not a valid file of this kind."""
    how = rng.choice(("fifo", "zero", "dangling", "loop", "empty", "sparse", "passwd"))
    if path.suffix != ".npz":  # an episode may be missing from a folder of episodes
        how = rng.choice((how, how, how, "folder", "nothing"))
    path.unlink()
    if how == "fifo":
        os.mkfifo(path)
    elif how in ("zero", "dangling", "loop", "passwd"):
        targets = {"zero": "/dev/zero", "dangling": "/nowhere", "loop": path.name, "passwd": "/etc/passwd"}
        path.symlink_to(targets[how])
    elif how == "folder":
        path.mkdir()
    elif how in ("empty", "sparse"):
        path.touch()
        os.truncate(path, 0 if how == "empty" else 1 << 38)
    return f"{how} as {path.name}"


def change_content(path: Path, rng: random.Random, kind: str) -> str:
    """Changes the content of a file, which stays valid for its format."""
    if path.suffix == ".npy":
        np.save(path, changed_array(np.load(path), rng))
        return "array"
    if path.suffix == ".npz":
        arrays = dict(np.load(path))
        name = rng.choice(sorted(arrays))
        if rng.random() < 0.05:
            np.savez_compressed(path, **(arrays | {name: np.zeros(300 << 20, np.uint8)}))
            return "bomb"
        np.savez(path, **(arrays | {name: changed_array(arrays[name], rng)}))
        return f"array {name}"
    if path.suffix == ".hdf5":
        return change_hdf5(path, rng, kind)
    if path.suffix == ".arrow":
        return change_arrow(path, rng)
    if path.suffix == ".parquet":
        return change_parquet(path, rng)
    if path.suffix in (".json", ".yaml"):
        return change_text(path, rng)
    raise ValueError(f"nothing to change in {path}")


def changed_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    how = rng.randrange(5)
    if how == 0:
        return array.astype(rng.choice([np.float64, np.int64, np.uint8, np.float16, np.complex64, "S4", "O"]))
    if how == 1:
        return array[: rng.randrange(len(array) + 1)]
    if how == 2:
        return array[..., None] if rng.random() < 0.5 else array.reshape(-1)
    if how == 3 and array.dtype.kind == "f":
        changed = array.copy()
        changed.flat[rng.randrange(array.size)] = rng.choice([np.nan, np.inf, -1e30])
        return changed
    return np.zeros((0, *array.shape[1:]), array.dtype)


def change_hdf5(path: Path, rng: random.Random, kind: str) -> str:
    import h5py

    from tests.rlrep.data.harm import HARM

    with h5py.File(path, "a") as file:
        group = file[rng.choice(sorted(file))] if kind == "minari" else file
        name = rng.choice(sorted(group))
        if rng.random() < 0.3:
            array = changed_array(group[name][:], rng)
            del group[name]
            group[name] = array
            return f"array {name}"
        harm = rng.choice([each for each in HARM if each.__name__ != "huge_chunks"])
        harm(group, name, Path("/etc/passwd"))
        return f"{harm.__name__} {name}"


def change_arrow(path: Path, rng: random.Random) -> str:
    import pyarrow as pa

    from tests.rlrep.data.arrow_files import column, read_columns, write_columns

    held = read_columns(path)
    name = rng.choice(sorted(held))
    old = held[name]
    values = old.flatten() if pa.types.is_fixed_size_list(old.type) else old
    array = values.to_numpy(zero_copy_only=False).reshape(len(old), -1)
    harms: dict[str, Callable[[], Any]] = {
        "array": lambda: column(changed_array(array, rng)),
        "text": lambda: pa.array(["text"] * len(old)),
        "bytes": lambda: pa.array([rng.randbytes(9)] * len(old)),
        "nulls": lambda: pa.array([None] * len(old)),
        "some nulls": lambda: pa.concat_arrays([old.slice(1), pa.nulls(1, old.type)]),
        "dictionary": lambda: pa.array(["text"] * len(old)).dictionary_encode(),
        "structure": lambda: pa.StructArray.from_arrays([old], [name]),
        "runs": lambda: pa.RunEndEncodedArray.from_arrays([1 << 30], [1.0]).slice(0, len(old)),
        "extension": lambda: pa.array([b"x" * 16] * len(old), pa.uuid()),
        "bomb": lambda: pa.array(["x" * (40 << 20)] * len(old)),
    }
    how = rng.choice(sorted(harms))
    compression = rng.choice([None, "zstd", "lz4"]) if how != "bomb" else "zstd"
    write_columns(held | {name: harms[how]()}, path, batches=rng.choice([1, 1, 1, 2]), compression=compression)
    if compression and how != "bomb" and rng.random() < 0.5:  # claims a different unpacked size
        content = bytearray(path.read_bytes())
        at = 8 * rng.randrange(len(content) // 8)
        content[at : at + 8] = rng.choice([1 << 40, 1 << 62, 1 << 20, -1, -2, 0]).to_bytes(8, "little", signed=True)
        path.write_bytes(content)
    return f"{how} {name}"


def change_parquet(path: Path, rng: random.Random) -> str:
    import pyarrow as pa

    from tests.rlrep.data.lerobot_files import change_table, lists, read_table

    held = read_table(path)
    name = rng.choice(held.column_names)
    rows = held.num_rows
    harms: dict[str, Callable[[], Any]] = {
        "none": lambda: None,
        "text": lambda: pa.array(["text"] * rows),
        "nulls": lambda: pa.nulls(rows, held[name].type),
        "lists": lambda: lists(np.zeros((rows, 2))),
        "numbers": lambda: pa.array(changed_array(np.arange(rows), rng)[:rows].tolist() + [-1.5] * rows)[:rows],
        "infinite": lambda: pa.array([np.inf, np.nan, *[1e300] * rows])[:rows],
        "many": lambda: pa.array([[0.0] * (1 << 16)] * rows),
        "bomb": lambda: pa.array([{"bytes": b"x" * (40 << 20)}] * rows),
    }
    how = rng.choice(sorted(harms))
    change_table(path, **{name: harms[how]()})
    return f"{how} {name}"


def change_text(path: Path, rng: random.Random) -> str:
    texts = ["null", "-1", "1e400", str(1 << 70), '""', "[]", "{}", "[" * 5000, '{"a":' * 5000, "9" * 5000]
    texts += ["${oc.env:HOME}", "*a", "&a [*a, *a]", "!!python/object/apply:os.system ['false']", "NaN", "../../x"]
    content = path.read_text()
    if rng.random() < 0.2:
        path.write_text(rng.choice(texts))
        return "whole text"
    words = [at for at, letter in enumerate(content) if letter in ":,[ "]
    at = rng.choice(words)
    end = next((i for i in range(at + 1, len(content)) if content[i] in ",]}\n"), len(content))
    path.write_text(content[: at + 1] + rng.choice(texts) + content[end:])
    return "value"


# ---- reading, in a separate process


def digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(repr((part.shape, str(part.dtype))).encode() + np.ascontiguousarray(part).tobytes())
        else:
            found.update(repr(part).encode())
    return found.hexdigest()


def read_files(folder: Path, cache: Path) -> str:
    from rlrep.data import TransitionFiles

    names = ("frames", "action", "reward", "terminated")
    return digest(*(getattr(one, name) for one in TransitionFiles(folder) for name in names))


def read_dataset(folder: Path, cache: Path) -> str:
    from rlrep.data import open_dataset

    data = open_dataset(folder, cache=cache)
    rows = {name: np.asarray(array) for name, array in sorted(data.rows.items()) if name != "frame"}
    return digest(np.asarray(data.frames), *rows.values())


def read_video(folder: Path, cache: Path) -> str:
    from rlrep.data import open_video

    data = open_video(folder, cache=cache, image_size=8, frame_stack=1, max_gap=1)
    return digest(np.asarray(data.frames), data.lengths)


def read_encoder(folder: Path, cache: Path) -> str:
    from rlrep import PixelEncoder

    encoder = PixelEncoder.from_pretrained(folder)
    return digest(encoder.observation_shape, *(array.numpy() for array in encoder.state_dict().values()))


def read_checkpoint(folder: Path, cache: Path) -> str:
    from rlrep.experiments.run.checkpoint import load_checkpoint

    state = load_checkpoint(folder / "latest.pt")
    weights = {name: array.numpy() for name, array in state.pop("agent").items()}
    return digest(sorted(state.items()), *weights, *weights.values())


def read_config(folder: Path, cache: Path) -> str:
    from rlrep.experiments.results.runs import read_config

    return digest(str(read_config(folder)))


def readers(kind: str) -> list[Callable[[Path, Path], str]]:
    if kind in TRANSITIONS:
        return [read_files, read_dataset, read_video]
    single = {"encoder": read_encoder, "checkpoint": read_checkpoint, "config": read_config}
    return [single.get(kind, read_video)]


def documented() -> tuple[type[Exception], ...]:
    """The exceptions that readers may raise; their messages name the problem."""
    from rlrep.experiments.run.checkpoint import CheckpointError
    from rlrep.replay import ReplayError

    return (ValueError, OSError, ReplayError, CheckpointError)


def outcome(read: Callable[[Path, Path], str], folder: Path, cache: Path, expected: str) -> tuple[str, str]:
    """The outcome of reading a folder, and the error's message."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = read(folder, cache)
        except MemoryError as error:
            return "memory", str(error)
        except documented() as error:
            clear = str(folder) in str(error) and "Traceback" not in str(error)
            plain = isinstance(error, OSError) and type(error) is not OSError and not str(error)
            return ("refused" if clear and not plain else "traceback"), f"{type(error).__name__}: {error}"
        except Exception as error:
            return "traceback", f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(cache, ignore_errors=True)
    if found == expected:
        return "same", ""
    said = any(word in str(one.message) for one in caught for word in ("kept", "skipped", "left out"))
    return ("told" if said else "changed"), ""


def work() -> None:
    """Reads jobs from standard input, one line of JSON each, and answers each job with a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print messages about damage
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    expected: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        for line in sys.stdin:
            job = json.loads(line)
            kind, number = job["kind"], job["number"]
            whole = Path(place) / kind / "whole"
            limit_memory(None)
            if kind not in expected:
                whole.parent.mkdir()
                make(kind, whole)
                expected[kind] = [read(whole, whole.with_name("cache")) for read in readers(kind)]
                shutil.rmtree(whole.with_name("cache"), ignore_errors=True)
            copy = whole.with_name("damaged")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole, copy)
            how = damage(copy, random.Random(f"{job['seed']} {kind} {number}"), kind)
            print(json.dumps({"how": how}), file=answers, flush=True)
            limit_memory(MEMORY)
            found = [
                outcome(read, copy, whole.with_name("cache"), wanted)
                for read, wanted in zip(readers(kind), expected[kind], strict=True)
            ]
            worst, message = max(found, key=lambda one: severity(one[0]))
            print(json.dumps({"outcome": worst, "message": message[:300]}), file=answers, flush=True)


def severity(name: str) -> int:
    return ("same", "refused", "told", "changed", "traceback", "memory").index(name)


def limit_memory(more: int | None) -> None:
    """Limits the process to `more` bytes in addition to what it uses now; None lifts the limit."""
    with contextlib.suppress(OSError):  # not on macOS
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (most if more is None else pages * resource.getpagesize() + more, most))


# ---- the table


@dataclass
class Result:
    """The outcome of one input."""

    kind: str
    number: int
    how: str
    outcome: str
    message: str


@dataclass
class Worker:
    """A process that reads; it is restarted after a crash or a hang."""

    seed: int
    process: Any = field(default=None)

    def read(self, kind: str, number: int) -> Result:
        if self.process is None:
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz", "--work"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,  # select would not see a line in a buffer
                cwd=ROOT,
                env=environment,
            )
        self.process.stdin.write(json.dumps(dict(kind=kind, number=number, seed=self.seed)).encode() + b"\n")
        self.process.stdin.flush()
        begun = self.answer(10 * SECONDS)  # it loads its packages first
        if "how" not in begun:
            raise RuntimeError(f"the whole files of {kind} can't be made or read: {begun or 'no answer'}")
        found = self.answer(SECONDS)
        ended = found.get("outcome", "hang")
        if ended == "changed" and begun["how"].startswith("array"):
            ended = "edited"
        if ended in ("crash", "hang"):
            self.stop()
        return Result(kind, number, begun["how"], ended, found.get("message", ""))

    def answer(self, seconds: float) -> dict[str, str]:
        """The next line of the process; empty after `seconds` without a line, a crash if the process ended."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            return {}
        line = self.process.stdout.readline()
        if line:
            found: dict[str, str] = json.loads(line)
            return found
        return {"outcome": "crash", "message": f"return code {self.process.wait()}"}

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def run(kinds: tuple[str, ...], seed: int, count: int, jobs: int = 2) -> Iterator[Result]:
    """Reads `count` inputs, the same number of each kind."""
    todo = [(kinds[number % len(kinds)], number // len(kinds)) for number in range(count)]

    def part(first: int) -> list[Result]:
        worker = Worker(seed)
        try:
            return [worker.read(*job) for job in todo[first::jobs]]
        finally:
            worker.stop()

    with ThreadPoolExecutor(jobs) as pool:
        for results in pool.map(part, range(jobs)):
            yield from results


def wrong(result: Result) -> bool:
    """Whether a result is a failure."""
    silent = result.outcome == "changed" and result.kind not in UNCHECKED
    return silent or result.outcome in ("traceback", "crash", "hang", "memory")


def table(results: list[Result]) -> str:
    lines = ["| kind | inputs | " + " | ".join(OUTCOMES) + " |", "| --- " * (len(OUTCOMES) + 2) + "|"]
    for kind in (*dict.fromkeys(one.kind for one in results), "all"):
        counts = Counter(one.outcome for one in results if kind in (one.kind, "all"))
        lines.append(f"| {kind} | {counts.total()} | " + " | ".join(str(counts[name]) for name in OUTCOMES) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--count", type=int, default=3000, help="how many inputs")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these kinds")
    parser.add_argument("--number", type=int, help="make one input of one kind, and keep it in --keep")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work()
        return 0
    kinds = tuple(options.kind or KINDS)
    if options.number is not None:
        make(kinds[0], options.keep)
        print(damage(options.keep, random.Random(f"{options.seed} {kinds[0]} {options.number}"), kinds[0]))
        return 0
    start = time.perf_counter()
    results = sorted(run(kinds, options.seed, options.count, options.jobs), key=lambda one: KINDS.index(one.kind))
    print(table(results))
    for one in filter(wrong, results):
        print(f"{one.outcome}: --kind {one.kind} --number {one.number} ({one.how}) {one.message}")
    failed = sum(map(wrong, results))
    print(f"seed {options.seed}, {time.perf_counter() - start:.0f} s: {failed} of {len(results)} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
