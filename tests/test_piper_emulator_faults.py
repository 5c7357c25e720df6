"""Every fault of the emulated arm: what it changes on the bus, and when; the arm's errors and what clears them."""

import numpy as np
import pytest
from emulated_arm import AWAY, DELAY_S, FAST_IDS, SLOW_IDS, SLOW_S, STICKS, TICK_S, Arm, driven_arm

from alam_piper import arm
from alam_piper.emulator import REPORTS
from alam_piper.emulator_faults import BUS_FAULTS, DIRECTIONS, FAULTS, help_text, parse_fault

pytestmark = pytest.mark.sim  # the arm is MuJoCo's


@pytest.fixture(scope="module")
def dynamics():
    from alam_piper.twin import TwinDynamics

    return TwinDynamics()


@pytest.fixture
def driven(dynamics):
    return driven_arm(dynamics).run(SLOW_S)


def moving(dynamics, faults=(), seconds=1.2):
    """An arm with power that is sent to and fro at 200 Hz -> it, after so many seconds."""
    piper = driven_arm(dynamics)
    piper.emulator.faults = [parse_fault(text, piper.now) for text in faults]

    def each():
        piper.joints(arm.HOME[:6] + 0.2 * np.sin(3 * piper.now))

    return piper.run(seconds, each)


BEGAN = TICK_S  # when `moving` sets its faults


@pytest.fixture(scope="module")
def clean(dynamics):
    return moving(dynamics)


HARMLESS = {"loss", "delay", "corruption", "torn", "silence", "frozen", "over-temperature"}  # the motion goes on


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_begins_and_ends_on_schedule(dynamics, clean, kind):
    faulty = moving(dynamics, [f"{kind} from=0.3 for=0.3"])
    begin, end = BEGAN + 0.3, BEGAN + 0.6

    def between(piper, low, high):
        return [frame for frame in piper.heard if low < frame[0] < high]

    assert between(clean, 0, begin - TICK_S) == between(faulty, 0, begin - TICK_S)
    assert between(clean, begin, end) != between(faulty, begin, end)
    if kind in HARMLESS:
        assert between(clean, end + 0.05, 9) == between(faulty, end + 0.05, 9)


@pytest.mark.parametrize("kind", REPORTS)
def test_a_motors_error_shows_in_the_status_and_in_the_motors_own_bits(dynamics, kind):
    codes = {"over-temperature": 0xF, "collision": 7, "joint-comms": 5, "brake": 6, "joint-error": 9, "stall": 0}
    bits = {"over-temperature": 1 << 1, "collision": 1 << 4, "joint-error": 1 << 5, "stall": 1 << 7}
    piper = moving(dynamics, [f"{kind} motor=3 for=0.2"], 0.15)
    assert piper.status[1] == codes[kind]
    assert piper.status[5:] == (0, 1 << 2 if kind == "joint-comms" else 0)
    errors = [piper.last(number)[5] & ~(1 << 6) for number in SLOW_IDS]
    assert errors == [0, 0, bits.get(kind, 0), 0, 0, 0]
    assert all(piper.powered)


@pytest.mark.parametrize("kind", [kind for kind in REPORTS if kind != "over-temperature"])
def test_an_error_halts_the_arm_until_it_is_reset(dynamics, kind):
    piper = moving(dynamics, [f"{kind} motor=2 for=0.1"], 0.5)
    before, state = piper.position, piper.status[1]
    piper.joints(AWAY)
    piper.run(0.5)
    assert np.abs(piper.position - before).max() < 0.01 and piper.status[1] == state
    piper.send(0x150, 2)
    piper.power().power().control()
    piper.joints(AWAY)
    piper.run(2.5)
    assert piper.status[1] == 0 and np.abs(piper.position - AWAY).max() < STICKS


def test_an_over_temperature_passes_and_halts_nothing(dynamics):
    piper = moving(dynamics, ["over-temperature motor=2 for=0.1"], 0.05)
    assert piper.last(0x262)[4] == 100
    piper.joints(AWAY)
    piper.run(2.0)
    assert piper.status[1] == 0 and np.abs(piper.position - AWAY).max() < STICKS


def test_the_grippers_own_faults(driven):
    driven.emulator.faults = [parse_fault("joint-error motor=7 for=0.01", driven.now)]
    driven.emulator.faults += [parse_fault("over-temperature motor=7 for=0.01", driven.now)]
    driven.run(TICK_S)
    assert driven.last(0x2A8)[6] == 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7
    driven.joints(AWAY)
    driven.run(1.5)
    assert driven.last(0x2A8)[6] == 1 << 5 | 1 << 6 | 1 << 7
    assert driven.status[1] == 0 and np.abs(driven.position - AWAY).max() < STICKS, "the arm goes on"
    driven.gripper(0.0, code=3)
    driven.run(TICK_S)
    assert driven.last(0x2A8)[6] == 1 << 6 | 1 << 7
    driven.emulator.faults = [parse_fault("motor-off motor=7", driven.now)]
    driven.run(TICK_S)
    assert driven.last(0x2A8)[6] == 1 << 7 and all(driven.powered)


def test_a_motor_that_lost_its_enable_falls_and_can_be_enabled_again(dynamics):
    piper = moving(dynamics, ["motor-off motor=2"], 0.3)
    assert piper.powered == [True, False, True, True, True, True]
    piper.power().run(SLOW_S)
    assert all(piper.powered)


