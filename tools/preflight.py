"""Checks a robot computer before the first motion: CAN, arm, cameras, clocks, real-time permission, disk, ROS.

Green, yellow or red, and what to do. Give it what the launch will be given. It moves nothing and enables nothing: the only
frame that it sends asks the arm, once that is heard, for its firmware. Exit code 1 when anything is red.

python tools/preflight.py --can can0 --third-person-serial SERIAL --wrist-serial SERIAL --bundle checkpoints/my-policy
python tools/preflight.py --emulate --can /tmp/arm.sock    # beside `ros2 run alam_piper piper_emulator --channel ...`
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preflight_checks as checks
from preflight_checks import GREEN, RED, YELLOW, Finding
from tool_main import ROOT, guarded

SOURCES = ROOT / "ros2_ws/src/alam_bringup"
ROLES = ("third_person", "wrist")
PERIOD_S = 0.005  # of the arm's loop
MEASURE_S = 2.0  # of wake-up lateness
ASK_EVERY_S, ASK_TIMES = 0.4, 3  # for the firmware
DISCOVERY_S = 1.0
WRITE_BYTES, WRITE_S = 64 * 2**20, 2.0  # of the disk's measurement: whichever is reached first
REALSENSE_VENDOR = "8086"
REALSENSE_PRODUCTS = {"0ad1", "0ad2", "0ad3", "0ad4", "0ad5", "0af6", "0b03", "0b07", "0b3a", "0b5b", "0b5c", "0b64"}
ANSI = {GREEN: "\033[32m", YELLOW: "\033[33m", RED: "\033[31m"}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--can", default="can0", help="as can:= of the launch (default %(default)s)")
    parser.add_argument("--emulate", action="store_true", help="as emulate:=true of the launch; the emulator must run")
    for role in ROLES:
        option = f"--{role.replace('_', '-')}-serial"
        parser.add_argument(option, default="", metavar="SERIAL", help=f"as {role}_serial:= of the launch")
    parser.add_argument("--bundle", type=Path, help="as bundle:= of the launch (default: none is looked at)")
    parser.add_argument("--record", type=Path, default=Path(), help="folder that recordings go to (default: this one)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="how long to listen to the bus (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there, too")
    arguments = parser.parse_args(argv)
    if not 0.2 <= arguments.seconds <= 600:
        parser.error(f"--seconds: wanted 0.2 to 600, got {arguments.seconds:g}")
    if not arguments.record.is_dir():
        parser.error(f"--record: wanted a folder, got {arguments.record}")
    if arguments.json and not arguments.json.resolve().parent.is_dir():
        parser.error(f"--json: wanted a file in a folder that exists, got {arguments.json}")
    return arguments


# What the launch would use


def share() -> Path:
    """-> alam_bringup as the launch finds it; its sources where the workspace is not built."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    found = (Path(prefix) / "share/alam_bringup" for prefix in prefixes if prefix)
    return next((path for path in found if path.is_dir()), SOURCES)


def read_config(folder: Path, emulate: bool) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The parameter files of the launch -> {node: {parameter: value}} over the defaults, and the names nobody knows.

    Raises ValueError for a file that is not there or a value that does not fit."""
    import yaml

    from alam_cameras.settings import PARAMETERS as CAMERA
    from alam_piper.settings import PARAMETERS as PIPER

    known = {"piper": PIPER, **{f"camera_{role}": CAMERA for role in ROLES}}
    values = {node: {each.name: each.default for each in table} for node, table in known.items()}
    strange = []
    for path in (folder / "robot.yaml", folder / f"emulate_{'true' if emulate else 'false'}.yaml"):
        try:
            read = yaml.safe_load(path.read_text()) or {}
            sections = {name: dict(body["ros__parameters"]) for name, body in read.items()}
        except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: wanted ROS parameters, got: {type(error).__name__}: {error}") from None
        for node, table in known.items():
            named = {each.name: each for each in table}
            for name, value in {**sections.get("/**", {}), **sections.get(node, {})}.items():
                if name in named:
                    named[name].check(value)
                    values[node][name] = value
                elif name != "use_sim_time":
                    strange.append(f"{node}.{name}")
    return values, strange


class Setup:
    """The arguments and the parameters, as the launch would combine them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = share() / "config" / "piper"
        self.values, strange = {}, list[str]()
        try:
            self.values, strange = read_config(self.folder, arguments.emulate)
        except ValueError as error:
            self.finding = Finding("configuration", RED, str(error), "correct the file; the checks below need it")
            return
        problems = [(YELLOW, f"nobody knows {name}", "correct its spelling") for name in strange]
        self.finding = checks.judge("configuration", str(self.folder), problems)

    @property
    def piper(self) -> dict[str, Any]:
        return self.values["piper"]

    def cameras(self) -> list[checks.Wanted]:
        wanted = []
        for role in ROLES:
            value = self.values[f"camera_{role}"]
            size = value["width"], value["height"], value["fps"]
            serial = getattr(self.arguments, f"{role}_serial")
            wanted.append(checks.Wanted(role, value["source"], serial, *size, value["path"]))
        return wanted

    def bytes_s(self) -> int:
        """-> what both cameras give [bytes/s]."""
        return sum(each.bytes_s for each in self.cameras())


