"""The driver's phases on a bus made here: what a person asks for in the wrong moment, and what the arm says."""

import gc
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import GateConfig
from alam_piper import arm
from alam_piper.driver import DriverConfig, PiperDriver
from alam_piper.geometry import piper_geometry, piper_limits

PERIOD_S = 0.005
POWERED, POWERLESS = (True,) * 6, (False,) * 6
AWAY = arm.HOME + np.array([1.0, 0, 0, 0, 0, 0, 0])


class Bus:
    """The commands of `sdk_io.SdkBus`; the arm is where it was sent last."""

    def __init__(self, at=arm.HOME, motors=POWERLESS):
        self.at, self.motors, self.alarms = at.copy(), motors, ()
        self.feedback, self.status, self.status_s = None, (0, 1, 0, 0), 0.0
        self.lost, self.version = "", "S-V1.8-2"
        self.gives_power, self.gripper_gets_power = POWERED, True
        self.gripper, self.gripper_alarms, self.cleared = False, (), 0
        self.sent = []  # names of commands, and positions (6,)

    def check(self):
        return self.lost

    def firmware(self):
        return self.version

    def ask_firmware(self):
        self.sent.append("firmware")

    def enable(self):
        self.sent.append("enable")
        self.motors = tuple(a or b for a, b in zip(self.motors, self.gives_power, strict=True))

    def disable(self, motors=None):
        self.sent.append("disable" if motors is None else f"disable {motors}")
        self.motors = tuple(on and motors is not None and k + 1 not in motors for k, on in enumerate(self.motors))

    def drop_power_and_clear(self):
        self.sent.append("drop")
        self.motors, self.alarms, self.status = POWERLESS, (), (0, 0, 0, 0)

    def joint_mode(self, percent):
        pass

    def mit_mode(self):
        pass

    def send_joints(self, command):
        self.sent.append(command.position[:6].copy())
        self.at = command.position.copy()

    def send_gripper(self, command, effort, clear):
        self.gripper, self.gripper_alarms = (
            self.gripper or self.gripper_gets_power,
            () if clear else self.gripper_alarms,
        )
        self.cleared += clear


class World:
    def __init__(self, **bus):
        self.executor = ArmExecutor(arm.NAMES, piper_limits(), piper_geometry(), GateConfig(), PERIOD_S)
        self.pressed = ""
        self.driver = PiperDriver(self.executor, DriverConfig(), lambda: self.pressed)
        self.now = 1.0
        self.connect(Bus(**bus))

    def connect(self, bus):
        self.bus = self.driver.bus = bus

    def run(self, seconds):
        for _ in range(round(seconds / PERIOD_S)):
            self.now += PERIOD_S
            bus, zero = self.bus, np.zeros(7)
            bus.feedback = SimpleNamespace(
                stamp_s=self.now - 0.001,
                position=bus.at.copy(),
                velocity=zero,
                effort=zero,
                motors=bus.motors,
                gripper=bus.gripper,
                alarms=bus.alarms,
                gripper_alarms=bus.gripper_alarms,
            )
            self.driver.tick(self.now)

    def enabled(self):
        self.run(0.5)
        assert self.driver.enable() == ""
        self.run(0.5)
        assert (self.driver.answer, self.executor.mode) == ("ok", "holding")
        return self

    def moving(self):
        self.enabled()
        self.executor.move_to(AWAY, 1.0)
        self.run(0.6)
        assert self.executor.mode == "moving" and self.speed > 1.0
        return self

    @property
    def speed(self):
        return np.abs(self.executor.trajectory.state[1]).max()

    def commands(self, since=0):
        return [each for each in self.bus.sent[since:] if isinstance(each, str) and each != "firmware"]

    def positions(self, since=0):
        return [each for each in self.bus.sent[since:] if not isinstance(each, str)]


