"""The gate alone: whatever it is asked, what it passes is finite, inside every limit, and can be stopped."""

import itertools

import numpy as np
import pytest

from alam_control.arm_gate import DISABLED, HOLDING, MOVING, STOPPED, TRANSITIONS, ArmGate, GateConfig, Passed, Sensed
from alam_control.joint_limits import stopping_point
from alam_control.joint_trajectory import JointTrajectory, Setpoint
from alam_control.kinematics import clearance
from alam_piper import arm
from alam_piper.geometry import piper_geometry, piper_limits

PERIOD = 0.005
LIMITS, GEOMETRY = piper_limits(), piper_geometry()
NAN, ZERO = float("nan"), np.zeros(7)


def moving(position=arm.HOME):
    gate = ArmGate(LIMITS, GEOMETRY, GateConfig(), PERIOD)
    gate.start(position)
    gate.change("enable", "")
    gate.change("move", "")
    return gate


def drift(rng, gate, ticks):
    """Accelerate in a random direction until the gate refuses or the time is up -> the state (p, v, a) that it passed
    last."""
    state = (gate._last.copy(), ZERO, ZERO)
    towards = rng.uniform(-0.9, 0.9, 7) * arm.ACCELERATION
    for _ in range(ticks):
        p, v, a = state
        jerk = np.clip((towards - a) / PERIOD, -0.99 * arm.JERK, 0.99 * arm.JERK)
        p = p + v * PERIOD + a * PERIOD**2 / 2 + jerk * PERIOD**3 / 6
        v, a = v + a * PERIOD + jerk * PERIOD**2 / 2, a + jerk * PERIOD
        if gate.check(Setpoint(p, v, a, "follow", 0.0)) is None:
            break
        state = (p, v, a)
    return state


def test_only_the_gate_makes_passed_commands():
    with pytest.raises(TypeError, match="only ArmGate"):
        Passed(object(), None, 0.0, 1)


def test_millions_of_random_commands():
    """Around random motions, at every scale from rounding to rubbish: what passes keeps every limit, by this test's own
    arithmetic, and the word for one command is the word for many."""
    rng = np.random.default_rng(0)
    asked = passed = compared = 0
    for _ in range(100):
        gate = moving(np.clip(arm.HOME + rng.uniform(-0.5, 0.5, 7), arm.LOW, arm.HIGH))
        drift(rng, gate, int(rng.integers(1, 60)))
        last, step, bend = gate._last, gate._step, gate._bend
        count = 20_000
        jerk = rng.normal(size=(count, 7)) * arm.JERK * 10.0 ** rng.uniform(-2, 2, (count, 1))
        bends = bend + jerk * PERIOD**3
        position = last + step + bends
        velocity = (step + bends) / PERIOD + bends / (2 * PERIOD)
        acceleration = bends / PERIOD**2
        lies = rng.random(count) < 0.2
        velocity[lies] += rng.normal(size=(lies.sum(), 7)) * 10.0 ** rng.uniform(-5, 1, (lies.sum(), 1))
        rubbish = np.flatnonzero(rng.random(count) < 0.02)
        position[rubbish, rng.integers(7, size=len(rubbish))] = rng.choice([NAN, np.inf, -np.inf, 1e300], len(rubbish))
        good = gate.allowed(position, velocity, acceleration)
        p, asked, passed = position[good], asked + count, passed + int(good.sum())
        assert np.isfinite(p).all() and (p >= arm.LOW - 1e-8).all() and (p <= arm.HIGH + 1e-8).all()
        assert (np.abs(p - last) <= arm.VELOCITY * PERIOD * 1.0001).all()
        assert (np.abs(p - last - step) <= arm.ACCELERATION * PERIOD**2 * 1.0001).all()
        assert (np.abs(p - last - step - bend) <= arm.JERK * PERIOD**3 * 1.0001).all()
        rest = stopping_point(p, velocity[good], acceleration[good], LIMITS)
        assert (rest >= arm.LOW - 1e-8).all() and (rest <= arm.HIGH + 1e-8).all()
        assert (clearance(GEOMETRY, rest[:, :6]) >= gate._floor - 1e-4 - 1e-8).all()
        for index in rng.integers(count, size=30):
            compared += 1
            assert good[index] == (not gate.objection(position[index], velocity[index], acceleration[index]))
    assert asked == 2_000_000 and passed > 100_000 and compared == 3000


