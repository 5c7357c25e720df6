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
    way.sent(chunk(0), 0, sent_ns)
    return way


@given(st.lists(st.floats(0.2, 11), min_size=3, max_size=15), st.sampled_from([1, 2, 3]))
def test_what_is_committed_is_what_the_robot_executes_meanwhile(latencies, every):
    """latencies [steps], some longer than a chunk; the robot observes every few steps, the newest observation is
    answered. No two chunks have an action in common, but for those that one commits to the other."""
    way, robot, rng = OnTheWay(RATE_HZ, MOST), ChunkBuffer(1), np.random.default_rng(0)
    executed, promised, working, waiting, held, took = {}, [], None, None, "no chunk yet", False
    for step in range(120):
        now_ns = step * STEP_NS
        if working is not None and working[0] <= now_ns:
            _, asked_ns, made = working
            way.sent(made, asked_ns, now_ns)
            took = not robot.push(TimedChunk(made.actions, asked_ns / 1e9, asked_ns, 1 / RATE_HZ), now_ns / 1e9)
            working = None
        if step % every == 0:
            waiting = (now_ns, took and not held)
        if working is None and waiting is not None and latencies:
            asked_ns, under_way = waiting
            rows, why = way.at(asked_ns, "do it", under_way)
            assert (rows is None) == bool(why)
            made = Rows(*(rng.random((HORIZON, *rest), np.float32) for rest in ((1,), (1, 1))))
            if rows is not None:
                assert 1 <= len(rows.actions) <= MOST
                made.actions[: len(rows.actions)] = rows.actions
                promised.append((step, asked_ns, rows.actions))
            working, waiting = (now_ns + latencies.pop(0) * STEP_NS, asked_ns, made), None
        pick = robot.pick(now_ns / 1e9)
        held = pick.reason
        executed[step] = None if pick.action is None else pick.action.copy()
    for _, asked_ns, rows in promised:
        for k, row in enumerate(rows):
            done = executed[asked_ns // STEP_NS + k]
            assert done is None or np.array_equal(done, row), "to the bit, at the same time"


def test_as_many_steps_are_committed_as_the_slowest_recent_answer_took():
    way = following()
    for number, (took, wanted) in enumerate([(0.5, 1), (2.2, 1), (1.0, 3), (3.6, 3), (9.0, 4)], 1):
        rows, _ = way.at(number * STEP_NS, "do it", True)
        assert len(rows.actions) == min(wanted, MOST)
        assert np.array_equal(rows.actions[:, 0], number + np.arange(len(rows.actions)))
        assert np.array_equal(rows.actions[:, 0], rows.latents[:, 0, 0])
        if number < 5:
            way.sent(chunk(number), number * STEP_NS, number * STEP_NS + round(took * STEP_NS))


def test_a_chunk_that_is_not_yet_there_commits_what_runs_until_then():
    way = following()
    way.at(STEP_NS, "do it", True)
    way.sent(chunk(100), STEP_NS, 4 * STEP_NS)  # takes over at step 4, with 103
    rows, _ = way.at(2 * STEP_NS, "do it", True)
    assert rows.actions[:, 0].tolist() == [2.0, 3.0, 103.0]


@pytest.mark.parametrize(
    ("observation", "instruction", "under_way", "why"),
    [
        (HORIZON + 1, "do it", True, "no chunk reaches there"),
        (2, "do another", True, "no chunk reaches there"),
        (2, "do it", False, "the robot follows no chunk"),
        (0, "do it", True, "not newer"),
        (-1, "do it", True, "not newer"),
    ],
    ids=["gap", "task", "hold", "same", "older"],
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
    way.at(2 * STEP_NS, "do it", True)
    way.sent(chunk(2), 2 * STEP_NS, 3 * STEP_NS)
    way.sent(chunk(50), STEP_NS, 4 * STEP_NS)
    assert way.at(5 * STEP_NS, "do it", True)[0].actions[0] == 5.0


def test_an_answer_that_takes_no_time_commits_nothing():
    assert following(sent_ns=0).at(STEP_NS, "do it", True) == (None, "answers take no time")


def test_a_policy_that_was_not_trained_for_it_is_given_nothing():
    way = OnTheWay(RATE_HZ, 0)
    way.sent(chunk(0), 0, STEP_NS)
    assert way.at(STEP_NS, "", True) == (None, "the policy was not trained for it")


@given(st.lists(st.floats(0.7, 2.4), min_size=2, max_size=12))
def test_between_steps_the_nearest_row_counts(gaps):
    """Cameras that run by their own clock: each row says when it begins [steps]."""
    way, now = following(), 0.0
    way.at(0, "do it", True)
    for gap in gaps:
        now += gap
        rows, _ = way.at(round(now * STEP_NS), "do it", True)
        if rows is not None:
            assert np.abs(rows.actions[:, 0] - now - np.arange(len(rows.actions))).max() <= 1.0 + 1e-3
        way.sent(chunk(np.float32(now)), round(now * STEP_NS), round((now + 0.6) * STEP_NS))
    assert rows is not None and math.isfinite(now)