def test_an_arm_in_the_air_never_loses_its_power_by_disable():
    world = World().enabled()
    world.executor.stop("test")
    world.run(0.5)
    assert world.driver.reset() == ""
    world.run(0.1)
    sent = len(world.bus.sent)
    assert world.driver.disable() == ""
    world.run(0.1)
    assert "would fall" in world.driver.answer and world.bus.motors == POWERED and not world.commands(sent)
    world.driver.enable()
    world.run(0.5)
    world.driver.disable()
    world.run(15.0)
    assert world.driver.answer == "ok" and np.abs(world.bus.at - arm.REST)[:6].max() < 0.01
    assert world.commands(sent)[-1] == "disable" and world.executor.mode == "disabled"


def test_a_driver_that_finds_a_powered_arm_in_the_air_leaves_it_its_power():
    world = World(motors=POWERED)
    world.run(0.5)
    world.driver.disable()
    world.run(0.1)
    assert "would fall" in world.driver.answer and not world.commands()


def test_an_enable_in_vain_takes_power_only_from_motors_that_had_none():
    world = World(motors=(True, True, False, False, False, False))
    world.bus.gives_power = (True, True, True, True, True, False)
    world.run(0.5)
    world.driver.enable()
    world.run(11.0)
    assert "no power on motor [6]" in world.driver.answer
    assert world.bus.motors == (True, True, False, False, False, False)


@pytest.mark.parametrize("after_s", [0.02, 0.1])
def test_reset_and_disable_wait_for_the_end_of_a_brake(after_s):
    world = World().moving()
    world.executor.stop("test")
    world.run(after_s)
    assert "still brakes" in world.driver.reset()
    world.driver.disable()
    sent, speed = len(world.bus.sent), world.speed
    world.run(0.2)
    assert "stopped" in world.driver.answer and world.speed < speed
    assert len(world.positions(sent)) == round(0.2 / PERIOD_S)  # the brake goes on, to its end
    world.run(1.0)
    assert world.speed == 0.0 and world.driver.reset() == ""


@pytest.mark.parametrize("motion", [World.enabled, World.moving])
def test_a_reset_changes_nothing_while_the_arm_holds_or_moves(motion):
    world = motion(World())
    mode, sent = world.executor.mode, len(world.bus.sent)
    assert "nothing to reset" in world.driver.reset()
    world.run(0.1)
    assert world.executor.mode == mode and len(world.positions(sent)) == round(0.1 / PERIOD_S)


def test_what_was_asked_while_the_bus_is_down_is_never_done_later():
    world = World()
    world.run(0.5)
    world.bus.lost = "the CAN bus is down"
    world.run(0.1)
    assert "down" in world.driver.enable() and "down" in world.driver.disable()
    world.connect(Bus())
    world.run(2.0)
    assert not world.commands() and world.executor.mode == "disabled"

    world = World().enabled()
    world.executor.stop("test")
    world.run(0.5)
    world.bus.lost = "the CAN bus is down"
    world.run(0.1)
    assert "down" in world.driver.reset()
    fresh = Bus(motors=POWERED)
    fresh.status = (7, 1, 0, 0)
    world.connect(fresh)
    world.run(1.0)
    assert world.executor.mode == "stopped" and not world.commands()

    world = World().enabled()
    world.bus.lost = "the CAN bus is down"
    world.run(0.1)
    assert "wanted an arm with power" in world.driver.home()
    world.executor.move_to(AWAY, 0.2)  # even past the driver
    world.run(1.0)
    world.connect(Bus(motors=POWERED))
    world.run(2.0)
    assert world.executor.mode == "holding" and np.array_equal(world.bus.at, arm.HOME)


def test_a_request_under_way_ends_with_the_bus():
    world = World()
    world.bus.gives_power = POWERLESS
    world.run(0.5)
    world.driver.enable()
    world.run(0.2)
    world.bus.lost = "the CAN bus is down"
    world.run(0.1)
    assert "down" in world.driver.answer
    world.connect(Bus())
    world.run(1.0)
    assert not world.commands()


def test_a_stop_counts_while_the_bus_is_down():
    world = World().enabled()
    world.bus.lost = "the CAN bus is down"
    world.run(1.0)
    world.executor.stop("the operator's stop")
    world.run(0.02)
    assert (world.executor.mode, world.executor.reason) == ("stopped", "the operator's stop")