def test_every_brake_that_begins_at_a_passed_command_passes():
    rng = np.random.default_rng(1)
    for _ in range(60):
        gate = moving(np.clip(arm.HOME + rng.uniform(-0.5, 0.5, 7), arm.LOW, arm.HIGH))
        trajectory = JointTrajectory(LIMITS, PERIOD)
        trajectory.start(gate._last)
        trajectory.commit(Setpoint(*drift(rng, gate, 1000), "follow", 0.0), 0.0)
        assert gate.refused == 1  # it came to some limit
        gate.change("hold", "")
        for _ in range(1000):
            setpoint = trajectory.brake()
            assert gate.check(setpoint) is not None, gate.refusal
            trajectory.commit(setpoint, 0.0)
            if trajectory.at_rest:
                break
        rest = trajectory.state[0]
        assert trajectory.at_rest and (rest >= arm.LOW - 2e-5).all() and (rest <= arm.HIGH + 2e-5).all()
        assert clearance(GEOMETRY, rest[:6]) > gate._floor - 1e-4
        away = (np.append(arm.HOME[:6], 0.03) - rest) * 1e-6  # from there it can always go back inside
        gate.change("move", "")
        assert gate.check(Setpoint(rest + away, ZERO, ZERO, "follow", 0.0)) is not None, gate.refusal


def test_every_pair_of_event_and_mode():
    events, modes = ("enable", "disable", "move", "hold", "stop", "reset"), (DISABLED, HOLDING, MOVING, STOPPED)
    for event, mode in itertools.product(events, modes):
        gate = moving()
        gate.mode, gate.reason = mode, "before"
        wanted = TRANSITIONS.get((event, mode))
        assert gate.change(event, "after") == (wanted is not None)
        assert (gate.mode, gate.reason) == ((mode, "before") if wanted is None else (wanted, "after"))
    assert {mode for event, mode in TRANSITIONS if event == "reset"} == {STOPPED}
    assert {event for event, mode in TRANSITIONS if mode == STOPPED} == {"reset"}


@pytest.mark.parametrize("mode", [DISABLED, HOLDING, STOPPED])
def test_only_a_stop_passes_while_it_does_not_move(mode):
    gate = moving()
    gate.mode = mode
    assert gate.check(Setpoint(arm.HOME.copy(), ZERO, ZERO, "follow", 0.0)) is None and "only a stop" in gate.refusal
    assert gate.check(Setpoint(arm.HOME.copy(), ZERO, ZERO, "rest", NAN)) is not None


@pytest.mark.parametrize(("joint", "creep"), [(1, -5e-10), (2, 5e-10), (6, -5e-10)])
def test_steps_below_every_tolerance_do_not_creep_past_a_limit(joint, creep):
    gate = moving(arm.REST)
    for tick in range(1, 200):
        position = arm.REST.copy()
        position[joint] += creep * tick
        gate.check(Setpoint(position, ZERO, ZERO, "follow", 0.0))
    assert gate.refused > 0
    assert (gate._last >= arm.LOW - 2e-9).all() and (gate._last <= arm.HIGH + 2e-9).all()


def test_an_arm_that_begins_outside_may_only_come_back():
    outside, way = arm.REST.copy(), ZERO.copy()
    outside[1], way[1] = arm.LOW[1] - 0.01, 5e-9
    gate = moving(outside)
    assert gate.check(Setpoint(outside - way, ZERO, ZERO, "follow", 0.0)) is None
    assert "position limit" in gate.refusal
    assert gate.check(Setpoint(outside + way, ZERO, ZERO, "follow", 0.0)) is not None
    assert gate.check(Setpoint(outside, ZERO, ZERO, "follow", 0.0)) is None  # not even as far out as it began


def test_a_command_that_lies_about_its_velocity_is_refused():
    gate = moving()
    assert "stated velocity" in gate.objection(arm.HOME, np.full(7, 0.1), ZERO)
    assert "stated acceleration" in gate.objection(arm.HOME, ZERO, np.full(7, 3.0))
    assert gate.objection(arm.HOME, ZERO, ZERO) == ""


