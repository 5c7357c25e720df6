"""What `preflight.py` makes of what it found: facts in, findings out. Pure.

Every function judges one thing. Bounds without a source named beside them are this project's own choice. A module longer
than most because a check is a few lines and there are many of them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

GREEN, YELLOW, RED = "green", "yellow", "red"
COLOURS = (GREEN, YELLOW, RED)  # from good to bad
Problem = tuple[str, str, str]  # colour, what is wrong, what to do


@dataclass(frozen=True)
class Finding:
    """One line of the table. do: what to do about it, "" when green."""

    name: str
    colour: str
    found: str
    do: str = ""


def judge(name: str, found: str, problems: Sequence[Problem]) -> Finding:
    """-> the finding with the colour of the worst problem, and every problem in words."""
    colour = max((problem[0] for problem in problems), key=COLOURS.index, default=GREEN)
    words = "; ".join(filter(None, (found, *(problem[1] for problem in problems))))
    return Finding(name, colour, words, "; ".join(dict.fromkeys(problem[2] for problem in problems)))


def failed(name: str, error: Exception) -> Finding:
    """-> what is said of a check that itself failed: the others go on."""
    return Finding(
        name,
        RED,
        f"the check itself failed: {type(error).__name__}: {error}",
        "do what the sentence says (a missing package: `make setup`), then check again",
    )


def worst(findings: Iterable[Finding]) -> str:
    """-> the colour of the worst finding."""
    return max((finding.colour for finding in findings), key=COLOURS.index, default=GREEN)


# The CAN bus

BIT_RATE = 1_000_000  # [bit/s] of the arm
JOINT_IDS, STATUS_ID, GRIPPER_ID = (0x2A5, 0x2A6, 0x2A7), 0x2A1, 0x2A8
HIGH_SPEED_IDS, LOW_SPEED_IDS = tuple(range(0x251, 0x257)), tuple(range(0x261, 0x267))
FEEDBACK_HZ = {STATUS_ID: 200.0, **dict.fromkeys(JOINT_IDS, 200.0), **dict.fromkeys(LOW_SPEED_IDS, 40.0)}
LESS = 0.9, 0.5  # share of the rate below which it is yellow, red
FIRMWARE_ID = 0x4AF
# What moves, powers or sets up the arm: nobody else may send it. Queries (472, 4AF) are none.
COMMAND_IDS = frozenset((0x121, *range(0x150, 0x160), 0x191, 0x422, 0x470, 0x471, 0x474, 0x475, 0x477, 0x479, 0x47A))
KNOWN_IDS = COMMAND_IDS | {
    *range(0x251, 0x257),
    *range(0x261, 0x267),
    *range(0x2A1, 0x2A9),
    *range(0x472, 0x480),
    *range(0x481, 0x487),
    FIRMWARE_ID,
}
LONG_QUEUE = 100  # frames; three are one period's joints
BRING_UP = (
    "sudo ip link set {0} down; sudo ip link set {0} type can bitrate 1000000 restart-ms 100; sudo ip link set {0} up"
)


@dataclass(frozen=True)
class Link:
    """A network interface as `ip` tells it. None: not told. bit_rate [bit/s], restart_ms [ms], queue [frames]."""

    kind: str
    up: bool
    state: str = ""
    bit_rate: int | None = None
    restart_ms: int | None = None
    tx_errors: int | None = None
    rx_errors: int | None = None
    bus_offs: int | None = None
    queue: int | None = None
    sent: int = 0


def parse_link(text: str) -> Link | None:
    """Output of `ip -details -statistics -json link show NAME` -> Link, None when it tells of no interface.

    Raises ValueError for text that is not JSON."""
    found = next((entry for entry in json.loads(text or "[]") if entry), None)
    if found is None:
        return None
    info = found.get("linkinfo", {})
    data, counts = info.get("info_data", {}), info.get("info_xstats", {})
    errors = data.get("berr_counter", {})
    kind = info.get("info_kind") or found.get("link_type", "")
    return Link(
        kind,
        "UP" in found.get("flags", ()),
        data.get("state", ""),
        data.get("bittiming", {}).get("bitrate"),
        data.get("restart_ms"),
        errors.get("tx"),
        errors.get("rx"),
        counts.get("bus_off"),
        found.get("txqlen"),
        found.get("stats64", {}).get("tx", {}).get("packets", 0),
    )


def can_link(channel: str, link: Link | None, kernel_has_can: bool) -> Finding:
    """The SocketCAN interface: there, up, 1 Mbit/s, restarting after a bus-off."""
    name = "CAN interface"
    if link is None and not kernel_has_can:
        do = "sudo modprobe -a can can_raw gs_usb; a kernel without these modules cannot drive the arm"
        return Finding(name, RED, f"no {channel}: this kernel has no SocketCAN loaded", do)
    if link is None:
        do = "plug the USB-CAN adapter in; `ip -brief link` lists the interfaces, --can names the arm's"
        return Finding(name, RED, f"no interface {channel}", do)
    bring_up, problems = BRING_UP.format(channel), []
    if link.kind in ("vcan", "vxcan"):
        words = f"{channel}: a virtual bus ({link.kind}), {'up' if link.up else 'down'}"
        return judge(name, words, [] if link.up else [(RED, "is down", f"sudo ip link set {channel} up")])
    if link.kind != "can":
        do = "name the arm's interface with --can; `ip -brief link` lists them"
        return Finding(name, RED, f"{channel} is no CAN interface but {link.kind or 'something else'}", do)
    if not link.up:
        problems.append((RED, "is down", bring_up))
    if link.bit_rate != BIT_RATE:
        problems.append((RED, f"wanted {BIT_RATE} bit/s", bring_up))
    if not link.restart_ms:
        problems.append((YELLOW, "stays off after a bus-off (restart-ms 0), unless its firmware restarts it", bring_up))
    if link.queue is not None and link.queue > LONG_QUEUE:
        do = f"sudo ip link set {channel} txqueuelen 32"
        problems.append((YELLOW, f"a queue of {link.queue} frames can hand the arm old targets after a stall", do))
    rate = "no bit rate" if link.bit_rate is None else f"{link.bit_rate / 1e6:g} Mbit/s"
    return judge(name, f"{channel}: {'up' if link.up else 'down'}, {rate}", problems)


def can_errors(link: Link) -> Finding:
    """Error state and error counters of the controller (CAN: warning from 96, passive from 128)."""
    counts = max(link.tx_errors or 0, link.rx_errors or 0)
    told = link.tx_errors is not None or link.rx_errors is not None
    found = f"{link.state or 'no error state told'}, error counters " + (
        f"tx {link.tx_errors}, rx {link.rx_errors}" if told else "not told by this adapter"
    )
    cable = "look at the cable, its two 120 ohm ends, the bit rate, and whether the arm has power"
    problems = []
    if link.state in ("BUS-OFF", "STOPPED", "ERROR-PASSIVE") or counts >= 128:
        problems.append((RED, "the bus does not work", f"{cable}; then set the interface down and up again"))
    elif link.state == "ERROR-WARNING" or counts > 0 or link.bus_offs:
        problems.append((YELLOW, f"errors on the bus, {link.bus_offs or 0} bus-offs so far", cable))
    return judge("CAN errors", found, problems)


@dataclass(frozen=True)
class Heard:
    """What came over the bus in `seconds` from `begin_s` [s]. stamps: id -> times of arrival [s], ascending.

    errors: error frames; sent_here: frames that other programs of this computer sent; broke: why listening ended."""

    begin_s: float
    seconds: float
    stamps: Mapping[int, Sequence[float]]
    errors: int = 0
    sent_here: int = 0
    broke: str = ""

    def rate_hz(self, number: int) -> float:
        return len(self.stamps.get(number, ())) / self.seconds if self.seconds > 0 else 0.0

    def gap_s(self, number: int) -> float:
        """-> the longest time [s] without this id, from beginning to end."""
        times = [self.begin_s, *self.stamps.get(number, ()), self.begin_s + self.seconds]
        return max(later - earlier for earlier, later in zip(times, times[1:], strict=False))


def feedback(heard: Heard, max_age_s: float) -> Finding:
    """Rate of every id that the driver needs, and the longest gap of the joints; max_age_s: at which the driver holds."""
    on = "switch the arm on and look at the CAN cable; in leader (teach) mode it is silent too: switch that off"
    if not any(number in KNOWN_IDS - COMMAND_IDS for number in heard.stamps):
        why = f" ({heard.broke})" if heard.broke else ""
        return Finding("feedback", RED, f"nothing from the arm in {heard.seconds:.1f} s{why}", on)
    rates = {number: heard.rate_hz(number) for number in FEEDBACK_HZ}
    joints = min(rates[number] for number in JOINT_IDS)
    gap = max(heard.gap_s(number) for number in JOINT_IDS)
    cable = "look at cable, adapter and USB hub; end other programs on this bus and on this computer"
    problems: list[Problem] = [(RED, heard.broke, on)] if heard.broke else []
    for limit, colour in ((LESS[1], RED), (LESS[0], YELLOW)):
        slow = [k for k, hz in FEEDBACK_HZ.items() if 0 < rates[k] < limit * hz]
        slow = [k for k in slow if colour == RED or rates[k] >= LESS[1] * FEEDBACK_HZ[k]]
        if slow:
            listed = ", ".join(f"{k:X} at {rates[k]:.0f} of {FEEDBACK_HZ[k]:.0f} Hz" for k in slow)
            problems.append((colour, listed, cable))
    if silent := [number for number, hz in rates.items() if hz == 0]:
        problems.append((RED, f"never came: {', '.join(f'{number:X}' for number in silent)}", on))
    elif gap >= max_age_s / 2:
        colour = RED if gap >= max_age_s else YELLOW
        problems.append((colour, f"the driver holds the arm at a gap of {max_age_s * 1e3:.0f} ms", cable))
    return judge("feedback", f"joints at {joints:.0f} Hz, longest gap {gap * 1e3:.0f} ms", problems)


def frames(heard: Heard) -> Finding:
    """Error frames, and ids that no Piper sends."""
    count = sum(len(times) for times in heard.stamps.values())
    unknown = sorted(number for number in heard.stamps if number not in KNOWN_IDS)
    problems: list[Problem] = []
    if heard.errors:
        colour = RED if heard.errors > heard.seconds else YELLOW
        do = "look at the cable, its two 120 ohm ends and the ground between adapter and arm"
        problems.append((colour, f"{heard.errors} error frames", do))
    if unknown:
        listed = ", ".join(f"{number:X}" for number in unknown[:8]) + (" ..." if len(unknown) > 8 else "")
        do = "something else shares the bus: give the arm a bus of its own"
        problems.append((YELLOW, f"ids that are not the arm's: {listed}", do))
    return judge("CAN frames", f"{count} frames of {len(heard.stamps)} ids", problems)


def talkers(heard: Heard) -> Finding:
    """Whether somebody else commands the arm."""
    others = {k: len(times) for k, times in heard.stamps.items() if k in COMMAND_IDS}
    problems: list[Problem] = []
    if others:
        listed = ", ".join(f"{number:X} {count} times" for number, count in sorted(others.items()))
        do = "end the other program (a launch, the vendor's tool), or unplug the leader arm from this bus"
        problems.append((RED, f"someone else commands the arm: {listed}", do))
    elif heard.sent_here:
        do = "end it: `pgrep -af 'piper|can'` may show it"
        problems.append((RED, f"a program of this computer sent {heard.sent_here} frames", do))
    return judge("other talkers", "" if problems else "none", problems)


# The arm


@dataclass(frozen=True)
class Motor:
    """What a motor says of itself: volts, degrees Celsius, whether it has power, and its alarms in words."""

    number: int
    voltage_v: float
    driver_degc: float
    motor_degc: float
    enabled: bool
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arm:
    """What the arm told. firmware: text of its answer; asked: whether it was asked at all; control, state, teach: codes of
    frame 2A1, the most frequent; errors: its 16 error bits, those that stayed set.

    joints: (lowest, highest) position [rad] of each joint that was heard."""

    firmware: str
    asked: bool
    state: int | None
    control: int = 0
    teach: int = 0
    errors: int = 0
    motors: tuple[Motor, ...] = ()
    joints: tuple[tuple[float, float], ...] = ()


OLDEST = (1, 6, 3)  # from here on the kinematics are those of alam_piper.arm (piper_sdk: dh_is_offset=1)
CONTROL_WORDS = {
    0: "standby",
    1: "CAN control",
    2: "teach",
    3: "Ethernet control",
    4: "Wi-Fi control",
    5: "remote control",
    6: "linkage teach input",
    7: "offline trajectory",
}  # piper_sdk, CtrlMode
WARM_DEGC, HOT_DEGC = 60.0, 75.0
VOLTS_GREEN, VOLTS_YELLOW = (22.5, 27.0), (20.0, 30.0)  # the supply is 24 V
MOVED_RAD, BEYOND_RAD, FAR_BEYOND_RAD = 0.02, 0.01, 0.05


def firmware(arm: Arm) -> Finding:
    """The version that the arm answers."""
    name = "firmware"
    if not arm.asked:
        return Finding(name, RED, "not asked: the bus is silent", "make the arm's feedback come first (above)")
    match = re.search(r"S-V(\d+)\.(\d+)-(\d+)", arm.firmware)
    if not arm.firmware:
        return Finding(name, RED, "no answer", "switch the arm off and on; look whether another program talks to it")
    update = "update the arm with the vendor's tool to S-V1.6-3 or later"
    if match is None:
        return Finding(name, YELLOW, f"unknown version {arm.firmware!r}", f"{update}, or tell who maintains this")
    if tuple(map(int, match.groups())) < OLDEST:
        words = f"{match[0]}: its kinematics differ by 2 deg from those that keep the hand off the table"
        return Finding(name, YELLOW, words, f"{update}; until then a larger table_clearance")
    return Finding(name, GREEN, match[0])


def arm_status(arm: Arm, stops: Mapping[int, str], waits: Mapping[int, str]) -> Finding:
    """Mode, status and error bits of frame 2A1. stops, waits: status codes that forbid, or delay, motion, in words."""
    name = "arm status"
    if arm.state is None:
        return Finding(name, RED, "not told", "switch the arm on and look at the CAN cable")
    mode = CONTROL_WORDS.get(arm.control, f"control mode {arm.control}")
    problems: list[Problem] = []
    if arm.control in (2, 6) or arm.teach:
        do = "switch it off at the arm (its button; a leader arm: make it a follower), then switch the arm off and on"
        problems.append((RED, "leader (teach) mode: it takes no commands", do))
    elif arm.control not in (0, 1):
        problems.append((YELLOW, "something else than CAN has control", "give control back to CAN"))
    if arm.state in stops:
        do = "remove the cause; hold the arm (it sags), then `python tools/robot.py reset`, and check again"
        problems.append((RED, stops[arm.state], do))
    elif arm.state:
        do = "bring the arm by hand to where it can start from, then switch it off and on"
        problems.append((YELLOW, waits.get(arm.state, f"status code {arm.state:X}"), do))
    limits, comms = arm.errors >> 8, arm.errors & 0xFF
    if comms:
        do = "switch the arm off, look at its inner connectors, switch it on"
        problems.append((RED, f"no communication with joint {_bits(comms)}", do))
    if limits:
        problems.append((YELLOW, f"joint {_bits(limits)} at its limit", "move it inside its limits by hand"))
    return judge(name, mode, problems)


def motors(arm: Arm) -> Finding:
    """Alarms, temperatures and power of the six motors."""
    name = "motors"
    problems: list[Problem] = []
    if missing := sorted({*range(1, 7)} - {motor.number for motor in arm.motors}):
        listed = ", ".join(map(str, missing))
        problems.append((RED, f"no word of motor {listed}", "switch the arm on; look at its inner connectors"))
    if not arm.motors:
        return judge(name, "", problems)
    for motor in arm.motors:
        for alarm in motor.alarms:
            do = "remove the cause (free it, let it cool, look at the supply); `python tools/robot.py reset` sags the arm"
            problems.append((RED, f"motor {motor.number}: {alarm}", do))
    hottest = max(arm.motors, key=lambda motor: max(motor.motor_degc, motor.driver_degc))
    degc = max(hottest.motor_degc, hottest.driver_degc)
    if degc >= WARM_DEGC:
        colour = RED if degc >= HOT_DEGC else YELLOW
        problems.append((colour, f"motor {hottest.number} is hot", "let it cool before it moves"))
    if powered := [str(motor.number) for motor in arm.motors if motor.enabled]:
        do = "look who gave it; to take it away hold the arm (it sags) and switch it off"
        problems.append((YELLOW, f"motor {', '.join(powered)} has power already", do))
    return judge(name, f"{len(arm.motors)} motors, hottest {degc:.0f} degC", problems)


def voltage(arm: Arm) -> Finding:
    """The supply as the motors measure it."""
    if not arm.motors:
        return Finding("supply", RED, "not told", "switch the arm on and look at the CAN cable")
    low, high = (limit(motor.voltage_v for motor in arm.motors) for limit in (min, max))
    problems: list[Problem] = []
    if low < VOLTS_GREEN[0] or high > VOLTS_GREEN[1]:
        colour = RED if low < VOLTS_YELLOW[0] or high > VOLTS_YELLOW[1] else YELLOW
        do = "use the vendor's 24 V supply, on a short cable; a weak one gives way when the arm accelerates"
        problems.append((colour, "wanted 24 V", do))
    return judge("supply", f"{low:.1f} to {high:.1f} V", problems)


def posture(arm: Arm, low: Sequence[float], high: Sequence[float]) -> Finding:
    """Whether the joints are inside their limits low, high (6,) [rad], still, and measured at all."""
    name = "posture"
    if len(arm.joints) < 6:
        return Finding(name, RED, "not told: joint feedback is missing", "make the arm's feedback come first (above)")
    problems: list[Problem] = []
    beyond = [max(low[k] - seen[0], seen[1] - high[k]) for k, seen in enumerate(arm.joints)]
    if out := [k for k, angle in enumerate(beyond) if angle > BEYOND_RAD]:
        colour = RED if max(beyond) > FAR_BEYOND_RAD else YELLOW
        listed = ", ".join(f"joint {k + 1} by {math.degrees(beyond[k]):.1f} deg" for k in out)
        do = "without power, move it inside by hand; if it is inside, its zero is wrong: set it with the vendor's tool"
        problems.append((colour, f"beyond its limits: {listed}", do))
    if moved := [str(k + 1) for k, (a, b) in enumerate(arm.joints) if b - a > MOVED_RAD]:
        do = "let go of the arm, end whatever moves it, and check again"
        problems.append((YELLOW, f"joint {', '.join(moved)} moved meanwhile", do))
    if all(seen == (0.0, 0.0) for seen in arm.joints):
        do = "move a joint by hand and check again: if it still reads 0 the arm is in leader (teach) mode, switch that off"
        problems.append((YELLOW, "exactly 0 in every joint: folded, or not measured", do))
    angles = " ".join(f"{math.degrees((a + b) / 2):.1f}" for a, b in arm.joints)
    return judge(name, f"{angles} deg", problems)


def _bits(value: int) -> str:
    return ", ".join(str(bit + 1) for bit in range(8) if value >> bit & 1)


# Cameras


@dataclass(frozen=True)
class Wanted:
    """What a camera node will ask for. width, height [px], fps [Hz]; path: of source opencv."""

    role: str
    source: str
    serial: str
    width: int
    height: int
    fps: int
    path: str = ""

    @property
    def profile(self) -> tuple[int, int, int]:
        return self.width, self.height, self.fps

    @property
    def bytes_s(self) -> int:
        """-> what the stream gives [bytes/s] as rgb8."""
        return self.width * self.height * 3 * self.fps


@dataclass(frozen=True)
class Camera:
    """A RealSense as the library sees it. usb: its "USB type" such as 3.2; profiles: (width, height, fps) in colour;
    sensor_serial: the serial number that USB knows it by."""

    serial: str
    name: str = "RealSense"
    usb: str = ""
    firmware: str = ""
    recommended: str = ""
    sensor_serial: str = ""
    profiles: frozenset[tuple[int, int, int]] = frozenset()


@dataclass(frozen=True)
class Usb:
    """A RealSense as the kernel sees it. mbit_s: speed of the link; allowed: whether its node may be opened."""

    serial: str
    mbit_s: float
    controller: str
    node: str
    allowed: bool


REPLUG = "plug it into a USB 3 port of the computer itself with a USB 3 cable, no hub between"


def camera(wanted: Wanted, cameras: Sequence[Camera]) -> Finding:
    """One view: there, on USB 3, with the profile that is asked for."""
    name = f"camera {wanted.role}"
    if wanted.source != "realsense":
        return Finding(name, GREEN, f"source {wanted.source}: no RealSense asked for")
    listed = ", ".join(f"{each.serial} ({each.name})" for each in cameras) or "none"
    option = f"--{wanted.role.replace('_', '-')}-serial"
    if not wanted.serial:
        do = f"name its serial number with {option}, here and in the launch"
        if not cameras:
            return Finding(name, RED, "no RealSense there", f"plug it in; {do}")
        return Finding(name, YELLOW, f"no serial number given; there: {listed}", do)
    chosen = next((each for each in cameras if each.serial == wanted.serial), None)
    if chosen is None:
        return Finding(name, RED, f"no {wanted.serial}; there: {listed}", f"{REPLUG}; or correct {option}")
    width, height, fps = wanted.profile
    profile = f"{width}x{height}@{fps}"
    problems: list[Problem] = []
    if wanted.profile not in chosen.profiles:
        rates = sorted(p[2] for p in chosen.profiles if p[:2] == wanted.profile[:2])
        there = f"{width}x{height} at {', '.join(map(str, rates))} Hz" if rates else "other sizes"
        do = f"{REPLUG} (USB 2 offers fewer), or change the size in config/piper/robot.yaml"
        problems.append((RED, f"does not offer {profile}, only {there}", do))
    if chosen.usb.startswith(("1", "2")):
        problems.append((YELLOW, "runs at USB 2 speed", REPLUG))
    elif not chosen.usb:
        problems.append((YELLOW, "does not say its USB speed", "look at `lsusb -t`: 5000M or more is USB 3"))
    if _version(chosen.firmware) < _version(chosen.recommended):
        do = "update it with `rs-fw-update` or the RealSense Viewer"
        problems.append((YELLOW, f"firmware older than the recommended {chosen.recommended}", do))
    about = f"USB {chosen.usb or '?'}, firmware {chosen.firmware or '?'}"
    return judge(name, f"{chosen.name} {chosen.serial}, {about}, {profile}", problems)


def cameras_usb(wanted: Sequence[Wanted], cameras: Sequence[Camera], devices: Sequence[Usb]) -> Finding:
    """What the kernel sees against what the library sees, and where the cameras are plugged in."""
    asked = [each for each in wanted if each.source == "realsense"]
    name, problems = "camera USB", list[Problem]()
    serials = [each.serial for each in asked if each.serial]
    if len(set(serials)) < len(serials):
        problems.append((RED, f"both views name camera {serials[0]}", "give each view a camera of its own"))
    if shut := [each.node for each in devices if not each.allowed]:
        do = "sudo docker/host_setup.sh puts the udev rule; sudo usermod -aG plugdev $USER; log in anew, plug in again"
        problems.append((RED, f"no permission to open {', '.join(shut)}", do))
    elif asked and len(devices) > len(cameras):
        do = "pull the cameras and plug them in again; in a container: pass /dev/bus/usb and /run/udev"
        problems.append((RED, f"the library sees {len(cameras)} of {len(devices)} cameras", do))
    if not devices:
        words = f"{len(cameras)} seen by the library, none by the kernel's list"
        return judge(name, words, problems)
    on = Counter(each.controller for each in devices)
    slow = [each for each in devices if each.mbit_s < 5000]
    if len(slow) > 1 and len({each.controller for each in slow}) < len(slow):
        problems.append((YELLOW, "two cameras share a controller at USB 2 speed", REPLUG))
    speeds = ", ".join(f"{each.mbit_s:.0f} Mbit/s" for each in devices)
    where = "one controller" if len(on) == 1 else f"{len(on)} controllers"
    return judge(name, f"{len(devices)} at {speeds}, on {where}", problems)


def usb_memory(megabytes: int | None, count: int) -> Finding:
    """Memory for USB transfers of all programs together [MiB]; the kernel's 16 is short of two cameras. 0: no limit."""
    found = "not told by this kernel" if megabytes is None else f"{megabytes} MiB" if megabytes else "no limit"
    do = "sudo docker/host_setup.sh, or: echo 256 | sudo tee /sys/module/usbcore/parameters/usbfs_memory_mb"
    short = megabytes is not None and 0 < megabytes < 64 and count > 0
    return judge("USB memory", found, [(YELLOW, "short of two cameras", do)] if short else [])


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


