"""Pairs what several sensors measured at about the same time: each has its own clock tick, so stamps are never
equal."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from alam_common.diagnostics import Durations

REASONS = ("late", "repeated", "alone")  # why an item will never be in a pair

_stamp = itemgetter(0)


@dataclass(frozen=True)
class Paired:
    """{stream: item} of one moment, and the stamp [ns] of the leading stream's item."""

    stamp_ns: int
    items: dict[str, Any]


class Pairing:
    """For each item of the leading stream the nearest one of every other, if all lie within `max_skew_ns` of it.

    A pair is made as soon as it is whole, of the newest leading item that allows one; nearest is meant among what has
    come by then. An item is used once; those of the fast streams (`shared`) may serve again. `rejected` counts the
    others by reason: not newer than what was used ("late"), waiting already ("repeated"), overtaken by a newer pair or
    by too many that wait ("alone"); of a fast stream only "repeated". Whatever is rejected changes nothing."""

    def __init__(
        self,
        leading: str,
        others: Sequence[str],
        max_skew_ns: int,
        shared: Sequence[str] = (),
        depth: int = 8,
        shared_depth: int = 64,
    ) -> None:
        """leading and others: names of streams; depth, shared_depth: the newest items of a stream that are kept.

        Raises ValueError for nonsense."""
        sound = leading not in others and len(others) > 0 and set(shared) <= set(others)
        if not sound or max_skew_ns <= 0 or min(depth, shared_depth) < 1:
            raise ValueError(
                "pairing: wanted other streams, skew > 0, depths >= 1; "
                f"got {others}, {max_skew_ns}, {depth}, {shared_depth}"
            )
        self._leading, self._others, self._shared = leading, tuple(others), frozenset(shared)
        self._max_skew_ns = max_skew_ns
        self._depth = {name: shared_depth if name in shared else depth for name in (leading, *others)}
        self._kept: dict[str, list[tuple[int, Any]]] = {name: [] for name in self._depth}  # sorted by stamp
        self._used: dict[str, int] = {}  # newest stamp used of each stream that is not shared
        self.complete = 0
        self.rejected = dict.fromkeys(REASONS, 0)
        self.skew = {name: Durations() for name in others}  # of the pairs made [s]

    def add(self, stream: str, stamp_ns: int, item: Any) -> Paired | None:
        """-> a pair when this item completes one."""
        kept = self._kept[stream]
        if stamp_ns <= self._used.get(stream, -1):
            self.rejected["late"] += 1
            return None
        index = bisect_left(kept, stamp_ns, key=_stamp)
        if index < len(kept) and kept[index][0] == stamp_ns:
            self.rejected["repeated"] += 1
            return None
        kept.insert(index, (stamp_ns, item))
        if len(kept) > self._depth[stream]:
            del kept[0]
            self.rejected["alone"] += stream not in self._shared
        for lead in reversed(self._kept[self._leading]):
            if paired := self._pair(*lead):
                return paired
        return None

    def waiting(self, stream: str) -> int:
        """-> how many items of a stream are kept."""
        return len(self._kept[stream])

    def clear(self) -> None:
        """Forget everything that waits, and the order (the robot was restarted); the counts stay."""
        for kept in self._kept.values():
            kept.clear()
        self._used.clear()

    def _pair(self, stamp_ns: int, item: Any) -> Paired | None:
        chosen = {}
        for name in self._others:
            nearest = _nearest(self._kept[name], stamp_ns)
            if nearest is None or abs(nearest[0] - stamp_ns) > self._max_skew_ns:
                return None
            chosen[name] = nearest
        for name, (other_ns, _) in chosen.items():
            self.skew[name].add(abs(other_ns - stamp_ns) / 1e9)
            if name not in self._shared:
                self._use(name, other_ns)
        self._use(self._leading, stamp_ns)
        self.complete += 1
        return Paired(stamp_ns, {self._leading: item, **{name: other for name, (_, other) in chosen.items()}})

    def _use(self, stream: str, stamp_ns: int) -> None:
        """Let go of the item that is used and of everything older."""
        kept = self._kept[stream]
        index = bisect_left(kept, stamp_ns, key=_stamp)
        self.rejected["alone"] += index
        del kept[: index + 1]
        self._used[stream] = stamp_ns


def _nearest(kept: list[tuple[int, Any]], stamp_ns: int) -> tuple[int, Any] | None:
    """-> of what is kept, sorted, the one nearest to a stamp; of two equally near the older."""
    index = bisect_left(kept, stamp_ns, key=_stamp)
    return min(kept[max(index - 1, 0) : index + 1], key=lambda entry: abs(entry[0] - stamp_ns), default=None)
