"""The driver on the real SDK and an emulated arm: power, motion, stops, faults; nothing reaches the bus past the
gate."""

import json

import can
import numpy as np
import pytest
from bus_watch import MOTION, Frame, kind, unexplained
from piper_rig import Driven, Emulator, until

from alam_piper import arm
from alam_piper.can_io import SocketBus
from alam_piper.driver import DriverConfig
from alam_piper.sdk_io import SdkBus

pytestmark = [pytest.mark.sim]  # the emulated arm is MuJoCo's, in real time

NEAR = arm.REST + np.array([0.3, 0.4, -0.3, 0.1, 0.2, 0.1, 0.03])


@pytest.fixture
def emulator(tmp_path):
    with Emulator(tmp_path, "--enable-delay", "0.2") as made:
        yield made


def test_power_motion_rest(emulator):
    with Driven(emulator, may=("disable",)) as driven:
        assert driven.driver.phase in ("down", "asleep")
        driven.enable()
        driven.go(NEAR)
        assert not [frame for frame in driven.watch.frames if kind(frame) == "disable"], "power went in mid-air"

        def rested():
            driven.driver.disable()
            until(lambda: driven.driver.answer, "the answer to disable")
            return driven.driver.answer == "ok"  # late feedback may have ended the motion to rest

        until(rested, "rest")
        until(lambda: driven.executor.mode == "disabled", "disabled")
        assert np.abs(driven.position - arm.REST)[:6].max() < 0.05
        until(lambda: not any(driven.driver.bus.feedback.motors), "no power")


@pytest.mark.slow
def test_it_does_not_rush_to_an_old_target(emulator):
    """The arm remembers a target from before: when the power comes it must stay where it is."""
    from piper_sdk import C_PiperInterface_V2

    other = C_PiperInterface_V2("rushing", judge_flag=False, can_auto_init=False)
    other.CreateCanBus(emulator.channel, bustype="alam_socket", judge_flag=False)
    other.ConnectPort()
    other.MotionCtrl_2(1, 1, 100, 0)
    other.JointCtrl(60_000, 90_000, -60_000, 0, 0, 0)
    aims = lambda: json.loads(emulator.tell("state").stdout)["target"]  # noqa: E731
    until(lambda: aims()[1] > 1.5, "the old target")
    with Driven(emulator) as driven:
        until(lambda: driven.driver.phase == "asleep", "feedback")
        settled = lambda: np.abs(driven.driver.bus.feedback.velocity[:6]).max() < 0.002  # noqa: E731
        seen = driven.driver.bus.counters.triplets
        until(lambda: driven.driver.bus.counters.triplets > seen + 100 and settled(), "an arm that has sagged")
        before = driven.position.copy()
        driven.enable()
        seen = driven.driver.bus.counters.triplets
        until(lambda: driven.driver.bus.counters.triplets > seen + 100, "half a second")
        assert np.abs(driven.position - before)[:6].max() < 0.02


def test_no_frame_that_the_gate_has_not_passed(emulator):
    """Power, motion, a stop, silence, reset, power again, a collision and its reset: `Driven` watches them all."""
    with Driven(emulator, may=("reset",)) as driven:
        driven.enable()
        driven.go(NEAR)
        driven.move(arm.REST, 1.0)
        driven.executor.stop("test")
        until(lambda: driven.executor.mode == "stopped" and driven.executor.trajectory.at_rest, "the stop")
        emulator.tell("silence for=0.3")
        until(lambda: driven.driver.feedback_age_s > 0.2, "silence")
        until(lambda: driven.driver.feedback_age_s < 0.1, "feedback")
        assert driven.driver.reset() == ""
        until(lambda: driven.executor.mode == "disabled", "the reset")
        assert not [frame for frame in driven.watch.frames if kind(frame) == "reset"], "the arm reported no error"
        driven.enable()
        driven.move(NEAR)
        emulator.tell("collision for=0.2")
        until(lambda: driven.executor.mode == "stopped" and driven.executor.trajectory.at_rest, "the stop")
        assert driven.driver.reset() == ""
        until(lambda: driven.executor.mode == "disabled", "the reset")
        until(lambda: not any(driven.driver.bus.feedback.motors), "the arm's own reset, which takes its power")
        heard = [kind(frame) for frame in driven.watch.frames]
        assert sum(frame.number == 0x157 for frame in driven.watch.frames) > 500 and heard.count("reset") >= 1
    changed = [(number, bytes([data[0] ^ 1, *data[1:]])) for _, number, data in driven.watch.frames]
    motion = [Frame(0.0, *frame) for frame in changed if frame[0] in MOTION]
    assert len(unexplained(motion, driven.passed)) == 3, "a watch that cannot fail proves nothing"
    backwards = [frame for frame in driven.watch.frames if frame.number == 0x155][::-1]
    assert unexplained(backwards, driven.passed), "nor does one that does not look at the order"


