"""What the next chunk has to go on from is what the robot's chunk buffer gives out meanwhile."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alam_control.chunk_buffer import ChunkBuffer, TimedChunk
from alam_policy.on_the_way import OnTheWay

RATE_HZ, HORIZON, MOST = 20.0, 8, 4
STEP_NS = 50_000_000


@dataclass(frozen=True)
class Rows:
    actions: np.ndarray
    latents: np.ndarray


def chunk(first, count=HORIZON):
    """Row k says `first` + k, in its action and in its latent."""
    rows = first + np.arange(count, dtype=np.float32)
    return Rows(rows[:, None], rows[:, None, None])


def following(sent_ns=STEP_NS):
    """The robot follows a chunk that began at 0 with the action 0; task "do it"."""
    way = OnTheWay(RATE_HZ, MOST)
    way.at(0, "do it", False)
    way.sent(chunk(0), 0, 0, sent_ns)
    return way


@given(
    st.lists(st.tuples(st.floats(0.2, 11), st.booleans()), min_size=3, max_size=15),
    st.sampled_from([1, 2, 3]),
)
def test_what_is_committed_is_what_the_robot_executes_meanwhile(answers, every):
    """answers: latency [steps], some longer than a chunk, and whether the robot's gate lets it pass; the robot observes
    every few steps, the newest observation is answered. No two chunks have an action in common, but for those that one
    commits to the other."""
    way, robot, rng = OnTheWay(RATE_HZ, MOST), ChunkBuffer(1), np.random.default_rng(0)
    executed, promised, working, waiting, held, took = {}, [], None, None, "no chunk yet", False
    for step in range(120):
        now_ns = step * STEP_NS
        if working is not None and working[0] <= now_ns:
            _, asked_ns, made, committed, passes = working
            way.sent(made, committed, asked_ns, now_ns)
            sent = TimedChunk(made.actions, asked_ns / 1e9, asked_ns, 1 / RATE_HZ)
            took = passes and not robot.push(sent, now_ns / 1e9)
            working = None
        if step % every == 0:
            waiting = (now_ns, took and not held)
        if working is None and waiting is not None and answers:
            asked_ns, under_way = waiting
            rows, why = way.at(asked_ns, "do it", under_way)
            assert (rows is None) == bool(why)
            made, committed = Rows(*(rng.random((HORIZON, *rest), np.float32) for rest in ((1,), (1, 1)))), 0
            if rows is not None:
                committed = len(rows.actions)
                assert 1 <= committed <= MOST
                made.actions[:committed] = rows.actions
                promised.append((asked_ns, rows.actions))
            latency, passes = answers.pop(0)
            working, waiting = (now_ns + latency * STEP_NS, asked_ns, made, committed, passes), None
        pick = robot.pick(now_ns / 1e9)
        held = pick.reason
        executed[step] = None if pick.action is None else pick.action.copy()
    for asked_ns, rows in promised:
        for k, row in enumerate(rows):
            done = executed[asked_ns // STEP_NS + k]
            assert done is None or np.array_equal(done, row), "to the bit, at the same time"


def test_as_many_steps_are_committed_as_the_slowest_recent_answer_took():
    way = OnTheWay(RATE_HZ, MOST)
    for number, (took, wanted) in enumerate([(0.5, 1), (2.2, 3), (1.5, 3), (3.6, 4), (9.5, MOST)]):
        begins = 20 * number  # [steps]
        way.sent(chunk(begins, 16), 0, begins * STEP_NS, round((begins + took) * STEP_NS))
        step = begins + math.ceil(took)
        rows, _ = way.at(step * STEP_NS, "", True)
        assert np.array_equal(rows.actions[:, 0], step + np.arange(wanted))
        assert np.array_equal(rows.actions[:, 0], rows.latents[:, 0, 0])


def test_of_a_chunk_sent_after_the_observation_nothing_is_committed():
    """The robot's gate may refuse it, and what the observation says of the robot is older."""
    way = following()
    way.sent(chunk(100), 0, STEP_NS, 4 * STEP_NS)  # would take over at step 4, with 103
    assert way.at(2 * STEP_NS, "do it", True)[0].actions[:, 0].tolist() == [2.0, 3.0]
    assert way.at(4 * STEP_NS, "do it", True) == (None, "whether the robot takes the newest chunk is not known yet")
    assert way.at(4 * STEP_NS + 1, "do it", False)[0] is None  # it was refused
    assert way.at(4 * STEP_NS + 1, "do it", True)[0].actions[:, 0].tolist() == [103.0, 104.0, 105.0]


