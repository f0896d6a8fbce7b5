"""Video files, through PyAV."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.episode import Episode
from rlrep.data.formats.base import Format, Wanted
from rlrep.data.reading import (
    AT_ONCE,
    UNPACKED_BYTES,
    Unavailable,
    Unreadable,
    missing_extra,
    reported_as_unreadable,
)

LARGEST_PAGE = 27 + 255 + 255 * 255  # bytes of an Ogg page
LARGEST_REST = 1_000_000  # bytes after the end of a GIF
TRANSPORT_PACKETS = (188, 192, 204)  # bytes: plain, with time codes, with error correction


# FFmpeg detects formats by content, also playlists and scripts that name other files: these are not read.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,ogg,asf,flv"
LIMITS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
MOST_PIXELS = 1 << 26  # of a picture; 8K has half of that


class Video(Format):
    """A video file, always RGB; reads the first of several video streams. Pictures may have up to 67 million pixels."""

    name = "video"
    endings = (
        *(".mp4", ".webm", ".gif", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".ogv"),
        *(".wmv", ".asf", ".flv", ".3gp", ".3g2"),
    )

    def read(self, path: Path, wanted: Wanted) -> Iterator[Episode]:
        try:
            import av
        except ModuleNotFoundError as error:
            raise missing_extra("PyAV", "videos") from error

        check_end = CHECKS.get(path.suffix.lower())
        with reported_as_unreadable():
            left_out = "" if check_end is None else check_end(path)  # FFmpeg would search the whole file for a GIF
            container = av.open(_name(path), options=LIMITS)
        with container:
            if not container.streams.video:
                kinds = " and ".join(sorted({stream.type for stream in container.streams}))
                raise Unreadable(
                    f"it has no pictures, only {kinds}" if kinds else "it is corrupt or truncated: it is empty"
                )
            rate = container.streams.video[0].average_rate
            times: list[Fraction] = []
            yield Episode(path.name, _decode(container, rate, times), rate, times, left_out=left_out)


def _name(path: Path) -> Any:
    """A name or file that PyAV can open: it supports only UTF-8 names."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.open("rb")
    return str(path)


