"""Episodes and the world around them, without a simulator: lockstep, realtime, holds, stops, determinism."""

import numpy as np
import pytest
from fake_world import FakeEnv, FakePolicy

from alam_control.chunk_buffer import TimedChunk
from alam_sim.episode import Goal, LockstepEpisode, Patience, run_episode
from alam_sim.realtime import RealtimeEpisode
from alam_sim.world import World, WorldConfig

DT = 0.0125
GOAL = Goal(7, "do it", 40)


def lockstep(env=None, replan=3, start_ns=0, goal=GOAL):
    env = env or FakeEnv()
    return LockstepEpisode(env, goal, env.actuator(), start_ns, replan, Patience(0.5, 1.0, 60.0))


def answer(episode, actions=None, **changes):
    """The right chunk for what the episode waits for, or one that differs in `changes`."""
    seen = episode.observe()
    actions = np.full((8, 4), 0.5, np.float32) if actions is None else actions
    fields = {"observation_time": seen.stamp_ns / 1e9, "observation_id": seen.id, "dt": DT, **changes}
    return TimedChunk(actions, **fields)


def names(episode):
    return episode.env.contract.action_names


def test_lockstep_observes_waits_executes_replan_and_observes_again():
    episode = lockstep()
    assert episode.next(0.0) == "observe"
    episode.given(0.0)
    assert episode.next(0.1) == "wait"
    assert episode.offer(answer(episode), names(episode), 0.2) == ""
    assert episode.latencies == [pytest.approx(0.2)]
    for _ in range(3):
        assert episode.next(0.2) == "step"
        episode.step(0.2)
    assert episode.next(0.2) == "observe"
    assert episode.observe().id == 7 << 32 | 3
    assert episode.observe().stamp_ns == 3 * 12_500_000


def test_an_unanswered_observation_is_given_again_then_held_then_given_up():
    episode = lockstep()
    first = episode.observe()
    episode.given(0.0)
    assert episode.next(0.4) == "wait"
    assert episode.hold_reason(0.4) == ""
    assert episode.next(0.5) == "observe"
    episode.given(0.5)
    assert episode.observe() is first
    assert episode.hold_reason(3.2) == "no chunk for 3 s"
    episode.given(59.8)
    assert episode.next(60.0) == "end"
    assert episode.result.reason.startswith("given up: no chunk for 60 s")
    assert not episode.result.completed
    assert episode.env.steps == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"observation_id": 5}, "wanted the answer to observation"),
        ({"observation_time": 9.0}, "wanted the answer to observation"),
        ({"dt": 0.1}, "wanted dt 0.0125 s, got 0.1 s"),
        ({"actions": np.full((8, 4), np.nan, np.float32)}, "wanted finite actions, got 32 of 32"),
        ({"actions": np.full((8, 4), 9.0, np.float32)}, "too far outside"),
        ({"actions": np.zeros((8, 3), np.float32)}, "wanted actions"),
    ],
)
def test_lockstep_refuses_wrong_chunks_and_keeps_waiting(changes, reason):
    episode = lockstep()
    episode.given(0.0)
    assert reason in episode.offer(answer(episode, **changes), names(episode), 0.1)
    assert episode.next(0.1) == "wait"
    assert episode.offer(answer(episode), names(episode), 0.2) == ""


def test_other_action_names_are_refused():
    episode = lockstep()
    assert "wanted actions named" in episode.offer(answer(episode), ("a", "b", "c", "d"), 0.0)


def test_a_nan_chunk_is_a_hold_with_its_reason():
    episode = lockstep()
    episode.given(0.0)
    episode.offer(answer(episode, np.full((8, 4), np.nan, np.float32)), names(episode), 0.1)
    assert "no usable chunk" in episode.hold_reason(0.1)
    assert "wanted finite actions" in episode.hold_reason(0.1)


def test_stop_ends_the_episode_and_disable_pauses_it():
    episode = lockstep()
    episode.given(0.0)
    episode.offer(answer(episode), names(episode), 0.0)
    episode.actuator.enable(False)
    assert episode.next(0.1) == "wait"
    assert "disabled" in episode.hold_reason(0.1)
    episode.actuator.enable(True)
    assert episode.next(0.2) == "step"
    episode.actuator.stop("button")
    episode.step(0.2)
    assert episode.env.steps == 0
    assert episode.next(0.3) == "end"
    assert episode.result.reason == "stopped: button"


