"""The twin's chunks go through the real arm's executor: its limits, its gate, its modes; in lockstep to the bit."""

import numpy as np
import pytest

from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import GateConfig
from alam_control.chunk_buffer import TimedChunk
from alam_control.kinematics import clearance
from alam_piper import arm, words
from alam_piper.geometry import piper_geometry, piper_limits
from alam_sim.arm_actuator import PERIOD_NS, PERIOD_S
from alam_sim.episode import Goal, run_episode
from alam_sim.world import World, WorldConfig

pytestmark = pytest.mark.sim
TASK = "insert-cylinder"
DT = 1 / arm.CONTROL_RATE_HZ


class Wanderer:
    """Chunks that wander off from where the arm is, by the seed and the observation alone."""

    id, replan = "wanderer@0", 4

    def __init__(self, reach_rad=0.15):
        self.reach_rad = reach_rad

    def infer(self, observation, seed=0):
        random = np.random.default_rng([seed, observation.id])
        way = np.append(random.uniform(-self.reach_rad, self.reach_rad, 6), random.uniform(-0.02, 0.02))
        rows = observation.state + np.linspace(1 / 8, 1, 8)[:, None] * way + random.normal(0, 0.002, (8, 7))
        return Answer(np.clip(rows, arm.LOW, arm.HIGH).astype(np.float32))


class Answer:
    def __init__(self, actions):
        self.actions, self.inference_time_s = actions, 0.0


class Outlet:
    """Answers each observation at once, keeps what the arm did, and does `then` after a number of control steps."""

    def __init__(self, policy=None, then=None, after=10**9):
        self.policy, self.then, self.after = policy, then, after
        self.periods, self.clocks, self.steps = [], [], 0
        self.world = None

    def observation(self, observed):
        if self.policy is None:
            return
        actions = self.policy.infer(observed).actions
        self.world.offer(TimedChunk(actions, observed.stamp_ns / 1e9, observed.id, DT), arm.NAMES)

    def clock(self, time_ns):
        self.clocks.append(time_ns)

    def changed(self):
        pass

    def moved(self, periods, start_ns):
        self.periods += [(start_ns + period.time_ns, period) for period in periods]
        self.steps += 1
        if self.steps == self.after:
            self.then()

    def commands(self):
        return np.array([period.commanded[0] for _, period in self.periods if period.commanded is not None])


@pytest.fixture(scope="module")
def env():
    from alam_sim.piper_env import PiperEnv

    made = PiperEnv(TASK)
    yield made
    made.close()


def make_world(env, out, mode="lockstep", clock=lambda: 0.0):
    world = World(lambda task: env, env.contract, WorldConfig(mode, 4), out, clock)
    out.world = world
    world.open(TASK)
    env.reset(0)
    world.ready()
    return world


def chunk(rows, at=0.0, number=0):
    return TimedChunk(np.asarray(rows, np.float32), at, number, DT)


def ready(env, seed=2):
    env.reset(seed)
    actuator = env.actuator()
    actuator.begin(env, 0)
    return actuator


def test_a_hold_before_the_first_chunk_keeps_the_arm_where_it_is(env):
    actuator = ready(env)
    start = env.state()
    steps = [actuator.step(env.steps * DT, waits=False) for _ in range(30)]
    assert all(step.hold for step in steps) and steps[-1].hold == "chunk: none, or it ran out"
    assert all(np.allclose(step.executed, start, atol=1e-3) for step in steps)
    assert np.abs(env.state() - start).max() < 0.01
    assert not actuator.restless and actuator.closed == ""