# CAN and the arm


def read_link(channel: str) -> checks.Link | None:
    """Raises FileNotFoundError without iproute2."""
    command = ["ip", "-details", "-statistics", "-json", "link", "show", "dev", channel]
    return checks.parse_link(subprocess.run(command, capture_output=True, text=True, timeout=5.0).stdout)


def listen(interface: str, channel: str, seconds: float) -> tuple[checks.Heard, list[Any], bool]:
    """-> what was heard, the messages themselves, and whether the arm was asked for its firmware.

    Raises can.CanError or OSError when the bus cannot be opened."""
    import can

    before = read_link(channel) if interface == "socketcan" else None
    stamps: dict[int, list[float]] = defaultdict(list)
    messages, errors, asked, broke = [], 0, 0, ""
    with can.Bus(interface=interface, channel=channel) as bus:
        begin, begin_s = time.monotonic(), time.time()
        while (past := time.monotonic() - begin) < seconds:
            try:
                due = asked < ASK_TIMES and past > asked * ASK_EVERY_S
                if due and stamps and not _firmware(messages):  # never onto a bus where nobody would acknowledge it
                    bus.send(
                        can.Message(arbitration_id=checks.FIRMWARE_ID, data=b"\1" + bytes(7), is_extended_id=False)
                    )
                    asked += 1
                message = bus.recv(min(0.05, seconds - past))
            except can.CanError as error:
                broke = str(error)
                break
            if message is None:
                continue
            if message.is_error_frame:
                errors += 1
            else:
                stamps[message.arbitration_id].append(message.timestamp)
                messages.append(message)
        lasted = time.time() - begin_s
    after = read_link(channel) if before is not None else None
    sent = 0
    if before and after and before.kind == "can":  # the vendor's SDK sends without loopback: only the counter shows it
        sent = max(0, after.sent - before.sent - asked)
    return checks.Heard(begin_s, lasted, stamps, errors, sent, broke), messages, bool(asked)


def _firmware(messages: list[Any]) -> str:
    data = b"".join(bytes(each.data) for each in messages if each.arbitration_id == checks.FIRMWARE_ID)
    begin = data.find(b"S-V")
    return data[begin : begin + 8].decode(errors="replace").rstrip("\0 ") if begin >= 0 else ""


def read_arm(messages: list[Any], asked: bool) -> checks.Arm:
    """The messages through the vendor's parser -> what the arm said."""
    from piper_sdk import C_PiperParserV2, PiperMessage

    from alam_piper.sdk_io import WORDS
    from alam_piper.units import from_decivolts, from_millidegrees

    parser, parsed = C_PiperParserV2(), PiperMessage()
    codes: list[tuple[int, int, int, int]] = []
    angles: dict[int, list[float]] = defaultdict(list)
    motors: dict[int, list[checks.Motor]] = defaultdict(list)
    for message in messages:
        number = message.arbitration_id
        if message.dlc != 8 or not parser.DecodeMessage(message, parsed):
            continue
        if number == checks.STATUS_ID:
            said = parsed.arm_status_msgs
            codes.append((int(said.arm_status), int(said.ctrl_mode), int(said.teach_status), int(said.err_code)))
        elif number in checks.JOINT_IDS:
            first = 2 * checks.JOINT_IDS.index(number) + 1
            for joint in (first, first + 1):
                angles[joint].append(from_millidegrees(getattr(parsed.arm_joint_feedback, f"joint_{joint}")))
        elif number in checks.LOW_SPEED_IDS:
            motor = checks.LOW_SPEED_IDS.index(number) + 1
            said = getattr(parsed, f"arm_low_spd_feedback_{motor}")
            alarms = tuple(words for name, words in WORDS.items() if getattr(said.foc_status, name, False))
            degc, enabled = (float(said.foc_temp), float(said.motor_temp)), bool(said.foc_status.driver_enable_status)
            motors[motor].append(checks.Motor(motor, from_decivolts(said.vol), *degc, enabled, alarms))
    state, control, teach, errors = statistics.mode(codes) if codes else (None, 0, 0, 0)
    usual = tuple(statistics.mode(said) for _, said in sorted(motors.items()))  # one frame may be corrupted
    joints = tuple((min(seen), max(seen)) for _, seen in sorted(angles.items()))
    return checks.Arm(_firmware(messages), asked, state, control, teach, errors, usual, joints)