# Clocks and the kernel


def resolution(seconds: float) -> Finding:
    """Of CLOCK_MONOTONIC [s]."""
    problems: list[Problem] = []
    if seconds > 1e-6:
        do = "boot a kernel with high-resolution timers (no `highres=off`)"
        problems.append((RED if seconds > 1e-3 else YELLOW, "too coarse for a loop of 200 Hz", do))
    return judge("monotonic clock", f"resolution {seconds * 1e9:.0f} ns", problems)


def synchronised(is_synchronised: bool, error_s: float) -> Finding:
    """The wall clock as the kernel's clock discipline tells it; error_s: its greatest error [s]."""
    problems: list[Problem] = []
    if not is_synchronised:
        do = "sudo timedatectl set-ntp true, or install chrony; recordings of several computers need it"
        problems.append((YELLOW, "nobody keeps it in time", do))
    told = f"synchronised within {error_s * 1e3:.0f} ms" if is_synchronised else "not synchronised"
    return judge("wall clock", told, problems)


def clock_source(current: str, available: str) -> Finding:
    """The counter behind the clocks: reading any other than those of the processor leaves the process for long."""
    good = current in ("tsc", "arch_sys_counter", "kvm-clock")
    do = f"boot with `tsc=reliable` (available: {available or '?'}), or update the firmware of the computer"
    problems: list[Problem] = [] if good else [(YELLOW, "slow to read", do)]
    return judge("clock source", current or "not told", problems)