@pytest.mark.parametrize("away_s", [0.05, 1.5])
@pytest.mark.parametrize("first_word", [POWERLESS, POWERED])
def test_after_the_bus_was_lost_in_motion_the_arm_goes_on_from_where_it_is(away_s, first_word):
    world = World().moving()
    last = world.bus.at.copy()
    world.bus.lost = "the CAN bus is down"
    world.run(away_s)
    drifted = last + np.array([0.02, 0, 0, 0, 0, 0, 0])
    world.connect(Bus(at=drifted, motors=first_word))
    world.run(0.05)
    assert not world.bus.sent  # the motors report at 40 Hz: until then nobody knows whether they have power
    world.bus.motors = POWERED
    world.run(0.5)
    assert np.array_equal(world.positions()[0], drifted[:6])
    assert world.executor.mode == "holding" and np.array_equal(world.positions()[-1], drifted[:6])


def test_an_arm_that_comes_back_without_power_stays_stopped():
    world = World().moving()
    world.bus.lost = "the CAN bus is down"
    world.run(0.5)
    world.connect(Bus(motors=(True, True, False, True, True, True)))
    world.run(0.5)
    assert world.executor.mode == "stopped" and "motor 3 lost its power" in world.executor.reason
    assert not world.bus.sent


def test_a_stop_ends_powering():
    world = World()
    world.bus.gives_power = (True, True, True, False, False, False)
    world.run(0.5)
    world.driver.enable()
    world.run(0.2)
    world.executor.stop("the operator's stop")
    world.run(0.02)
    sent = len(world.bus.sent)
    world.run(1.0)
    assert world.executor.mode == "stopped" and world.driver.answer == "the operator's stop"
    assert not world.commands(sent) and not world.positions(sent) and world.bus.motors == POWERLESS


def test_no_power_while_the_hardware_stop_is_pressed_or_the_arm_reports_an_error():
    world = World()
    world.pressed = "the hardware stop is pressed"
    world.run(0.5)
    world.driver.enable()
    world.run(0.5)
    assert "the hardware stop is pressed" in world.driver.answer and world.executor.mode == "stopped"
    assert not world.commands()
    world.pressed = ""
    world.run(0.1)
    assert world.driver.reset() == ""
    world.run(0.1)
    world.enabled()

    world = World()
    world.bus.status = (1, 1, 0, 0)
    world.run(0.5)
    world.driver.enable()
    world.run(0.1)
    assert "emergency stop" in world.driver.answer and not world.commands()
    assert world.driver.reset() == "" and not world.driver.reset_sags  # it has no power to lose
    world.run(0.1)
    assert world.commands() == ["drop"]


def test_a_press_while_the_power_comes_ends_it():
    world = World()
    world.bus.gives_power = POWERLESS
    world.run(0.5)
    world.driver.enable()
    world.run(0.2)
    world.pressed = "the hardware stop is pressed"
    world.run(0.1)
    sent = len(world.bus.sent)
    world.run(0.5)
    assert world.executor.mode == "stopped" and not world.commands(sent)


@pytest.mark.parametrize(
    ("version", "words"),
    [("", "has not told its firmware"), ("S-V1.6-2", "got S-V1.6-2"), ("S-V1.5-9", "update it"), ("V2", "of the form")],
)
def test_no_power_with_a_firmware_whose_kinematics_are_others(version, words):
    world = World()
    world.bus.version = version
    world.run(0.5)
    world.driver.enable()
    world.run(0.1)
    assert words in world.driver.answer and not world.commands() and world.executor.mode == "disabled"


@pytest.mark.parametrize("version", ["S-V1.6-3", "S-V1.8-2", "S-V2.0-0"])
def test_power_with_a_known_firmware(version):
    world = World()
    world.bus.version = version
    world.enabled()