def can_and_arm(setup: Setup) -> list[Finding]:
    import can

    from alam_piper import arm as piper
    from alam_piper.driver import STATES, WAITS

    interface, channel = setup.piper["can_interface"], setup.arguments.can
    findings = []
    if interface == "socketcan":
        link = read_link(channel)
        findings.append(checks.can_link(channel, link, Path("/proc/net/can").is_dir()))
        if link is not None and link.kind == "can":
            findings.append(checks.can_errors(link))
        if findings[0].colour == RED:
            put_right = "put the CAN interface right first (above)"
            return [*findings, Finding("arm", RED, "not looked at: no bus", put_right)]
    else:
        findings.append(Finding("CAN interface", GREEN, f"{interface}: no interface of the kernel"))
    try:
        heard, messages, asked = listen(interface, channel, setup.arguments.seconds)
    except (can.CanError, OSError) as error:
        start = f"ros2 run alam_piper piper_emulator --channel {channel}" if setup.arguments.emulate else "see above"
        return [*findings, Finding("arm", RED, f"not looked at: {error}", start)]
    arm = read_arm(messages, asked)
    return [
        *findings,
        checks.feedback(heard, setup.piper["max_feedback_age"]),
        checks.frames(heard),
        checks.talkers(heard),
        checks.firmware(arm),
        checks.arm_status(arm, STATES, WAITS),
        checks.motors(arm),
        checks.voltage(arm),
        checks.posture(arm, piper.LOW[:6].tolist(), piper.HIGH[:6].tolist()),
    ]


# Cameras


def realsense_devices() -> list[checks.Camera]:
    """Every RealSense that the library sees; asks at once, where its pipeline would wait 15 s."""
    import pyrealsense2 as rs

    info = rs.camera_info
    found = []
    for device in rs.context().query_devices():
        about = {
            name: device.get_info(what) if device.supports(what) else ""
            for name, what in (
                ("serial", info.serial_number),
                ("name", info.name),
                ("usb", info.usb_type_descriptor),
                ("firmware", info.firmware_version),
                ("recommended", info.recommended_firmware_version),
                ("sensor_serial", info.asic_serial_number),
            )
        }
        profiles = set()
        for sensor in device.query_sensors():
            for each in sensor.get_stream_profiles():
                if each.stream_type() == rs.stream.color and each.format() == rs.format.rgb8:
                    video = each.as_video_stream_profile()
                    profiles.add((video.width(), video.height(), each.fps()))
        found.append(checks.Camera(**about, profiles=frozenset(profiles)))
    return found


def usb_devices(devices: Path = Path("/sys/bus/usb/devices"), nodes: Path = Path("/dev/bus/usb")) -> list[checks.Usb]:
    """Every RealSense that the kernel sees, whether the library may open it or not."""
    found = []
    for path in sorted(devices.glob("*")):
        if _text(path / "idVendor") != REALSENSE_VENDOR or _text(path / "idProduct") not in REALSENSE_PRODUCTS:
            continue
        node = nodes / f"{int(_text(path / 'busnum')):03d}" / f"{int(_text(path / 'devnum')):03d}"
        parts = path.resolve().parts  # .../0000:00:14.0/usb2/2-1: the controller stands before its root hub
        hub = next((k for k, part in enumerate(parts) if part.startswith("usb") and part[3:].isdigit()), 0)
        controller = parts[hub - 1] if hub else f"bus {_text(path / 'busnum')}"
        allowed = os.access(node, os.R_OK | os.W_OK)
        found.append(
            checks.Usb(_text(path / "serial"), float(_text(path / "speed") or 0), controller, str(node), allowed)
        )
    return found


