"""The emulated arm against the vendor's protocol, frame by frame and at made-up times; and its end of a real bus."""

import struct
import uuid

import can
import numpy as np
import pytest
from emulated_arm import AWAY, DELAY_S, FAST_IDS, GEOMETRY, SLOW_IDS, SLOW_S, STICKS, TICK_S, Arm, driven_arm

from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import GateConfig
from alam_control.kinematics import frames
from alam_piper import arm
from alam_piper import can_frames as wire
from alam_piper.emulator import HIGH, LOW
from alam_piper.end_pose import euler, rotation, solve_pose
from alam_piper.geometry import piper_limits
from alam_piper.sdk_io import MIT_MAX_KD, MIT_MAX_KP, MIT_MAX_TORQUE, SdkBus

pytestmark = pytest.mark.sim  # the arm is MuJoCo's


@pytest.fixture(scope="module")
def dynamics():
    from alam_piper.twin import TwinDynamics

    return TwinDynamics()


@pytest.fixture
def piper(dynamics):
    return Arm(dynamics)


@pytest.fixture
def driven(dynamics):
    return driven_arm(dynamics).run(SLOW_S)


def test_feedback_rates(piper):
    piper.run(2.0)
    assert {piper.count(number) for number in FAST_IDS} == {400}
    assert {piper.count(number) for number in SLOW_IDS} <= {80, 81}
    assert {number for _, number, _ in piper.heard} == {*FAST_IDS, *SLOW_IDS}
    assert all(len(data) == 8 for _, _, data in piper.heard)


def test_feedback_is_what_the_arm_does(driven):
    from piper_sdk import C_PiperForwardKinematics

    driven.joints(AWAY)
    driven.run(0.2)
    joints = [value for number in (0x2A5, 0x2A6, 0x2A7) for value in struct.unpack(">ii", driven.last(number))]
    assert np.allclose(joints, np.degrees(driven.position) * 1e3, atol=0.5)
    pose = [value for number in (0x2A2, 0x2A3, 0x2A4) for value in struct.unpack(">ii", driven.last(number))]
    theirs = C_PiperForwardKinematics(1).CalFK(driven.position.tolist())[-1]  # [mm], [deg]
    assert np.allclose(np.array(pose) / 1e3, theirs, atol=0.01)
    speeds = [struct.unpack(">h", driven.last(number)[:2])[0] for number in range(0x251, 0x257)]
    assert np.allclose(speeds, driven.dynamics.velocity[:6] * 1e3, atol=0.5) and max(speeds) > 100


def test_each_motor_gets_its_power_a_delay_after_its_own_command(piper):
    piper.send(0x471, 2, 2)
    piper.run(0.05)
    piper.send(0x471, 5, 2)
    piper.run(DELAY_S - 0.055)
    assert not any(piper.powered)
    piper.run(2 * SLOW_S)
    assert piper.powered == [False, True, False, False, False, False]
    piper.run(0.05)
    assert piper.powered == [False, True, False, False, True, False]
    piper.send(0x471, 2, 1)
    piper.run(SLOW_S)
    assert piper.powered == [False] * 4 + [True, False]
    piper.send(0x471, 7, 2)
    piper.run(DELAY_S + SLOW_S)
    assert all(piper.powered) and piper.last(0x2A8)[6] & 1 << 6


def test_it_follows_joints_with_a_lag_and_says_when_it_is_there(driven):
    driven.joints(AWAY)
    driven.run(0.1)
    assert driven.status[4] == 1 and 0.01 < driven.position[0] < 0.3
    driven.run(1.5)
    assert driven.status == (1, 0, 1, 0, 0, 0, 0)
    assert np.abs(driven.position - AWAY).max() < STICKS


@pytest.mark.parametrize("percent", [10, 50, 100])
def test_the_percentage_caps_the_speed(driven, percent):
    driven.control(percent=percent)
    driven.joints(arm.HOME[:6] + np.array([2.0, 0, 0, 0, 0, 0]))
    driven.run(1.0)
    assert 0.8 * 0.03 * percent < driven.fastest[0] < 1.15 * 0.03 * percent  # the servo overshoots the profile


def test_without_can_control_or_power_it_does_not_follow(piper):
    piper.control()
    piper.joints(AWAY)
    piper.run(0.3)
    assert abs(piper.position[0]) < 0.01
    piper.send(0x151, 0, 1, 100)
    piper.power()
    piper.joints(AWAY)
    piper.run(0.3)
    assert abs(piper.position[0]) < 0.01