def governors(names: Sequence[str]) -> Finding:
    """The frequency governor of each core; none: a machine without frequency scaling."""
    if not names:
        return Finding("CPU governor", GREEN, "no frequency scaling here")
    found = ", ".join(f"{count} x {name}" for name, count in Counter(names).most_common())
    do = "sudo cpupower frequency-set -g performance"
    slow = set(names) != {"performance"}
    return judge("CPU governor", found, [(YELLOW, "cores take time to speed up", do)] if slow else [])


def kernel(release: str, real_time: bool, isolated: str) -> Finding:
    """PREEMPT_RT or not, and the cores that the scheduler leaves alone."""
    do = "Ubuntu: sudo pro enable realtime-kernel; Debian: sudo apt install linux-image-rt-amd64"
    problems: list[Problem] = [] if real_time else [(YELLOW, "no PREEMPT_RT: lateness grows under load", do)]
    return judge("kernel", f"{release}, isolated cores: {isolated or 'none'}", problems)


# Real time


@dataclass(frozen=True)
class RealTime:
    """What a child process was permitted, and how late it woke. rtprio: soft limit; memlock [bytes], -1: no limit.

    late_p999_ms, late_most_ms [ms]: of `wakes` deadlines of the control loop."""

    rtprio: int
    memlock: int
    fifo: bool
    locked: bool
    late_p999_ms: float
    late_most_ms: float
    wakes: int


