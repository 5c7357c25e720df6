"""What to do when a camera gives no frames: restart the stream, reset the device, wait for it to be plugged in.
Pure."""

from __future__ import annotations

STEPS = ("streaming", "restart the stream", "reset the device", "wait for the camera to be plugged in again")
PAUSE_S = (0.0, 0.2, 0.2, 1.0)  # before an attempt of each step
AFTER_RESET_S = 3.0  # a reset takes the device off the bus for a while
FIRST_FRAME_S = 3.0  # a device that just started takes its time to expose the first frame


class Recovery:
    """A watchdog and the next step. A stream that never gives a frame is so started three times, with a reset before
    the last. Time [s] is an argument."""

    def __init__(self, timeout_s: float, first_s: float = FIRST_FRAME_S) -> None:
        """timeout_s: without a frame for this long the stream has failed; first_s: the first one may take longer."""
        self._timeout_s, self._first_s = timeout_s, max(first_s, timeout_s)
        self.step = 0
        self._not_before = 0.0
        self._deadline = 0.0
        self._reset = False
        self.restarts = self.resets = self.losses = 0

    @property
    def doing(self) -> str:
        return STEPS[self.step]

    @property
    def wants_reset(self) -> bool:
        """-> whether the device is to be reset before the stream is opened."""
        return self.step == 2 and not self._reset

    def reset(self, now: float) -> None:
        """The device was reset; it needs time before the stream can be opened."""
        self._reset, self._not_before = True, now + AFTER_RESET_S
        self.resets += 1

    def started(self, now: float) -> None:
        """A stream was opened."""
        self._deadline = now + self._first_s

    def frame(self, now: float) -> None:
        """A frame came: all is well."""
        self._deadline, self.step = now + self._timeout_s, 0

    def late(self, now: float) -> bool:
        return now > self._deadline

    def failed(self, now: float, gone: bool) -> None:
        """The stream failed, or the last step did; gone: the device is not listed any more."""
        if self.step == 0:
            self.losses += 1
        self.step = 3 if gone else min(self.step + 1, 3)
        self.restarts += self.step == 1
        self._reset = False
        self._not_before = now + PAUSE_S[self.step]

    def due(self, now: float) -> bool:
        """-> whether the step may be tried now."""
        return now >= self._not_before
