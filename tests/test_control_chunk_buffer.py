"""ChunkBuffer: the row that is due, and no other; late chunks spliced, wrong ones refused with a reason."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alam_control.chunk_buffer import ChunkBuffer, TimedChunk

DT = 0.0125


def chunk(time, horizon=8, number=0, dt=DT, first=0.0):
    """Row k of the chunk is [first + k, 0]."""
    rows = np.stack([first + np.arange(horizon), np.zeros(horizon)], 1).astype(np.float32)
    return TimedChunk(rows, time, number, dt)


def test_rows_follow_time():
    buffer = ChunkBuffer(2)
    assert buffer.pick(0.0).reason == "no chunk"
    assert buffer.push(chunk(10.0), 10.0) == ""
    for row in range(8):
        assert buffer.pick(10.0 + row * DT).action[0] == row
        assert buffer.pick(10.0 + (row + 0.9) * DT).row == row
    over = buffer.pick(10.0 + 8 * DT)
    assert over.action is None
    assert "ran out" in over.reason


def test_a_late_chunk_is_spliced_where_time_is():
    buffer = ChunkBuffer(2)
    buffer.push(chunk(0.0, number=1), 0.0)
    assert buffer.push(chunk(2 * DT, number=2, first=100), 5 * DT) == ""
    assert buffer.pick(5 * DT).action[0] == 103


def test_an_old_observation_is_not_acted_upon():
    buffer = ChunkBuffer(2, max_age=2 * DT)
    buffer.push(chunk(0.0), 0.0)
    assert buffer.pick(2 * DT).action is not None
    assert "old, limit" in buffer.pick(3 * DT).reason


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (chunk(1.0, number=5), "duplicate of observation 5"),
        (chunk(0.9, number=4), "out of order"),
        (chunk(1.0, number=6), "out of order"),
        (chunk(2.0, number=6), "in the future"),
        (chunk(1.01, number=6, horizon=1), "too late"),
        (chunk(1.1, number=6, dt=0.0), "dt > 0"),
        (chunk(1.1, number=6, dt=math.nan), "dt > 0"),
        (TimedChunk(np.zeros((3, 3), np.float32), 1.1, 6, DT), r"wanted \(H, 2\)"),
        (TimedChunk(np.zeros((0, 2), np.float32), 1.1, 6, DT), r"wanted \(H, 2\)"),
    ],
)
def test_wrong_chunks_are_refused_with_a_reason_and_change_nothing(wrong, reason):
    buffer = ChunkBuffer(2)
    good = chunk(1.0, number=5, horizon=40)
    buffer.push(good, 1.0)
    refused = buffer.push(wrong, 1.2)
    assert __import__("re").search(reason, refused)
    assert buffer.chunk is good
    assert (buffer.accepted, buffer.rejected, buffer.rejection) == (1, 1, refused)


def test_clear_forgets_the_chunk_but_not_the_order():
    buffer = ChunkBuffer(2)
    buffer.push(chunk(4.9, number=1), 4.9)
    buffer.push(chunk(5.0, number=2), 5.0)
    buffer.clear()
    assert buffer.pick(5.0).reason == "no chunk"
    assert "out of order" in buffer.push(chunk(4.9, number=1), 5.0)
    assert "duplicate" in buffer.push(chunk(5.0, number=2), 5.0)
    assert buffer.push(chunk(5.01, number=3), 5.01) == ""


def test_replan_is_due_after_as_many_rows_or_without_a_chunk():
    buffer = ChunkBuffer(2)
    assert buffer.replan_due(0.0, 4)
    buffer.push(chunk(0.0), 0.0)
    assert not buffer.replan_due(3 * DT, 4)
    assert buffer.replan_due(4 * DT, 4)


TIMES = st.floats(0, 3, allow_nan=False)


@given(st.lists(st.tuples(TIMES, st.integers(1, 30), TIMES), max_size=30))
def test_never_a_row_before_or_after_its_time_and_observations_only_get_newer(events):
    """events: (observation time, horizon, seconds until the next event) while robot time moves on."""
    buffer = ChunkBuffer(2)
    now, newest = 0.0, -math.inf
    for number, (time, horizon, pause) in enumerate(events):
        if not buffer.push(chunk(time, horizon, number), now):
            assert newest < time <= now + 1e-6
            newest = time
        pick = buffer.pick(now)
        if pick.action is not None:
            assert buffer.chunk.observation_time + pick.row * DT <= now + 1e-6
            assert now < buffer.chunk.observation_time + (pick.row + 1) * DT + 1e-6
            assert pick.action[0] == pick.row
        elif buffer.chunk is not None:
            assert now >= buffer.chunk.end_time - 1e-6
        now += pause / 10
