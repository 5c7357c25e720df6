"""The judge of the fault matrix finds what it is there to find."""

import numpy as np
import pytest
from bus_watch import Frame
from judge import PERIOD_S, broken_limits, jumps, powering, seconds_to_hold, triplets

from alam_piper import arm
from alam_piper import can_frames as wire
from alam_piper.geometry import piper_geometry, piper_limits

LIMITS, GEOMETRY = piper_limits(0.5), piper_geometry()
GOAL = arm.HOME + np.array([0.5, 0.1, -0.1, 0.2, 0.2, 0.3, 0.05])


def motion(start=arm.HOME, goal=GOAL, duration_s=4.0, at_s=10.0):
    """-> (N, 15): from rest to rest, with bounded jerk (a polynomial of order 7)."""
    u = np.arange(round(duration_s / PERIOD_S) + 1)[:, None] * PERIOD_S / duration_s
    way = 35 * u**4 - 84 * u**5 + 70 * u**6 - 20 * u**7
    positions = start + (goal - start) * way
    times = at_s + PERIOD_S * np.arange(len(positions))
    return np.hstack([times[:, None], positions, np.gradient(positions, PERIOD_S, axis=0)])


def judged(commands, measured=None, power=()):
    return broken_limits(commands, commands if measured is None else measured, power, LIMITS, GEOMETRY)


def test_a_smooth_motion_breaks_nothing():
    assert judged(motion()) == []
    late = motion()
    late[300:, 0] += 0.07  # the loop woke late: the motion goes on
    assert judged(late) == []


@pytest.mark.parametrize(
    ("what", "duration_s"), [("velocity", 0.1), ("acceleration", 0.6), ("jerk", 0.7)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("channel", range(7))
def test_too_fast_on_any_channel(what, duration_s, channel):
    goal = arm.HOME.copy()
    goal[channel] = GOAL[channel]
    assert not judged(motion(goal=goal))
    assert any(what in words for words in judged(motion(goal=goal, duration_s=duration_s)))


def test_a_small_jump_in_the_middle_of_a_motion():
    commands = motion()
    commands[400:, 1] += 0.01
    assert any("jerk" in words for words in judged(commands))
    still = motion(goal=arm.HOME)
    still[400:, 1] += 0.01
    assert any("jerk" in words for words in judged(still))
    power = [(still[399, 0], still[401, 0])]
    assert judged(still, power=power) == [], "as power comes the commands follow the arm"
    assert any("begins" in words for words in judged(still, motion(goal=arm.HOME - 0.5), power))


def test_the_old_hold_ends_before_power_comes():
    held, sagged = motion(goal=arm.HOME, duration_s=1.0), arm.HOME.copy()
    sagged[1] += 0.4
    follows = motion(sagged, sagged, at_s=held[-1, 0] + 0.02)
    measured = motion(sagged, sagged)
    power = powering([follows[0, 0] + 0.002, follows[2, 0]])
    assert judged(np.vstack([held, follows]), measured, power) == []
    power = powering([held[-3, 0], follows[2, 0]])
    assert any("begins 0.400 rad" in words for words in judged(np.vstack([held, follows]), measured, power))


def test_a_beginning_away_from_the_arm():
    first, second = motion(), motion(GOAL, arm.HOME, at_s=20.0)
    both = np.vstack([first, second])
    assert judged(both) == []
    other = motion(GOAL + 0.01, arm.HOME, at_s=20.0)
    assert judged(np.vstack([first, other])) == []
    other[100:, 1] += 0.001
    assert any("jerk" in words for words in judged(np.vstack([first, other])))
    near = motion(GOAL + 0.0005 * np.eye(7)[0], arm.HOME, at_s=20.0)  # so near that it could be the next step
    assert judged(np.vstack([first, near])) == []
    measured = both.copy()
    measured[len(first) :, 3] += 0.06
    assert any("begins 0.060 rad" in words for words in judged(both, measured))
    measured = both.copy()
    measured[len(first) :, 7] -= 0.006
    assert any("gripper" in words for words in judged(both, measured))
    assert any("nothing was measured" in words for words in judged(both, np.zeros((0, 22))))


@pytest.mark.parametrize(("share", "words"), [(1.0, ""), (1.05, "jerk"), (3.0, "jerk")])
def test_the_first_command_may_be_a_step_from_rest(share, words):
    """At constant jerk the second step alone is 7/6 of what the limit allows from rest."""
    first, second = motion(), motion(GOAL, GOAL, duration_s=0.1, at_s=20.0)
    steps = np.arange(1, len(second) + 1) * PERIOD_S
    second[:, 1] += share * LIMITS.jerk[0] * steps**3 / 6
    measured = np.vstack([first, motion(GOAL, GOAL, duration_s=0.1, at_s=19.95)])
    assert words in " ".join(judged(np.vstack([first, second]), measured))
    assert bool(words) == bool(judged(np.vstack([first, second]), measured))


def test_limits_of_position_and_clearance():
    low = arm.HOME.copy()
    low[1] = -0.01
    assert any("position" in words for words in judged(motion(goal=low)))
    fallen = arm.HOME.copy()
    fallen[4] = arm.HIGH[4] + 0.07
    at_home, back, out = (
        motion(),
        motion(start=fallen, goal=arm.HOME),
        motion(start=fallen, goal=fallen + 0.01 * np.eye(7)[4]),
    )
    for then, words in ((back, ""), (out, "position")):
        then[:, 0] += at_home[-1, 0] + 1.0
        assert words in " ".join(judged(np.vstack([at_home, then]))) and bool(words) == bool(
            judged(np.vstack([at_home, then]))
        )
    table = arm.HOME.copy()
    table[1], table[2], table[4] = 3.0, -0.9, 1.2
    assert any("clearance" in words for words in judged(motion(goal=table, duration_s=8.0)))


def on_the_bus(commands):
    frames = []
    for row in commands:
        values = np.round(np.degrees(row[1:7]) * 1000).astype(int)
        frames += [Frame(row[0], number, data) for number, data in wire.pairs(wire.JOINTS, list(map(int, values)))]
    return frames


def test_a_pause_on_the_bus_ends_at_the_arm():
    commands = motion()
    kept = np.vstack([commands[:300], commands[360:]])  # 0.3 s: the arm stays where it was, the commands went on
    still = commands.copy()
    still[300:, 1:8] = commands[299, 1:8]
    assert jumps(*triplets(on_the_bus(kept)), commands) == []
    assert len(jumps(*triplets(on_the_bus(kept)), still)) == 1
    burst = on_the_bus(commands)
    heard = [
        frame._replace(at_s=max(frame.at_s, commands[360, 0])) if k > 900 else frame for k, frame in enumerate(burst)
    ]
    assert jumps(*triplets(heard), still[:301]) == [], "a listener that was late is no pause"


def test_seconds_to_hold():
    commands = motion()
    times, positions = triplets(on_the_bus(commands))
    assert np.abs(positions - commands[:, 1:7]).max() < 1e-5
    held = seconds_to_hold(times, positions, times[400], times[-1] + 1.0)
    assert held is not None and 1.5 < held < 2.0
    assert seconds_to_hold(times[:500], positions[:500], times[400], times[499]) is None


def test_power_comes_in_spans():
    spans = powering([1.0, 1.01, 1.02, 5.0])
    assert np.allclose(spans, [(0.9, 1.12), (4.9, 5.1)])
