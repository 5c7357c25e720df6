"""Keeps a source of images streaming: opens it, watches it, and takes the steps of recovery. Knows no ROS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from alam_cameras.frame import Frame, Gone, Intrinsics
from alam_cameras.recovery import Recovery

WAIT_S = 0.1  # for one frame; how fast an end is noticed
IDLE_S = 0.05


class Source(Protocol):
    """What RealSense, V4L2 and file cameras have in common. Methods raise Gone for what recovery is for, ValueError for
    settings that the device does not take."""

    name: str  # in sentences
    intrinsics: Intrinsics | None  # once started

    @property
    def present(self) -> bool: ...
    @property
    def host_stamps(self) -> bool: ...
    def start(self) -> None: ...
    def read(self, timeout_s: float) -> Frame | None: ...
    def stop(self) -> None: ...
    def reset(self) -> None: ...
    def about(self) -> dict[str, str]: ...


class Stream:
    """One thread calls `step` again and again; others may read `why`, `streaming`, `recovery`, `dropped`."""

    def __init__(
        self,
        source: Source,
        timeout_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
    ) -> None:
        """timeout_s: without a frame for this long the stream has failed; clock [s]: monotonic; sleep: may be short."""
        self.source, self.recovery = source, Recovery(timeout_s)
        self._timeout_s, self._clock, self._sleep = timeout_s, clock, sleep
        self.streaming = False  # opened; not yet proven by a frame
        self.why = ""  # what is wrong; empty when frames come
        self.dropped = 0  # gaps in the running numbers of frames, within a stream
        self.repeated = 0  # frames that were no new ones
        self._number: int | None = None  # of the last frame; anew with each stream
        self._stamp_s = -math.inf  # of the last frame of any stream

    def step(self) -> Frame | None:
        """-> the next frame; None when none came in time or the source is in trouble, of which `why` tells."""
        try:
            if not self.streaming and not self._open():
                return None
            frame = self.source.read(WAIT_S)
            if frame is not None and self._is_new(frame):
                self.recovery.frame(self._clock())
                self.why = ""
                return frame
            if self.recovery.late(self._clock()):
                raise Gone(f"no {'new ' if frame is not None else ''}image for {self._timeout_s:.1f} s")
            return None
        except (Gone, ValueError, RuntimeError) as error:  # RuntimeError: how libraries say that a device vanished
            self._fail(str(error))
            return None

    def stop(self) -> None:
        self.streaming = False
        self.source.stop()

    def _open(self) -> bool:
        """-> whether the stream is open now."""
        now = self._clock()
        if not self.recovery.due(now):
            self._sleep(IDLE_S)
            return False
        if self.recovery.wants_reset:
            self.source.reset()
            self.recovery.reset(self._clock())
            return False
        self.source.start()
        self.streaming, self._number = True, None
        self.recovery.started(self._clock())
        return True

    def _is_new(self, frame: Frame) -> bool:
        """A frame with the number or the stamp of the last one says no more than none: a device may hang so."""
        number, stamp_s = self._number, self._stamp_s
        self._number, self._stamp_s = frame.number, frame.stamp_s
        if frame.number == number or frame.stamp_s == stamp_s:
            self.repeated += 1
            return False
        if number is not None:
            self.dropped += max(0, frame.number - number - 1)
        return True

    def _fail(self, sentence: str) -> None:
        self.stop()
        try:
            gone = not self.source.present
        except RuntimeError:  # the bus itself is being looked through again
            gone = False
        self.why = f"{self.source.name} is unplugged" if gone else sentence
        self.recovery.failed(self._clock(), gone)
