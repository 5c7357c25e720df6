"""A thread with absolute deadlines, at real-time priority where that is allowed, that measures itself."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 2000  # of a histogram, 10 us each
BIN_S = 1e-5
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # the last: pages are locked as they are touched
# How long another thread of this process may keep the interpreter from the loop. Shorter is dangerous: at 5 us the
# waiting threads, at real-time priority, kept the one that held it from running, for seconds (LOG.md).
SWITCH_S = 5e-5
ASIDE_S = 1e-4
EARLY_S = 3e-4  # by which the loop wakes before a deadline, to have the interpreter when it comes
GAP = 0.2, 0.5  # parts of a period: the loop is done by the first; from the second on it is too late to begin


class Histogram:
    """Counts of durations up to 20 ms in bins of 10 us, made once: adding allocates nothing that stays."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS + 1, np.int64)
        self.most_s = 0.0

    def add(self, duration_s: float) -> None:
        self._counts[min(int(max(duration_s, 0.0) / BIN_S), BINS)] += 1
        self.most_s = max(self.most_s, duration_s)

    def percentile_ms(self, percent: float) -> float:
        """-> the upper edge of the bin [ms]; NaN when nothing was measured."""
        total = self._counts.sum()
        if not total:
            return float("nan")
        index = int(np.searchsorted(np.cumsum(self._counts), total * percent / 100.0))
        return min(index + 1, BINS) * BIN_S * 1e3

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    def text(self, scale: float = 1.0) -> str:
        """-> "edge:count ..." of the bins that are not empty; edges: the upper ones [ms], times scale."""
        full = np.flatnonzero(self._counts)
        return " ".join(f"{(k + 1) * BIN_S * 1e3 * scale:.4g}:{self._counts[k]}" for k in full)


@dataclass
class LoopFigures:
    """What a loop measured: lateness of waking, duration of the work, deadlines that were missed altogether."""

    wake: Histogram
    work: Histogram
    missed: int = 0


class RealTimeLoop:
    """Calls `step(now [s] of time.monotonic())` once a period until `stop`."""

    def __init__(
        self, step: Callable[[float], None], period_s: float, priority: int, core: int, early_s: float = EARLY_S
    ) -> None:
        """priority: of SCHED_FIFO, 0: none; core: that the loop keeps to, -1: any; early_s [s]: by which it wakes
        before a deadline and waits for it."""
        self._step, self._period_s, self._priority, self._core, self._early_s = step, period_s, priority, core, early_s
        self.figures = LoopFigures(Histogram(), Histogram())
        self.warnings: list[str] = []
        self.error: BaseException | None = None
        self._deadline = time.monotonic()  # of the period that runs
        self._works = False
        self._over = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> list[str]:
        """-> warnings: what was not permitted, and what to do."""
        sys.setswitchinterval(SWITCH_S)
        if self._priority:
            self._lock_memory()
        gc.collect()
        gc.freeze()
        self._thread.start()
        self._ready.wait(2.0)
        return self.warnings

    def stop(self, timeout_s: float = 1.0) -> bool:
        """-> whether the thread ended in time."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        gc.unfreeze()
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stand_aside(self) -> None:
        """Return when the loop is not at work. For threads of this process, before a piece of work that can wait: each
        time the loop sends it lets the interpreter go, and would get it back later."""
        for _ in range(int(self._period_s / ASIDE_S)):  # at most: nobody waits for a loop that has ended
            if not self._works:
                return
            time.sleep(ASIDE_S)

    def wait_for_gap(self) -> None:
        """Return when the loop has just done a period's work, after a period at most.

        For other threads of this process, before a millisecond's work: begun then, it is over before the loop wakes and
        wants the interpreter back."""
        since = (time.monotonic() - self._deadline) % self._period_s
        first, last = (part * self._period_s for part in GAP)
        if since < first:
            time.sleep(first - since)
        elif since > last:
            time.sleep(self._period_s - since + first)

    def _run(self) -> None:
        if self._priority:
            self._prioritise(0, self._priority, "the control loop")
        if self._core >= 0:
            try:
                os.sched_setaffinity(0, {self._core})
            except OSError as error:
                self.warnings.append(f"cpu {self._core}: {error.strerror}; the control loop runs on any")
        self._ready.set()
        deadline = self._deadline = time.monotonic()
        wake, work = self.figures.wake, self.figures.work
        try:
            while not self._over.is_set():
                deadline += self._period_s
                time.sleep(max(0.0, deadline - self._early_s - time.monotonic()))
                self._works = True
                began = time.monotonic()
                while began < deadline:
                    began = time.monotonic()
                late = began - deadline
                wake.add(late)
                if late > self._period_s:
                    gone = int(late / self._period_s)
                    self.figures.missed += gone
                    deadline += gone * self._period_s
                self._deadline = deadline
                self._step(deadline)
                self._works = False
                work.add(time.monotonic() - began)
        except BaseException as error:  # the owner looks at it: a loop that ended must end the process
            self.error = error

    def _prioritise(self, thread: int, priority: int, what: str) -> None:
        try:
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
        except OSError:
            self.warnings.append(
                f"{what} has no real-time priority (SCHED_FIFO {priority} is not permitted): its timing depends on the "
                "load; add `@realtime - rtprio 98` to /etc/security/limits.d and log in anew"
            )

    def _lock_memory(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT):
            self.warnings.append(
                "memory is not locked (mlockall is not permitted): a page fault may delay the loop; add "
                "`@realtime - memlock unlimited` to /etc/security/limits.d and log in anew"
            )


def prioritise_others(priority: int) -> None:
    """Give every thread of this process that is not real-time yet this priority of SCHED_FIFO.

    They share the interpreter with the loop: one that holds it while other processes keep it from running would hold
    the loop up as well. Where it is not permitted nothing happens; the loop has said so already."""
    for name in os.listdir("/proc/self/task"):
        try:
            if os.sched_getscheduler(int(name)) == os.SCHED_OTHER:
                os.sched_setscheduler(int(name), os.SCHED_FIFO, os.sched_param(priority))
        except (OSError, ProcessLookupError):
            continue
