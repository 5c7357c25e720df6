"""What came late, and what did not come at all, of something that is sent once a period. Pure."""

from __future__ import annotations

import math

WINDOW = 40  # arrivals over which lateness evens out, so that what is left is loss


class Arrivals:
    """late: gaps beyond one and a half periods; missed: periods that no arrival made up for.

    One that is late makes the gap before it longer and the one after it shorter; one that is lost leaves fewer arrivals
    than periods. The sender's clock may be off by up to half a period in WINDOW."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._last_s = self._since_s = math.nan
        self._count = 0
        self.late = self.missed = 0

    def add(self, stamp_s: float) -> None:
        """An arrival; stamps [s] never go back."""
        if math.isnan(self._since_s):
            self._since_s = self._last_s = stamp_s
            return
        self.late += stamp_s - self._last_s > 1.5 * self._period_s
        self._last_s = stamp_s
        self._count += 1
        if self._count == WINDOW:  # fewer than 0: the window before ended with one that was late
            self.missed += round((stamp_s - self._since_s) / self._period_s) - self._count
            self._since_s, self._count = stamp_s, 0