@pytest.mark.parametrize(
    ("solved_at", "success", "reason"), [(5, True, "success"), (99, False, "time limit: 40 steps")]
)
def test_in_process_episode_ends(solved_at, success, reason):
    result = run_episode(FakeEnv(solved_at=solved_at), FakePolicy(), "reach-v3", 7, max_steps=40)
    assert (result.success, result.completed) == (success, True)
    assert result.reason.startswith(reason)
    assert result.steps == min(solved_at, 40)


def test_same_seed_same_bits_other_seed_other_bits():
    results = [run_episode(FakeEnv(), FakePolicy(), "reach-v3", seed, max_steps=20) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0].digest != results[2].digest


def test_a_policy_that_gives_nan_ends_an_in_process_episode_with_the_reason():
    env = FakeEnv()
    result = run_episode(env, FakePolicy(spoil=np.nan), "reach-v3", 1)
    assert not result.completed
    assert result.reason == "chunk refused: wanted finite actions, got 1 of 32 numbers that are not"
    assert env.actions == []


def test_run_episode_refuses_the_wrong_env():
    with pytest.raises(ValueError, match="wanted an env of 'push-v3', got one of 'reach-v3'"):
        run_episode(FakeEnv(), FakePolicy(), "push-v3", 1)
    with pytest.raises(ValueError, match="goal: wanted seed"):
        Goal(-1, "x", 5)


def test_realtime_steps_with_the_wall_clock_and_holds_without_a_chunk():
    env = FakeEnv()
    episode = RealtimeEpisode(env, GOAL, env.actuator(), 0)
    assert episode.next(100.0) == "observe"
    episode.given(100.0)
    assert episode.next(100.0) == "wait"
    assert episode.wait_s(100.0) == pytest.approx(DT)
    assert episode.next(100.0 + DT) == "step"
    episode.step(100.0 + DT)
    assert episode.hold_reason(0.0) == "no chunk yet"
    assert env.actions[0].tolist() == [0, 0, 0, 0]


def test_realtime_splices_late_chunks_and_holds_when_they_run_out():
    env = FakeEnv()
    episode = RealtimeEpisode(env, GOAL, env.actuator(), 0)
    rows = np.tile(np.arange(8, dtype=np.float32)[:, None] / 10, (1, 4))
    now, offered = 50.0, None
    while env.steps < 12:
        todo = episode.next(now)
        if todo == "observe":
            offered = offered or answer(episode, rows)
            episode.given(now)
        elif todo == "step":
            if env.steps == 2:
                assert episode.offer(offered, names(episode), now) == ""
            episode.step(now)
        else:
            now += episode.wait_s(now) + 1e-9
    assert [round(float(action[0]), 3) for action in env.actions] == [0, 0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0, 0, 0, 0]
    assert env.actions[-1][3] == pytest.approx(0.7)  # the grip keeps its hold
    assert "ran out" in episode.hold_reason(now)
    assert now - 50.0 == pytest.approx(12 * DT, abs=1e-6)


def test_only_a_world_that_does_not_wait_says_that_a_chunk_is_under_way():
    env, said, now = FakeEnv(), {}, 0.0
    episode = RealtimeEpisode(env, GOAL, env.actuator(), 0)
    while env.steps < 30:
        todo = episode.next(now)
        if todo == "observe":
            said[env.steps] = episode.observe().under_way
            episode.given(now)
            if env.steps in (0, 9, 12):
                offered = answer(episode, np.full((8, 4), 9.0 if env.steps == 9 else 0.1, np.float32))
                assert bool(episode.offer(offered, names(episode), now)) == (env.steps == 9)
            if env.steps == 18:
                episode.actuator.enable(False)
        elif todo == "step":
            episode.step(now)
        else:
            now += episode.wait_s(now) + 1e-9
    assert [step for step, under_way in said.items() if under_way] == [3, 6, 15, 18]  # 12: the chunk of 9 was refused
    waits = lockstep()
    waits.given(0.0)
    waits.offer(answer(waits), names(waits), 0.0)
    while waits.next(0.0) == "step":
        waits.step(0.0)
    assert waits.env.steps == 3 and not waits.observe().under_way


