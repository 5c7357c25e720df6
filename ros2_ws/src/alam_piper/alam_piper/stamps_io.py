"""Stamps of messages (the system's clock) on the monotonic clock, by which ages are judged."""

from __future__ import annotations

import time

SLACK_NS = 200_000  # the two clocks are not read at one time: a difference this small is no change
SURE_NS = 50_000  # and a reading that took longer (this thread was set aside) says nothing


class MonotonicStamps:
    """The same stamp is the same time each time: else a message that comes twice would look newer than itself."""

    def __init__(self) -> None:
        self._ahead_ns = time.time_ns() - time.monotonic_ns()  # of the system's clock

    def seconds(self, stamp_ns: int) -> float:
        """A stamp of the system's clock [ns] -> time.monotonic() [s] at that moment."""
        before = time.monotonic_ns()
        system = time.time_ns()
        after = time.monotonic_ns()
        ahead = system - before
        if after - before < SURE_NS and abs(ahead - self._ahead_ns) > SLACK_NS:  # it was set, or drifts
            self._ahead_ns = ahead
        return (stamp_ns - self._ahead_ns) / 1e9
