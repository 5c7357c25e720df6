"""tools/preflight.py: every colour of every check, and the real library on an emulated bus."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import preflight_checks as check  # noqa: E402
from preflight_checks import GREEN, RED, YELLOW  # noqa: E402

PATIENCE_S = 60


def link(state="ERROR-ACTIVE", bitrate=1_000_000, tx=0, flags=("UP",), kind="can"):
    data = {"state": state, "bittiming": {"bitrate": bitrate}, "berr_counter": {"tx": tx, "rx": 0}}
    return {"flags": list(flags), "linkinfo": {"info_kind": kind, "info_data": data}}


@pytest.mark.parametrize(
    ("facts", "colour"),
    [
        (None, RED),
        (link(flags=()), RED),
        (link(bitrate=500_000), RED),
        (link(state="BUS-OFF"), RED),
        (link(state="ERROR-PASSIVE", tx=128), RED),
        (link(state="ERROR-WARNING", tx=100), YELLOW),
        (link(tx=3), YELLOW),
        (link(kind="vxcan"), YELLOW),
        (link(), GREEN),
    ],
)
def test_can_link(facts, colour):
    assert check.can_link("can0", facts).colour == colour


def heard(rate_hz, seconds=2.0, ids=check.FEEDBACK_IDS):
    return [(step / rate_hz, number) for step in range(int(rate_hz * seconds)) for number in ids]


@pytest.mark.parametrize(("rate_hz", "colour"), [(200, GREEN), (180, YELLOW), (90, RED)])
def test_feedback_rate(rate_hz, colour):
    assert check.traffic(heard(rate_hz), 2.0)[0].colour == colour


def test_a_silent_bus_and_a_second_sender_are_red():
    assert check.traffic([], 2.0)[0].colour == RED
    leader = check.traffic(heard(200, ids=(0x2A1,)), 2.0)[0]
    assert leader.colour == RED and "leader" in leader.do
    feedback, others = check.traffic([*heard(200), (1.0, 0x155)], 2.0)
    assert feedback.colour == GREEN and others.colour == RED and "155" in others.found
    assert check.traffic(heard(200), 2.0)[1].colour == GREEN


@pytest.mark.parametrize(
    ("version", "colour"), [("", RED), ("S-V1.5-9", RED), ("hello", RED), ("S-V1.6-3", GREEN), ("S-V1.10-0", GREEN)]
)
def test_firmware(version, colour):
    assert check.firmware(version).colour == colour


def test_arm_state_posture_and_health():
    off = (False,) * 6
    assert check.arm_state(0, False, off, ()).colour == GREEN
    assert check.arm_state(7, False, off, ()).colour == RED
    assert check.arm_state(0, True, off, ()).colour == RED
    assert check.arm_state(0, False, off, ("motor 2: stalled",)).colour == RED
    hot = check.arm_state(0xF, False, off, ("motor 3: motor over-temperature",))
    assert hot.colour == RED and "over-temperature: a motor" in hot.found and "motor 3" in hot.found
    assert "status code 1A" in check.arm_state(0x1A, False, off, ()).found
    assert check.arm_state(0, False, (True, *off[1:]), ()).colour == YELLOW
    assert check.posture([0.0, -0.04], [-1, 0], [1, 1]).colour == GREEN
    outside = check.posture([0.0, -0.06], [-1, 0], [1, 1])
    assert outside.colour == RED and "joint 2" in outside.found
    assert check.health([40] * 6, [45] * 6, [24] * 6).colour == GREEN
    assert check.health([70] * 6, [45] * 6, [24] * 6).colour == YELLOW
    assert check.health([40] * 6, [45] * 6, [24] * 5 + [18]).colour == YELLOW


def test_cameras():
    device = {"name": "D435", "serial": "1", "usb": "3.2"}
    good = [(640, 480, 30)]
    assert check.camera("wrist", "1", [device], good).colour == GREEN
    nameless = check.camera("wrist", "", [device], good)  # the launch would not know which of two it is
    assert nameless.colour == RED and "there are: 1" in nameless.found and "--wrist-serial" in nameless.do
    missing = check.camera("wrist", "2", [device], good)
    assert missing.colour == RED and "got 1" in missing.found
    assert check.camera("wrist", "1", [device], [(640, 480, 15)]).colour == RED
    assert check.camera("wrist", "1", [device | {"usb": "2.1"}], good).colour == YELLOW


def test_clocks_real_time_and_storage():
    assert [f.colour for f in check.clocks("tsc", True, "performance")] == [GREEN] * 3
    assert [f.colour for f in check.clocks("hpet", False, "powersave")] == [YELLOW] * 3
    assert check.real_time(True, True, 0.2).colour == GREEN
    assert check.real_time(True, True, 2.0).colour == YELLOW
    assert check.real_time(False, True, 0.2).colour == check.real_time(True, False, 0.2).colour == RED
    assert [f.colour for f in check.storage(100, 400, 1000)] == [GREEN] * 2
    assert [f.colour for f in check.storage(10, 400, 64)] == [YELLOW, RED]
    assert check.storage(1, 400, 1000)[0].colour == RED


def test_what_is_not_green_says_what_to_do():
    findings = [check.can_link("can0", None), check.firmware(""), *check.clocks("hpet", False, "powersave")]
    findings += [check.arm_state(7, False, (), ()), check.real_time(False, False, 9.0), *check.storage(1, 1, 1)]
    assert all(finding.do for finding in findings)


def preflight(*arguments):
    command = [sys.executable, str(TOOLS / "preflight.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def test_bad_arguments_and_a_computer_without_a_bus(tmp_path):
    assert preflight("--recordings", tmp_path / "none").returncode == 2
    assert preflight("--wrong").returncode == 2
    report = preflight("--emulated", "--can", tmp_path / "none.sock", "--recordings", tmp_path)
    assert report.returncode == 1 and "does not open" in report.stdout and "must not move" in report.stdout


@pytest.mark.sim
@pytest.mark.parametrize(
    ("fault", "name", "colour", "words"),
    [
        (None, "firmware", GREEN, "S-V"),
        ("silence", "feedback", RED, "silent"),
        ("over-temperature motor=3", "arm", RED, "motor 3"),
        ("leader", "arm", RED, "leader"),
    ],
)
def test_the_real_library_on_an_emulated_arm(tmp_path, fault, name, colour, words):
    pytest.importorskip("mujoco")
    from piper_rig import Emulator

    options = ("--fault", fault) if fault else ()
    with Emulator(tmp_path, *options) as emulator:
        out = tmp_path / "findings.json"
        arguments = ("--emulated", "--can", emulator.channel, "--json", out, "--recordings", tmp_path)
        report = preflight(*arguments)
        received = json.loads(emulator.tell("state").stdout)["frames_received"]
    found = {finding["name"]: finding for finding in json.loads(out.read_text())}
    assert found[name]["colour"] == colour and words in found[name]["found"], report.stdout
    if fault == "silence":
        assert received == 0, "wanted nothing to be sent on a silent bus"
