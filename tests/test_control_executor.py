"""Chunks of all kinds through the trajectory and the gate: continuous, inside every limit, nothing clean is altered."""

import re
import time

import numpy as np
import pytest

from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import DISABLED, HOLDING, MOVING, STOPPED, GateConfig, Passed, Sensed
from alam_control.chunk_buffer import TimedChunk
from alam_control.joint_limits import JointLimits, stopping_point
from alam_control.joint_trajectory import JointTrajectory, quintic
from alam_control.kinematics import clearance, frames, segment_distance
from alam_piper import arm
from alam_piper.geometry import piper_geometry, piper_limits

DT, PERIOD = 1 / 30, 0.005
LIMITS, GEOMETRY = piper_limits(), piper_geometry()


def sensed(executor, **changes):
    position = executor.trajectory.state[0]
    values = {"position": position, "velocity": 0 * position, "effort": 0 * position, "feedback_age_s": 0.005}
    return Sensed(**{**values, **changes})


def ready(position=arm.HOME):
    executor = ArmExecutor(arm.NAMES, LIMITS, GEOMETRY, GateConfig(), PERIOD)
    executor.start(position)
    executor.enable()
    executor.task(True)
    executor.tick(0.0, sensed(executor))
    assert executor.mode == HOLDING
    return executor


def legal(rng, count):
    """-> (count, 7) random positions around the work area, with room to every limit."""
    found = []
    while len(found) < count:
        q = arm.HOME + rng.uniform(-0.6, 0.6, 7) * [1, 1, 1, 1, 1, 1, 0]
        q[6] = rng.uniform(0.005, 0.065)
        inside = (q > arm.LOW + 0.1 * [1, 1, 1, 1, 1, 1, 0.01][0]).all() or True
        q = np.clip(q, arm.LOW + 0.002, arm.HIGH - 0.002)
        if inside and clearance(GEOMETRY, q[:6]) > 0.03:
            found.append(q)
    return np.array(found)


def demonstration(rng, seconds):
    """-> f(t [s]) (7,): minimum-jerk motions between random legal poses, as a person moves an arm."""
    poses = legal(rng, int(seconds / 1.5) + 3)
    durations = rng.uniform(1.2, 2.5, len(poses) - 1)
    starts = np.concatenate([[0.0], np.cumsum(durations)])

    def position(t):
        index = min(int(np.searchsorted(starts, t, "right")) - 1, len(poses) - 2)
        s = np.clip((t - starts[index]) / durations[index], 0, 1)
        return poses[index] + (poses[index + 1] - poses[index]) * (10 * s**3 - 15 * s**4 + 6 * s**5)

    return position


def chunk(position, seen_at, horizon, number):
    rows = np.array([position(seen_at + (k + 1) * DT) for k in range(horizon)])
    return TimedChunk(rows, seen_at, number, DT)


def differences(positions):
    """(N, 7) -> largest velocity, acceleration, jerk of each joint as fractions of their limits."""
    v = np.diff(positions, axis=0) / PERIOD
    a = np.diff(v, axis=0) / PERIOD
    j = np.diff(a, axis=0) / PERIOD
    return [float((np.abs(x) / limit).max()) for x, limit in ((v, arm.VELOCITY), (a, arm.ACCELERATION), (j, arm.JERK))]


def drive(executor, make_chunk, ticks, every=8, latency=lambda: 0.05):
    """Run the loop; a chunk each `every` rows of time -> positions passed (N, 7), modes."""
    passed, modes, due = [], [], []
    number, next_seen = 1, 0.0
    for tick in range(1, ticks + 1):
        now = tick * PERIOD
        if now >= next_seen:
            due.append((now + latency(), now, number))
            number, next_seen = number + 1, now + every * DT
        for item in [item for item in due if item[0] <= now]:
            due.remove(item)
            executor.offer(make_chunk(item[1], item[2]), arm.NAMES, now)
        result = executor.tick(now, sensed(executor))
        if result is not None:
            passed.append(result.position)
        modes.append(executor.mode)
    return np.array(passed), modes


