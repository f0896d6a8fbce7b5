"""Small videos whose pictures show their number."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

FORMATS = {
    ".mp4": ("libx264", "yuv420p"),
    ".webm": ("libvpx-vp9", "yuv420p"),
    ".gif": ("gif", "rgb8"),
    ".mkv": ("mpeg4", "yuv420p"),
    ".avi": ("mjpeg", "yuvj420p"),
    **dict.fromkeys((".mov", ".m4v", ".ts", ".mts", ".3gp"), ("libx264", "yuv420p")),
    **dict.fromkeys((".mpg", ".mpeg"), ("mpeg2video", "yuv420p")),
    ".ogv": ("libvpx", "yuv420p"),
    ".wmv": ("wmv2", "yuv420p"),
    ".flv": ("flv", "yuv420p"),
}
WriteVideo = Callable[..., Path]


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """Writes `name` in the test's folder: picture i is grey, of value `step` * i, plus random `detail`."""

    def write(
        name: str, frames: int = 8, size: tuple[int, int] = (32, 32), fps: int = 10, step: int = 20, detail: int = 0
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        codec, pixels = FORMATS[path.suffix.lower()]
        rng = np.random.default_rng(0)
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=fps)
            stream.width, stream.height, stream.pix_fmt = *size, pixels
            for number in range(frames):
                picture = np.full((size[1], size[0], 3), step * number, np.uint8)
                picture += rng.integers(0, detail + 1, picture.shape, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())
        return path

    return write


@pytest.fixture
def write_audio(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as file:
            stream = file.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path

    return write


@pytest.fixture
def write_timed(tmp_path: Path) -> Callable[..., Path]:
    """Writes pictures that are shown at the given times, in milliseconds; their grey value counts hundredths of
    a second. `sound` is the length of the sound, in milliseconds.
    """

    def write(name: str, times: list[int], sound: int = 0) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            stream.codec_context.thread_count = 1
            audio = file.add_stream("pcm_s16le", rate=8000) if sound else None
            if audio is not None:
                audio.layout = "mono"
            for time in times:
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), time // 10, np.uint8), format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 1000)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
            if audio is not None:
                samples = np.zeros((1, 8 * sound), np.int16)
                heard = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                heard.sample_rate, heard.pts, heard.time_base = 8000, 0, Fraction(1, 8000)
                file.mux(audio.encode(heard))
                file.mux(audio.encode())
        return path

    return write
