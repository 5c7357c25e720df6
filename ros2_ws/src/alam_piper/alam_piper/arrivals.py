"""What came late, and what did not come at all, of something that is sent once a period. Pure."""

from __future__ import annotations

import math

WINDOW = 40  # arrivals, of which one at least is about on time
DRIFT = 0.1  # share of what a window is behind that is put down to the sender's clock


class Arrivals:
    """late: gaps beyond one and a half periods; missed: periods that no arrival made up for.

    Lateness passes, loss does not: the arrival of a window that is least behind its time tells how many were lost
    before it. Counted behind each window, and taken back where what seemed lost was late for longer than that."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._last_s = math.nan
        self._due_s = 0.0  # time of the next, had none been lost
        self._behind_s, self._count = math.inf, 0  # the least of a window; how many it has
        self.late = self.missed = 0

    def add(self, stamp_s: float) -> None:
        """An arrival; stamps [s] never go back."""
        period_s = self._period_s
        if math.isnan(self._last_s):
            self._last_s, self._due_s = stamp_s, stamp_s + period_s
            return
        self.late += stamp_s - self._last_s > 1.5 * period_s
        self._last_s = stamp_s
        self._behind_s = min(self._behind_s, stamp_s - self._due_s)
        self._due_s += period_s
        self._count += 1
        if self._count == WINDOW:
            lost = round(self._behind_s / period_s)
            self.missed = max(0, self.missed + lost)
            self._due_s += lost * period_s + DRIFT * (self._behind_s - lost * period_s)
            self._behind_s, self._count = math.inf, 0
