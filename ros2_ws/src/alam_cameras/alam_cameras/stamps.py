"""Capture times on the host's wall clock, from clocks that are not it. Pure."""

from __future__ import annotations

OLDEST_S = 2.0  # a driver's stamp older than this is not a capture time on CLOCK_MONOTONIC
BACKWARDS_S = 1e-6


def from_monotonic(driver_s: float, now_s: float, wall_s: float) -> tuple[float, str]:
    """A V4L2 driver's stamp, time.monotonic() and time.time() now [s] -> capture on the wall clock [s], its domain.

    Drivers without stamps on CLOCK_MONOTONIC give zero or another clock: then it is the time of arrival."""
    age_s = now_s - driver_s
    return (wall_s - age_s, "v4l2_monotonic") if 0.0 <= age_s <= OLDEST_S else (wall_s, "arrival")


class Restamp:
    """Recorded stamps -> now, for playback: recorded intervals, moved as one to the time of playing.

    A frame's stamp is its recorded one plus an offset, at first such that the first frame is stamped when it arrives.
    The offset shrinks when a later frame proves it too large, so no stamp lies in the future; it is chosen anew when
    the recording begins again (recorded time goes backwards). Stamps never go backwards."""

    def __init__(self) -> None:
        self._last = float("inf")
        self._offset_s = 0.0
        self.loops = -1  # how often the recording began again; -1: nothing was played

    def __call__(self, recorded_s: float, wall_s: float) -> float:
        """recorded stamp [s], time of arrival [s] -> stamp [s] on the host's wall clock."""
        if recorded_s < self._last - BACKWARDS_S:
            self._offset_s = wall_s - recorded_s
            self.loops += 1
        self._last = recorded_s
        self._offset_s = min(self._offset_s, wall_s - recorded_s)
        return recorded_s + self._offset_s