def test_every_command_of_an_episode_keeps_the_arms_limits_also_across_chunks_and_time_counts_in_periods(env):
    out = Outlet(Wanderer())
    world = make_world(env, out)
    out.periods.clear()
    result = world.run(TASK, Goal(3, "x", 45))
    assert result.steps == 45 and result.completed
    p = out.commands()
    assert len(p) == len(out.periods) >= 300  # 200 Hz of 1.5 s, and the brake
    v, limits = np.diff(p, axis=0) / PERIOD_S, piper_limits()
    a = np.diff(v, axis=0) / PERIOD_S
    j = np.diff(a, axis=0) / PERIOD_S
    assert np.abs(v).max(0)[:6].max() > 0.1  # it did move
    for values, most in ((v, limits.velocity), (a, limits.acceleration), (j, limits.jerk)):
        assert (np.abs(values) <= most * (1 + 1e-4)).all()
    stamps = [stamp for stamp, _ in out.periods]
    assert np.diff(stamps).tolist() == [PERIOD_NS] * (len(stamps) - 1)
    assert out.clocks == sorted(out.clocks) and stamps[-1] < out.clocks[-1]
    assert np.abs(v[-1]).max() < 1e-4 and not world.actuator.restless  # at rest once the task is over
    assert world.actuator.snapshot()[0].mode == "holding"
    assert world.actuator.snapshot()[0].reason == "no task runs: call /run_task"


def test_the_same_seed_gives_the_same_bits_whatever_came_before_and_in_process(env):
    world = make_world(env, Outlet(Wanderer()))
    digests = [world.run(TASK, Goal(seed, "x", 25)).digest for seed in (5, 6, 5)]
    world.actuator.home()
    world.idle()
    digests.append(world.run(TASK, Goal(5, "x", 25)).digest)
    assert digests[0] == digests[2] == digests[3] != digests[1]
    inside = run_episode(env, Wanderer(), TASK, 5, max_steps=25, instruction="x", replan=4)
    assert inside.digest == digests[0]


@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
def test_a_stop_brakes_latches_and_holds_until_reset_and_enable(env, mode):
    now = [0.0]

    def clock():
        now[0] += 0.004
        return now[0]

    out = Outlet(Wanderer(0.5))
    world = make_world(env, out, mode, clock)
    out.steps, out.after, out.then = 0, 12, lambda: world.actuator.stop(words.SERVICE_STOP)
    out.periods.clear()
    result = world.run(TASK, Goal(1, "x", 200))
    assert (result.reason, result.completed) == (f"stopped: {words.SERVICE_STOP}", False)
    assert 12 < result.steps < 40
    p = out.commands()
    assert np.abs(np.diff(p[-2:], axis=0)).max() == 0 and np.abs(np.diff(p[:80], axis=0)).max() > 1e-3
    speed = np.abs(np.diff(p, axis=0))[:, :6].max(1) / PERIOD_S
    assert speed[80] > 0.1 and (np.abs(np.diff(p, 2, axis=0)) <= arm.ACCELERATION * PERIOD_S**2 * 1.0001).all()

    actuator, place = world.actuator, env.state()
    for ask in (actuator.home, lambda: actuator.enable(True), lambda: actuator.stop("again")):
        ask()
        world.idle()
        assert actuator.stopped == words.SERVICE_STOP and actuator.snapshot()[0].mode == "stopped"
    assert np.abs(env.state() - place).max() < 0.01
    again = world.run(TASK, Goal(1, "x", 200))
    assert again.reason == f"stopped: {words.SERVICE_STOP}" and again.steps <= 1
    actuator.reset()
    world.idle()
    assert (actuator.stopped, actuator.closed) == ("", words.DISABLED)
    actuator.enable(True)
    world.idle()
    assert actuator.closed == "" and world.run(TASK, Goal(1, "x", 8)).completed


