"""The Piper at a table: exact seeds, two living views, holds that keep the pose, tasks that can be solved."""

import numpy as np
import pytest
from fake_world import FakeEnv, FakePolicy

from alam_models.contract import prepare_frame
from alam_piper import arm
from alam_sim.actuator import make_gate, rest_action
from alam_sim.episode import run_episode
from alam_sim.metaworld_env import metaworld_contract
from alam_sim.piper_tasks import TASKS, check_task


def test_tasks_have_distinct_short_instructions_and_their_points():
    words = [task.instruction for task in TASKS.values()]
    assert len(set(words)) == len(words) and max(len(text.encode()) for text in words) <= 48
    assert {name: task.points for name, task in TASKS.items()} == {
        "insert-cylinder": 5,
        "insert-cube": 5,
        "stack-cups": 10,
    }
    with pytest.raises(ValueError, match=r"wanted one of insert-cylinder.*got 'insert-ball'"):
        check_task("insert-ball")


def test_a_hold_keeps_positions_and_grip_and_lets_increments_rest():
    assert make_gate(metaworld_contract()).limits.keep.tolist() == [False, False, False, True]
    assert make_gate(arm.piper_contract()).limits.keep.all()
    env = FakeEnv()
    env.reset(0)
    assert rest_action(env).tolist() == [0, 0, 0, 0]


@pytest.fixture
def open_env():
    opened = []

    def make(task):
        from alam_sim.piper_env import PiperEnv

        opened.append(PiperEnv(task))
        return opened[-1]

    yield make
    for env in opened:
        env.close()


@pytest.mark.sim
@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_episode_whatever_came_before(open_env, task):
    env = open_env(task)

    def digest(seed):
        random = np.random.default_rng(seed)
        env.reset(seed)
        seen = b""
        for _ in range(5):
            env.step(env.state() + random.uniform(-0.1, 0.1, 7))
            seen += env.state().tobytes() + b"".join(frame.tobytes() for frame in env.render().values())
        return seen

    first = digest(3)
    assert digest(4) != first
    assert digest(3) == first


@pytest.mark.sim
@pytest.mark.parametrize("task", TASKS)
def test_views_differ_move_and_show_the_task(open_env, task):
    env = open_env(task)
    env.reset(0)
    before = env.render()
    assert not np.array_equal(before["third_person"], before["wrist"])
    for role, frame in before.items():
        camera = env.contract.camera(role)
        assert prepare_frame(frame, camera).shape == (camera.height, camera.width, 3)
        assert 0.5 < env.field_of_view_rad(role) < 1.5
    env.reset(1)
    for role, frame in env.render().items():  # other places, other pictures
        assert (np.abs(frame.astype(int) - before[role]) > 40).any(2).mean() > 0.002


@pytest.mark.sim
@pytest.mark.parametrize("task", TASKS)
def test_everything_is_within_reach_at_rest_and_apart(open_env, task):
    env = open_env(task)
    model, data = env.dynamics.model, env.dynamics.data
    names = ("left", "center", "right") if task == "stack-cups" else ("object", "socket")
    for seed in range(50):
        env.reset(seed)
        places = np.array([data.body(name).xpos for name in names])
        assert (np.hypot(places[:, 0], places[:, 1]) < 0.45).all() and (places[:, 0] > 0.25).all()
        for one in range(len(names)):
            for other in range(one):
                assert np.linalg.norm(places[one] - places[other]) > 0.08
        assert np.abs(data.qvel[8:]).max() < 0.02 and env.points == 0
        assert env.scene.points(model, data) == 0


@pytest.mark.sim
def test_the_drives_are_told_no_more_than_the_arm_may_do(open_env):
    env = open_env("insert-cube")
    env.reset(0)
    start = env.state()
    for _ in range(3):
        env.step(start + np.array([1.0, 0, 0, 0, 0, 0, 0]))
    assert 0.02 < env.state()[0] - start[0] < 3 * arm.VELOCITY[0] / arm.CONTROL_RATE_HZ + 1e-6
    for _ in range(90):
        env.step(start + np.array([0.2, 0, 0, 0, 0, 0, -0.05]))
    assert env.state()[0] - start[0] == pytest.approx(0.2, abs=0.01)
    assert env.state()[6] == pytest.approx(0.02, abs=0.002)
    position, velocity, effort = env.joints()
    assert np.array_equal(position, env.state()) and np.abs(velocity[:6]).max() < 0.05 and np.isfinite(effort).all()
    for action in (np.zeros(6), np.full(7, np.nan)):
        with pytest.raises(ValueError, match="7 finite"):
            env.step(action)


@pytest.mark.sim
def test_one_world_a_process(open_env):
    open_env("insert-cube")
    with pytest.raises(RuntimeError, match="close"):
        open_env("stack-cups")


@pytest.mark.sim
@pytest.mark.parametrize("task", TASKS)
def test_the_expert_solves_the_task_and_points_need_a_release(open_env, task):
    from alam_sim.piper_experts import expert

    env = open_env(task)
    env.reset(0)
    points = []
    for action in expert(env):
        solved = env.step(action)
        points.append(env.points)
        assert solved == (env.points == TASKS[task].points)
        if solved:
            break
    assert points[-1] == TASKS[task].points and env.steps <= TASKS[task].max_steps
    assert sorted(set(points)) == list(range(0, TASKS[task].points + 1, 5))  # one cup, then both
    assert env.state()[6] > 0.05  # let go


@pytest.mark.sim
def test_an_object_dropped_beside_its_socket_makes_no_points(open_env):
    env = open_env("insert-cylinder")
    env.reset(0)
    start = env.state()
    assert not any(env.step(start) for _ in range(40))
    model, data = env.dynamics.model, env.dynamics.data
    address = model.jnt_qposadr[model.body("object").jntadr[0]]
    socket = data.body("socket").xpos.copy()
    for over, made in ((np.array([0.08, 0.0, 0.036]), False), (np.array([0.0, 0.0, 0.045]), True)):
        data.qpos[address : address + 3], data.qvel[:] = socket + over, 0.0
        assert any(env.step(start) for _ in range(60)) == made


@pytest.mark.sim
def test_an_episode_in_process_is_the_same_twice(open_env):
    env = open_env("stack-cups")
    env.contract = arm.piper_contract()

    class Policy(FakePolicy):
        def infer(self, observation, seed=0):
            chunk = super().infer(observation, seed)
            near = env.state() + 0.02 * np.pad(chunk.actions, ((0, 0), (0, 3)))
            return type(chunk)(near.astype(np.float32), chunk.latents)

    results = [run_episode(env, Policy(), "stack-cups", 4, max_steps=20) for _ in range(2)]
    assert results[0].digest == results[1].digest and results[0].steps == 20 and results[0].completed
