"""Faults of the arm and its bus as text: "loss p=0.3 from=2 for=5". One table of names; what each does is the
emulator's."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """A number of a fault: default, lowest and highest value, unit and meaning."""

    default: float
    low: float
    high: float
    meaning: str


_P = {"p": Option(1.0, 0.0, 1.0, "probability, 0 to 1")}
_MOTOR = {"motor": Option(1, 1, 6, "motor, 1 to 6")}
_ANY_MOTOR = {"motor": Option(1, 1, 7, "motor, 1 to 6; 7: the gripper's")}
_TIMES = {
    "from": Option(0.0, 0.0, 86400.0, "begins after [s], counted from the start of the emulator or from --tell"),
    "for": Option(math.inf, 0.0, math.inf, "lasts [s]; default: until cleared"),
}
FAULTS: dict[str, tuple[str, dict[str, Option]]] = {
    "loss": ("frames are lost", _P),
    "delay": ("frames come late", {"by": Option(0.02, 0.0, 5.0, "delay [s]")}),
    "corruption": ("a random bit of a frame is turned", _P),
    "torn": ("the three frames of a joint feedback come in another order", _P),
    "bus-off": ("the bus is down: nobody hears anything", {}),
    "silence": ("the arm sends nothing, but takes commands", {}),
    "frozen": ("feedback repeats the values of the fault's beginning", {}),
    "over-temperature": ("a motor reports 100 degC and the arm an over-temperature", _ANY_MOTOR),
    "collision": ("a motor reports a collision, the arm stops following until it is reset", _MOTOR),
    "joint-comms": ("the arm cannot reach a motor, and stops following until it is reset", _MOTOR),
    "brake": ("a motor's brake has not opened, the arm stops following until it is reset", _MOTOR),
    "joint-error": ("a motor's driver reports an error, the arm stops following until it is reset", _ANY_MOTOR),
    "stall": ("a motor reports a stall, the arm stops following until it is reset", _MOTOR),
    "status": ("the arm reports a status code, and does not follow", {"code": Option(3, 1, 255, "of frame 2A1")}),
    "taken-over": (
        "the arm is controlled another way, and takes no commands of this bus",
        {"mode": Option(3, 3, 7, "control mode of frame 2A1: 3 Ethernet, 4 wifi, 5 remote control, 7 offline")},
    ),
    "motor-off": ("a motor loses its enable; it must be enabled again", _ANY_MOTOR),
    "power-drop": ("no power: no feedback, every motor limp; comes back disabled", {}),
    "leader": ("the arm is switched to leader (teach) mode", {}),
}
BUS_FAULTS = ("loss", "delay", "corruption")  # of one direction or of both
DIRECTIONS = ("feedback", "commands", "both")


@dataclass(frozen=True)
class Fault:
    """kind: one of FAULTS; active from `begin` to `end` [s] of the emulator's clock; of: one of DIRECTIONS, the frames
    that a fault of BUS_FAULTS touches."""

    kind: str
    begin: float
    end: float
    values: dict[str, float]
    of: str = DIRECTIONS[0]

    def active(self, now: float) -> bool:
        return self.begin <= now < self.end


def parse_fault(text: str, now: float = 0.0) -> Fault:
    """ "loss p=0.3 from=2 for=5" -> Fault; now [s]: what `from` counts from. Raises ValueError in one sentence."""
    kind, *rest = text.split() or [""]
    if kind not in FAULTS:
        raise ValueError(f"fault: wanted one of {', '.join(FAULTS)}; got {kind!r}")
    options = {**FAULTS[kind][1], **_TIMES}
    values, of = {name: option.default for name, option in options.items()}, DIRECTIONS[0]
    wanted = [f"{name}=NUMBER" for name in options] + ["of=" + "|".join(DIRECTIONS)] * (kind in BUS_FAULTS)
    for word in rest:
        name, equals, number = word.partition("=")
        if name == "of" and kind in BUS_FAULTS and number in DIRECTIONS:
            of = number
            continue
        if name not in options or not equals:
            raise ValueError(f"fault {kind}: wanted {', '.join(wanted)}; got {word!r}")
        option = options[name]
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not option.low <= value <= option.high:
            raise ValueError(f"fault {kind}: wanted {name} from {option.low:g} to {option.high:g}, got {number!r}")
        values[name] = value
    begin = now + values.pop("from")
    return Fault(kind, begin, begin + values.pop("for"), values, of)


def help_text() -> str:
    """-> the table of faults for --help."""
    lines = []
    for kind, (meaning, options) in FAULTS.items():
        lines.append(f"  {kind:17} {meaning}")
        lines += [f"  {'':17}   {name}={option.default:g}  {option.meaning}" for name, option in options.items()]
        lines += [f"  {'':17}   of={DIRECTIONS[0]}  which frames: {', '.join(DIRECTIONS)}"] * (kind in BUS_FAULTS)
    lines += [f"  {'(each)':17}   {name}={option.default:g}  {option.meaning}" for name, option in _TIMES.items()]
    return "\n".join(lines)