@pytest.mark.parametrize("joint", range(6))
@pytest.mark.parametrize("side", [LOW, HIGH])
def test_a_target_over_one_limit_sets_that_joints_bit_and_moves_nothing(driven, joint, side):
    target = arm.HOME[:6].copy()
    target[joint] = side[joint] + np.radians(0.01) * np.sign(side[joint] - (LOW + HIGH)[joint] / 2)
    driven.joints(target)
    driven.run(0.1)
    assert driven.status[1] == 4 and driven.status[5:] == (1 << joint, 0)
    assert np.abs(driven.position - arm.HOME[:6]).max() < 0.01
    target[joint] = side[joint]
    driven.joints(target)
    driven.run(2 * TICK_S)
    assert driven.status[1] == 0 and driven.status[5:] == (0, 0)


def test_an_emergency_stop_holds_until_reset_and_two_enables(driven):
    driven.send(0x150, 1)
    driven.run(SLOW_S)
    assert driven.status[1] == 1 and not any(driven.powered)
    driven.control()
    driven.joints(AWAY)
    driven.power().run(SLOW_S)
    assert not any(driven.powered) and driven.status[1] == 1
    driven.send(0x150, 2)
    driven.power().run(SLOW_S)
    assert driven.status[:2] == (0, 0) and not any(driven.powered), "the first enable after a reset is not enough"
    driven.power().run(SLOW_S)
    assert all(driven.powered) and driven.last(0x2A8)[6] & 1 << 6


def test_an_emergency_stop_and_a_disable_let_it_sag_and_a_reset_lets_it_fall(dynamics):
    def sag(*frame):
        bent = Arm(dynamics, arm.HOME + np.array([0, 0.5, 0, 0, 0, 0, 0]), delay_s=0.0).power()
        before = bent.position
        bent.send(*frame)
        bent.run(0.5)
        assert not any(bent.powered) and np.abs(bent.position - before).max() > 0.1
        return bent.fastest[:6].max()

    slow, fast, off = sag(0x150, 1), sag(0x150, 2), sag(0x471, 0xFF, 1)
    assert fast > 2 * slow > 0.2 and off == pytest.approx(slow)


@pytest.mark.parametrize(
    ("on", "off", "codes"), [((0x470, 0xFA), (0x470, 0xFC), (6, 0)), ((0x150, 0, 0, 1), (0x150, 0, 0, 2), (2, 1))]
)
def test_leader_mode_lasts_until_it_is_left(driven, on, off, codes):
    driven.send(*on)
    began = driven.now
    for _ in range(2):
        driven.control()
        driven.joints(AWAY)
        driven.run(0.25)
        assert (driven.status[0], driven.status[3]) == codes and driven.emulator.leader
    assert not any(driven.count(number, began) for number in range(0x2A2, 0x2A9)), (
        "a led arm is silent about its joints"
    )
    assert abs(driven.position[0]) < 0.02, "it takes no commands"
    driven.send(*off)
    before = driven.position
    driven.run(0.5)
    assert (driven.status[0], driven.status[3]) == (0, 0) and driven.count(0x2A5, began) == 100
    assert np.abs(driven.position - before).max() < 0.02, "it does not go on to what was commanded before"
    driven.control()
    driven.joints(AWAY)
    driven.run(2.0)
    assert np.abs(driven.position - AWAY).max() < STICKS


def test_a_reset_ends_teaching_but_not_the_leaders_part(driven):
    driven.send(0x150, 0, 0, 1)
    driven.send(0x470, 0xFA)
    driven.send(0x150, 2)
    driven.run(TICK_S)
    assert (driven.status[0], driven.status[3]) == (6, 0)


def test_the_leader_goes_home_when_asked(driven):
    driven.send(0x191, 1, 1, 1)
    driven.run(0.3)
    assert np.abs(driven.position - arm.HOME[:6]).max() < 0.01, "this is for a leader"
    driven.send(0x470, 0xFA)
    driven.send(0x191, 1, 1, 1)
    driven.run(2.5)
    assert np.abs(driven.position).max() < 0.02 and driven.emulator.leader


@pytest.mark.parametrize("move", [0, 2])
def test_an_end_pose_is_reached(driven, move):
    from piper_sdk import C_PiperForwardKinematics

    sdk = C_PiperForwardKinematics(1)
    joints = arm.HOME[:6] + np.array([0.4, 0.3, -0.3, 0.3, -0.4, 0.5])
    wanted = np.array(sdk.CalFK(joints.tolist())[-1])
    numbers = [round(value * 1e3) for value in wanted]
    driven.control(move=move)
    for number, data in wire.pairs((0x152, 0x153, 0x154), numbers):
        driven.send(number, *data)
    driven.run(3.0)
    reached = np.array(sdk.CalFK(driven.position.tolist())[-1])
    assert driven.status[1:3] == (0, move)
    assert np.abs(reached[:3] - wanted[:3]).max() < 2.0 and np.abs(reached[3:] - wanted[3:]).max() < 0.5