@pytest.mark.parametrize("state", range(1, 18))
def test_every_state_that_is_not_normal_keeps_the_arm_still(state):
    world = World().enabled()
    world.bus.status = (state, 1, 0, 0)
    world.run(0.2)
    lasting = state not in (2, 3, 4, 0xB, 0xC, 0xD)
    assert world.executor.mode == ("stopped" if lasting else "holding")
    assert (world.driver.faults if lasting else world.driver.waits) and world.executor.reason
    world.executor.move_to(AWAY, 0.2)
    world.run(0.5)
    assert np.array_equal(world.bus.at, arm.HOME)


@pytest.mark.parametrize(
    ("errors", "words", "mode"),
    [(0x0004, "no communication with motor 3", "stopped"), (0x2100, "joint 1 is at its limit", "holding")],
)
def test_the_bits_of_each_joint_are_told(errors, words, mode):
    world = World().enabled()
    world.bus.status = (0, 1, 0, errors)
    world.run(0.2)
    assert words in " ".join((*world.driver.faults, *world.driver.waits)) and world.executor.mode == mode


def test_an_arm_that_listens_to_somebody_else_is_a_fault_when_it_lasts():
    world = World().enabled()
    world.bus.status = (0, 3, 0, 0)
    world.run(0.2)
    assert world.executor.mode == "holding"
    world.run(0.5)
    assert world.executor.mode == "stopped" and "Ethernet" in world.executor.reason


def test_a_reset_that_takes_the_power_says_so_before():
    world = World().enabled()
    assert not world.driver.reset_sags
    world.bus.alarms = ("motor 2: stalled",)
    world.run(0.5)
    assert world.executor.mode == "stopped" and world.driver.reset_sags
    assert world.driver.reset() == ""
    world.run(0.02)
    assert world.commands()[-1] == "drop" and not world.driver.reset_sags


@pytest.mark.parametrize("trouble", ["power", "alarm"])
def test_trouble_of_the_gripper_stops_the_arm_and_a_reset_does_not_take_the_arms_power(trouble):
    world = World().enabled()
    assert world.bus.gripper and world.bus.cleared == 1
    if trouble == "power":
        world.bus.gripper = world.bus.gripper_gets_power = False
    else:
        world.bus.gripper_alarms = ("gripper: motor over-temperature",)
    world.run(0.3)
    assert world.executor.mode == "stopped" and "gripper" in world.executor.reason and not world.driver.reset_sags
    world.bus.gripper_gets_power = True
    assert world.driver.reset() == ""
    world.run(0.1)
    world.enabled()
    world.run(0.5)
    assert world.executor.mode == "holding" and world.bus.cleared == 2 and "drop" not in world.commands()


def test_no_power_is_asked_for_on_the_way_to_rest():
    world = World().enabled()
    world.driver.disable()
    world.run(1.0)
    sent = len(world.bus.sent)
    world.driver.enable()
    world.run(0.5)
    assert "on its way to rest" in world.driver.answer and not world.commands(sent) and world.speed > 0


class Forgetful(list):
    def append(self, each):
        """Nothing is kept: for a count of what the driver keeps."""


@pytest.mark.parametrize("motion", [World.enabled, World.moving])
def test_a_period_keeps_no_memory(motion):
    """Numbers and small arrays come and go in every period (Python cannot do without); none stays, whatever the
    loop does, and so no collector is needed."""
    world = motion(World())
    world.bus.sent = Forgetful()
    gc.collect()
    gc.disable()
    try:
        world.run(2.5)
        before = sys.getallocatedblocks()
        world.run(25.0)
        assert sys.getallocatedblocks() - before < 100  # of 5,000 periods
    finally:
        gc.enable()


def test_leader_mode_on_the_way_to_rest_is_told_to_who_disabled():
    world = World().enabled()
    world.driver.disable()
    world.run(0.5)
    assert world.driver.phase == "parking" and world.driver.answer == ""
    world.bus.status, world.bus.status_s = (0, 1, 1, 0), world.now + 1.0
    world.run(0.5)
    assert "leader" in world.driver.answer and world.executor.mode == "disabled"
