"""Vendor units and frames: exact both ways, and the same as the vendor's own SDK reads and writes them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alam_piper import can_frames as wire
from alam_piper import units
from alam_piper.emulator_faults import FAULTS, help_text, parse_fault

INT32 = st.integers(-(2**31) + 1, 2**31 - 1)


@given(INT32)
def test_every_whole_number_survives_the_way_to_si_and_back(value):
    assert units.to_millidegrees(units.from_millidegrees(value)) == value
    assert units.to_micrometres(units.from_micrometres(value)) == value
    assert units.to_thousandths(units.from_thousandths(value)) == value


def test_every_angle_of_the_arm_survives():
    values = np.arange(-180_000, 180_001)
    assert all(units.to_millidegrees(units.from_millidegrees(int(v))) == v for v in values)


def test_known_values_and_bad_ones():
    assert units.to_millidegrees(np.pi) == 180_000
    assert units.to_micrometres(0.07) == 70_000
    assert units.from_decivolts(241) == pytest.approx(24.1)
    for bad in (float("nan"), float("inf"), 1e9):
        with pytest.raises(ValueError, match="wanted a finite number"):
            units.to_millidegrees(bad)


@given(st.lists(INT32, min_size=6, max_size=6))
def test_pairs_of_numbers_survive_the_frames(values):
    made = wire.pairs(wire.JOINTS, values)
    assert [number for number, _ in made] == list(wire.JOINTS)
    assert [value for _, data in made for value in wire.read_pair(data)] == values


@given(st.integers(-32768, 32767), st.integers(-32768, 32767), INT32)
def test_the_vendor_reads_what_the_emulator_writes(speed, current, position):
    import can
    from piper_sdk.piper_msgs.msg_v2 import PiperMessage
    from piper_sdk.protocol.protocol_v2 import C_PiperParserV2

    parser, message = C_PiperParserV2(), PiperMessage()

    def read(frame):
        assert parser.DecodeMessage(can.Message(arbitration_id=frame[0], data=frame[1]), message)

    read(wire.high_speed(2, speed, current, position))
    motor = message.arm_high_spd_feedback_3
    assert (motor.motor_speed, motor.current, motor.pos) == (speed, current, position)
    read(wire.pairs(wire.JOINT_FEEDBACK, [position, 1, 2, 3, 4, 5])[0])
    assert message.arm_joint_feedback.joint_1 == position
    read(wire.low_speed(0, 240, -7, 60, 1 << 6, 900))
    slow = message.arm_low_spd_feedback_1
    assert (slow.vol, slow.foc_temp, slow.motor_temp, slow.bus_current) == (240, -7, 60, 900)
    read(wire.gripper_feedback(35_000, -300, 1 << 6))
    assert message.gripper_feedback.grippers_angle == 35_000


@given(st.floats(-12, 12), st.floats(-40, 40), st.floats(0, 400), st.floats(-4, 4), st.floats(-7.9, 7.9))
def test_the_emulator_reads_mit_frames_as_they_are_laid_out(position, velocity, kp, kd, torque):
    number = 0
    for value, most, low, bits, shift in (
        (position, 12.5, -12.5, 16, 48),
        (velocity, 45.0, -45.0, 12, 36),
        (kp, 500.0, 0.0, 12, 24),
        (kd, 5.0, -5.0, 12, 12),
        (torque, 8.0, -8.0, 8, 4),
    ):
        number |= int((value - low) / (most - low) * (2**bits - 1)) << shift
    data = bytearray(number.to_bytes(8, "big"))
    for byte in data[:7]:
        data[7] ^= byte & 0xF
    read = wire.read_mit(bytes(data))
    assert read is not None
    steps = (25 / 65535, 90 / 4095, 500 / 4095, 10 / 4095, 16 / 255)
    assert np.allclose(read, (position, velocity, kp, kd, torque), atol=max(steps) + 1e-9)
    data[3] ^= 1
    assert wire.read_mit(bytes(data)) is None


def test_fault_texts():
    fault = parse_fault("loss p=0.2 from=5 for=3", now=10.0)
    assert (fault.kind, fault.begin, fault.end, fault.values) == ("loss", 15.0, 18.0, {"p": 0.2})
    assert fault.active(15.0) and not fault.active(18.0)
    assert all(kind in help_text() for kind in FAULTS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "wanted one of loss"),
        ("los", "wanted one of loss"),
        ("loss q=1", "wanted p=NUMBER"),
        ("loss p", "wanted p=NUMBER"),
        ("loss p=2", "from 0 to 1"),
        ("collision motor=nan", "from 1 to 6"),
    ],
)
def test_bad_fault_texts_get_one_sentence(text, words):
    with pytest.raises(ValueError, match=words):
        parse_fault(text)