PERMIT = (
    "sudo docker/host_setup.sh puts the limits; sudo usermod -aG realtime $USER; log in anew (a container: ulimits)"
)


def permission(facts: RealTime, priority: int) -> Finding:
    """SCHED_FIFO at the loop's priority, and locked memory: tried, not read off the limits alone."""
    limit = "unlimited" if facts.memlock < 0 else f"{facts.memlock // 1024} KiB"
    problems: list[Problem] = []
    if priority and not facts.fifo:
        problems.append((YELLOW, f"SCHED_FIFO {priority} is not permitted: timing depends on the load", PERMIT))
    if priority and not facts.locked:
        problems.append((YELLOW, "mlockall is not permitted: a page fault may delay the loop", PERMIT))
    granted = (
        "" if problems else f", SCHED_FIFO {priority} and mlockall work" if priority else ", priority 0: none asked"
    )
    return judge("real-time permission", f"rtprio {facts.rtprio}, memlock {limit}{granted}", problems)


def lateness(facts: RealTime, period_ms: float) -> Finding:
    """How late a loop like the arm's wakes: a fifth of a period is good, a period is a deadline missed."""
    late = facts.late_p999_ms
    problems: list[Problem] = []
    if not late < period_ms / 5:
        colour = YELLOW if late < period_ms else RED
        do = "end what loads this computer; performance governor, real-time permission, then a PREEMPT_RT kernel"
        problems.append((colour, f"of a period of {period_ms:g} ms", do))
    how = "SCHED_FIFO" if facts.fifo else "without real-time priority"
    found = f"p99.9 {late:.2f} ms, worst {facts.late_most_ms:.2f} ms of {facts.wakes} wakes ({how})"
    return judge("wake-up lateness", found, problems)