def test_the_bus_goes_down_and_comes_back(emulator):
    with Driven(emulator) as driven:
        driven.enable()
        driven.go(NEAR)
        driven.move(arm.HOME, 0.5)
        emulator.tell("bus-off for=0.2")
        until(lambda: driven.driver.bus.check(), "the bus to go down")
        before = len(driven.passed)
        driven.reopen()
        until(lambda: len(driven.passed) > before + 1, "commands")
        first = before + 1  # one may have been on its way
        apart = np.abs(driven.passed[first][0] - driven.measured[first])[:6].max()
        assert apart < 0.05, "it must go on from where the arm is"
        until(lambda: driven.executor.mode == "holding" and driven.driver.phase == "ready", "holding")
        driven.go(NEAR)


@pytest.mark.slow
def test_only_passed_commands_are_taken(emulator):
    bus = SdkBus("alam_socket", emulator.channel)
    for call in (bus.send_joints, lambda c: bus.send_gripper(c, 1.0), lambda c: bus.send_mit(c, 1, 1, np.zeros(6))):
        with pytest.raises(TypeError, match="gate has passed"):
            call(arm.HOME)
    bus.close()


FAULTS = {
    "collision for=0.3": ("collision", "stopped"),
    "over-temperature motor=3 for=0.3": ("temperature", "stopped"),
    "motor-off motor=2": ("motor 2 lost its power", "stopped"),
    "frozen for=3": ("frozen", "stopped"),
    "silence for=0.3": ("feedback", "holding"),
    "delay by=0.3 for=0.4": ("feedback", "holding"),
    "leader for=0.5": ("leader", "disabled"),
    "power-drop for=1.5": ("lost its power", "stopped"),
}
IN_EVERY_RUN = ("collision", "silence")  # one that stops it, one that it waits for


@pytest.mark.parametrize(
    "fault",
    [fault if fault.startswith(IN_EVERY_RUN) else pytest.param(fault, marks=pytest.mark.slow) for fault in FAULTS],
)
def test_faults_stop_it_and_say_why(emulator, fault):
    words, mode = FAULTS[fault]
    with Driven(emulator) as driven:
        driven.enable()
        said = set()
        assert emulator.tell(f"{fault} from=1").returncode == 0  # not before we listen
        driven.move(NEAR, 0.15)
        until(lambda: said.add(driven.executor.reason) or driven.executor.mode == mode, mode)
        until(
            lambda: said.update((driven.executor.reason, *driven.driver.faults)) or any(words in s for s in said), words
        )
        until(lambda: driven.executor.trajectory.at_rest, "rest")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["loss p=0.1 for=1", "torn p=0.5 for=1", "delay by=0.01 for=1"])
def test_it_rides_through_small_faults(emulator, fault):
    with Driven(emulator) as driven:
        driven.enable()
        emulator.tell(fault)
        driven.move(NEAR, 0.3)
        until(lambda: not driven.executor.moving_itself, "the end of the motion")
        until(lambda: np.abs(driven.position - NEAR).max() < 0.02, "arrival")
        assert driven.executor.mode == "holding"
        if "torn" in fault:
            assert driven.driver.bus.counters.torn > 10


@pytest.mark.slow
def test_a_stop_is_latched_until_reset(emulator):
    with Driven(emulator) as driven:
        driven.enable()
        driven.move(NEAR)
        driven.executor.stop("a person")
        until(lambda: driven.executor.mode == "stopped", "the stop")
        driven.driver.enable()
        until(lambda: driven.driver.answer, "an answer")
        assert "reset first" in driven.driver.answer
        assert all(driven.driver.bus.feedback.motors), "a stop must not let the arm fall"


@pytest.mark.slow
def test_mit_mode_holds_and_moves(emulator):
    with Driven(emulator, DriverConfig(mit=True)) as driven:
        driven.enable()
        driven.move(NEAR, 0.3)
        until(lambda: not driven.executor.moving_itself, "the end of the motion")
        until(lambda: np.abs(driven.position - NEAR)[:6].max() < 0.05, "arrival")


@pytest.mark.slow
def test_the_emulator_answers_and_refuses(emulator):
    assert '"enabled"' in emulator.tell("state").stdout
    told = emulator.tell("los")
    assert told.returncode == 2 and "wanted one of loss" in told.stderr
    assert Emulator(__import__("pathlib").Path("/nonexistent")).tell("state").returncode == 2


def test_a_bus_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="wanted the CAN bus alam_socket"):
        SdkBus("alam_socket", str(tmp_path / "none.sock"))
    with pytest.raises(ValueError, match="wanted the CAN bus socketcan:nocan7"):
        SdkBus("socketcan", "nocan7")


@pytest.mark.slow
def test_frames_reach_everyone_but_their_sender(emulator):
    first, second = SocketBus(emulator.channel), SocketBus(emulator.channel)
    first.send(can.Message(arbitration_id=0x7F0, data=b"hello", is_extended_id=False))
    heard = []
    until(lambda: heard.append(second.recv(1.0)) or heard[-1].arbitration_id == 0x7F0, "the frame")
    assert bytes(heard[-1].data) == b"hello"
    assert all(first.recv(0.05).arbitration_id != 0x7F0 for _ in range(50))
    emulator.kill()
    with pytest.raises(can.CanError):
        for _ in range(100_000):
            second.recv(0.1)
    first.shutdown(), second.shutdown()
