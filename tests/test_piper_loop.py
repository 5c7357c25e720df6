"""The real-time loop, and the count of what it did not get."""

import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from alam_piper.arrivals import WINDOW, Arrivals
from alam_piper.loop_io import RealTimeLoop

PERIOD_S = 0.005


@given(
    st.sets(st.integers(1, 10 * WINDOW - 1)),
    st.lists(st.floats(0.0, 0.45 * PERIOD_S), min_size=10 * WINDOW, max_size=10 * WINDOW),
    st.floats(0.0, 1e6),
)
def test_what_is_lost_is_counted_whatever_the_lateness(lost, lateness, start_s):
    counted, arrived, last = Arrivals(PERIOD_S), 0, 0
    for k in range(10 * WINDOW):
        if k not in lost:
            counted.add(start_s + k * PERIOD_S + lateness[k])
            if arrived % WINDOW == 0:
                last = k
            arrived += 1
    assert counted.missed == len([k for k in lost if k < last])


def test_one_that_is_late_is_not_missed_even_across_windows():
    for late in range(1, 3 * WINDOW):
        counted = Arrivals(PERIOD_S)
        for k in range(4 * WINDOW + 1):
            counted.add(k * PERIOD_S + (0.9 * PERIOD_S if k == late else 0.0))
        assert (counted.late, counted.missed) == (1, 0)


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