def test_power_that_drops_comes_back_disabled(dynamics):
    piper = moving(dynamics, ["power-drop for=0.3"], 0.25)
    piper.send(0x4AF, 1)
    assert not piper.count(0x2A1, since=BEGAN) and piper.fastest[:6].max() > 0.5, "it says nothing, and falls"
    piper.run(0.1)
    assert piper.status[:2] == (0, 0) and not any(piper.powered) and not piper.count(0x4AF)
    piper.power().run(SLOW_S)
    assert all(piper.powered), "one enable is enough"


def test_another_status_and_another_master_keep_it_from_following(dynamics):
    for fault, field, code in (("status code=8 for=0.3", 1, 8), ("taken-over mode=4 for=0.3", 0, 4)):
        piper = moving(dynamics, [fault], 0.1)
        assert piper.status[field] == code
        before = piper.position
        piper.control()
        piper.joints(AWAY)
        piper.run(0.15)
        assert np.abs(piper.position - before).max() < 0.06 and piper.fastest.max() < 0.6, fault
        piper.run(0.1)
        piper.control()
        piper.joints(AWAY)
        piper.run(2.0)
        assert piper.status[:2] == (1, 0) and np.abs(piper.position - AWAY).max() < STICKS


def test_loss_takes_its_share_of_the_frames_it_is_of(dynamics):
    for of in DIRECTIONS:
        piper = Arm(dynamics, faults=[f"loss p=0.3 of={of}"])
        piper.run(1.0, lambda piper=piper: piper.send(0x151, 1, 1, 50))
        feedback = sum(piper.count(number) for number in FAST_IDS) / (200 * len(FAST_IDS))
        commands = piper.emulator.received / 200
        assert 0.65 < feedback < 0.75 if of != "commands" else feedback == 1
        assert 0.55 < commands < 0.85 if of != "feedback" else commands == 1
    assert parse_fault("loss p=0.3") == parse_fault("loss p=0.3 of=feedback"), "what schedules of before mean"


def test_delay_is_of_feedback_or_of_commands(dynamics):
    piper = Arm(dynamics, faults=["delay by=0.2 of=commands"])
    piper.send(0x471, 0xFF, 2)
    piper.run(0.2 + DELAY_S - TICK_S)
    assert piper.count(0x2A1) == round((0.2 + DELAY_S - TICK_S) / TICK_S) and not any(piper.emulator.enabled)
    piper.run(2 * TICK_S)
    assert all(piper.emulator.enabled)
    piper = Arm(dynamics, faults=["delay by=0.2"])
    piper.send(0x471, 0xFF, 2)
    piper.run(DELAY_S + TICK_S)
    assert all(piper.emulator.enabled) and not piper.heard
    piper.run(0.2)
    assert piper.count(0x2A1) == round((DELAY_S + TICK_S) / TICK_S)


def test_corruption_turns_one_bit(dynamics):
    clean, faulty = Arm(dynamics).run(0.3), Arm(dynamics, faults=["corruption p=0.5"]).run(0.3)
    turned = [
        (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()
        for (_, _, a), (_, _, b) in zip(clean.heard, faulty.heard, strict=True)
    ]
    assert set(turned) == {0, 1} and 0.4 < np.mean(turned) < 0.6
    piper = Arm(dynamics, faults=["corruption of=commands"])
    piper.joints(AWAY)
    turned = piper.emulator.target
    piper.emulator.faults.clear()
    piper.joints(AWAY)
    assert piper.emulator.received == 6 and not np.array_equal(turned, piper.emulator.target)
    assert np.allclose(piper.emulator.target[:6], AWAY, atol=1e-5)


def test_a_torn_triplet_is_whole_but_out_of_order(dynamics):
    piper = moving(dynamics, ["torn p=1.0"], 0.5)
    order = [number for time, number, _ in piper.heard if number in (0x2A5, 0x2A6, 0x2A7) and time > BEGAN]
    triplets = [tuple(order[k : k + 3]) for k in range(0, len(order), 3)]
    assert all(set(triplet) == {0x2A5, 0x2A6, 0x2A7} for triplet in triplets)
    assert len(set(triplets)) == 6


def test_frozen_feedback_comes_on_time_with_old_values(dynamics):
    piper = moving(dynamics, ["frozen"], 0.5)
    values = {(number, data) for time, number, data in piper.heard if time > BEGAN}
    assert len(values) == len(FAST_IDS) + len(SLOW_IDS)
    assert {piper.count(number, since=BEGAN) for number in FAST_IDS} == {100}
    assert 19 <= piper.count(0x261, since=BEGAN) <= 20


def test_a_silent_arm_obeys_and_a_bus_that_is_off_carries_nothing(dynamics):
    for fault, obeys in (("silence", True), ("bus-off", False)):
        piper = Arm(dynamics, faults=[fault]).power()
        assert not piper.heard and all(piper.emulator.enabled) == obeys


def test_faults_together(dynamics):
    piper = moving(dynamics, ["torn", "leader", "loss p=0.5 of=both", "frozen", "joint-comms motor=6"], 0.5)
    assert piper.status[0] == 2 and piper.status[5:] == (0, 1 << 5)


def test_the_help_names_every_fault_and_direction():
    text = help_text()
    assert all(f"  {kind} " in text for kind in FAULTS) and all(way in text for way in DIRECTIONS)
    with pytest.raises(ValueError, match=r"wanted .*of=feedback\|commands\|both"):
        parse_fault("loss of=nothing")
    with pytest.raises(ValueError, match="wanted motor=NUMBER"):
        parse_fault("collision of=commands")
    assert parse_fault("delay of=both by=0.1").of == "both" and set(BUS_FAULTS) < set(FAULTS)