def test_home_goes_slowly_through_the_gate_and_a_stop_ends_it(env):
    out = Outlet()
    world = make_world(env, out)
    world.actuator.home()
    world.idle()
    said = world.actuator.snapshot()[0]
    assert words.home_answer(said.commanded, said.reason) == (True, "home") and said.mode == "holding"
    assert np.abs(env.state() - arm.HOME)[:6].max() < 0.04  # friction in the joints: it has only just come
    speed = np.abs(np.diff(out.commands(), axis=0)).max(0) / PERIOD_S
    assert (speed <= 0.2 * arm.VELOCITY * 1.0001).all() and speed.max() > 0.1
    out.steps, out.after, out.then = 0, 20, lambda: world.actuator.stop(words.OPERATOR_STOP)
    world.actuator.park()
    world.idle()
    said = world.actuator.snapshot()[0]
    sentence = f"could not move to rest: {words.OPERATOR_STOP}; the arm keeps its power"
    assert words.park_answer(said.commanded, said.reason) == (False, sentence)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: (np.degrees(rows) * 3, arm.NAMES),
        lambda rows: (np.where(rows == rows[2], np.nan, rows), arm.NAMES),
        lambda rows: (rows, arm.NAMES[::-1]),
        lambda rows: (rows[:, :6], arm.NAMES),
        lambda rows: (rows, arm.NAMES[:6]),
        lambda rows: (rows[:0], arm.NAMES),
    ],
)
def test_it_refuses_what_the_arm_refuses_in_the_same_words_and_nothing_changes(env, spoil):
    actuator = ready(env)
    rows, names = spoil(np.tile(env.state(), (8, 1)))
    real = ArmExecutor(arm.NAMES, piper_limits(), piper_geometry(), GateConfig(), PERIOD_S)
    real.task(True)
    reason = actuator.offer(chunk(rows), names, 0.0)
    assert reason and reason == real.offer(chunk(rows), names, 0.0)
    step = actuator.step(0.0, waits=False)
    assert step.hold and np.abs(np.diff(step.executed, axis=0)).max() == 0


def test_it_refuses_chunks_that_are_late_repeated_or_of_the_future(env):
    actuator = ready(env)
    rows = np.tile(env.state(), (4, 1))
    assert actuator.offer(chunk(rows, 0.0, 1), arm.NAMES, 0.0) == ""
    assert "duplicate" in actuator.offer(chunk(rows, 0.0, 1), arm.NAMES, 0.0)
    assert "future" in actuator.offer(chunk(rows, 1.0, 2), arm.NAMES, 0.5)
    assert "too late" in actuator.offer(chunk(rows, 0.1, 3), arm.NAMES, 0.5)


def test_the_gate_keeps_the_hand_off_the_table_and_says_why_it_holds(env):
    actuator = ready(env)
    start, reasons, commands = env.state(), set(), []
    down = start.copy()
    down[1:3] = 2.4, -0.9  # through the table top
    assert clearance(piper_geometry(), down[:6]) < -0.05
    for number in range(60):
        if not actuator.lasts(env.steps * DT):
            rows = start + np.linspace(0.1, 1, 45)[:, None] * (down - start)
            assert actuator.offer(chunk(rows, env.steps * DT, number), arm.NAMES, env.steps * DT) == ""
        step = actuator.step(env.steps * DT, waits=False)
        reasons.add(step.hold)
        commands.append(step.executed)
    assert clearance(piper_geometry(), np.concatenate(commands)[:, :6]).min() > -1e-3
    assert any(reason.startswith("gate: ") and "too close to the table" in reason for reason in reasons)
    assert np.abs(np.concatenate(commands) - start).max() > 0.1  # it went as far as it may


def test_an_expert_solves_its_task_through_the_arms_gate(env):
    from alam_sim.piper_experts import expert

    actuator = ready(env, 0)
    before, holds = None, set()
    for number, action in enumerate(expert(env)):
        onward = np.zeros(7) if before is None else action - before
        before, now = action, env.steps * DT
        rows = np.clip(action + np.arange(4)[:, None] * onward, arm.LOW, arm.HIGH)
        assert actuator.offer(chunk(rows, now, number), arm.NAMES, now) == ""
        step = actuator.step(now, waits=False)
        holds.add(step.hold)
        if step.solved:
            break
    assert step.solved and env.points == 5 and holds == {""}
