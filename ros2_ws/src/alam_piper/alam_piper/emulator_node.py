"""`ros2 run alam_piper piper_emulator`: an emulated Piper on a CAN bus, with faults on schedule and on command."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import can

from alam_piper import arm
from alam_piper.can_io import SocketHub, socket_path
from alam_piper.emulator import FAST_S, FIRMWARE, PiperEmulator
from alam_piper.emulator_faults import help_text, parse_fault
from alam_piper.geometry import piper_geometry
from alam_piper.loop_io import prioritise_others
from alam_piper.twin import TwinDynamics

TABLE = '<geom name="table" type="plane" size="2 2 .1" contype="2" conaffinity="1"/>'  # what an arm that sags lies on


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="piper_emulator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n" + help_text() + '\n\nexample: piper_emulator --fault "loss p=0.2 from=5 for=3 of=both"',
    )
    parser.add_argument("--interface", default="alam_socket", help="python-can interface (default %(default)s)")
    parser.add_argument(
        "--channel", default="can0", help="name of the bus, or path of its socket (default %(default)s)"
    )
    parser.add_argument("--enable-delay", type=float, default=0.5, help="of a motor [s] (default %(default)s)")
    parser.add_argument("--firmware", default=FIRMWARE, help="the version that it tells (default %(default)s)")
    parser.add_argument("--home", action="store_true", help="begin upright instead of folded")
    parser.add_argument("--seed", type=int, default=0, help="of random faults (default %(default)s)")
    parser.add_argument(
        "--priority",
        type=int,
        default=30,
        choices=range(99),
        metavar="0..98",
        help="SCHED_FIFO priority, where it is permitted: an arm's electronics are never late; below that of the "
        "driver's threads, which it must not keep from running (default %(default)s)",
    )
    parser.add_argument("--fault", action="append", default=[], metavar="TEXT", help="a fault on schedule; repeatable")
    parser.add_argument("--tell", metavar="TEXT", help='ask a running emulator: a fault, "clear" or "state"')
    arguments, rest = parser.parse_known_args(argv)
    if rest and rest[0] != "--ros-args":
        parser.error(f"wanted the options of --help, got {' '.join(rest)!r}")
    return arguments


def control_path(channel: str) -> str:
    """Where a running emulator listens for --tell: beside its channel."""
    return f"{socket_path(channel)}.control"


def tell(channel: str, text: str) -> int:
    """Ask a running emulator -> exit code."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(5.0)
        try:
            client.connect(control_path(channel))
            client.send(text.encode())
            answer = client.recv(65536).decode()
        except OSError as error:
            print(f"piper_emulator: wanted a running emulator on {channel}, got: {error.strerror}", file=sys.stderr)
            return 2
    good = not answer.startswith("error: ")
    print(answer.removeprefix("error: "), file=sys.stdout if good else sys.stderr)
    return 0 if good else 2


class _CanBus:
    """A python-can bus with the hub's face."""

    def __init__(self, interface: str, channel: str) -> None:
        self._bus = can.Bus(interface=interface, channel=channel)
        self.down = False  # bus-off: frames of both directions are lost
        self.dropped = 0  # frames that the bus had no room for

    def receive(self, timeout_s: float) -> list[can.Message]:
        message = self._bus.recv(timeout_s)
        messages = []
        while message is not None:
            messages.append(message)
            message = self._bus.recv(0.0)
        return [] if self.down else messages

    def send(self, message: can.Message) -> None:
        if self.down:
            return
        try:
            self._bus.send(message)
        except can.CanOperationError:
            self.dropped += 1

    def disconnect(self) -> None:
        """A real bus has no connections to cut."""

    def close(self) -> None:
        self._bus.shutdown()


def serve(arguments: argparse.Namespace) -> None:
    """Run until interrupted. Raises ValueError for a channel or a fault that cannot be."""
    dynamics = TwinDynamics(world=TABLE)
    dynamics.reset(arm.HOME if arguments.home else arm.REST)
    delay_s, seed, firmware = arguments.enable_delay, arguments.seed, arguments.firmware
    emulator = PiperEmulator(dynamics, piper_geometry(), delay_s, seed, firmware)
    start = time.monotonic()
    emulator.faults = [parse_fault(text) for text in arguments.fault]
    try:
        bus: Any = (
            SocketHub(socket_path(arguments.channel))
            if arguments.interface == "alam_socket"
            else _CanBus(arguments.interface, arguments.channel)
        )
    except (can.CanError, OSError) as error:
        raise ValueError(f"wanted the CAN bus {arguments.interface}:{arguments.channel}, got: {error}") from None
    control = _listen(control_path(arguments.channel))
    if arguments.priority:
        prioritise_others(arguments.priority)
    print(f"piper_emulator: ready on {arguments.interface}:{arguments.channel}", flush=True)
    try:
        _loop(emulator, bus, control, start)
    finally:
        control.close()
        Path(control_path(arguments.channel)).unlink(missing_ok=True)
        bus.close()


def _loop(emulator: PiperEmulator, bus: Any, control: socket.socket, start: float) -> None:
    next_tick = 0.0
    while True:
        now = time.monotonic() - start
        for message in bus.receive(max(0.0, next_tick - now)):
            emulator.on_frame(message.arbitration_id, bytes(message.data), time.monotonic() - start)
        now = time.monotonic() - start
        if now < next_tick:
            continue
        next_tick = max(next_tick + FAST_S, now - 0.1)  # a machine that slept does not catch up on more than this
        _answer(emulator, control, now)
        down = emulator.down(now)
        if down and not bus.down:
            bus.disconnect()
        bus.down = down
        emulator.tick(now)
        for number, data in emulator.due(now):
            bus.send(can.Message(arbitration_id=number, data=data, is_extended_id=False))


def _listen(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.bind(path)
    Path(path).chmod(0o600)
    control.listen()
    control.setblocking(False)
    return control


def _answer(emulator: PiperEmulator, control: socket.socket, now: float) -> None:
    try:
        client, _ = control.accept()
    except BlockingIOError:
        return
    with client:
        client.settimeout(0.05)
        try:
            client.send(_obey(emulator, client.recv(4096).decode(errors="replace"), now).encode())
        except OSError:
            return


def _obey(emulator: PiperEmulator, text: str, now: float) -> str:
    if text == "clear":
        emulator.faults.clear()
        return "cleared"
    if text == "state":
        state = {
            "time_s": round(now, 3),
            "enabled": emulator.enabled.tolist(),
            "control": emulator.control,
            "target": emulator.target.round(4).tolist(),
            "emergency": emulator.emergency,
            "leader": emulator.leader,
            "errors": sorted(f"{kind} motor={motor}" for kind, motor in emulator.errors),
            "faults": [fault.kind for fault in emulator.faults],
            "frames_received": emulator.received,
        }
        return json.dumps(state)
    try:
        fault = parse_fault(text, now)
    except ValueError as error:
        return f"error: piper_emulator: {error}"
    emulator.faults.append(fault)
    return f"ok: {text}"


def main() -> None:
    arguments = parse()
    if arguments.tell:
        sys.exit(tell(arguments.channel, arguments.tell))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        serve(arguments)
    except KeyboardInterrupt:
        pass
    except ValueError as error:
        print(f"piper_emulator: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
