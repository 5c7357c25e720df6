"""Chunks of all kinds through the trajectory and the gate: continuous, inside every limit, nothing clean is altered."""

import re
import time

import numpy as np
import pytest

from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import DISABLED, HOLDING, MOVING, STOPPED, GateConfig, Sensed
from alam_control.chunk_buffer import TimedChunk
from alam_control.kinematics import clearance
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
        q = np.clip(q, arm.LOW + 0.002, arm.HIGH - 0.002)
        if clearance(GEOMETRY, q[:6]) > 0.03:
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
    noise = [2e-3] * 6 + [2e-4]  # each chunk is another opinion, as a whole and in each row
    due = []

    def noisy(at, number):
        rows = chunk(position, at, 16, number).actions
        return TimedChunk(rows + rng.normal(0, noise) + rng.normal(0, noise, rows.shape) / 2, at, number, DT)

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
    at_border = np.array([jumps[b - 2 : b] for b in borders[2:]])  # onto the first new setpoint, and from it
    inside = np.delete(jumps, [b - k for b in borders[2:] for k in (1, 2)])
    print(
        f"velocity jumps [rad/s], p50 and p99: at borders {np.percentile(at_border, [50, 99])}, "
        f"inside {np.percentile(inside, [50, 99])}"
    )
    assert np.percentile(at_border, 95) <= np.percentile(inside, 99)
    assert (at_border > np.percentile(inside, 99)).mean() <= 0.02
    assert at_border.max() <= arm.ACCELERATION.max() * PERIOD * 1.0001


def test_a_noisy_policy_that_opens_and_closes_the_gripper_is_followed():
    """Noise and steps are more than the limits allow: smoothed or pursued, but nothing is held or refused."""
    rng = np.random.default_rng(4)
    smooth = demonstration(rng, 40)

    def position(t):
        return np.append(smooth(t)[:6], arm.HIGH[6] if int(t / 2) % 2 else 0.0)

    def noisy(at, number):
        rows = chunk(position, at, 16, number).actions
        return TimedChunk(rows + rng.normal(size=rows.shape) * ([1e-3] * 6 + [1e-4]), at, number, DT)

    executor = ready(position(0.0))
    passed, modes = drive(executor, noisy, 6000, 6, lambda: rng.uniform(0.02, 0.12))
    assert executor.gate.refused == 0 and set(modes[modes.index(MOVING) :]) == {MOVING}
    wanted = np.array([position((tick + 1) * PERIOD) for tick in range(len(passed))])
    assert np.sqrt(((passed - wanted)[200:, :6] ** 2).mean()) < 2e-3
    before = abs(np.arange(len(passed)) * PERIOD % 2 - 1.94) < 0.04  # by then the gripper is where it was sent
    assert np.abs(passed - wanted)[before, 6].max() < 1e-3


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
    "slow rows": (lambda c: (TimedChunk(c.actions, c.observation_time, 7, 60.0), arm.NAMES), "wanted a row each"),
    "fast rows": (lambda c: (TimedChunk(c.actions, c.observation_time, 7, 1e-9), arm.NAMES), "wanted a row each"),
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


def test_a_motion_of_its_own_takes_no_chunks_and_outlives_the_task():
    position = demonstration(np.random.default_rng(5), 20)
    executor = ready(position(0.0))
    target = position(0.0) + 0.2 * np.eye(7)[0]
    executor.move_to(target, 0.5)
    assert "on its way" in executor.offer(chunk(position, 0.0, 30, 1), arm.NAMES, 0.001)
    executor.tick(0.005, sensed(executor))
    assert "on its way" in executor.offer(chunk(position, 0.0, 30, 1), arm.NAMES, 0.006)
    executor.task(False)
    for tick in range(2, 1000):
        executor.tick(tick * PERIOD, sensed(executor))
    assert not executor.moving_itself and executor.mode == HOLDING
    assert np.abs(executor.trajectory.state[0] - target).max() < 1e-9


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