# Disk and memory

GIB, MIB = 1024**3, 1024**2
PROCESSES = 8  # of a launch with a recorder and a person's tools; each takes a segment of shared memory


def disk_space(folder: str, free: int, needed_s: float) -> Finding:
    """free [bytes]; needed_s: what both cameras give [bytes/s]. Half an hour is good, five minutes is the least."""
    minutes = free / needed_s / 60
    problems: list[Problem] = []
    if minutes < 30:
        do = f"make room in {folder}, or name another place with --record"
        problems.append((RED if minutes < 5 else YELLOW, "too little for a session", do))
    found = f"{free / GIB:.0f} GiB free in {folder}: {minutes:.0f} min of {needed_s / 1e6:.0f} MB/s, uncompressed"
    return judge("disk space", found, problems)


def disk_speed(written_s: float, needed_s: float) -> Finding:
    """written_s: measured to the disk [bytes/s]; needed_s: what both cameras give [bytes/s]. Twice of it is good."""
    problems: list[Problem] = []
    if written_s < 2 * needed_s:
        colour = RED if written_s < needed_s else YELLOW
        do = "record to a local SSD (--record names the place); end what else writes to this disk"
        problems.append((colour, f"two cameras give {needed_s / 1e6:.0f} MB/s uncompressed", do))
    return judge("disk speed", f"{written_s / 1e6:.0f} MB/s written", problems)