def cameras(setup: Setup) -> list[Finding]:
    wanted = setup.cameras()
    findings = []
    for each in (each for each in wanted if each.source == "opencv" and not Path(each.path).exists()):
        name, do = f"camera {each.role}", "plug it in, or correct `path` in config/piper/robot.yaml"
        findings.append(Finding(name, RED, f"source opencv: no {each.path!r}", do))
    if not any(each.source == "realsense" for each in wanted):
        return findings or [checks.camera(each, []) for each in wanted]
    seen, devices = realsense_devices(), usb_devices()
    megabytes = _text(Path("/sys/module/usbcore/parameters/usbfs_memory_mb"))
    return [
        *findings,
        *(checks.camera(each, seen) for each in wanted if each.source != "opencv"),
        checks.cameras_usb(wanted, seen, devices),
        checks.usb_memory(int(megabytes) if megabytes else None, len(seen)),
    ]


# Clocks and real time


class _Timex(ctypes.Structure):
    """The beginning of the kernel's struct timex; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_char * 256),
    )


def clock_discipline() -> tuple[bool, float]:
    """-> whether the wall clock is synchronised, and its greatest error [s]. Reads only. Raises OSError."""
    state, unsynchronised = _Timex(), 0x40  # STA_UNSYNC
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state)) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")
    return not state.status & unsynchronised, state.maxerror / 1e6


def clocks(setup: Setup) -> list[Finding]:
    source, cpus = Path("/sys/devices/system/clocksource/clocksource0"), Path("/sys/devices/system/cpu")
    governors = [_text(path) for path in sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_governor"))]
    real_time = _text(Path("/sys/kernel/realtime")) == "1" or "PREEMPT_RT" in platform.version()
    return [
        checks.resolution(time.clock_getres(time.CLOCK_MONOTONIC)),
        checks.synchronised(*clock_discipline()),
        checks.clock_source(_text(source / "current_clocksource"), _text(source / "available_clocksource")),
        checks.governors(governors),
        checks.kernel(platform.release(), real_time, _text(cpus / "isolated")),
    ]


def _measure(answer: Any, priority: int, core: int) -> None:
    """In a process of its own, so that locked memory and priority end with it: the arm's loop, with nothing to do."""
    from alam_piper.loop_io import RealTimeLoop

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    loop = RealTimeLoop(lambda now: None, PERIOD_S, priority, core)
    said = loop.start()
    time.sleep(MEASURE_S)
    loop.stop()
    wake = loop.figures.wake
    refused = [any(word in warning for warning in said) for word in ("SCHED_FIFO", "mlockall")]
    answer.send((not refused[0], not refused[1], wake.percentile_ms(99.9), wake.most_s * 1e3, wake.count))


def measure(priority: int, core: int) -> tuple[bool, bool, float, float, int]:
    """-> SCHED_FIFO worked, mlockall worked, wake-up lateness p99.9 and worst [ms], wakes. Raises TimeoutError."""
    from alam_piper import loop_io  # noqa: F401  # before the fork: the child must not wait for the disk

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(there, priority, core), daemon=True)
    child.start()
    there.close()
    try:
        if not here.poll(MEASURE_S + 10.0):
            raise TimeoutError("wanted the child process to measure its lateness, got no answer")
        return here.recv()
    finally:
        child.terminate()
        child.join(2.0)
        here.close()


def real_time(setup: Setup) -> list[Finding]:
    priority = setup.piper["priority"]
    limits = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_RTPRIO, resource.RLIMIT_MEMLOCK))
    facts = checks.RealTime(*limits, *measure(priority, setup.piper["cpu"]))
    return [checks.permission(facts, priority), checks.lateness(facts, PERIOD_S * 1e3)]


# Disk and memory


def write_speed(folder: Path) -> float:
    """-> [bytes/s] that reach the disk. Raises OSError for a folder that cannot be written."""
    block = os.urandom(8 * 2**20)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".preflight-") as file:
        begin, written = time.monotonic(), 0
        while written < WRITE_BYTES and time.monotonic() - begin < WRITE_S:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written += len(block)
        return written / (time.monotonic() - begin)


def profile_file() -> tuple[Path, bool]:
    """-> the Fast DDS profile that a launch from this shell uses, and whether the environment chose it."""
    chosen = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE", "")
    return (Path(chosen), True) if chosen else (share() / "config/fastdds.xml", False)


def segment_bytes(profile: Path) -> int:
    """-> the largest shared-memory segment in a Fast DDS profile [bytes]; 0: no file, or none in it."""
    try:
        nodes = ElementTree.parse(profile).iter()
        return max((int(node.text or 0) for node in nodes if node.tag.endswith("segment_size")), default=0)
    except (OSError, ElementTree.ParseError):
        return 0


