"""What to do when a camera gives no frames: restart the stream, reset the device, wait for it to be plugged in.
Pure."""

from __future__ import annotations

STEPS = ("streaming", "restart the stream", "reset the device", "wait for the camera to be plugged in again")
PAUSE_S = (0.0, 0.2, 3.0, 1.0)  # before an attempt of each step; a reset takes the device off the bus for a while


class Recovery:
    """A watchdog and the next step. Time [s] is an argument."""

    def __init__(self, timeout_s: float) -> None:
        """timeout_s: without a frame for this long the stream has failed."""
        self._timeout_s = timeout_s
        self.step = 0
        self._not_before = 0.0
        self._last = 0.0
        self.restarts = self.resets = self.losses = 0

    @property
    def doing(self) -> str:
        return STEPS[self.step]

    def started(self, now: float) -> None:
        """A stream was opened; it has the timeout to give its first frame."""
        self._last = now

    def frame(self, now: float) -> None:
        """A frame came: all is well."""
        self._last, self.step = now, 0

    def late(self, now: float) -> bool:
        return now - self._last > self._timeout_s

    def failed(self, now: float, gone: bool) -> None:
        """The stream failed, or the last step did; gone: the device is not listed any more."""
        if self.step == 0:
            self.losses += 1
        self.step = 3 if gone else min(self.step + 1, 3)
        self.restarts += self.step == 1
        self.resets += self.step == 2
        self._not_before = now + PAUSE_S[self.step]

    def due(self, now: float) -> bool:
        """-> whether the step may be tried now."""
        return now >= self._not_before