@pytest.mark.parametrize("seed", range(4))
def test_clean_demonstrations_pass_unaltered(seed):
    """0 of 100,000 setpoints over the four seeds are altered: none refused, none limited, the demonstration is
    followed."""
    rng = np.random.default_rng(seed)
    ticks = 25_000
    position = demonstration(rng, ticks * PERIOD + 3)
    executor = ready(position(0.0))
    executor.start(position(0.0))
    horizon = int(rng.integers(16, 32))
    passed, modes = drive(
        executor, lambda at, n: chunk(position, at, horizon, n), ticks, 6, lambda: rng.uniform(0, 0.12)
    )
    assert len(passed) == ticks
    assert executor.gate.refused == 0 and executor.trajectory.limited == 0 and executor.clipped == 0
    first = modes.index(MOVING)
    assert set(modes[first:]) == {MOVING}
    wanted = np.array([position((tick + 1) * PERIOD) for tick in range(ticks)])
    assert np.abs(passed - wanted)[100:].max() < 2e-3
    velocity, acceleration, jerk = differences(passed)
    assert max(velocity, acceleration, jerk) <= 1 + 1e-5


def test_borders_of_chunks_are_no_rougher_than_their_insides():
    rng = np.random.default_rng(9)
    position = demonstration(rng, 70)
    executor = ready(position(0.0))
    borders, spliced, passed = [], 0, []
    noisy = lambda at, n: TimedChunk(chunk(position, at, 16, n).actions + rng.normal(0, 1e-3, 7), at, n, DT)  # noqa: E731
    due = []
    for tick in range(1, 12_000):
        now = tick * PERIOD
        if tick % 40 == 1:
            due.append((now + 0.06, now, tick))
        if due and due[0][0] <= now:
            _, at, n = due.pop(0)
            executor.offer(noisy(at, n), arm.NAMES, now)
        passed.append(executor.tick(now, sensed(executor)).position)
        if executor.trajectory.spliced > spliced:
            spliced = executor.trajectory.spliced
            borders.append(tick - 1)
    jumps = np.abs(np.diff(passed, n=2, axis=0)).max(1) / PERIOD  # jump of velocity from period to period
    at_border = np.array([jumps[b - 2 : b].max() for b in borders[2:]])
    inside = np.delete(jumps, [b - k for b in borders[2:] for k in (1, 2)])
    assert np.percentile(at_border, 50) <= np.percentile(inside, 99)
    assert at_border.max() <= arm.ACCELERATION.max() * PERIOD * 1.0001


@pytest.mark.parametrize("seed", range(3))
def test_rubbish_never_breaks_a_limit(seed):
    rng = np.random.default_rng(seed)
    executor = ready()

    def rubbish(at, n):
        rows = rng.uniform(arm.LOW, arm.HIGH, (int(rng.integers(1, 40)), 7))
        kind = rng.integers(4)
        if kind == 1:
            rows = np.repeat(rows[:1], len(rows), 0)
        if kind == 2:
            rows[rng.integers(len(rows))] = rng.choice([np.nan, np.inf, 90.0])
        return TimedChunk(rows, at, n, DT)

    passed, _ = drive(executor, rubbish, 12_000, int(rng.integers(1, 12)), lambda: rng.uniform(0, 0.4))
    assert np.isfinite(passed).all()
    assert (passed >= arm.LOW - 1e-3).all() and (passed <= arm.HIGH + 1e-3).all()
    assert max(differences(passed)) <= 1 + 1e-4
    assert clearance(GEOMETRY, passed[:, :6]).min() > -0.01
    assert len(np.unique(passed.round(6), axis=0)) > 100  # it did move


def test_the_same_chunks_give_the_same_bits():
    runs = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        position = demonstration(rng, 12)
        runs.append(drive(ready(position(0.0)), lambda at, n, p=position: chunk(p, at, 16, n), 1500)[0])
    assert np.array_equal(*runs)


def test_a_policy_that_goes_silent_is_a_smooth_stop_with_a_reason():
    rng = np.random.default_rng(1)
    position = demonstration(rng, 12)
    executor = ready(position(0.0))
    drive(executor, lambda at, n: chunk(position, at, 10, n), 600)
    rest = [executor.tick(3.0 + k * PERIOD, sensed(executor)) for k in range(1, 400)]
    assert executor.mode == HOLDING and "chunk" in executor.reason
    assert executor.trajectory.at_rest and np.array_equal(rest[-1].position, rest[-2].position)
    assert max(differences(np.array([p.position for p in rest]))) <= 1 + 1e-5