def test_realtime_slips_rather_than_runs_after_a_stall():
    env = FakeEnv()
    episode = RealtimeEpisode(env, GOAL, env.actuator(), 0)
    episode.next(0.0)
    episode.given(0.0)
    episode.next(5.0)
    assert episode.slips == 1
    episode.step(5.0)
    assert episode.wait_s(5.0) > 0


def test_realtime_refuses_answers_of_another_episode():
    env = FakeEnv()
    episode = RealtimeEpisode(env, GOAL, env.actuator(), 10**9)
    assert "is not of this episode" in episode.offer(answer(episode), names(episode), 0.0)


class Answering:
    """An outlet that answers each observation at once through a policy, except those for which `mute` says so."""

    def __init__(self, mute=lambda observed: False):
        self.policy, self.mute = FakePolicy(), mute
        self.stamps, self.clocks, self.modes = [], [], []
        self.world = None

    def observation(self, observed):
        self.stamps.append(observed.stamp_ns)
        if not self.mute(observed):
            chunk = self.policy.infer(observed)
            timed = TimedChunk(chunk.actions, observed.stamp_ns / 1e9, observed.id, DT)
            self.world.offer(timed, self.world.contract.action_names)

    def clock(self, time_ns):
        self.clocks.append(time_ns)

    def changed(self):
        self.modes.append(self.world.mode(1e9)[0])


def make_world(out, clock=lambda: 0.0, **config):
    world = World(FakeEnv, FakeEnv().contract, WorldConfig("lockstep", 3, **config), out, clock)
    out.world = world
    return world


def test_a_world_gives_the_same_bits_as_an_episode_in_process():
    out = Answering()
    world = make_world(out)
    through = [world.run("reach-v3", Goal(seed, "do reach-v3", 20)) for seed in (4, 5)]
    inside = [run_episode(FakeEnv(), FakePolicy(), "reach-v3", seed, max_steps=20, replan=3) for seed in (4, 5)]
    assert [result.digest for result in through] == [result.digest for result in inside]


def test_robot_time_never_goes_backwards_over_episodes_and_tasks():
    out = Answering()
    world = make_world(out)
    for task in ("reach-v3", "push-v3", "reach-v3"):
        world.run(task, Goal(1, "x", 10))
    assert out.stamps == sorted(out.stamps)
    assert len(set(out.stamps)) == len(out.stamps)
    assert out.clocks == out.stamps


def test_the_old_environment_is_closed_before_a_new_one_is_made():
    world = make_world(Answering())
    first = world.open("reach-v3")
    assert world.open("reach-v3") is first
    world.open("push-v3")
    assert first.closed


def test_a_policy_that_stays_away_is_reported_and_its_return_continues_the_episode():
    time, calls = [0.0], [0]

    def clock():
        time[0] += 0.2
        return time[0]

    def mute(observed):
        calls[0] += 1
        return 2 <= calls[0] <= 8

    out = Answering(mute)
    world = make_world(out, clock)
    result = world.run("reach-v3", Goal(1, "x", 10))
    assert result.steps == 10
    assert result.completed
    assert out.modes == ["running", "holding", "running", "idle"]
    assert result.digest == run_episode(FakeEnv(), FakePolicy(), "reach-v3", 1, max_steps=10, instruction="x").digest


def test_cancel_and_status():
    world = make_world(Answering())
    asked = iter(["", "", "cancelled by the client"])
    result = world.run("reach-v3", Goal(1, "x", 10), lambda: next(asked))
    assert (result.reason, result.completed) == ("cancelled by the client", False)
    status = world.status(0.0)
    assert status.message == "idle"
    assert "reach-v3 seed 1: no success" in status.values["last_episode"]
    world.actuator.stop("button")
    assert world.status(0.0).message == "holding: button"


def test_a_film_shows_both_views_and_changes_nothing(tmp_path):
    av = pytest.importorskip("av")
    filmed = make_world(Answering(), video_dir=tmp_path / "films").run("reach-v3", Goal(3, "x", 40))
    assert filmed == make_world(Answering()).run("reach-v3", Goal(3, "x", 40))
    films = list((tmp_path / "films").iterdir())
    assert [film.name for film in films] == ["reach-v3-seed3-failure.mp4"]
    with av.open(str(films[0])) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.codec_context.pix_fmt) == (512, 256, "yuv420p")
        assert stream.average_rate == 20
        assert len(list(container.decode(stream))) == 41  # every step and the end