def memory(available: int) -> Finding:
    """MemAvailable [bytes]."""
    problems: list[Problem] = []
    if available < 2 * GIB:
        colour = RED if available < GIB / 2 else YELLOW
        problems.append((colour, "wanted 2 GiB", "end what else runs on this computer"))
    return judge("memory", f"{available / GIB:.1f} GiB available", problems)


def shared_memory(free: int | None, segment: int) -> Finding:
    """free [bytes] of /dev/shm, None: there is none; segment [bytes]: what each process of a launch takes of it."""
    do = "give the container more (--ipc=host or --shm-size), or clear what ended programs left in /dev/shm/fastrtps_*"
    if free is None:
        return Finding("shared memory", RED, "no /dev/shm", f"mount a tmpfs there; {do}")
    need = segment * PROCESSES
    problems: list[Problem] = []
    if free < 2 * need:
        words = f"{PROCESSES} processes take {need / MIB:.0f} MiB"
        problems.append((RED if free < need else YELLOW, words, do))
    return judge("shared memory", f"{free / MIB:.0f} MiB free in /dev/shm", problems)


# ROS

DOMAINS = (*range(102), *range(215, 233))  # those whose ports are free on Linux


def environment(missing: Sequence[str], configured: bool) -> Finding:
    """missing: Python modules that are not to be found; configured: whether alam_bringup is."""
    lacking = [*missing, *([] if configured else ["the built workspace (alam_bringup)"])]
    do = "source tools/env.sh in this shell; if that does not help: make setup"
    if lacking:
        return Finding("ROS environment", RED, f"missing: {', '.join(lacking)}", do)
    return Finding("ROS environment", GREEN, "rclpy, alam_msgs and the workspace are there")


