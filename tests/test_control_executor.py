"""Chunks of all kinds through the trajectory and the gate: continuous, inside every limit, nothing clean is altered."""

import dataclasses
import itertools
import re
import time

import numpy as np
import pytest

from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import DISABLED, HOLDING, MOVING, STOPPED, GateConfig, Sensed
from alam_control.chunk_buffer import TimedChunk
from alam_control.joint_trajectory import JointTrajectory
from alam_control.kinematics import clearance
from alam_piper import arm
from alam_piper.geometry import piper_geometry, piper_limits

DT, PERIOD, NAN = 1 / 30, 0.005, float("nan")
LIMITS, GEOMETRY = piper_limits(), piper_geometry()


def sensed(executor, **changes):
    position = executor.trajectory.state[0]
    values = {"position": position, "effort": 0 * position, "feedback_age_s": 0.005}
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
    """0 of 100,000 setpoints over the four seeds are altered: none is refused or held, no row clipped, smoothed or
    pursued, and the demonstration is followed. (Recorded episodes, with a closed gripper: the next test.)"""
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


@pytest.fixture(scope="module")
def episodes():
    """-> of the experts on the twin's tasks, each the start and the targets (N, 7) that the twin followed, at 30 Hz."""
    pytest.importorskip("mujoco")
    from alam_sim.piper_env import PiperEnv
    from alam_sim.piper_experts import expert

    found = []
    for task in ("insert-cylinder", "insert-cube", "stack-cups"):
        env = PiperEnv(task)
        try:
            for seed in (1000, 1001):
                env.reset(seed)
                rows = [env.state()]
                for action in expert(env):
                    env.step(action)
                    rows.append(np.clip(action, arm.LOW, arm.HIGH))  # so does the twin
                found.append(np.array(rows))
        finally:
            env.close()
    return found


@pytest.mark.sim
def test_recorded_episodes_pass_unaltered(episodes):
    """0 of 100,000 setpoints are altered, and 0 rows. A row is altered when the executor plans with other numbers than
    those that came; a setpoint when the gate refuses it or something else goes out in its place (a hold, a brake).

    The experts close the gripper from one row to the next, to exactly 0 m, and turn the wrist more abruptly than the
    limits of motion allow: such rows are pursued, which lags. The others are followed."""
    setpoints, rows, closed, errors = 0, 0, 0, []
    for number, episode in enumerate(itertools.cycle(episodes)):
        if setpoints >= 100_000:
            break
        rng = np.random.default_rng(number)
        executor = ready(np.clip(episode[0], arm.LOW, arm.HIGH))
        planned, offer = [], executor.trajectory.offer
        executor.trajectory.offer = lambda c, planned=planned, offer=offer: (planned.append(c.actions), offer(c))
        sent = []

        def recorded(at, n, episode=episode, sent=sent):
            first = int(at / DT)
            sent.append(episode[np.minimum(first + 1 + np.arange(24), len(episode) - 1)])
            return TimedChunk(sent[-1], first * DT, n, DT)

        ticks = int(len(episode) * DT / PERIOD)
        passed, modes = drive(executor, recorded, ticks, 6, lambda rng=rng: rng.uniform(0.02, 0.12))
        begun = modes.index(MOVING)
        assert set(modes[begun:]) == {MOVING}, executor.reason
        assert executor.gate.refused == 0 and executor.held <= begun + 1
        assert len(planned) == len(sent) and executor.clipped == 0, executor.why_refused
        for came, plan in zip(sent, planned, strict=True):
            assert came.tobytes() == plan.tobytes()
        setpoints, rows = setpoints + len(passed) - begun, rows + 24 * len(planned)
        closed += int((np.concatenate(planned)[:, 6] == 0.0).sum())
        wanted = np.array(
            [np.interp(PERIOD * np.arange(1, ticks + 1), DT * np.arange(len(episode)), q) for q in episode.T]
        )
        errors.append((passed - wanted.T)[begun + 100 :, :6])
    error = np.concatenate(errors)
    print(
        f"{setpoints} setpoints, {rows} rows, {closed} with a closed gripper; {np.sqrt((error**2).mean()):.4f} rad rms"
    )
    assert setpoints >= 100_000 and closed > 10_000
    assert np.median(np.abs(error)) < 1e-5 and np.sqrt((error[:, :3] ** 2).mean()) < 1e-2


