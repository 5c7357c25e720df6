"""Which cores a process may use: with more than two, the control loop has the last one to itself."""

from __future__ import annotations

import os
from collections.abc import Iterable


def core_plan(cores: Iterable[int]) -> tuple[int, tuple[int, ...]]:
    """The cores of this host -> the control loop's (-1: none of its own), and those of policy and cameras.

    One or two cores are too few to keep one free: everything may use all of them."""
    ordered = tuple(sorted(cores))
    return (ordered[-1], ordered[:-1]) if len(ordered) > 2 else (-1, ordered)


def loop_core() -> int:
    """-> the control loop's core among those that this process may use; -1: any."""
    return core_plan(os.sched_getaffinity(0))[0]


def leave_loop_core() -> None:
    """Keep this process, every thread that it has and will have, off the control loop's core."""
    loop, others = core_plan(os.sched_getaffinity(0))
    if loop < 0:
        return
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(thread), others)
        except ProcessLookupError:  # it ended meanwhile
            continue


def cores_in_words(cores: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> "0-2, 5"."""
    ranges: list[list[int]] = []
    for core in sorted(cores):
        if ranges and core == ranges[-1][1] + 1:
            ranges[-1][1] = core
        else:
            ranges.append([core, core])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