def profile(path: str, exists: bool, chosen: bool, segment: int, middleware: str) -> Finding:
    """The Fast DDS profile of the launch. chosen: by the environment, not by the launch; segment [bytes], 0: none in it."""
    problems: list[Problem] = []
    if not exists:
        do = "unset FASTRTPS_DEFAULT_PROFILES_FILE: the launch sets its own" if chosen else "make setup"
        problems.append((RED, "is not there: camera images get lost", do))
    elif segment < MIB:
        do = "unset FASTRTPS_DEFAULT_PROFILES_FILE: the launch sets its own"
        problems.append((YELLOW, "has no shared memory that holds an image", do))
    if middleware and "fastrtps" not in middleware:
        problems.append((YELLOW, f"{middleware} does not read it", "unset RMW_IMPLEMENTATION"))
    whose = "from the environment" if chosen else "set by the launch"
    return judge("Fast DDS profile", f"{path}, {whose}", problems)


def domain(text: str, discovery: str) -> Finding:
    """ROS_DOMAIN_ID and how far nodes look for others."""
    if not text.strip().isdecimal() or int(text) not in DOMAINS:
        do = "export ROS_DOMAIN_ID with a number from 0 to 101"
        return Finding("ROS domain", RED, f"ROS_DOMAIN_ID is {text!r}", do)
    problems: list[Problem] = []
    if discovery not in ("", "LOCALHOST", "OFF"):
        do = "unset ROS_AUTOMATIC_DISCOVERY_RANGE, or choose a ROS_DOMAIN_ID that nobody else on the network has"
        problems.append((YELLOW, "whoever is on the network and this domain can command the robot", do))
    return judge("ROS domain", f"{int(text)}, discovery {discovery or 'LOCALHOST'}", problems)