def test_an_end_pose_out_of_reach_has_no_solution_and_one_in_move_j_means_nothing(driven):
    far = wire.pairs((0x152, 0x153, 0x154), [2_000_000, 0, 300_000, 0, 90_000, 0])
    for move, state in ((1, 0), (0, 2)):
        driven.control(move=move)
        for number, data in far:
            driven.send(number, *data)
        driven.run(0.1)
        assert driven.status[1] == state and np.abs(driven.position - arm.HOME[:6]).max() < 0.01
    driven.joints(arm.HOME[:6])
    driven.run(TICK_S)
    assert driven.status[1] == 0


def mit(position=0.0, velocity=0.0, kp=0.0, kd=0.0, torque=0.0):
    number = 0
    for value, low, high, bits in (
        (position, -12.5, 12.5, 16),
        (velocity, -45, 45, 12),
        (kp, 0, 500, 12),
        (kd, -5, 5, 12),
        (torque, -8, 8, 8),
    ):
        number = number << bits | round((value - low) / (high - low) * (2**bits - 1))
    data = (number << 4).to_bytes(8, "big")
    check = 0
    for byte in data[:7]:
        check ^= byte
    return data[:7] + bytes([data[7] | check & 0xF])


def test_mit_commands_move_the_joint_that_they_name(driven):
    driven.control(move=4, mit=0xAD)
    driven.joints(AWAY)
    driven.run(0.3)
    assert np.abs(driven.position - arm.HOME[:6]).max() < 0.01, "position frames mean nothing in this mode"
    for joint in range(6):
        driven.send(0x15A + joint, *mit(arm.HOME[joint] + (0.3 if joint == 0 else 0), kp=40, kd=3))
    driven.run(1.5)
    assert np.abs(driven.position - arm.HOME[:6] - [0.3, 0, 0, 0, 0, 0]).max() < 0.03
    assert driven.status[2] == 4


def test_mit_torque_pushes_and_a_wrong_check_sum_does_not(driven):
    driven.control(move=4, mit=0xAD)
    pushes = bytearray(mit(torque=3.0))
    pushes[7] ^= 1
    driven.send(0x15A, *pushes)
    driven.run(0.2)
    assert abs(driven.position[0]) < 0.01
    driven.send(0x15A, *mit(torque=3.0))
    driven.run(0.2)
    assert driven.position[0] > 0.05


def test_the_gripper_opens_and_is_off_and_on(driven):
    driven.gripper(0.05)
    driven.run(1.0)
    stroke, _, bits = struct.unpack(">ihBx", driven.last(0x2A8))
    assert abs(stroke - 50_000) < 1_000 and bits == 1 << 6 | 1 << 7
    driven.gripper(0.0, code=0)
    driven.run(1.0)
    stroke, _, bits = struct.unpack(">ihBx", driven.last(0x2A8))
    assert abs(stroke - 50_000) < 5_000 and bits == 1 << 7
    driven.gripper(0.0, code=0, zero=0xAE)
    driven.run(TICK_S)
    assert abs(struct.unpack(">i", driven.last(0x2A8)[:4])[0]) < 100, "its zero is where it was"


@pytest.mark.parametrize("effort_nm", [0.0, 0.1, 0.5])
def test_the_gripper_pushes_no_harder_than_it_is_told(driven, effort_nm):
    driven.gripper(0.07, effort_nm)
    began = driven.now
    driven.run(0.3)
    said = [abs(struct.unpack(">h", data[4:6])[0]) for time, n, data in driven.heard if n == 0x2A8 and time > began]
    assert max(said) == round(effort_nm * 1e3)
    assert (driven.dynamics.position[6] > 0.01) == (effort_nm > 0)


@pytest.mark.parametrize("motor", range(1, 7))
def test_each_motor_tells_its_limits(piper, motor):
    high, low = ((150, 180, 0, 100, 70, 120)[motor - 1], (-150, 0, -170, -100, -70, -120)[motor - 1])
    piper.send(0x472, motor, 1)
    piper.send(0x472, motor, 2)
    assert not piper.emulator.due(piper.now + 0.002), "the SDK would lose an answer as early as that"
    piper.run(2 * TICK_S)
    assert struct.unpack(">BhhHx", piper.last(0x473)) == (motor, high * 10, low * 10, 3000)
    assert struct.unpack(">BH5x", piper.last(0x47C)) == (motor, 5000)


def test_there_is_no_answer_for_a_motor_that_is_not_there(piper):
    piper.send(0x472, 0, 1)
    piper.send(0x472, 7, 2)
    piper.run(0.05)
    assert not piper.count(0x473) and not piper.count(0x47C)


