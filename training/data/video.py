"""Writing, joining and reading the short-GOP h264 files of a dataset."""

from __future__ import annotations

import itertools
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


class VideoFrames:
    """Random access into one video file; a frame's number is its place in time, from 0.

    What `frames` gives depends on its argument alone: each call seeks afresh. Where the rate is given or the file's
    index shows a constant one (mp4), a number is computed from a time stamp; else the packets are listed once, at
    opening, without decoding: that reads the whole file."""

    def __init__(self, path: Path, rate: float | None = None) -> None:
        """rate [frames/s], where it is known to be constant. Raises ValueError when the file cannot be read."""
        self.path = path
        if not path.is_file():
            raise ValueError(f"wanted a video at {path}, got no such file")
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
            self._stream.codec_context.thread_count = 1  # loader workers run side by side
            self._measure(rate)
        except (av.FFmpegError, IndexError, StopIteration) as error:
            raise ValueError(f"{path}: wanted a video, got an unreadable file: {error or 'no video stream'}") from None
        if not self.count:
            raise ValueError(f"{path}: wanted a video, got a file without frames")

    def _measure(self, rate: float | None) -> None:
        """Sets the frame count, the rate, how time stamps become numbers, and where decoding can begin."""
        entries = self._stream.index_entries
        stamps = np.array([entry.timestamp for entry in entries], np.int64)
        keys = np.array([entry.is_keyframe for entry in entries], bool)
        self._first = self._stream.start_time or 0
        self._times: np.ndarray | None = None
        self._tick: float | Fraction = 1
        base = self._stream.time_base or Fraction(1)
        if rate is not None:
            self._tick = 1 / (Fraction(rate).limit_denominator(1000) * base)
        elif len(stamps) > 1 and len(stamps) == self._stream.frames and _regular(stamps):
            self._tick = Fraction(int(stamps[-1] - stamps[0]), len(stamps) - 1)
        else:
            packets = [(p.pts, p.is_keyframe) for p in self._container.demux(self._stream) if p.pts is not None]
            packets.sort()
            self._times = np.array([pts for pts, _ in packets], np.int64)
            keys = np.array([key for _, key in packets], bool)
        self.count = len(keys) if self._times is not None else self._stream.frames or len(keys)
        self.rate_hz = rate or (float(self._stream.average_rate) if self._stream.average_rate else None)
        self._keys = np.nonzero(keys)[0]

    def close(self) -> None:
        self._container.close()

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Ascending numbers -> their frames (h, w, 3) uint8 RGB; one such iteration at a time.

        Raises ValueError when a frame is missing or damaged."""
        decoded: Iterator[tuple[int, av.VideoFrame]] = iter(())
        position, frame = -1, None
        for index in map(int, indices):
            key = self._keys[np.searchsorted(self._keys, index, "right") - 1] if len(self._keys) else 0
            try:
                if position < 0 or key > position:
                    decoded = self._decode_from(index)
                position, frame = next((d for d in decoded if d[0] >= index), (-1, None))
                if frame is None or position != index or frame.is_corrupt:
                    raise ValueError(f"{self.path}: wanted frame {index}, got none that is whole; the file is damaged")
                yield frame.to_ndarray(format="rgb24")
            except av.FFmpegError as error:
                raise ValueError(f"{self.path}: wanted frame {index}, got an unreadable video: {error}") from None

    def _decode_from(self, index: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """-> (number, frame) from some frame at or before `index` on."""
        back = 0
        while True:
            target = max(0, min(index, self.count - 1) - back)
            stamp = self._times[target] if self._times is not None else self._first + round(target * self._tick)
            self._container.seek(int(stamp), stream=self._stream, backward=True, any_frame=False)
            decoded = ((self._number(frame), frame) for frame in self._container.decode(self._stream))
            first = next(decoded, None)
            if first is not None and (first[0] <= index or target == 0):
                return itertools.chain([first], decoded)
            if target == 0:
                return iter(())
            # Containers seek by decoding time: with reordered frames that can land one keyframe too late.
            back = 2 * back + 8

    def _number(self, frame: av.VideoFrame) -> int:
        if frame.pts is None:
            raise ValueError(f"{self.path}: wanted time stamps, got a frame without one")
        if self._times is not None:
            return int(np.searchsorted(self._times, frame.pts))
        return round((frame.pts - self._first) / self._tick)


def _regular(stamps: np.ndarray) -> bool:
    """stamps (N,) int64, N > 1: whether they are evenly spaced, but for rounding."""
    even = stamps[0] + np.arange(len(stamps)) * ((stamps[-1] - stamps[0]) / (len(stamps) - 1))
    return bool(np.abs(stamps - even).max() <= 1)
