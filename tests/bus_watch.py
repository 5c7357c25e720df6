"""A watch on the emulated bus: every command frame in the order of its coming, held against what the gate passed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import can
import numpy as np

from alam_piper import can_frames as wire
from alam_piper.units import to_micrometres, to_millidegrees

REPLIES = {*range(0x251, 0x257), *range(0x261, 0x267), *range(0x2A1, 0x2A9), 0x473, 0x476, 0x478, 0x47C, wire.FIRMWARE}
MOTION = {*wire.JOINTS, *wire.MIT, wire.GRIPPER}
MOVE_J, MOVE_MIT, MIT_WORD = 1, 4, 0xAD  # of frame 151
ON, ON_CLEARED = 1, 3  # codes of the gripper's frame
MOST_EFFORT_NM = 1.0  # of the gripper's drive, as the gate allows it
MIT_STEP = {name: 2 * most / (2**bits - 1) for name, (most, bits) in wire.MIT_RANGES.items()}  # [rad], [rad/s]


class Frame(NamedTuple):
    """at_s: time.monotonic() of its arrival here."""

    at_s: float
    number: int
    data: bytes


class BusWatch:
    """One more client of the bus: keeps every frame that is no feedback of the arm. Comes back when the bus does."""

    def __init__(self, channel: str) -> None:
        self.frames: list[Frame] = []
        self._channel = channel
        self._bus: can.BusABC | None = None
        self._over = threading.Event()
        self._there = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="watch", daemon=True)
        self._thread.start()

    def wait(self, patience_s: float = 30.0) -> None:
        """Return once the bus is heard. Fails the test when it is not."""
        assert self._there.wait(patience_s), f"waited {patience_s} s for the bus {self._channel}"

    def send(self, number: int, data: bytes) -> None:
        """A frame of another device on the bus; it is not heard here."""
        assert self._bus is not None
        self._bus.send(can.Message(arbitration_id=number, data=data, is_extended_id=False))

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                with can.Bus(interface="alam_socket", channel=self._channel) as self._bus:
                    self._there.set()
                    while not self._over.is_set():
                        frame = self._bus.recv(0.1)
                        if frame is not None and frame.arbitration_id not in REPLIES:
                            self.frames.append(Frame(time.monotonic(), frame.arbitration_id, bytes(frame.data)))
            except can.CanError:  # the bus is down, or not up yet
                self._over.wait(0.005)


def kind(frame: Frame) -> str:
    """-> what a frame asks for: "motion", "mode", "enable", "disable", "stop", "reset", "leader", or itself in hex."""
    data = frame.data
    if frame.number in MOTION:
        return "motion"
    if frame.number == wire.CONTROL and data[0] == 1 and tuple(data[4:]) == (0, 0, 0, 0):
        if (data[1] == MOVE_J and data[2] <= 100 and data[3] == 0) or (data[1] == MOVE_MIT and data[3] == MIT_WORD):
            return "mode"
    if frame.number == wire.ENABLE and (1 <= data[0] <= 7 or data[0] == 0xFF):
        return {1: "disable", 2: "enable"}.get(data[1], frame_text(frame))
    if frame.number == wire.STOP and data[0] in (1, 2):
        return "stop" if data[0] == 1 else "reset"
    return "leader" if frame.number == wire.LEADER else frame_text(frame)


def frame_text(frame: Frame) -> str:
    return f"{frame.number:x}#{frame.data.hex()}"


def forbidden(frames: Iterable[Frame], may: Iterable[str] = ()) -> list[str]:
    """-> the kinds of frames that are neither motion, mode or enable nor in `may`, each once."""
    allowed = {"motion", "mode", "enable", *may}
    return list(dict.fromkeys(word for word in map(kind, frames) if word not in allowed))


def wanted(position: np.ndarray, velocity: np.ndarray, mit: bool) -> list[tuple[int, Callable[[bytes], bool]]]:
    """A passed command, each (7,) -> what may go to the bus for it, in order: ids, and whether data say the same."""
    frames = wire.pairs(wire.JOINTS, [to_millidegrees(float(value)) for value in position[:6]])
    joints: list[tuple[int, Callable[[bytes], bool]]] = [(number, data.__eq__) for number, data in frames]
    if mit:  # only while it gets power is the arm in position mode
        joints += [(number, _same_mit(position[k], velocity[k])) for k, number in enumerate(wire.MIT)]
    return [*joints, (wire.GRIPPER, _same_gripper(to_micrometres(float(position[6]))))]


def _same_gripper(stroke: int) -> Callable[[bytes], bool]:
    def same(data: bytes) -> bool:
        got, effort, code, zero = wire.read_gripper(data)
        return (got, zero) == (stroke, 0) and code in (ON, ON_CLEARED) and 0 <= effort <= MOST_EFFORT_NM * 1000

    return same


def _same_mit(position: float, velocity: float) -> Callable[[bytes], bool]:
    def same(data: bytes) -> bool:
        said = wire.read_mit(data)
        return (
            said is not None
            and abs(said[0] - position) <= MIT_STEP["position"]
            and abs(said[1] - velocity) <= MIT_STEP["velocity"]
        )

    return same


def unexplained(
    frames: Iterable[Frame], passed: Sequence[tuple[np.ndarray, np.ndarray]], mit: bool = False
) -> list[str]:
    """Frames of the bus, and the (position, velocity) of every command that the gate passed, in order -> the motion
    frames that are no subsequence of what these commands say, in words; at most three.

    Greedy: each frame belongs to the first command, from that of the frame before it, that says the same."""
    found: list[str] = []
    rows: dict[int, list[tuple[int, Callable[[bytes], bool]]]] = {}

    def search(frame: Frame, row: int, slot: int) -> tuple[int, int] | None:
        for candidate in range(row, len(passed)):
            if candidate not in rows:
                rows[candidate] = wanted(*passed[candidate], mit)
            for place, (number, same) in enumerate(rows[candidate]):
                if number == frame.number and (candidate, place) > (row, slot) and same(frame.data):
                    return candidate, place
        return None

    place = (0, -1)
    for frame in frames:
        if frame.number not in MOTION:
            continue
        match = search(frame, *place)
        if match is not None:
            place = match
        else:
            found.append(f"{frame_text(frame)} after command {place[0]} of {len(passed)}")
            if len(found) == 3:
                break
    return found
