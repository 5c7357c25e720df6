"""Pairs what several sensors measured at about the same time: each has its own clock tick, so stamps are never
equal."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alam_common.diagnostics import Durations


@dataclass(frozen=True)
class Paired:
    """{stream: item} of one moment, and the stamp [ns] of the leading stream's item."""

    stamp_ns: int
    items: dict[str, Any]


class Pairing:
    """For each item of the leading stream the nearest one of every other, if all lie within `max_skew_ns` of it.

    An image is used once; of the fast streams (`shared`) an item may serve twice. What is older than the last pair,
    comes
    twice or finds no partner counts as rejected."""

    def __init__(
        self, leading: str, others: Sequence[str], max_skew_ns: int, shared: Sequence[str] = (), depth: int = 64
    ) -> None:
        """leading and others: names of streams; depth: items of each that are kept. Raises ValueError for nonsense."""
        if leading in others or not others or max_skew_ns <= 0 or depth < 1 or not set(shared) <= set(others):
            raise ValueError(
                f"pairing: wanted other streams, skew > 0, depth >= 1; got {others}, {max_skew_ns}, {depth}"
            )
        self._leading, self._others, self._shared = leading, tuple(others), set(shared)
        self._max_skew_ns = max_skew_ns
        self._kept: dict[str, deque[tuple[int, Any]]] = {name: deque(maxlen=depth) for name in (leading, *others)}
        self._last: dict[str, int] = {}  # newest stamp used of each stream
        self.complete = 0
        self.rejected = 0
        self.skew = {name: Durations() for name in others}  # of the pairs made [s]

    def add(self, stream: str, stamp_ns: int, item: Any) -> Paired | None:
        """-> a pair when this item completes one."""
        kept = self._kept[stream]
        if stamp_ns <= self._last.get(stream, -1) and stream not in self._shared:
            self.rejected += 1
            return None
        if any(stamp == stamp_ns for stamp, _ in kept):
            self.rejected += stream not in self._shared
            return None
        if stream not in self._shared and len(kept) == kept.maxlen:
            self.rejected += 1
        kept.append((stamp_ns, item))
        for lead in sorted(self._kept[self._leading], key=lambda entry: -entry[0]):
            if paired := self._pair(lead):
                return paired
        return None

    def clear(self) -> None:
        """Forget everything that waits, and the order (the robot was restarted); the counts stay."""
        for kept in self._kept.values():
            kept.clear()
        self._last.clear()

    def _pair(self, lead: tuple[int, Any]) -> Paired | None:
        stamp_ns, item = lead
        chosen = {}
        for name in self._others:
            best = min(self._kept[name], key=lambda entry: abs(entry[0] - stamp_ns), default=None)
            if best is None or abs(best[0] - stamp_ns) > self._max_skew_ns:
                return None
            chosen[name] = best
        for name, best in ((self._leading, lead), *chosen.items()):
            self._last[name] = max(best[0], self._last.get(name, -1))
            if name in self._shared:
                continue
            passed_over = [entry for entry in self._kept[name] if entry[0] < best[0]]
            self.rejected += len(passed_over)
            rest = [entry for entry in self._kept[name] if entry[0] > best[0]]
            self._kept[name] = deque(rest, maxlen=self._kept[name].maxlen)
        for name, best in chosen.items():
            self.skew[name].add(abs(best[0] - stamp_ns) / 1e9)
        self.complete += 1
        return Paired(stamp_ns, {self._leading: item, **{name: best[1] for name, best in chosen.items()}})
