"""Judgements of `preflight.py`: facts of a robot computer in, findings out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alam_piper.arm import firmware_objection
from alam_piper.driver import STATES, WAITS

GREEN, YELLOW, RED = "green", "yellow", "red"
BITRATE = 1_000_000
FAST_HZ, FEEDBACK_IDS = 200.0, (0x2A1, 0x2A5, 0x2A6, 0x2A7)
COMMAND_IDS = (*range(0x150, 0x160), 0x470, 0x471)
HOT_MOTOR_C, HOT_DRIVER_C = 60.0, 70.0
LOW_V, HIGH_V = 20.0, 30.0  # the arm is fed with 24 V
WAKE_GOAL_MS = 0.5
FREE_GIB = 20.0  # about ten minutes of two cameras as lossless video, and room to spare
WRITE_MB_S = 60.0  # two raw 640x480x30 streams
SHM_MIB = 128  # Fast DDS' segments of five nodes


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, green | yellow | red, what was found, and what to do about it."""

    name: str
    colour: str
    found: str
    do: str = ""


def can_link(channel: str, link: dict[str, Any] | None) -> Finding:
    """link: of `ip -details -statistics -json link show`, None when there is no such interface."""
    if link is None:
        return Finding(
            "CAN link", RED, f"no interface {channel}", "plug the adapter in; docker/host_setup.sh sets it up"
        )
    info = link.get("linkinfo", {}).get("info_data", {})
    kind = link.get("linkinfo", {}).get("info_kind", "")
    if "UP" not in link.get("flags", []):
        return Finding("CAN link", RED, f"{channel} is down", f"sudo ip link set {channel} up type can bitrate 1000000")
    if kind in ("vxcan", "vcan"):
        return Finding("CAN link", YELLOW, f"{channel} is a virtual bus ({kind})", "good for an emulated arm only")
    bitrate = info.get("bittiming", {}).get("bitrate")
    if bitrate != BITRATE:
        return Finding("CAN link", RED, f"{channel} at {bitrate} bit/s", "set it to bitrate 1000000")
    state = info.get("state", "unknown")
    errors = info.get("berr_counter", {})
    found = f"{channel} up, 1 Mbit/s, {state}, errors tx {errors.get('tx', 0)} rx {errors.get('rx', 0)}"
    if state == "ERROR-ACTIVE" and not any(errors.values()):
        return Finding("CAN link", GREEN, found)
    colour = RED if state in ("BUS-OFF", "STOPPED", "ERROR-PASSIVE") else YELLOW
    return Finding(
        "CAN link", colour, found, "check the plug, the cable's length and the 120 ohm resistors at both ends"
    )


def traffic(arrivals: Sequence[tuple[float, int]], seconds: float) -> list[Finding]:
    """arrivals: (time [s], identifier) of every frame heard in so many seconds, while nobody here sent any."""
    counts = Counter(number for _, number in arrivals)
    talkers = sorted(number for number in counts if number in COMMAND_IDS)
    others = Finding("other senders", GREEN, "none")
    if talkers:
        heard = ", ".join(f"{number:X}" for number in talkers)
        others = Finding(
            "other senders", RED, f"commands {heard} from another program", "end it: two cannot drive one arm"
        )
    rates = [counts[number] / seconds for number in FEEDBACK_IDS]
    if not any(rates):
        return [Finding("feedback", RED, "silent", "switch the arm on, check the plug"), others]
    if not any(rates[1:]):
        return [Finding("feedback", RED, "the joints are silent", "switch leader (teach) mode off at the arm"), others]
    found = f"{min(rates):.0f} to {max(rates):.0f} Hz"
    if min(rates) >= 0.97 * FAST_HZ:
        return [Finding("feedback", GREEN, found), others]
    colour = YELLOW if min(rates) >= 0.85 * FAST_HZ else RED
    return [
        Finding("feedback", colour, f"{found}, wanted {FAST_HZ:.0f}", "another program loads the bus or this host"),
        others,
    ]


def firmware(version: str) -> Finding:
    """version as the arm tells it, "S-Vx.y-z"; "" when it did not answer."""
    if not version:
        return Finding("firmware", RED, "no answer", "is the arm on, and not in leader mode?")
    if objection := firmware_objection(version):
        return Finding("firmware", RED, version, objection.removeprefix("firmware: "))
    return Finding("firmware", GREEN, version)


def arm_state(state: int, teaching: bool, powered: Sequence[bool], alarms: Sequence[str]) -> Finding:
    """state: code of frame 2A1; powered: of each motor; alarms: in the motors' own words."""
    words = [STATES.get(state) or WAITS.get(state) or f"status code {state:X}"] if state else []
    if words or alarms:
        do = "clear the cause, support the arm, then /robot/reset"
        return Finding("arm", RED, "; ".join([*words, *alarms]), do)
    if teaching:
        return Finding("arm", RED, "leader (teach) mode", "switch it off with the arm's button")
    if any(powered):
        return Finding(
            "arm", YELLOW, f"{sum(powered)} of {len(powered)} motors have power", "it was not parked: keep clear"
        )
    return Finding("arm", GREEN, "no errors, without power")