def _decode(container: Any, rate: Fraction | None, times: list[Fraction]) -> Iterator[np.ndarray]:
    """The pictures, (t, 3, H, W); adds their times of display to `times`."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    if stream.codec_context is None:
        raise Unavailable("no decoder for it is installed with PyAV")
    _check_pixels(stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # later pictures may be larger
    pictures: list[np.ndarray] = []
    shape: tuple[int, ...] = ()
    usual = 1 / rate if rate else Fraction(0)
    end = others_end = Fraction(0)
    with reported_as_unreadable():
        for packet in container.demux():
            if packet.stream.index != stream.index:
                others_end = max(others_end, _end(packet, Fraction(0)))
                continue
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise Unreadable(f"the picture at {frame.time} s is corrupt")
                picture = _as_shown(frame)
                if shape and picture.shape != shape:
                    raise Unreadable(f"its pictures change from {_size(shape)} to {_size(picture.shape)}")
                shape = picture.shape
                pictures.append(picture)
                if frame.pts is None:
                    times.append(times[-1] + usual if times else Fraction(0))
                else:
                    times.append(frame.pts * frame.time_base)
                end = max(end, _end(frame, usual))
                if len(pictures) == AT_ONCE or len(pictures) * picture.nbytes > UNPACKED_BYTES:
                    yield np.moveaxis(np.stack(pictures), 3, 1)
                    pictures.clear()
    if pictures:
        yield np.moveaxis(np.stack(pictures), 3, 1)
    if not times:
        raise Unreadable("it is corrupt or truncated: no picture could be decoded")
    _check_is_whole(container, rate, end - min(times[0], Fraction(0)), others_end)


def _end(part: Any, usual: Fraction) -> Fraction:
    """Seconds at which a packet or frame ends, 0 if its start is unknown."""
    if part.pts is None or not part.time_base:
        return Fraction(0)
    return part.pts * part.time_base + max((part.duration or 0) * part.time_base, usual)


def _as_shown(frame: Any) -> np.ndarray:
    """A frame as (H, W, 3), rotated and mirrored by the display matrix that cameras write into their files.

    Raises:
        Unreadable: for a matrix that is more than quarter turns and mirrors.
    """
    picture: np.ndarray = frame.to_ndarray(format="rgb24")
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return picture
    # A pixel at (x, y) is shown at (a·x + c·y, b·x + d·y), y downwards (ISO/IEC 14496-12, 6.2.2).
    a, b, _, c, d = np.frombuffer(found, np.int32)[:5].tolist()
    if a and d and not b and not c:
        across, down = a, d
    elif b and c and not a and not d:
        picture = picture.swapaxes(0, 1)
        across, down = c, b
    else:
        raise Unreadable(
            f"its pictures are to be turned by {frame.rotation} degrees: only quarter turns and mirrors are read, so "
            f"turn it with a video editor"
        )
    return picture[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1]


def _check_pixels(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise Unreadable(f"its pictures of {width}x{height} are larger than the {MOST_PIXELS} pixels that are read")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _check_gif(path: Path) -> str:
    """Checks the blocks of a GIF, because its decoder ignores a missing end (GIF89a specification).

    Returns:
        What may be missing: without the final byte, a GIF may have lost whole pictures; with a final byte in the
        middle, it has lost pictures.

    Raises:
        Unreadable: if it ends within a block.
    """

    def read(count: int) -> bytes:
        found = file.read(count)
        if len(found) < count:
            raise Unreadable("it is truncated: it breaks off within a picture")
        return found

    def skip_colours(flags: int) -> None:
        if flags & 0x80:
            read(3 << (flags & 7) + 1)

    with path.open("rb") as file:
        header = read(13)
        if header[:6] not in (b"GIF87a", b"GIF89a"):
            raise Unreadable("it is corrupt: it does not begin like a GIF")
        _check_pixels(*struct.unpack("<HH", header[6:10]))
        skip_colours(header[10])
        while (kind := file.read(1)) != b";":
            if kind == b"":
                return "what may follow its last whole picture: the byte that ends a GIF is missing"
            if kind == b",":
                about = read(9)
                _check_pixels(*struct.unpack("<HH", about[4:8]))
                skip_colours(about[8])
                read(1)
            elif kind == b"!":
                read(1)
            else:
                raise Unreadable(f"it is corrupt: no block of a GIF begins with {kind!r}")
            while size := read(1)[0]:
                read(size)
        after = file.read(LARGEST_REST + 1)
    if len(after) > LARGEST_REST:
        raise Unreadable(f"more than {LARGEST_REST:,} bytes follow the byte that ends a GIF")
    if b"GIF87a" in after or b"GIF89a" in after:  # which FFmpeg would read as the same episode
        raise Unreadable("another GIF follows the byte that ends it: keep each in a file of its own")
    rest = len(after.strip(b"\0\r\n "))
    return f"the {rest} bytes after the one that ends a GIF: it may be damaged before them" if rest else ""


def _check_ogg(path: Path) -> str:
    """Checks the last page of an Ogg file, because the file states no duration (RFC 3533, section 6).

    Returns:
        What may be missing: without a page that ends its stream, pictures may be lost.

    Raises:
        Unreadable: if it ends within a page.
    """
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - LARGEST_PAGE, 0))
        tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 + page[26] + sum(lengths):
        raise Unreadable("it is truncated: it breaks off within a page")
    return "" if page[5] & 4 else "what may follow its last page: none is marked as the end"


def _check_transport_stream(path: Path) -> str:
    """What may be missing from an MPEG transport stream, which states no duration: all its packets have one size."""
    whole = any(path.stat().st_size % size == 0 for size in TRANSPORT_PACKETS)
    return "" if whole else "what may follow its last packet: it breaks off within one"


# Containers without a duration, with another mark of their end.
CHECKS: dict[str, Callable[[Path], str]] = {
    ".gif": _check_gif,
    ".ogv": _check_ogg,
    **dict.fromkeys((".ts", ".mts", ".m2ts"), _check_transport_stream),
}


def _check_is_whole(container: Any, rate: Fraction | None, seconds: Fraction, others: Fraction) -> None:
    """Refuses a video that ends earlier than its header states: decoders ignore a missing end. `others` is the end of
    the last packet of other streams.
    """
    stream = container.streams.video[0]
    whole = None if container.duration is None else Fraction(container.duration, 1_000_000)
    if stream.duration is not None:
        stated = stream.duration * stream.time_base
    else:
        stated = _matroska_duration(stream.metadata)
        # A tag longer than the whole video is from before a cut. Without a tag, only the longest stream's duration is
        # known.
        if whole is not None and (stated is None or stated > whole + 1):
            stated, seconds = whole, max(seconds, others)
    # Containers round times, and the duration of the last picture is a guess.
    if rate and stated and stated - seconds > max(1.5 / rate, 0.01 * stated):
        raise Unreadable(f"it is truncated: {float(seconds):.2f} of {float(stated):.2f} seconds could be decoded")


def _matroska_duration(tags: Mapping[str, str]) -> Fraction | None:
    """Seconds that a stream lasts, which Matroska's writers put into a tag, perhaps with a language after its name."""
    for name, text in tags.items():
        found = re.fullmatch(r"(\d{1,9}):(\d{1,9}):(\d{1,9}(?:\.\d{1,9})?)", text.strip())
        if found and re.fullmatch(r"DURATION(-\w+)?", name, re.IGNORECASE):
            hours, minutes, seconds = map(Fraction, found.groups())
            return 3600 * hours + 60 * minutes + seconds
    return None