def jumps_of_velocity(position, ticks, shift, noisy):
    """Chunks of 16 rows every 40 periods from `shift` on, 40 to 100 ms late -> (N,) the largest change of a commanded
    velocity from each period to the next, and (N,) bool: which of them are the first of a chunk."""
    trajectory = JointTrajectory(LIMITS, PERIOD)
    trajectory.start(position(0.0))
    trajectory.commit(trajectory.brake(), 0.0)
    late, seen, spliced, passed, first = 8 + shift * 5 % 13, 0, 0, [], []
    for tick in range(1, ticks):
        if tick == seen + late:
            at = seen * PERIOD
            trajectory.offer(TimedChunk(noisy(chunk(position, at, 16, tick).actions), at, tick, DT))
            seen = seen + 40 if seen else shift
        setpoint = trajectory.propose(tick * PERIOD) or trajectory.brake()
        trajectory.commit(setpoint, tick * PERIOD)
        passed.append(setpoint.position)
        first.append(trajectory.spliced > spliced)
        spliced = trajectory.spliced
    begun = 150
    return np.abs(np.diff(passed, n=2, axis=0)).max(1)[begun:] / PERIOD, np.array(first[2 + begun :])


@pytest.mark.parametrize(("offset", "noise"), [(0.0, 0.0), (0.0, 1e-3), (2e-3, 1e-3)])
def test_borders_of_chunks_are_no_rougher_than_their_insides(offset, noise):
    """The jump of the commanded velocity onto the first setpoint of a chunk against that between all other periods, at
    p99. Every period of one demonstration is once the first of a chunk, so both see the same motion. `offset`, `noise`
    [rad]: each chunk is another opinion, as a whole and in each row; a tenth of it, in metres, for the gripper."""
    rng = np.random.default_rng(9)
    position, scale = demonstration(rng, 15), np.array([1.0] * 6 + [0.1])

    def noisy(rows):
        return rows + scale * (offset * rng.normal(size=7) + noise * rng.normal(size=rows.shape))

    runs = [jumps_of_velocity(position, 1600, shift, noisy) for shift in range(40, 80)]
    jumps, first = (np.concatenate(part) for part in zip(*runs, strict=True))
    borders, inside = np.percentile(jumps[first], 99), np.percentile(jumps[~first], 99)
    print(f"jumps of velocity [rad/s] at p99: {borders:.5f} at {first.sum()} borders, {inside:.5f} inside")
    assert first.sum() > 1200
    assert borders <= inside
    assert jumps[first].max() <= arm.ACCELERATION.max() * PERIOD * 1.0001


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


def altered(c, **changes):
    return dataclasses.replace(c, **changes)


