"""The Piper node on an emulated arm: bad messages change nothing, and a stop waits for nobody."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("alam_msgs")
pytest.importorskip("mujoco")

from piper_live import AT_ONCE_S, AWAY, DT_S, PATIENCE_S, ROWS, SECOND_NS, STAY, LiveArm, children
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from alam_piper import arm

pytestmark = [pytest.mark.ros, pytest.mark.sim]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def live():
    with LiveArm() as made:
        yield made


@pytest.fixture
def moving(live):
    """The arm follows chunks that keep it where it is -> it, and its command."""
    live.enable()
    task = threading.Thread(target=lambda: live.client.run("", 0, "move", 3600.0), daemon=True)
    task.start()
    live.reach("moving")
    yield live, live.still()
    assert live.status[-1].mode == "moving", "nothing of this was a reason to stop"
    live.client.cancel()
    task.join(PATIENCE_S)
    assert not task.is_alive()


def nan_row():
    return np.where(np.arange(ROWS)[:, None] == 7, np.nan, AWAY)


def cut(message, **fields):
    for name, value in fields.items():
        setattr(message, name, value)
    return message


BAD = {
    "missing names": (lambda a: a.chunk(AWAY[:, :6], arm.NAMES[:6]), "wanted channels"),
    "no names": (lambda a: cut(a.chunk(AWAY), names=[]), f"wanted {ROWS} x 0 actions"),
    "wrong order": (lambda a: a.chunk(AWAY, arm.NAMES[::-1]), "got ['gripper', 'joint6'"),
    "degrees": (lambda a: a.chunk(AWAY * [*[180 / np.pi] * 6, 1]), "looks like degrees"),
    "outside of the limits": (
        lambda a: a.chunk(AWAY + np.array([0, 0, 0, 3, 0, 0, 0])),
        "joint4: wanted a position in",
    ),
    "NaN": (lambda a: a.chunk(nan_row()), "wanted finite actions"),
    "infinite": (lambda a: a.chunk(AWAY + np.inf), f"got {ROWS * 7} of"),
    "empty": (lambda a: cut(a.chunk(AWAY), horizon=0, actions=[]), "wanted 0 x 7 actions"),
    "too short": (lambda a: cut(a.chunk(AWAY), horizon=ROWS + 1), f"wanted {ROWS + 1} x 7 actions, got {ROWS * 7}"),
    "too long": (lambda a: cut(a.chunk(AWAY), horizon=ROWS - 1), f"wanted {ROWS - 1} x 7 actions, got {ROWS * 7}"),
    "late": (lambda a: a.chunk(AWAY, ago_s=60.5), "out of order: observation is 60."),
    "of the future": (lambda a: a.chunk(AWAY, ago_s=-30.0), "in the future"),
    "dt of 0": (lambda a: a.chunk(AWAY, dt_s=0.0), "each 0 s"),
    "dt NaN": (lambda a: a.chunk(AWAY, dt_s=np.nan), "each nan s"),
}


def refused(live, words):
    live.until(lambda: words in live.client.says("piper", "last_rejection"), f"the refusal: {words}")


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_bad_chunk_is_refused_with_its_reason_and_changes_no_command(moving, make, words):
    live, command = moving
    live.chunks.publish(make(live))
    refused(live, words)
    live.stays(command)


def test_its_state_says_whether_the_newest_chunk_is_under_way(moving):
    live, _ = moving
    live.until(lambda: live.under_way[-1], "a chunk that is under way")
    with live.feeding:
        live.chunks.publish(live.chunk(nan_row()))
        live.until(lambda: not live.under_way[-1], "the state after a refused chunk")
        assert live.status[-1].mode == "moving", "the chunk before it goes on"
        live.chunks.publish(live.chunk())
        live.until(lambda: live.under_way[-1], "the state after one that was taken")
        live.reach("holding")  # it ran out
        live.until(lambda: not live.under_way[-1], "the state in a hold")
    live.reach("moving")


def test_a_chunk_that_comes_again_is_refused_and_changes_no_command(moving):
    live, command = moving
    with live.feeding:
        first, second = live.chunk(), live.chunk()
        live.chunks.publish(first)
        live.chunks.publish(second)
        again = cut(first, actions=live.chunk(AWAY).actions)  # so that obeying it would show
        live.chunks.publish(again)
        refused(live, "out of order: observation is 0.0")
    live.reach("moving")
    with live.feeding:
        newest = live.chunk()
        live.chunks.publish(newest)
        live.chunks.publish(cut(newest, actions=live.chunk(AWAY).actions))
        refused(live, f"duplicate of observation {newest.observation_id}")
    live.stays(command)


def test_other_messages_that_ask_for_nothing_change_nothing(moving):
    live, command = moving
    for _ in range(5):
        live.stops.publish(Bool(data=False))
        for role in live.cameras:
            for time_ns in (0, time.time_ns() + 3600 * SECOND_NS, -(2**31) * SECOND_NS, (2**31 - 1) * SECOND_NS):
                live.image(role, time_ns)
    live.stays(command)


def test_images_of_the_future_do_not_hide_a_dead_camera(moving):
    live, command = moving
    with live.feeding:
        began = time.monotonic()
        while "last image" not in live.status[-1].reason:
            assert time.monotonic() < began + PATIENCE_S, live.status[-1]
            live.image("wrist", time.time_ns())
            live.image("third_person", time.time_ns() + 3600 * SECOND_NS)
            live.chunks.publish(live.chunk())
            time.sleep(DT_S)
        assert live.status[-1].mode == "holding" and "camera third_person" in live.status[-1].reason
    live.reach("moving")
    live.stays(command)


def test_a_chunk_without_a_task_is_refused(live):
    live.enable()
    command = live.still()
    live.chunks.publish(live.chunk(AWAY))
    refused(live, "no task runs")
    assert not live.under_way[-1]
    live.stays(command)


@pytest.fixture
def going(live):
    """The arm is far from home and on its way there -> it, and the answer to come."""
    live.enable()
    task = threading.Thread(target=lambda: live.client.run("", 0, "move", 3600.0), daemon=True)
    live.until(lambda: live.commands, "a command")
    side = -1.0 if live.commands[-1][0] > 0 else 1.0
    away = STAY + np.array([1.5 * side, 0, 0, 0, 0, 0, 0])
    with live.feeding:
        task.start()
        began = time.monotonic()
        while live.commands[-1][0] * side < 1.4:
            assert time.monotonic() < began + PATIENCE_S, live.status[-1]
            for role in live.cameras:
                live.image(role, time.time_ns())
            live.chunks.publish(live.chunk(away))
            time.sleep(DT_S)
        live.client.cancel()
        task.join(PATIENCE_S)
        assert not task.is_alive()
    begin = live.still()[0] * side
    answer = live.call_async("home")
    live.until(lambda: live.commands[-1][0] * side < begin - 0.05, "an arm on its way home")
    return live, answer


def test_while_one_request_waits_others_are_refused_and_a_stop_is_not(going):
    live, home = going
    for name, request in (("home", None), ("enable", True), ("enable", False), ("reset", None)):
        answer, took_s = live.call(name, None if request is None else SetBool.Request(data=request))
        assert not answer.success and "another request is under way" in answer.message
        assert took_s < AT_ONCE_S
    refusal = live.client.run("", 0, "move")
    assert refusal.status == "aborted" and "under way" in refusal.reason
    assert not home.done()
    answer, took_s = live.call("stop")
    assert answer.success and took_s < AT_ONCE_S
    live.until(home.done, "the end of the way home")
    assert not home.result().success and "/robot/stop was called" in home.result().message
    live.reach("stopped")
    assert abs(live.still()[0]) > 0.1, "it stopped on its way"


def test_the_operators_stop_needs_no_answer(going):
    live, home = going
    live.stops.publish(Bool(data=True))
    live.reach("stopped")
    assert "the operator's stop" in live.status[-1].reason
    live.until(home.done, "the end of the way home")
    assert not home.result().success


def test_a_stop_that_nobody_takes_up_says_so_at_once_and_counts_later(going):
    live, _ = going
    (process,) = children(live.process.pid)
    os.kill(process, signal.SIGSTOP)  # now every question to the arm's process waits
    try:
        for _ in range(2):
            answer, took_s = live.call("stop")
            assert not answer.success and "did not take it up" in answer.message and took_s < AT_ONCE_S
    finally:
        os.kill(process, signal.SIGCONT)
    live.reach("stopped")


def robot_tool(*words):
    command = [sys.executable, ROOT / "tools/robot.py", *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S)


def test_a_reset_that_sags_is_asked_for_twice(live):
    live.enable()
    live.emulator.tell("collision for=3")
    live.reach("stopped")
    live.until(lambda: live.status[-1].reset_sags, "the warning")
    asked = robot_tool("reset")
    assert (asked.returncode, asked.stdout) == (1, "") and "--yes" in asked.stderr and "SAGS" in asked.stderr
    assert live.status[-1].mode == "stopped"
    live.until(lambda: robot_tool("reset", "--yes").returncode == 0, "a reset")
    live.reach("disabled")
    assert not live.status[-1].reset_sags