CASES = {
    "missing names": (lambda c: (c, arm.NAMES[:-1]), "wanted channels"),
    "wrong order": (lambda c: (c, arm.NAMES[::-1]), "wanted channels"),
    "degrees": (lambda c: (replace(c, np.degrees(c.actions)), arm.NAMES), "looks like degrees"),
    "nan": (lambda c: (replace(c, c.actions * np.nan), arm.NAMES), "finite"),
    "empty": (lambda c: (replace(c, c.actions[:0]), arm.NAMES), r"wanted \(H, 7\)"),
    "late": (lambda c: (TimedChunk(c.actions, c.observation_time - 9, 7, DT), arm.NAMES), "out of order|too late"),
    "future": (lambda c: (TimedChunk(c.actions, c.observation_time + 9, 7, DT), arm.NAMES), "future"),
}


def replace(c, actions):
    return TimedChunk(actions, c.observation_time, c.observation_id, c.dt)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_chunk_is_refused_with_the_reason_and_changes_nothing(case):
    change, words = CASES[case]
    position = demonstration(np.random.default_rng(2), 9)
    runs = []
    for bad in (False, True):
        executor = ready(position(0.0))
        passed = []
        for tick in range(1, 400):
            now = tick * PERIOD
            good = chunk(position, now, 12, tick)
            if tick % 30 == 5:
                assert executor.offer(good, arm.NAMES, now) == ""
            if bad and tick % 30 == 11:
                made, names = change(good)
                reason = executor.offer(made, names, now)
                assert re.search(words, reason), reason
            if bad and tick % 30 == 6:
                assert "duplicate" in executor.offer(chunk(position, (tick - 1) * PERIOD, 12, tick - 1), arm.NAMES, now)
            passed.append(executor.tick(now, sensed(executor)).position)
        runs.append(np.array(passed))
    assert np.array_equal(*runs)


def test_every_transition():
    executor = ArmExecutor(arm.NAMES, LIMITS, GEOMETRY, GateConfig(), PERIOD)
    executor.start(arm.HOME)
    tick = lambda now=1.0, **k: executor.tick(now, sensed(executor, **k))  # noqa: E731
    assert tick() is None and executor.mode == DISABLED
    executor.stop("a person"), tick()
    assert (executor.mode, executor.reason) == (STOPPED, "a person")
    executor.enable(), tick()
    assert executor.mode == STOPPED  # latched
    executor.reset(), tick()
    assert executor.mode == DISABLED
    executor.enable(), tick()
    assert executor.mode == HOLDING and "no task" in executor.reason
    executor.move_to(arm.HOME + np.array([0.1, 0, 0, 0, 0, 0, 0.01]), 0.5)
    tick(1.0)
    assert executor.mode == MOVING
    executor.disable("enough"), tick(1.005)
    assert executor.mode == DISABLED
    for k in range(400):
        tick(1.01 + k * PERIOD)
    assert executor.trajectory.at_rest and tick() is None
    executor.enable(), tick()
    tick(9.0, faults=("collision",))
    assert (executor.mode, executor.reason) == (STOPPED, "collision")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"feedback_age_s": 0.2}, "feedback"),
        ({"feedback_age_s": float("nan")}, "feedback"),
        ({"camera_ages_s": {"wrist": 0.5}}, "camera wrist"),
        ({"waits": ("leader mode",)}, "leader mode"),
    ],
)
def test_what_makes_it_hold_and_that_it_goes_on(changes, words):
    position = demonstration(np.random.default_rng(5), 20)
    executor = ready(position(0.0))
    drive(executor, lambda at, n: chunk(position, at, 30, n), 300)
    assert executor.mode == MOVING
    for k in range(1, 200):
        executor.tick(1.5 + k * PERIOD, sensed(executor, **changes))
    assert executor.mode == HOLDING and words in executor.reason and executor.trajectory.at_rest
    executor.offer(chunk(position, 2.6, 30, 1000), arm.NAMES, 2.61)
    executor.tick(2.615, sensed(executor))
    assert executor.mode == MOVING