# What is made of a good chunk that is due now, and of the older ones that were taken before: chunk, names, reason.
BAD = {
    "missing names": lambda c, _: (c, arm.NAMES[:-1], "wanted channels"),
    "no names": lambda c, _: (c, (), "wanted channels"),
    "wrong order": lambda c, _: (c, arm.NAMES[::-1], "wanted channels"),
    "degrees": lambda c, _: (altered(c, actions=np.degrees(c.actions)), arm.NAMES, "looks like degrees"),
    "all nan": lambda c, _: (altered(c, actions=c.actions * np.nan), arm.NAMES, "finite"),
    "one inf": lambda c, _: (altered(c, actions=np.where(np.eye(12, 7) > 0, np.inf, c.actions)), arm.NAMES, "finite"),
    "empty": lambda c, _: (altered(c, actions=c.actions[:0]), arm.NAMES, r"wanted \(H, 7\)"),
    "one row flat": lambda c, _: (altered(c, actions=c.actions[0]), arm.NAMES, r"wanted \(H, 7\)"),
    "six channels": lambda c, _: (altered(c, actions=c.actions[:, :6]), arm.NAMES, r"wanted \(H, 7\)"),
    "stacked": lambda c, _: (altered(c, actions=c.actions[None]), arm.NAMES, r"wanted \(H, 7\)"),
    "text": lambda c, _: (altered(c, actions=c.actions.astype(str)), arm.NAMES, r"wanted \(H, 7\)"),
    "complex": lambda c, _: (altered(c, actions=c.actions + 0j), arm.NAMES, r"wanted \(H, 7\)"),
    "objects": lambda c, _: (altered(c, actions=c.actions.astype(object)), arm.NAMES, r"wanted \(H, 7\)"),
    "dt 0": lambda c, _: (altered(c, dt=0.0), arm.NAMES, "wanted a row each"),
    "dt negative": lambda c, _: (altered(c, dt=-DT), arm.NAMES, "wanted a row each"),
    "dt nan": lambda c, _: (altered(c, dt=NAN), arm.NAMES, "wanted a row each"),
    "dt inf": lambda c, _: (altered(c, dt=np.inf), arm.NAMES, "wanted a row each"),
    "dt a minute": lambda c, _: (altered(c, dt=60.0), arm.NAMES, "wanted a row each"),
    "dt a nanosecond": lambda c, _: (altered(c, dt=1e-9), arm.NAMES, "wanted a row each"),
    "a thousand rows": lambda c, _: (
        altered(c, actions=np.repeat(c.actions[:1], 1000, 0), dt=PERIOD),
        arm.NAMES,
        "500",
    ),
    "no time": lambda c, _: (altered(c, observation_time=NAN), arm.NAMES, "finite times"),
    "late": lambda c, _: (
        altered(c, actions=c.actions[:1], observation_time=c.observation_time - 0.035),
        arm.NAMES,
        "late",
    ),
    "future": lambda c, _: (altered(c, observation_time=c.observation_time + 9), arm.NAMES, "future"),
    "duplicated": lambda _, taken: (taken[-1], arm.NAMES, "duplicate"),
    "replayed": lambda _, taken: (taken[-2], arm.NAMES, "out of order"),
    "replayed as new": lambda c, taken: (
        altered(taken[-2], observation_id=c.observation_id),
        arm.NAMES,
        "out of order",
    ),
}


@pytest.mark.parametrize("between_tasks", [False, True])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_chunk_is_refused_with_its_reason_and_changes_nothing(kind, between_tasks):
    """What is commanded in the next 200 periods is, bit for bit, what an executor commands that never got it; in the
    middle of a task, and after one has ended and the next has begun."""
    position = demonstration(np.random.default_rng(2), 9)
    runs = []
    for bad in (False, True):
        executor, taken, passed = ready(position(0.0)), [], []
        for tick in range(1, 301):
            now = tick * PERIOD
            if tick in (5, 35, 65, 95, 160, 220):
                taken.append(chunk(position, now, 12, tick))
                assert executor.offer(taken[-1], arm.NAMES, now) == ""
            if tick == 99 and between_tasks:
                executor.task(False)
            if tick == 101 and between_tasks:
                executor.task(True)
            if tick == 103:
                made, names, words = BAD[kind](chunk(position, now, 12, tick), taken)
                if "replayed" in kind or kind == "duplicated":
                    assert made.end_time > now + 0.1  # its rows are still due
                if bad:
                    before = executor.rejected, executor.clipped, executor.trajectory.has_plan
                    reason = executor.offer(made, names, now)
                    assert re.search(words, reason), reason
                    assert executor.why_refused == reason
                    assert before == (executor.rejected - 1, executor.clipped, executor.trajectory.has_plan)
            passed.append(executor.tick(now, sensed(executor)).position)
        assert executor.trajectory.spliced == 6
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
