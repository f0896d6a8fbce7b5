"""Hostile files: no file chooses what code runs, makes a reader open other files, or unpacks without bound."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rlrep import PixelEncoder
from rlrep.data import Provenance, TransitionFiles, open_dataset, open_video, reading, write_transitions
from rlrep.data import cache as caches
from rlrep.data.formats import video
from rlrep.data.safe_hdf5 import opened
from rlrep.experiments import data
from tests.rlrep.data.harm import HARM
from tests.rlrep.data.transition_files import episodes

SMALL: dict[str, Any] = dict(image_size=8, frame_stack=1, max_gap=2)
READERS: list[Callable[[Path], Any]] = [
    lambda path: list(TransitionFiles(path)),
    open_dataset,
    lambda path: open_video(path, **SMALL),
]


def refused(path: Path, message: str, readers: list[Callable[[Path], Any]] = READERS) -> None:
    for reader in readers:
        with pytest.raises(ValueError, match=rf"(?s)can't be used: .*{message}"):
            reader(path)


@pytest.fixture
def minari(tmp_path: Path) -> Path:
    write_transitions(episodes(), tmp_path / "minari", format="minari")
    return tmp_path / "minari"


def change_metadata(folder: Path, **changes: Any) -> None:
    path = folder / "data/metadata.json"
    about = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in about.items() if value is not None}))


@pytest.mark.parametrize("space", ["action_space", "observation_space"])
def test_a_minari_data_set_can_not_name_what_is_run(minari: Path, space: str, tmp_path: Path) -> None:
    spec = {"id": "evil-v0", "entry_point": "os:system", "kwargs": {"command": f"touch {tmp_path / 'ran'}"}}
    change_metadata(minari, env_spec=json.dumps(spec), **{space: None})
    refused(minari, f"no {space}")
    assert data.main(["info", str(minari)]) == 1
    change_metadata(minari, env_spec=json.dumps(spec), action_space=json.dumps({"type": "os:system"}))
    open_video(minari, **SMALL) if space == "action_space" else refused(minari, "no observation_space")
    assert not (tmp_path / "ran").exists()


def test_minari_is_neither_needed_nor_asked_for(minari: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    monkeypatch.setattr("gymnasium.make", None)
    for reader in READERS:
        reader(minari)


@pytest.mark.parametrize(
    "name", ["../outside-v0", "a/../../outside-v0", "/outside-v0", "./outside-v0", "a//outside-v0"]
)
def test_an_id_leads_nowhere_but_to_minaris_folder(
    minari: Path, monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    minari.rename(tmp_path / "outside-v0")
    (tmp_path / "root/a").mkdir(parents=True)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path / "root/a")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        open_video("x" + name if name.startswith("a") else name.replace("/outside", "/outsides"), **SMALL)
    (tmp_path / "root/outsides-v0").symlink_to(tmp_path / "outside-v0")
    for given in (name, name.replace("outside", "outsides")):
        if not Path(given).exists():
            with pytest.raises(FileNotFoundError, match="no file or folder"):
                open_video(given, **SMALL)
    assert len(open_video("outsides-v0", **SMALL).lengths) == 4  # a link that the user made is allowed


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize(
    ("format", "names"),
    [
        ("vd4rl_84", ("observation", "reward", "step_type")),
        ("minari", ("observations", "actions", "rewards", "terminations")),
    ],
)
def test_every_hdf5_file_is_read_by_the_same_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, names: tuple[str, ...], harm: Callable[..., None]
) -> None:
    write_transitions(episodes(), tmp_path / "data", format=format)
    monkeypatch.setattr(reading, "UNPACKED_BYTES", 1 << 20)
    (tmp_path / "secret").write_bytes(bytes(range(256)) * 100)
    path = tmp_path / ("data/data/main_data.hdf5" if format == "minari" else "data/data.hdf5")
    content = path.read_bytes()
    for name in names:
        with h5py.File(path, "a") as file:
            harm(file["episode_0"] if format == "minari" else file, name, tmp_path / "secret")
        needed = READERS if name in ("observation", "observations", "step_type") else READERS[:2]
        message = rf"({name}|pictures|unpack)"
        for reader in needed:
            with pytest.raises(ValueError, match=rf"(?s)can't be used: .*{message}"):
                reader(tmp_path / "data")
        path.write_bytes(content)


@pytest.mark.parametrize("link", [h5py.SoftLink("/episode_1"), h5py.ExternalLink("other.hdf5", "/episode_0")])
def test_a_group_that_is_a_link_is_refused(minari: Path, link: Any) -> None:
    with h5py.File(minari / "data/main_data.hdf5", "a") as file:
        del file["episode_0"]
        file["episode_0"] = link
    refused(minari, "its episode_0 is a link")


def test_an_attribute_can_not_ask_for_memory(tmp_path: Path) -> None:
    write_transitions(episodes(), tmp_path / "data", format="vd4rl_84")
    for value in (np.int64(10**14), "text", np.zeros(3, np.uint8), h5py.Empty("V8")):
        with h5py.File(tmp_path / "data/data.hdf5", "a") as file:
            del file.attrs["provenance"]
            file.attrs["provenance"] = value  # bytes(10**14) would allocate that many zeros
        refused(tmp_path / "data", "provenance must be opaque bytes", READERS[:2])


def test_an_npz_is_unpacked_within_a_bound_and_only_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "UNPACKED_BYTES", 1 << 20)
    write_transitions(episodes(), tmp_path / "data", format="drqv2")
    path = sorted((tmp_path / "data").glob("*.npz"))[0]
    arrays = dict(np.load(path))
    bomb = np.zeros(30 << 20, np.uint8)
    np.savez_compressed(path, **arrays, unread=bomb, rgb=bomb)
    read: list[str] = []
    opening = zipfile.ZipFile.open
    with monkeypatch.context() as patch:
        patch.setattr(
            zipfile.ZipFile, "open", lambda file, member: read.append(member.filename) or opening(file, member)
        )
        assert len(list(TransitionFiles(tmp_path / "data"))) == 4
    assert not {"unread.npy", "rgb.npy"} & set(read)
    np.savez_compressed(path, **(arrays | {"reward": bomb}))
    refused(tmp_path / "data", r"reward.* would unpack to 31 MB, and at most 1 MB are read", READERS[:2])
    np.savez_compressed(path, **(arrays | {"observation": bomb.reshape(-1, 3, 32, 32)}))
    refused(tmp_path / "data", r"would unpack to 31 MB, and at most 1 MB are read")
    np.savez(path, **(arrays | {"observation": bomb.reshape(-1, 3, 32, 32)}))
    assert open_video(path, **SMALL).lengths.tolist() == [10 << 10]  # no more than the size of the file


def rewritten(path: Path, member: str, content: bytes, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as file:
        held = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, old in held.items():
            file.writestr(name, content if name == member else old)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 3, 1000, 1000)}", "not as long as its header"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-2, -3, 8, 8)}", "not as long as its header|corrupt"),
        ("[" * 9000, "corrupt"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", "pickled objects"),
    ],
)
def test_a_header_of_an_array_is_not_believed(tmp_path: Path, header: str, message: str) -> None:
    np.savez(tmp_path / "a.npz", observation=np.zeros((4, 3, 8, 8), np.uint8))
    text = header.encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(384)
    rewritten(tmp_path / "a.npz", "observation.npy", content)
    refused(tmp_path / "a.npz", message, READERS[2:])


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_npz_that_unpacks_by_unbounded_steps_is_refused(tmp_path: Path, method: int) -> None:
    np.savez(tmp_path / "a.npz", observation=np.zeros((4, 3, 8, 8), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        content = file.read("observation.npy")
    rewritten(tmp_path / "a.npz", "observation.npy", content, method)
    refused(tmp_path / "a.npz", "compressed in a way that NumPy does not write", READERS[2:])


@pytest.mark.parametrize("kind", ["fifo", "device", "dangling"])
@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("rlrep", "frame.npy"),
        ("rlrep", "step.npy"),
        ("rlrep", "replay.json"),
        ("rlrep", "verified.json"),
        ("minari", "data/main_data.hdf5"),
        ("minari", "data/metadata.json"),
        ("vd4rl_84", "data.hdf5"),
    ],
)
def test_what_is_not_a_regular_file_is_never_waited_for(tmp_path: Path, format: str, name: str, kind: str) -> None:
    write_transitions(episodes(), tmp_path / "data", format=format)
    path = tmp_path / "data" / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "/nowhere")
    if name == "verified.json":  # it only saves time
        path.unlink() if kind == "fifo" else None
        assert len(list(TransitionFiles(tmp_path / "data"))) == 4
    else:
        for reader in READERS:
            with pytest.raises(ValueError, match=r"can't be used|holds no videos"):
                reader(tmp_path / "data")


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("format", ["rlrep", "drqv2"])
def test_reading_writes_to_nothing_that_a_link_leads_to(tmp_path: Path, format: str, there: bool) -> None:
    """A name under which a reader stores notes beside the data may be a link that came with the data."""
    write_transitions(episodes(), tmp_path / "data", format=format)
    target = tmp_path / "mine"
    target.write_text("mine") if there else None
    for reader in READERS:
        reader(tmp_path / "data")
        own = [tmp_path / "data"] if format == "rlrep" else []
        for folder in (*own, *(tmp_path / "data/.rlrep-cache").glob("*")):
            (folder / "verified.json").unlink(missing_ok=True)
            (folder / "verified.json").symlink_to(target)
        reader(tmp_path / "data")
    assert target.read_text() == "mine" if there else not target.exists()


@pytest.mark.parametrize("kind", ["folder", "symlink", "hard link", "file"])
def test_decoding_writes_to_nothing_that_a_link_leads_to(tmp_path: Path, kind: str) -> None:
    """The name under which a decoding goes on is known beforehand, so that such a folder may come with the data."""
    write_transitions(episodes(), tmp_path / "data", format="drqv2")
    open_video(tmp_path / "data", **SMALL)
    (made,) = (tmp_path / "data/.rlrep-cache").glob("[!.]*")
    unfinished = made.with_name(f"{caches._hidden_name(made)}.unfinished")
    shutil.rmtree(made)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "frames.npy").write_text("mine")
    if kind == "folder":
        unfinished.symlink_to(mine)
    elif kind == "file":
        unfinished.write_text("a file")
    else:
        unfinished.mkdir()
        (os.symlink if kind == "symlink" else os.link)(mine / "frames.npy", unfinished / "frames.npy")
    assert len(open_video(tmp_path / "data", **SMALL).lengths) == 4
    assert [path.name for path in mine.iterdir()] == ["frames.npy"] and (mine / "frames.npy").read_text() == "mine"


@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_lock_is_not_waited_for(tmp_path: Path) -> None:
    write_transitions(episodes(), tmp_path / "data", format="drqv2")
    open_dataset(tmp_path / "data")
    (made,) = (tmp_path / "data/.rlrep-cache").glob("[!.]*")
    shutil.rmtree(made)
    os.mkfifo(made.with_name(f"{caches._hidden_name(made)}.lock"))
    with pytest.raises(OSError, match="can't write"):
        open_dataset(tmp_path / "data")


@pytest.mark.parametrize("dtype", ["|S0", "<U0", "|V0"])
def test_an_array_whose_values_have_no_size_is_refused_before_memory_is_taken(tmp_path: Path, dtype: str) -> None:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({2**40},)}}"
    array = np.lib.format.magic(1, 0) + struct.pack("<H", 118) + header.ljust(117).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("observation.npy", array)
    refused(tmp_path / "a.npz", "its observation", READERS[2:])


def test_what_follows_a_gif_is_not_read_without_bound(write_video: Any) -> None:
    path = write_video("a.gif")
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 2 * video.LARGEST_REST)
    refused(path, "bytes follow the byte that ends a GIF", READERS[2:])


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:9,\nother.mp4\n"])
@pytest.mark.parametrize("ending", [".avi", ".mp4", ".gif", ".mkv"])
def test_a_video_can_not_name_other_files(write_video: Any, text: str, ending: str) -> None:
    other = write_video("other.mp4")
    path = other.with_name(f"playlist{ending}")
    path.write_text(text)
    with pytest.raises(ValueError, match="can't be used: it is corrupt"):
        open_video(path, **SMALL)


@pytest.mark.parametrize(("screen", "picture"), [((60_000, 60_000), (8, 8)), ((8, 8), (60_000, 60_000))])
def test_pictures_of_a_video_are_bounded(tmp_path: Path, screen: tuple[int, int], picture: tuple[int, int]) -> None:
    colours, data = b"\x80\0\0" + bytes(6), b"\0\x02\x02\x4c\x01\0;"
    block = b"," + struct.pack("<HHHH", 0, 0, *picture)
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + struct.pack("<HH", *screen) + colours + block + data)
    with pytest.raises(ValueError, match="60000x60000 are larger than the 67108864 pixels"):
        open_video(tmp_path / "a.gif", **SMALL)


@pytest.mark.parametrize("kind", ["fifo", "device"])
@pytest.mark.parametrize("ending", [".npz", ".mp4", ".hdf5"])
def test_a_pipe_among_episodes_is_not_passed_over(tmp_path: Path, ending: str, kind: str) -> None:
    write_transitions(episodes(), tmp_path / "data", format="drqv2")
    path = tmp_path / f"data/more{ending}"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    refused(tmp_path / "data", "it is not a regular file")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "\ud800", "", "null", "[]"])
def test_json_of_any_kind_is_refused(minari: Path, tmp_path: Path, text: str) -> None:
    write_transitions(episodes(), tmp_path / "own", format="rlrep")
    for path in (minari / "data/metadata.json", tmp_path / "own/replay.json", tmp_path / "own/dataset.json"):
        content = path.read_bytes()
        path.write_bytes(text.encode(errors="surrogatepass"))
        refused(minari if path.name == "metadata.json" else tmp_path / "own", "")
        path.write_bytes(content)
    change_metadata(minari, observation_space=text.encode(errors="replace").decode())
    refused(minari, "")


@pytest.mark.parametrize("values", [{"task": "${oc.env:HOME}"}, {"made": {"distractors": {"kind": "${oc.env:X}"}}}])
def test_provenance_can_not_read_the_environment(minari: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="provenance can't contain"):
        Provenance(**values)
    change_metadata(minari, rlrep_provenance=None, env_spec=json.dumps({"id": "${oc.env:HOME}"}))
    refused(minari, "provenance can't contain", READERS[:2])


def test_a_level_is_no_path() -> None:
    for level in ("../../elsewhere", "/etc", "a\\b"):
        with pytest.raises(ValueError, match=r"level .* must be a plain name"):
            Provenance(level=level)


def test_a_group_has_nothing_but_what_was_checked(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["good"] = np.arange(3)
        file["inner/good"] = np.arange(4)
        file["text"] = "text"
    with opened(tmp_path / "a.hdf5") as group:
        assert sorted(group) == ["good", "inner", "text"]
        assert "inner/good" not in group and "none" not in group
        assert list(group["inner"]["good"]) == [0, 1, 2, 3]
        with pytest.raises(reading.Unreadable, match="text must have a row for each step"):
            group["text"]


def test_weights_larger_than_their_encoder_are_not_opened(tmp_path: Path) -> None:
    PixelEncoder((3, 20, 20), channels=4).save_pretrained(tmp_path / "encoder")
    os.truncate(tmp_path / "encoder/model.safetensors", 1 << 38)
    with pytest.raises(ValueError, match=r"is larger than the encoder that config\.json describes"):
        PixelEncoder.from_pretrained(tmp_path / "encoder")