def test_it_tells_its_firmware_when_asked_and_late_enough(piper):
    piper.send(0x4AF, 0)
    piper.run(0.05)
    assert not piper.count(0x4AF)
    piper.send(0x4AF, 1)
    assert not any(number == 0x4AF for number, _ in piper.emulator.due(piper.now + 0.002))
    piper.run(0.02)
    assert b"".join(data for _, number, data in piper.heard if number == 0x4AF).rstrip(b"\0") == b"S-V1.8-2"


def test_frames_of_another_size_or_number_do_nothing(driven):
    for number in (0x100, 0x2A5, 0x7FF):
        driven.send(number, *range(8))
    driven.emulator.on_frame(0x150, b"\1", driven.now)
    driven.run(SLOW_S)
    assert driven.status[:2] == (1, 0) and all(driven.powered)


# The end pose


def test_every_pose_inside_the_limits_is_solved():
    rng = np.random.default_rng(0)
    for joints in rng.uniform(LOW, HIGH, (500, 6)):
        pose = frames(GEOMETRY, joints)[6]
        turned = rotation(*euler(pose[:3, :3]))
        assert np.allclose(turned, pose[:3, :3])
        near = solve_pose(GEOMETRY, pose[:3, 3], turned, LOW, HIGH, joints)
        assert np.allclose(near, joints, atol=1e-6), "the nearest is where it is"
        far = solve_pose(GEOMETRY, pose[:3, 3], turned, LOW, HIGH, rng.uniform(LOW, HIGH))
        assert (far >= LOW - 1e-6).all() and (far <= HIGH + 1e-6).all()
        assert np.allclose(frames(GEOMETRY, far)[6], pose, atol=1e-9)


# Real buses


def test_it_serves_any_bus_of_python_can(dynamics):
    from alam_piper.emulator_node import _CanBus

    name = f"emulator-{uuid.uuid4()}"
    served, piper = _CanBus("virtual", name), Arm(dynamics)
    with can.Bus(interface="virtual", channel=name) as client:
        client.send(can.Message(arbitration_id=0x471, data=[0xFF, 2] + [0] * 6, is_extended_id=False))
        client.send(can.Message(arbitration_id=0x4AF, data=[1] + [0] * 7, is_extended_id=False))
        for message in served.receive(1.0):
            piper.send(message.arbitration_id, *message.data)
        assert piper.emulator.received == 2
        piper.run(DELAY_S + SLOW_S)
        for _, number, data in piper.heard:
            served.send(can.Message(arbitration_id=number, data=data, is_extended_id=False))
        got = [client.recv(1.0) for _ in piper.heard]
        assert [(m.arbitration_id, bytes(m.data)) for m in got] == [(n, d) for _, n, d in piper.heard]
        assert got[-1].arbitration_id in SLOW_IDS and 0x4AF in {m.arbitration_id for m in got}
        assert not served.receive(0.0), "no echo of its own"
        served.down = True
        client.send(can.Message(arbitration_id=0x150, data=[1] + [0] * 7, is_extended_id=False))
        served.send(can.Message(arbitration_id=0x2A1, data=bytes(8), is_extended_id=False))
        assert not served.receive(0.0) and client.recv(0.0) is None
    served.close()


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ((9.0, 500.0, 9.0), (MIT_MAX_TORQUE, MIT_MAX_KP, MIT_MAX_KD)),
        ((-9.0, -1.0, -9.0), (-MIT_MAX_TORQUE, 0.0, 0.0)),
        ((3.0, 40.0, 2.0), (3.0, 40.0, 2.0)),
    ],
)
def test_the_sdk_sends_torque_and_gains_inside_their_limits(asked, sent):
    """The SDK itself wraps: it would encode +9 N*m as -7.1. Read back from a bus, to one step of the frame."""
    torque, kp, kd = asked
    name = f"mit-{uuid.uuid4()}"
    executor = ArmExecutor(arm.NAMES, piper_limits(), GEOMETRY, GateConfig(), TICK_S)
    executor.start(arm.HOME)
    passed = executor.hold_here()
    with can.Bus(interface="virtual", channel=name) as listener:
        bus = SdkBus("virtual", name)
        try:
            bus.send_mit(passed, kp, kd, np.full(6, torque))
            got = {m.arbitration_id: bytes(m.data) for m in iter(lambda: listener.recv(0.5), None)}
        finally:
            bus.close()
    assert set(got) == set(range(0x15A, 0x160))
    for joint in range(6):
        position, velocity, got_kp, got_kd, got_torque = wire.read_mit(got[0x15A + joint])
        assert abs(position - arm.HOME[joint]) < 25 / 65535 and abs(velocity) < 90 / 4095
        assert abs(got_torque - sent[0]) < 16 / 255 and abs(got_kp - sent[1]) < 500 / 4095
        assert abs(got_kd - sent[2]) < 10 / 4095