def disk_and_memory(setup: Setup) -> list[Finding]:
    folder, shared = setup.arguments.record.resolve(), Path("/dev/shm")
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    segment = segment_bytes(profile_file()[0]) or 2**19  # the library's own
    return [
        checks.disk_space(str(folder), shutil.disk_usage(folder).free, setup.bytes_s()),
        checks.disk_speed(write_speed(folder), setup.bytes_s()),
        checks.memory(available),
        checks.shared_memory(shutil.disk_usage(shared).free if shared.is_dir() else None, segment),
    ]


# ROS


def other_nodes() -> list[str]:
    """-> full names of the nodes on this domain."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    name = f"preflight_{os.getpid()}"
    try:
        node = rclpy.create_node(name, context=context, start_parameter_services=False, enable_rosout=False)
        time.sleep(DISCOVERY_S)
        pairs = node.get_node_names_and_namespaces()
        node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)
    full = {f"{space.rstrip('/')}/{each}" for each, space in pairs}
    return sorted(each for each in full if each != f"/{name}" and not each.rpartition("/")[2].startswith("_"))


def ros(setup: Setup) -> list[Finding]:
    environ = os.environ.get
    missing = [name for name in ("rclpy", "alam_msgs") if importlib.util.find_spec(name) is None]
    path, chosen = profile_file()
    domain = environ("ROS_DOMAIN_ID") or "0"
    findings = [
        checks.environment(missing, share() != SOURCES),
        checks.profile(str(path), path.is_file(), chosen, segment_bytes(path), environ("RMW_IMPLEMENTATION", "")),
        checks.domain(domain, environ("ROS_AUTOMATIC_DISCOVERY_RANGE", "")),
    ]
    if all(each.colour != RED for each in findings):
        findings.append(checks.nodes(other_nodes()))
    return findings


def bundle(setup: Setup) -> list[Finding]:
    """Loads, fits the arm, fits the sizes of the cameras; nothing without --bundle."""
    from alam_models.contract import disagreements
    from alam_models.runtime import load_policy
    from alam_piper.arm import piper_contract

    path = setup.arguments.bundle
    if path is None:
        return []
    try:
        policy = load_policy(path)
    except ValueError as error:
        return [checks.bundle(str(path), str(error), (), 0.0, 1.0)]
    contract = policy.contract
    sentences = disagreements(wanted=contract, got=piper_contract())
    period_s = policy.replan / contract.control_rate_hz
    return [checks.bundle(str(path), "", sentences, policy.warm_up(), period_s)]


# The table

# Real time first: a child process is forked, and no library has threads yet.
STEPS: tuple[tuple[str, Callable[[Setup], list[Finding]]], ...] = (
    ("real time", real_time),
    ("clocks", clocks),
    ("disk and memory", disk_and_memory),
    ("CAN and arm", can_and_arm),
    ("cameras", cameras),
    ("ROS", ros),
    ("bundle", bundle),
)


def attempt(name: str, step: Callable[[Setup], list[Finding]], setup: Setup) -> list[Finding]:
    """-> what a step finds; its own failure is one red finding, so that the others go on."""
    if not setup.values:
        return [Finding(name, RED, "not looked at: no configuration", "correct the configuration first (above)")]
    try:
        return step(setup)
    except Exception as error:
        return [checks.failed(name, error)]


def show(finding: Finding, colours: bool) -> str:
    """-> the line of the table, and what to do below it."""
    word = f"{finding.colour:6}"
    line = f"{ANSI[finding.colour]}{word}\033[0m" if colours else word
    line = f"{line}  {finding.name:21} {finding.found}"
    return f"{line}\n        do: {finding.do}" if finding.do else line


def run(arguments: argparse.Namespace) -> int:
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    setup = Setup(arguments)
    findings: list[Finding] = []

    def tell(more: list[Finding]) -> None:
        findings.extend(more)
        for finding in more:
            print(show(finding, colours), flush=True)

    tell([setup.finding])
    for name, step in STEPS:
        tell(attempt(name, step, setup))
    counts = ", ".join(f"{sum(each.colour == colour for each in findings)} {colour}" for colour in checks.COLOURS)
    verdict = {GREEN: "ready", YELLOW: "ready, with the reservations above", RED: "do not move the arm yet"}
    worst = checks.worst(findings)
    print(f"\npreflight: {counts}: {verdict[worst]}")
    if arguments.json:
        body = {"colour": worst, "findings": [dataclasses.asdict(each) for each in findings]}
        arguments.json.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
    return 1 if worst == RED else 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(guarded("preflight", lambda: run(parse())))
