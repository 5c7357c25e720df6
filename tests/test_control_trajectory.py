"""Splices and stops: inside every limit, C2, close to the rows wherever the limits allow."""

import threading
import time

import numpy as np
import pytest

from alam_control.chunk_buffer import TimedChunk
from alam_control.joint_limits import JointLimits, stopping_point
from alam_control.joint_trajectory import AHEAD, JointTrajectory
from alam_control.splice import quintic, splice
from alam_piper import arm
from alam_piper.geometry import piper_limits

DT, PERIOD = 1 / 30, 0.005
LIMITS = piper_limits()
ZERO = np.zeros(7)


def fractions(positions):
    """(N, 7) -> the largest velocity, acceleration and jerk by differences, as fractions of the limits."""
    v = np.diff(positions, axis=0) / PERIOD
    a = np.diff(v, axis=0) / PERIOD
    j = np.diff(a, axis=0) / PERIOD
    return [float((np.abs(x) / most).max()) for x, most in ((v, arm.VELOCITY), (a, arm.ACCELERATION), (j, arm.JERK))]


AMPLITUDE = np.array([0.4, 0.2, 0.2, 0.3, 0.2, 0.4, 0.01])
OMEGA = np.array([2.0, 1.7, 1.5, 2.2, 1.9, 2.4, 2.0])


def wave(t):
    """t (...,) [s] -> (..., 7): smooth, well inside the limits."""
    return arm.HOME + [0, 0, 0, 0, 0, 0, 0.035] + AMPLITUDE * np.sin(np.multiply.outer(t, OMEGA))


START = (wave(0.0), AMPLITUDE * OMEGA, ZERO)  # on the wave


def test_stopping_point_is_where_ruckig_stops():
    rng = np.random.default_rng(0)
    for _ in range(300):
        trajectory = JointTrajectory(LIMITS, PERIOD)
        velocity = rng.uniform(-0.9, 0.9, 7) * arm.VELOCITY
        room = (arm.VELOCITY - np.abs(velocity)) * 2 * arm.JERK
        acceleration = rng.uniform(-1, 1, 7) * np.minimum(np.sqrt(room), arm.ACCELERATION) * 0.99
        trajectory._now = ((arm.HOME.copy(), velocity, acceleration), 0.0, None, 0)
        wanted = stopping_point(arm.HOME, velocity, acceleration, LIMITS)
        for _ in range(2000):
            trajectory.commit(trajectory.brake(), 0.0)
            if trajectory.at_rest:
                break
        assert np.abs(trajectory.state[0] - wanted).max() < 1e-5


def test_stopping_points_of_a_million_states_lie_ahead():
    rng = np.random.default_rng(1)
    velocity = rng.uniform(-1, 1, (1_000_000, 7)) * arm.VELOCITY
    point = stopping_point(np.zeros(7), velocity, np.zeros(7), LIMITS)
    assert (np.sign(point) == np.sign(velocity)).all()
    assert (np.abs(point) >= velocity**2 / (2 * arm.ACCELERATION) - 1e-12).all()


def test_quintic_meets_both_ends():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(3, 7)), rng.normal(size=(3, 7))
    c, t = quintic(tuple(start), tuple(end), 0.3), 0.3
    powers = np.array([t**k for k in range(6)])
    assert np.allclose(powers @ c, end[0])
    assert np.allclose(np.array([k * t ** max(k - 1, 0) for k in range(6)]) @ c, end[1])
    assert np.allclose(np.array([k * (k - 1) * t ** max(k - 2, 0) for k in range(6)]) @ c, end[2])


def test_limits_say_what_is_wrong():
    with pytest.raises(ValueError, match="low < high"):
        JointLimits(arm.HIGH, arm.LOW, arm.VELOCITY, arm.ACCELERATION, arm.JERK)
    with pytest.raises(ValueError, match="speed in"):
        LIMITS.scaled(1.5)


