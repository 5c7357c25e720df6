"""Time alignment: from streams that arrive one by one to whole observations."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any


class Synchroniser:
    """Gathers one item of every stream whose stamps lie within `max_skew_ns` of each other.

    With a skew of 0 the stamps must be equal, as simulators give them. An item that was passed over, because a newer
    observation was completed first or too many waited, counts as dropped."""

    def __init__(self, streams: Sequence[str], max_skew_ns: int = 0, depth: int = 8) -> None:
        """streams: their names; depth: items of one stream that may wait for the others."""
        if not streams or max_skew_ns < 0 or depth < 1:
            raise ValueError(
                f"synchroniser: wanted streams, skew >= 0, depth >= 1; got {streams}, {max_skew_ns}, {depth}"
            )
        self._waiting: dict[str, deque[tuple[int, Any]]] = {name: deque() for name in streams}
        self._max_skew_ns = max_skew_ns
        self._depth = depth
        self.complete = 0
        self.dropped = 0

    def add(self, stream: str, stamp_ns: int, item: Any) -> dict[str, Any] | None:
        """-> {stream: item} when this item completes an observation, else None. The same stamp again replaces the item.

        Stamps may start anew (the robot was restarted): only the order of arrival says what is newer."""
        waiting = self._waiting[stream]
        for index, (stamp, _) in enumerate(waiting):
            if stamp == stamp_ns:
                del waiting[index]
                break
        waiting.append((stamp_ns, item))
        if len(waiting) > self._depth:
            waiting.popleft()
            self.dropped += 1
        chosen = {}
        for name, queue in self._waiting.items():
            best = min(range(len(queue)), key=lambda i: abs(queue[i][0] - stamp_ns), default=None)
            if best is None or abs(queue[best][0] - stamp_ns) > self._max_skew_ns:
                return None
            chosen[name] = best
        observation = {}
        for name, index in chosen.items():
            queue = self._waiting[name]
            for _ in range(index):
                queue.popleft()
                self.dropped += 1
            observation[name] = queue.popleft()[1]
        self.complete += 1
        return observation

    def clear(self) -> None:
        """Forget everything that waits; the counts stay."""
        for queue in self._waiting.values():
            queue.clear()
