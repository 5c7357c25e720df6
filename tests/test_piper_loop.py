"""The real-time loop, and the count of what it did not get."""

import time
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alam_piper.arrivals import WINDOW, Arrivals
from alam_piper.loop_io import RealTimeLoop

PERIOD_S = 0.005


@given(
    st.sets(st.integers(1, 10 * WINDOW - 1)),
    st.integers(0, 2**32 - 1),
    st.floats(0.0, 8.0),
    st.floats(0.0, 1e5),
    st.floats(0.9995, 1.0005),
)
def test_what_is_lost_is_counted_whatever_the_lateness_and_the_sender_s_clock(lost, seed, latest, start_s, clock):
    """Lateness up to many periods, in order of arrival; half of each window is on time."""
    lateness = np.random.default_rng(seed).uniform(0.0, latest * PERIOD_S, 12 * WINDOW)
    lateness[np.arange(12 * WINDOW) % WINDOW < WINDOW // 2] = 0.0
    counted, stamp_s = Arrivals(PERIOD_S), start_s
    for k in range(12 * WINDOW + len(lost)):
        if k not in lost:
            late_s = lateness[k] if k < 12 * WINDOW else 0.0
            stamp_s = max(stamp_s, start_s + k * PERIOD_S * clock + late_s)
            counted.add(stamp_s)
    assert counted.missed == len(lost)


def test_one_that_is_late_is_not_missed_even_across_windows():
    for late in range(1, 3 * WINDOW):
        counted = Arrivals(PERIOD_S)
        for k in range(4 * WINDOW + 1):
            counted.add(k * PERIOD_S + (0.9 * PERIOD_S if k == late else 0.0))
        assert (counted.late, counted.missed) == (1, 0)


def test_what_comes_after_a_long_delay_was_not_lost():
    counted, told = Arrivals(PERIOD_S), []
    for k in range(20 * WINDOW):
        counted.add(max(k, 8 * WINDOW) * PERIOD_S if k > 4 * WINDOW else k * PERIOD_S)  # a cable, out and in again
        told.append(counted.missed)
    assert max(told) > WINDOW and told[-1] == 0


def test_no_step_begins_before_its_deadline_and_deadlines_keep_their_distance():
    deadlines, early = [], []

    def step(deadline: float) -> None:
        early.append(deadline - time.monotonic())
        deadlines.append(deadline)

    loop = RealTimeLoop(step, PERIOD_S, 0, -1)
    loop.start()
    end = time.monotonic() + 5
    while len(deadlines) < 50 and time.monotonic() < end:
        time.sleep(PERIOD_S)
    assert loop.stop() and len(deadlines) >= 50
    assert max(early) <= 0
    periods = [round((b - a) / PERIOD_S, 6) for a, b in pairwise(deadlines)]
    assert all(period >= 1 and period == int(period) for period in periods)
    assert sum(periods) - len(periods) == loop.figures.missed