def nodes(names: Sequence[str]) -> Finding:
    """Nodes that others run on this domain; those of a launch would refuse to start twice."""
    ours = [name for name in names if name in ("/piper", "/policy") or name.startswith("/camera_")]
    found = ", ".join(names) or "none"
    if ours:
        return Finding(
            "other nodes", RED, found, "a graph runs already: end that launch, or choose another ROS_DOMAIN_ID"
        )
    do = "look whether they belong there; another ROS_DOMAIN_ID keeps them apart"
    return judge("other nodes", found, [(YELLOW, "unknown here", do)] if names else [])


def bundle(path: str, error: str, sentences: Sequence[str], inference_s: float, period_s: float) -> Finding:
    """error: why it does not load; sentences: where its contract differs from the arm's and the cameras' settings.

    inference_s: of one chunk [s]; period_s: between replans [s]."""
    name = "bundle"
    if error:
        return Finding(name, RED, error, "name the folder of an exported policy with --bundle; export it again")
    problems: list[Problem] = [
        (RED, sentence, "take a bundle that was trained for this arm and these cameras") for sentence in sentences
    ]
    if inference_s > period_s:
        do = "use a faster computer or a smaller policy; the arm holds whenever its chunk has run out"
        problems.append((YELLOW, f"slower than it is to replan ({period_s * 1e3:.0f} ms)", do))
    return judge(name, f"{path}: a chunk takes {inference_s * 1e3:.0f} ms", problems)