def posture(position: Sequence[float], low: Sequence[float], high: Sequence[float], slack_rad: float = 0.05) -> Finding:
    """position, low, high (7,) [rad], [m]: measured, and the arm's limits."""
    out = [
        k + 1
        for k, (x, a, b) in enumerate(zip(position, low, high, strict=True))
        if not a - slack_rad <= x <= b + slack_rad
    ]
    if out:
        found = f"joint {', '.join(map(str, out))} outside its limits"
        return Finding("posture", RED, found, "move it inside by hand, or set its zero anew with the vendor's tool")
    return Finding("posture", GREEN, "inside the limits")


def health(motor_c: Sequence[float], driver_c: Sequence[float], volts: Sequence[float]) -> Finding:
    """Temperatures [degC] and voltages [V] by motor."""
    found = f"motors up to {max(motor_c):.0f} degC, drivers {max(driver_c):.0f} degC, {min(volts):.1f} V"
    if max(motor_c) > HOT_MOTOR_C or max(driver_c) > HOT_DRIVER_C:
        return Finding("motors", YELLOW, found, "let it cool down")
    if not LOW_V <= min(volts) <= max(volts) <= HIGH_V:
        return Finding("motors", YELLOW, found, "check the 24 V supply")
    return Finding("motors", GREEN, found)


def camera(
    role: str, serial: str, found: Sequence[dict[str, str]], profiles: Sequence[tuple[int, int, int]]
) -> Finding:
    """serial: wanted, "" none given; found: name, serial, usb of each; profiles: the (width, height, fps) on offer."""
    name = f"camera {role}"
    there = ", ".join(device["serial"] for device in found) or "none"
    if not serial:
        return Finding(name, RED, f"no serial number given, there are: {there}", f"--{role.replace('_', '-')}-serial")
    match = [device for device in found if device["serial"] == serial]
    if not match:
        return Finding(name, RED, f"wanted serial {serial}, got {there}", "plug it in, or correct the serial number")
    device = match[0]
    words = f"{device['name']} {device['serial']}, USB {device['usb']}"
    if (640, 480, 30) not in profiles:
        return Finding(name, RED, f"{words}: no 640x480 at 30 Hz", "use a USB 3 port and cable")
    if not device["usb"].startswith("3"):
        return Finding(name, YELLOW, words, "use a USB 3 port and cable: on USB 2 two cameras do not fit")
    return Finding(name, GREEN, words)


def clocks(source: str, synchronised: bool, governor: str) -> list[Finding]:
    """source: the kernel's clock source; governor: of the CPUs' frequency, "" when there is none."""
    found = [Finding("clock source", GREEN, source)]
    if source not in ("tsc", "arch_sys_counter", "kvm-clock"):
        found = [Finding("clock source", YELLOW, source, "slow to read; boot with clocksource=tsc tsc=reliable")]
    if synchronised:
        found.append(Finding("wall clock", GREEN, "synchronised"))
    else:
        do = "install chrony; it may jump during a recording, the control loop does not use it"
        found.append(Finding("wall clock", YELLOW, "not synchronised", do))
    if governor in ("", "performance"):
        found.append(Finding("CPU governor", GREEN, governor or "none"))
    else:
        found.append(Finding("CPU governor", YELLOW, governor, "sudo cpupower frequency-set -g performance"))
    return found


def real_time(permitted: bool, locked: bool, wake_p999_ms: float) -> Finding:
    """permitted: SCHED_FIFO; locked: memory; wake_p999_ms: lateness of a 200 Hz thread, 99.9th percentile."""
    found = f"SCHED_FIFO {'permitted' if permitted else 'refused'}, wakes {wake_p999_ms:.2f} ms late (p99.9)"
    if not permitted or not locked:
        return Finding("real time", RED, found, "sudo docker/host_setup.sh, join the group realtime, log in anew")
    if wake_p999_ms > WAKE_GOAL_MS:
        return Finding("real time", YELLOW, found, f"wanted {WAKE_GOAL_MS} ms: a PREEMPT_RT kernel, fewer programs")
    return Finding("real time", GREEN, found)


def throttling(runtime_us: int) -> Finding:
    """runtime_us [us]: of each second, what the kernel leaves to real-time threads; -1: all of it."""
    if runtime_us < 0:
        return Finding("throttling", GREEN, "the kernel never stops real-time threads")
    found = f"the kernel stops real-time threads of a core that have run for {runtime_us / 1e3:.0f} ms of a second"
    return Finding("throttling", YELLOW, found, "sudo docker/host_setup.sh, or kernel.sched_rt_runtime_us=-1 by sysctl")


def storage(free_gib: float, write_mb_s: float, shm_mib: float) -> list[Finding]:
    """Room [GiB] and speed [MB/s] where recordings go, shared memory [MiB] for DDS."""
    disk = f"{free_gib:.0f} GiB free, writes {write_mb_s:.0f} MB/s"
    if free_gib < 2:
        found = [Finding("disk", RED, disk, "make room")]
    elif free_gib < FREE_GIB or write_mb_s < WRITE_MB_S:
        found = [Finding("disk", YELLOW, disk, f"{FREE_GIB:.0f} GiB and {WRITE_MB_S:.0f} MB/s keep a recording whole")]
    else:
        found = [Finding("disk", GREEN, disk)]
    if shm_mib < SHM_MIB:
        found.append(Finding("/dev/shm", RED, f"{shm_mib:.0f} MiB", "images get lost; docker: --ipc=host"))
    else:
        found.append(Finding("/dev/shm", GREEN, f"{shm_mib:.0f} MiB"))
    return found
