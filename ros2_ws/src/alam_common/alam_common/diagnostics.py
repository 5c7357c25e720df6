"""What a node says about itself: rates, ages, drops, mode and reason. Time [s] is an argument everywhere."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from alam_common.statistics import percentile_ms

OK, WARN, ERROR = 0, 1, 2  # diagnostic_msgs/DiagnosticStatus levels


@dataclass(frozen=True)
class Status:
    """One line of /diagnostics: level, the mode with its reason, and named values."""

    level: int
    message: str
    values: dict[str, str] = field(default_factory=dict)


class Rate:
    """Events per second over the last `window_s`, and the age of the newest."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._times: deque[float] = deque()
        self._newest: float | None = None
        self.count = 0

    def tick(self, now_s: float) -> None:
        self._times.append(now_s)
        self._newest = now_s
        self.count += 1
        while self._times[0] <= now_s - self._window_s:
            self._times.popleft()

    def rate_hz(self, now_s: float) -> float:
        times = list(self._times)  # a copy: another thread may tick meanwhile
        return sum(time > now_s - self._window_s for time in times) / self._window_s

    def age_s(self, now_s: float) -> float:
        """-> seconds since the newest event; infinite when there was none."""
        return float("inf") if self._newest is None else now_s - self._newest


class Durations:
    """The last `keep` durations [s] and their percentiles."""

    def __init__(self, keep: int = 256) -> None:
        self._last: deque[float] = deque(maxlen=keep)

    def add(self, duration_s: float) -> None:
        self._last.append(duration_s)

    def percentile_ms(self, percent: float) -> float:
        """-> [ms]; NaN when nothing was measured."""
        return percentile_ms(list(self._last), percent)