@pytest.mark.parametrize("jump", [1e-4, 1e-2, 1.0])
def test_chains_of_random_chunks_stay_inside_every_limit(jump):
    """Random rows, latencies of 0 to 400 ms, horizons of 1 to 50 rows, each spliced into what was commanded before."""
    rng = np.random.default_rng(0)
    state, now, passed = (wave(0.0), ZERO, ZERO), 0.0, [wave(0.0)] * 3
    goal = wave(0.0)
    for _ in range(300):
        count, latency = int(rng.integers(1, 50)), rng.uniform(0, 0.4)
        goal = np.clip(goal + rng.normal(0, jump, 7) * arm.HIGH, arm.LOW, arm.HIGH)
        rows = np.clip(goal + rng.normal(0, jump, (count, 7)) * 0.1 * arm.HIGH, arm.LOW, arm.HIGH)
        table = splice(state, now, now - latency + DT * np.arange(1, count + 1), rows, LIMITS, PERIOD)
        if table is None:
            continue
        taken = int(rng.integers(1, table.states.shape[1] + 1))
        passed.extend(table.states[0, :taken])
        state, now = tuple(table.states[:, taken - 1]), now + taken * PERIOD
    passed = np.array(passed)
    assert np.isfinite(passed).all() and (passed >= arm.LOW).all() and (passed <= arm.HIGH).all()
    assert max(fractions(passed)) <= 1 + 1e-5
    assert len(passed) > 10_000


def test_stated_velocity_and_acceleration_are_those_of_the_positions():
    rng = np.random.default_rng(1)
    for _ in range(50):
        times, rows = DT * np.arange(1, 31), rng.uniform(arm.LOW, arm.HIGH, (30, 7))
        p, v, a = splice((wave(0.0), ZERO, ZERO), 0.0, times, rows, LIMITS, PERIOD).states
        assert (np.abs(np.diff(a, axis=0)) <= arm.JERK * PERIOD * 1.0001).all()
        assert (np.abs(np.diff(v, axis=0) / PERIOD - (a[1:] + a[:-1]) / 2) <= arm.JERK * PERIOD * 0.51).all()
        assert (np.abs(np.diff(p, axis=0) / PERIOD - (v[1:] + v[:-1]) / 2) <= arm.JERK * PERIOD**2 * 0.26).all()


def test_smooth_rows_are_met():
    times, ticks = DT * np.arange(1, 31), PERIOD * np.arange(1, 201)
    table = splice(START, 0.0, times, wave(times), LIMITS, PERIOD)
    assert not table.smoothed.any() and not table.pursued.any()
    assert table.states.shape == (3, 200, 7)
    assert np.abs(table.states[0] - wave(ticks)).max() < 1e-3


def test_noise_is_smoothed_and_not_pursued():
    """A thousandth of a radian in each row is more jerk than the limits allow; the path stays within a few of them."""
    rng = np.random.default_rng(2)
    times, ticks = DT * np.arange(1, 31), PERIOD * np.arange(1, 201)
    noise = 1e-3 * np.array([1, 1, 1, 1, 1, 1, 0.1])
    for _ in range(50):
        table = splice(START, 0.0, times, wave(times) + rng.normal(size=(30, 7)) * noise, LIMITS, PERIOD)
        assert table.smoothed.any() and not table.pursued.any()
        assert (np.abs(table.states[0] - wave(ticks)).max(0) < 6 * noise).all()


def test_rows_that_come_to_a_limit_and_stay_are_followed_and_end_at_it_exactly():
    """A gripper that closes, and joints that come to 0: the cubic would swing over the limit."""
    times, ticks = DT * np.arange(1, 41), PERIOD * np.arange(1, 267)
    s = np.clip(times / 0.8, 0, 1)[:, None]
    start = wave(0.0)
    start[[1, 2, 6]] = 0.15, -0.15, 0.06
    goal = start.copy()
    goal[[1, 2, 6]] = 0.0
    rows = start + (goal - start) * (10 * s**3 - 15 * s**4 + 6 * s**5)
    table = splice((start, ZERO, ZERO), 0.0, times, rows, LIMITS, PERIOD)
    assert not table.smoothed.any() and not table.pursued.any()
    position = table.states[0]
    assert (position >= arm.LOW).all() and (position <= arm.HIGH).all()
    wanted = np.stack([np.interp(ticks, times, rows[:, joint]) for joint in range(7)], 1)
    assert (np.abs(position - wanted)[20:].max(0) < [1e-3] * 6 + [3e-4]).all()
    later = DT * np.arange(31, 61)
    table = splice((goal, ZERO, ZERO), DT * 30, later, np.repeat(goal[None], 30, 0), LIMITS, PERIOD)
    assert (table.states[0] == goal).all() and (table.states[1:] == 0).all()