@pytest.mark.parametrize(("asked", "given"), [(0.4, 0.4), (5.0, 1.0), (np.inf, 1.0), (-1.0, 0.0), (NAN, 0.0)])
def test_the_effort_of_the_gripper_is_clamped(asked, given):
    rest = Setpoint(arm.HOME.copy(), ZERO, ZERO, "rest", NAN)
    assert moving().check(rest, asked).gripper_effort_nm == given


@pytest.mark.parametrize(("limit", "measured", "stops"), [(1.0, 1.4, False), (1.0, -1.6, True), (0.4, 0.7, True)])
def test_a_gripper_whose_drive_does_not_keep_its_limit_is_a_stop_when_it_lasts(limit, measured, stops):
    gate = ArmGate(LIMITS, GEOMETRY, GateConfig(max_gripper_effort_nm=limit), PERIOD)
    gate.start(arm.HOME)
    gate.change("enable", "")
    squeezing = Sensed(arm.HOME, measured * np.eye(7)[6], 0.005)
    assert gate.stop_reason(squeezing, 1.0) == ""
    assert gate.stop_reason(squeezing, 1.29) == ""
    assert gate.stop_reason(Sensed(arm.HOME, ZERO, 0.005), 1.295) == ""  # a blow does not last
    assert gate.stop_reason(squeezing, 1.31) == ""
    assert gate.stop_reason(squeezing, 1.6) == ""
    assert ("the gripper presses" in gate.stop_reason(squeezing, 1.62)) == stops


def test_a_grasp_at_the_limit_and_efforts_of_the_joints_are_no_reason_to_stop():
    gate = moving()
    for tick in range(1000):
        assert gate.stop_reason(Sensed(arm.HOME, np.array([9.0] * 6 + [1.0]), 0.005), tick * PERIOD) == ""


def test_a_gripper_effort_that_is_no_number_is_a_stop():
    gate = moving()
    reasons = [gate.stop_reason(Sensed(arm.HOME, ZERO * NAN, 0.005), tick * PERIOD) for tick in range(80)]
    assert not any(reasons[:59]) and "gripper" in reasons[-1]


def test_what_passes_is_numbered_and_is_a_copy():
    gate = moving()
    setpoint = Setpoint(arm.HOME.copy(), ZERO, ZERO, "rest", NAN)
    first, second = gate.check(setpoint), gate.check(setpoint)
    setpoint.position[:] = 9.0
    assert second.number == first.number + 1 and np.array_equal(second.position, arm.HOME)


@pytest.mark.parametrize("measured", [arm.HOME + 0.5, arm.HOME * NAN])
def test_a_joint_that_does_not_follow_is_a_stop_only_when_it_lasts(measured):
    gate = moving()
    sensed = Sensed(measured, ZERO, 0.005)
    assert gate.stop_reason(sensed, 1.0) == ""
    assert gate.stop_reason(Sensed(arm.HOME, ZERO, 0.005), 1.05) == ""
    assert gate.stop_reason(sensed, 1.09) == ""
    assert gate.stop_reason(sensed, 1.15) == ""
    assert "following error" in gate.stop_reason(sensed, 1.2)


@pytest.mark.parametrize(("lag_s", "stops"), [(0.1, False), (0.35, True)])
def test_a_drive_that_lags_is_told_from_a_joint_that_does_not_follow(lag_s, stops):
    """At about 2 rad/s a lag of 0.1 s alone is an error of 0.2 rad."""
    config = GateConfig(following_error_rad=0.15)
    gate = ArmGate(LIMITS, GEOMETRY, config, PERIOD)
    gate.start(arm.HOME)
    gate.change("enable", "")
    trajectory = JointTrajectory(LIMITS, PERIOD)
    trajectory.start(arm.HOME)
    gate.change("move", "")
    target = arm.HOME.copy()
    target[0] = 2.0
    trajectory.move_to(target, 0.0, 0.8)
    sent, reasons = [arm.HOME], []
    for tick in range(300):
        if (setpoint := trajectory.propose(tick * PERIOD)) is None:
            break
        assert gate.check(setpoint) is not None, gate.refusal
        trajectory.commit(setpoint, tick * PERIOD)
        sent.append(setpoint.position)
        measured = sent[max(0, len(sent) - 1 - round(lag_s / PERIOD))]
        reasons.append(gate.stop_reason(Sensed(measured, ZERO, 0.005), tick * PERIOD))
    assert len(sent) > 100 and any(reasons) == stops