def test_what_a_chunk_has_from_the_one_before_is_executed_whether_it_is_taken_or_not():
    way = following()
    way.sent(chunk(1), 3, STEP_NS, 2 * STEP_NS)  # its rows of steps 1 to 3 were given
    way.sent(chunk(100), 3, 2 * STEP_NS, 3 * STEP_NS)
    assert way.at(3 * STEP_NS, "do it", True)[0].actions[:, 0].tolist() == [3.0]
    assert way.at(4 * STEP_NS, "do it", True)[0].actions[:, 0].tolist() == [102.0]


@pytest.mark.parametrize(("committed", "first"), [(0, None), (1, None), (2, 101.0)])
def test_a_row_that_came_too_late_is_committed_only_if_it_is_of_the_chunk_before(committed, first):
    way = following()
    way.sent(chunk(100), committed, STEP_NS, round(2.2 * STEP_NS))  # takes over at step 3, with 102
    rows, why = way.at(round(2.3 * STEP_NS), "do it", True)
    assert (None if rows is None else rows.actions[0, 0]) == first
    assert bool(why) == (first is None)


@pytest.mark.parametrize(
    ("observation", "instruction", "under_way", "why"),
    [
        (HORIZON + 1, "do it", True, "no chunk reaches there"),
        (2, "do another", True, "no chunk was sent before"),
        (2, "do it", False, "the robot follows no chunk"),
        (1, "do it", True, "no chunk was sent before"),
        (0, "do it", True, "not newer"),
        (-1, "do it", True, "not newer"),
    ],
    ids=["gap", "task", "hold", "sent then", "same", "older"],
)
def test_nothing_is_committed_across(observation, instruction, under_way, why):
    rows, said = following().at(observation * STEP_NS, instruction, under_way)
    assert rows is None and why in said


def test_after_another_task_the_chunks_of_the_first_are_forgotten():
    way = following()
    way.at(2 * STEP_NS, "do another", True)
    assert way.at(3 * STEP_NS, "do it", True)[0] is None


def test_what_the_robot_refuses_as_older_changes_nothing():
    way = following()
    way.sent(chunk(2), 0, 2 * STEP_NS, 3 * STEP_NS)
    way.sent(chunk(50), 0, STEP_NS, 4 * STEP_NS)
    assert way.at(5 * STEP_NS, "do it", True)[0].actions[0] == 5.0


def test_an_answer_that_takes_no_time_commits_nothing():
    assert following(sent_ns=0).at(STEP_NS, "do it", True) == (None, "answers take no time")


def test_a_policy_that_was_not_trained_for_it_is_given_nothing():
    way = OnTheWay(RATE_HZ, 0)
    way.sent(chunk(0), 0, 0, STEP_NS)
    assert way.at(STEP_NS, "", True) == (None, "the policy was not trained for it")


@given(st.lists(st.floats(0.7, 2.4), min_size=2, max_size=12))
def test_between_steps_the_nearest_row_counts(gaps):
    """Cameras that run by their own clock: each row says when it begins [steps]."""
    way, now = following(sent_ns=STEP_NS // 2), 0.0
    for gap in gaps:
        now += gap
        rows, _ = way.at(round(now * STEP_NS), "do it", True)
        assert np.abs(rows.actions[:, 0] - now - np.arange(len(rows.actions))).max() <= 0.5 + 1e-3
        way.sent(chunk(np.float32(now)), 0, round(now * STEP_NS), round((now + 0.6) * STEP_NS))
