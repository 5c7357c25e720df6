"""Is this robot computer fit for the first motion? Looks, and moves nothing: all that it sends is the question for the
firmware.

    python tools/preflight.py --can can0 --third-person-serial SERIAL --wrist-serial SERIAL
    python tools/preflight.py --emulated --can can0            # the bus of `ros2 run alam_piper piper_emulator`

Exit code 0: nothing red; 1: something is; 2: wrong arguments."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import preflight_checks as check
from preflight_checks import RED, Finding
from tool_main import guarded

LISTEN_S = 2.0
WRITE_BYTES = 64 * 2**20
PAINT = {"green": "\033[32m", "yellow": "\033[33m", "red": "\033[31m"}


def bus_link(channel: str, emulated: bool) -> list[Finding]:
    if emulated:
        return []
    answer = subprocess.run(
        ["ip", "-details", "-statistics", "-json", "link", "show", channel], capture_output=True, text=True, check=False
    )
    links = json.loads(answer.stdout) if answer.returncode == 0 and answer.stdout.strip() else []
    return [check.can_link(channel, links[0] if links else None)]


def bus_and_arm(channel: str, emulated: bool) -> list[Finding]:
    """Listen, then ask for the firmware."""
    import can

    from alam_piper import arm
    from alam_piper.sdk_io import SdkBus

    interface = "alam_socket" if emulated else "socketcan"
    arrivals = []
    try:
        with can.Bus(interface=interface, channel=channel) as bus:
            end = time.monotonic() + LISTEN_S
            while (left := end - time.monotonic()) > 0:
                if (frame := bus.recv(left)) is not None:
                    arrivals.append((time.monotonic(), frame.arbitration_id))
        findings = check.traffic(arrivals, LISTEN_S)
        if not any(number in check.FEEDBACK_IDS for _, number in arrivals):
            return findings  # on a real bus nobody would acknowledge a question
        sdk = SdkBus(interface, channel)
    except (can.CanError, OSError, ValueError) as error:
        return [Finding("bus", RED, f"{interface}:{channel} does not open: {error}", "set the bus up first")]
    try:
        for _ in range(5):
            sdk.ask_firmware()
            time.sleep(0.2)
            if version := sdk.firmware():
                break
        findings.append(check.firmware(version))
        state, control, teach, _ = sdk.status
        teaching, feedback = teach == 1 or control in (2, 6), sdk.feedback
        if feedback is None:
            return [*findings, check.arm_state(state, teaching, (), ())]
        return [
            *findings,
            check.arm_state(state, teaching, feedback.motors, feedback.alarms),
            check.posture(feedback.position.tolist(), arm.LOW.tolist(), arm.HIGH.tolist()),
            check.health(feedback.motor_temperature, feedback.driver_temperature, feedback.voltage),
        ]
    finally:
        sdk.close()


def cameras(serials: dict[str, str]) -> list[Finding]:
    """serials: role -> wanted serial number, "" when none was given."""
    import pyrealsense2 as rs

    devices, profiles = [], {}
    for device in rs.context().query_devices():
        about = {"name": rs.camera_info.name, "serial": rs.camera_info.serial_number}
        words = {key: device.get_info(info) for key, info in about.items()}
        usb = rs.camera_info.usb_type_descriptor
        words["usb"] = device.get_info(usb) if device.supports(usb) else "unknown"
        devices.append(words)
        offered = [profile for sensor in device.query_sensors() for profile in sensor.get_stream_profiles()]
        colour = [p.as_video_stream_profile() for p in offered if p.stream_type() == rs.stream.color]
        profiles[words["serial"]] = [(v.width(), v.height(), v.fps()) for v in colour]
    return [check.camera(role, serial, devices, profiles.get(serial, [])) for role, serial in serials.items()]


def clocks() -> list[Finding]:
    source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    # adjtimex(2) returns TIME_ERROR (5) while the clock is not synchronised; a structure of zeros only reads
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    return check.clocks(_read(source), state not in (-1, 5), _read(governor))


def real_time() -> list[Finding]:
    """A 200 Hz thread for two seconds, with what this account may use."""
    from alam_piper.loop_io import RealTimeLoop

    loop = RealTimeLoop(lambda now: None, 0.005, 80, -1, early_s=0.0)
    warnings = loop.start()
    time.sleep(LISTEN_S)
    loop.stop()
    permitted = not any("SCHED_FIFO" in warning for warning in warnings)
    locked = not any("memory" in warning for warning in warnings)
    throttle = Path("/proc/sys/kernel/sched_rt_runtime_us")
    return [
        check.real_time(permitted, locked, loop.figures.wake.percentile_ms(99.9)),
        *([check.throttling(int(throttle.read_text()))] if throttle.is_file() else []),
    ]


def storage(folder: Path) -> list[Finding]:
    free = shutil.disk_usage(folder).free / 2**30
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.monotonic()
        file.write(bytes(WRITE_BYTES))
        file.flush()
        os.fsync(file.fileno())
        speed = WRITE_BYTES / 1e6 / (time.monotonic() - began)
    return check.storage(free, speed, shutil.disk_usage("/dev/shm").total / 2**20)


def _read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def look(checks: Iterable[tuple[str, Callable[[], list[Finding]]]]) -> list[Finding]:
    """Each check's findings; a check that fails is a red one and the others go on."""
    findings: list[Finding] = []
    for name, gather in checks:
        try:
            made = gather()
        except Exception as error:  # whatever is wrong with this computer must end up in the report
            made = [
                Finding(name, RED, f"could not be checked: {type(error).__name__}: {error}", "put that right first")
            ]
        for finding in made:
            print(line(finding, sys.stdout.isatty() and "NO_COLOR" not in os.environ), flush=True)
        findings += made
    return findings


def line(finding: Finding, colours: bool) -> str:
    word = f"{finding.colour:7s}"
    painted = f"{PAINT[finding.colour]}{word}\033[0m" if colours else word
    do = f"\n        do: {finding.do}" if finding.do else ""
    return f"{painted} {finding.name:20s} {finding.found}{do}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--can", default="can0", help="CAN channel (default %(default)s)")
    parser.add_argument("--emulated", action="store_true", help="the channel is an emulator's; there are no cameras")
    parser.add_argument("--third-person-serial", default="", help="of that RealSense, as for the launch")
    parser.add_argument("--wrist-serial", default="", help="of that RealSense, as for the launch")
    parser.add_argument("--recordings", type=Path, default=Path.cwd(), help="folder that recordings go to")
    parser.add_argument("--json", type=Path, help="write the findings there, too")
    arguments = parser.parse_args()
    if not arguments.recordings.is_dir():
        parser.error(f"--recordings: wanted a folder, got {arguments.recordings}")
    serials = {"third_person": arguments.third_person_serial, "wrist": arguments.wrist_serial}
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("CAN link", lambda: bus_link(arguments.can, arguments.emulated)),
        ("arm", lambda: bus_and_arm(arguments.can, arguments.emulated)),
        ("cameras", lambda: [] if arguments.emulated else cameras(serials)),
        ("clocks", clocks),
        ("real time", real_time),
        ("disk", lambda: storage(arguments.recordings)),
    ]
    findings = look(checks)
    worst = [finding for finding in findings if finding.colour == RED]
    print(f"{len(findings)} checks, {len(worst)} red" + ("" if not worst else ": the arm must not move yet"))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    return 1 if worst else 0


def run() -> Any:
    code = guarded("preflight", main)
    sys.stdout.flush()
    os._exit(code)  # the SDK's monitor threads do not end


if __name__ == "__main__":
    run()