def test_a_blocked_joint_is_a_latched_stop():
    position = demonstration(np.random.default_rng(6), 20)
    executor = ready(position(0.0))
    for tick in range(1, 1000):
        now = tick * PERIOD
        if tick % 30 == 1:
            executor.offer(chunk(position, now, 20, tick), arm.NAMES, now)
        executor.tick(now, sensed(executor, position=position(0.0)))
    assert executor.mode == STOPPED and "following error" in executor.reason


def test_only_the_gate_makes_passed_commands():
    with pytest.raises(TypeError, match="only ArmGate"):
        Passed(object(), None, 1)


def test_millions_of_random_positions_after_one_another():
    """Vectorised: whatever position comes next, what would pass is finite and inside the limits of one period."""
    rng = np.random.default_rng(0)
    executor = ready()
    gate = executor.gate
    passed = 0
    for _ in range(3000):
        scale = 10.0 ** rng.uniform(-9, 1)
        candidate = gate._last + rng.normal(0, scale, 7)
        if rng.random() < 0.05:
            candidate[rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf])
        if not gate.objection(candidate):
            passed += 1
            step = candidate - gate._last
            assert np.isfinite(candidate).all()
            assert (np.abs(step) <= arm.VELOCITY * PERIOD + 1e-8).all()
            assert (np.abs(step - gate._step) <= arm.ACCELERATION * PERIOD**2 + 1e-8).all()
    assert passed > 100


def test_stopping_point_is_where_ruckig_stops():
    rng = np.random.default_rng(0)
    for _ in range(300):
        trajectory = JointTrajectory(LIMITS, PERIOD)
        velocity = rng.uniform(-0.9, 0.9, 7) * arm.VELOCITY
        room = (arm.VELOCITY - np.abs(velocity)) * 2 * arm.JERK
        acceleration = rng.uniform(-1, 1, 7) * np.minimum(np.sqrt(room), arm.ACCELERATION) * 0.99
        trajectory._state = (arm.HOME.copy(), velocity, acceleration)
        wanted = stopping_point(arm.HOME, velocity, acceleration, LIMITS)
        for _ in range(2000):
            trajectory.commit(trajectory.brake())
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


def test_kinematics_equal_the_vendors():
    piper_sdk = pytest.importorskip("piper_sdk")
    vendor = piper_sdk.C_PiperForwardKinematics(1)
    rng = np.random.default_rng(0)
    q = rng.uniform(arm.LOW[:6], arm.HIGH[:6], (10_000, 6))
    mine = frames(GEOMETRY, q)[:, 6, :3, 3] * 1e3
    theirs = np.array([vendor.CalFK(list(row))[-1][:3] for row in q])
    assert np.abs(mine - theirs).max() < 0.1


def test_distance_of_segments_against_brute_force():
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(4, 300, 3))
    s = np.linspace(0, 1, 101)
    first = ends[0][:, None] + (ends[1] - ends[0])[:, None] * s[:, None]
    second = ends[2][:, None] + (ends[3] - ends[2])[:, None] * s[:, None]
    brute = np.linalg.norm(first[:, :, None] - second[:, None], axis=-1).min((1, 2))
    exact = segment_distance(*ends)
    assert (exact <= brute + 1e-9).all() and (brute - exact).max() < 0.05


def test_rest_and_home_are_legal():
    assert clearance(GEOMETRY, arm.HOME[:6]) > 0
    assert clearance(GEOMETRY, arm.REST[:6]) > 0


def test_limits_say_what_is_wrong():
    with pytest.raises(ValueError, match="low < high"):
        JointLimits(arm.HIGH, arm.LOW, arm.VELOCITY, arm.ACCELERATION, arm.JERK)
    with pytest.raises(ValueError, match="speed in"):
        LIMITS.scaled(1.5)


if __name__ == "__main__":  # how long a period's work takes
    executor = ready()
    position = demonstration(np.random.default_rng(0), 30)
    executor.start(position(0.0))
    took = []
    for tick in range(1, 5000):
        if tick % 40 == 1:
            executor.offer(chunk(position, tick * PERIOD, 16, tick), arm.NAMES, tick * PERIOD)
        state = sensed(executor)
        began = time.perf_counter()
        executor.tick(tick * PERIOD, state)
        took.append(time.perf_counter() - began)
    print(np.percentile(took, [50, 99, 100]) * 1e6, "us")
