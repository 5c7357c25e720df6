"""The driver on the real SDK and an emulated arm: power, motion, stops, faults; nothing reaches the bus past the
gate."""

import threading

import can
import numpy as np
import pytest
from piper_rig import Driven, Emulator, until

from alam_piper import arm
from alam_piper.can_io import SocketBus
from alam_piper.driver import DriverConfig
from alam_piper.sdk_io import SdkBus

pytestmark = [pytest.mark.sim, pytest.mark.slow]  # the emulated arm is MuJoCo's, in real time

NEAR = arm.REST + np.array([0.3, 0.4, -0.3, 0.1, 0.2, 0.1, 0.03])


@pytest.fixture
def emulator(tmp_path):
    with Emulator(tmp_path, "--enable-delay", "0.2") as made:
        yield made


class Watch:
    """Every motion frame on the bus."""

    def __init__(self, channel):
        self._bus = can.Bus(interface="alam_socket", channel=channel)
        self.frames = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        while not self._over.is_set():
            try:
                frame = self._bus.recv(0.1)
            except can.CanError:
                return
            if frame is not None and 0x152 <= frame.arbitration_id <= 0x15F:
                self.frames.append((frame.arbitration_id, bytes(frame.data)))

    def close(self):
        self._over.set()
        self._thread.join()
        self._bus.shutdown()


def test_power_motion_rest(emulator):
    with Driven(emulator) as driven:
        assert driven.driver.phase in ("down", "asleep")
        driven.enable()
        driven.move(NEAR)
        until(lambda: not driven.executor.moving_itself, "the end of the motion")
        until(lambda: np.abs(driven.position - NEAR).max() < 0.02, "arrival")
        driven.driver.disable()
        until(lambda: driven.driver.answer, "the answer to disable")
        assert driven.driver.answer == "ok"
        until(lambda: driven.executor.mode == "disabled", "disabled")
        assert np.abs(driven.position - arm.REST)[:6].max() < 0.05
        until(lambda: not any(driven.driver.bus.feedback.motors), "no power")


def test_it_does_not_rush_to_an_old_target(emulator):
    """The arm remembers a target from before: when the power comes it must stay where it is."""
    from piper_sdk import C_PiperInterface_V2

    other = C_PiperInterface_V2("rushing", judge_flag=False, can_auto_init=False)
    other.CreateCanBus(emulator.channel, bustype="alam_socket", judge_flag=False)
    other.ConnectPort()
    other.MotionCtrl_2(1, 1, 100, 0)
    other.JointCtrl(60_000, 90_000, -60_000, 0, 0, 0)
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


def test_no_frame_of_motion_that_the_gate_has_not_passed(emulator):
    watch = Watch(emulator.channel)
    with Driven(emulator) as driven:
        driven.enable()
        driven.move(NEAR)
        until(lambda: not driven.executor.moving_itself, "the end of the motion")
        driven.move(arm.REST, 1.0)
        driven.executor.stop("test")
        until(lambda: driven.executor.mode == "stopped", "the stop")
        emulator.tell("silence for=0.3")
        until(lambda: driven.driver.feedback_age_s > 0.2, "silence")
        until(lambda: driven.driver.feedback_age_s < 0.1, "feedback")
        driven.driver.reset()
        until(lambda: driven.executor.mode == "disabled", "the reset")
        driven.enable()
        driven.move(NEAR)
        emulator.tell("collision for=0.2")
        until(lambda: driven.executor.mode == "stopped", "the stop")
        passed = {tuple(np.round(np.degrees(p[:6]) * 1000).astype(int)) for p in driven.passed}
        openings = {round(p[6] * 1e6) for p in driven.passed}
    watch.close()
    triples, row = [], []
    for number, data in watch.frames:
        values = [int.from_bytes(data[k : k + 4], "big", signed=True) for k in (0, 4)]
        if number in (0x155, 0x156, 0x157):
            row = (row if number != 0x155 else []) + values
            if number == 0x157:
                triples.append(tuple(row))
        elif number == 0x159:
            assert values[0] in openings
        else:
            raise AssertionError(f"an unknown motion frame {number:x}")
    assert len(triples) > 500
    assert set(triples) <= passed


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


@pytest.mark.parametrize("fault", FAULTS)
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


def test_mit_mode_holds_and_moves(emulator):
    with Driven(emulator, DriverConfig(mit=True)) as driven:
        driven.enable()
        driven.move(NEAR, 0.3)
        until(lambda: not driven.executor.moving_itself, "the end of the motion")
        until(lambda: np.abs(driven.position - NEAR)[:6].max() < 0.05, "arrival")


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
