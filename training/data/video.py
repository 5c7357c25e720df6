"""Writing, joining and reading the short-GOP h264 files of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GOP = 2  # keyframe interval: random access is 10x faster than at the encoder's default of 250
_LOSSLESS = ("libx264rgb", "rgb24", {"qp": "0", "preset": "veryfast"})
_LOSSY = ("libx264", "yuv420p", {"crf": "18", "preset": "veryfast"})


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float, lossless: bool = True, gop: int = GOP) -> int:
    """frames (h, w, 3) uint8 RGB -> an mp4; returns how many were written. Lossless keeps every bit.

    Written under another name and renamed, so a file that is there is whole."""
    codec, pixel_format, options = _LOSSLESS if lossless else _LOSSY
    temporary = path.with_suffix(".part.mp4")
    count = 0
    with av.open(str(temporary), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = pixel_format
        # One thread a file: workers run side by side. No B-frames: every frame can be cut from its neighbour.
        stream.options = {**options, "bf": "0", "g": str(gop), "threads": "1"}
        for image in frames:
            if count == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode())
    temporary.rename(path)
    return count


def join_videos(path: Path, parts: Iterable[tuple[Path, int]], fps: float) -> None:
    """parts [(mp4, frames)] of one codec and size -> one mp4, packets copied, nothing encoded again."""
    temporary = path.with_suffix(".part.mp4")
    offset = 0
    with av.open(str(temporary), "w") as target:
        stream = None
        for part, frames in parts:
            with av.open(str(part)) as source:
                template = source.streams.video[0]
                if stream is None:
                    stream = target.add_stream_from_template(template)
                    stream.time_base = template.time_base
                tick = round(1 / (Fraction(fps).limit_denominator(1000) * template.time_base))
                for packet in source.demux(template):
                    if packet.dts is None:
                        continue
                    packet.pts += offset * tick
                    packet.dts += offset * tick
                    packet.stream = stream
                    target.mux(packet)
            offset += frames
    temporary.rename(path)


def read_video(path: Path, start: int, count: int, fps: float) -> Iterator[np.ndarray]:
    """Frames start .. start+count of an mp4 of constant rate -> (h, w, 3) uint8 RGB each.

    Raises ValueError when the file is missing, unreadable or too short."""
    if not path.is_file():
        raise ValueError(f"wanted a video at {path}, got no such file")
    given = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None
            tick = 1 / (Fraction(fps).limit_denominator(1000) * stream.time_base)
            container.seek(int(start * tick), stream=stream, backward=True)
            for frame in container.decode(stream):
                index = round(frame.pts / tick)
                if index < start:
                    continue
                yield frame.to_ndarray(format="rgb24")
                given += 1
                if given == count:
                    return
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(
            f"{path}: wanted frames {start} to {start + count}, got an unreadable video: {error}"
        ) from None
    raise ValueError(f"{path}: wanted frames {start} to {start + count}, got {given}; the file is truncated")