def test_a_jump_takes_as_long_as_the_limits_say():
    rows = np.repeat(wave(0.0)[None], 60, 0)
    rows[10:, 0] += 1.0
    table = splice((wave(0.0), ZERO, ZERO), 0.0, DT * np.arange(1, 61), rows, LIMITS, PERIOD)
    assert list(np.flatnonzero(table.pursued)) == [0]
    assert np.abs(table.states[0, -1] - rows[-1]).max() < 1e-9
    assert (table.states[0, :, 0] <= rows[-1, 0] + 1e-9).all()  # it does not overshoot
    assert np.abs(table.states[0, : int(9 * DT / PERIOD), 0] - wave(0.0)[0]).max() < 1e-9  # nor begins early


def test_a_chunk_takes_over_from_what_is_commanded_not_from_its_own_rows():
    """Two policies that disagree on the past, which is over: their motions are the same."""
    runs = []
    for lie in (0.0, 2e-2):
        trajectory = JointTrajectory(LIMITS, PERIOD)
        trajectory.start(wave(0.0))
        passed, now = [wave(0.0)] * 3, 0.0
        for tick in range(400):
            now += PERIOD
            if tick % 40 == 0:
                seen = now - 0.3
                rows = wave(seen + DT * np.arange(1, 31))
                rows[:3] += lie
                trajectory.offer(TimedChunk(rows, seen, tick, DT))
            setpoint = trajectory.propose(now) or trajectory.brake()
            trajectory.commit(setpoint, now)
            passed.append(setpoint.position)
        assert trajectory.remade == 1  # the first: nothing was commanded before it
        assert max(fractions(np.array(passed))) <= 1 + 1e-5
        runs.append(np.array(passed)[203:])
    assert np.abs(runs[0] - wave(PERIOD * np.arange(201, 401))).max() < 1e-3
    assert np.abs(runs[0] - runs[1]).max() < 2e-3


def test_a_plan_made_for_another_motion_is_made_anew():
    trajectory = JointTrajectory(LIMITS, PERIOD)
    trajectory.start(wave(0.0))
    passed, now = [wave(0.0)] * 3, 0.0
    for tick in range(600):
        now += PERIOD
        if tick % 50 == 0:
            trajectory.offer(TimedChunk(wave(now + DT * np.arange(1, 31)), now, tick, DT))
        brakes = tick % 50 in range(1, AHEAD + 3) and tick > 100  # between the offer and its take-over
        setpoint = trajectory.brake() if brakes else trajectory.propose(now) or trajectory.brake()
        trajectory.commit(setpoint, now)
        passed.append(setpoint.position)
    assert trajectory.remade >= 9
    assert max(fractions(np.array(passed))) <= 1 + 1e-5


def test_offers_from_another_thread_leave_no_jump():
    trajectory = JointTrajectory(LIMITS, PERIOD)
    trajectory.start(wave(0.0))
    over, clock = threading.Event(), [0.0]

    def offer():
        number = 0
        while not over.is_set():
            number += 1
            now = clock[0]
            trajectory.offer(TimedChunk(wave(now + DT * np.arange(1, 31)), now, number, DT))

    thread = threading.Thread(target=offer)
    thread.start()
    passed = [wave(0.0)] * 3
    end = time.monotonic() + 60
    try:
        while trajectory.spliced < 20 and time.monotonic() < end:
            time.sleep(PERIOD / 10)  # a loop sleeps most of its period: the other thread gets its turn
            clock[0] += PERIOD
            setpoint = trajectory.propose(clock[0]) or trajectory.brake()
            trajectory.commit(setpoint, clock[0])
            passed.append(setpoint.position)
    finally:
        over.set()
        thread.join()
    assert trajectory.spliced >= 20
    assert max(fractions(np.array(passed))) <= 1 + 1e-5
