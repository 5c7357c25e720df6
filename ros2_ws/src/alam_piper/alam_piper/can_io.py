"""A CAN bus between processes over a Unix socket, for machines without SocketCAN: python-can's interface `alam_socket`.

The emulator is the hub. A frame goes to everyone but its sender; nobody hears an echo of its own, as on SocketCAN.
Filters are applied at the hub, as SocketCAN applies them in the kernel: what nobody wants wakes nobody."""

from __future__ import annotations

import os
import selectors
import socket
import stat
import struct
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import can

_FRAME = struct.Struct("<IB8s")  # id, length, data
_FILTER = struct.Struct("<II")  # id, mask; as many as there are, after a byte: no packet is as long as a frame
QUEUE_BYTES = 4 * 1024 * 1024
LONGEST_BYTES = 4096  # of a packet


def socket_path(channel: str) -> Path:
    """A channel -> its socket: a name without a slash ("can0") is a file in the folder for temporary files."""
    return Path(channel) if "/" in channel else Path(tempfile.gettempdir()) / f"alam-{channel}.sock"


def pack(message: can.Message) -> bytes:
    """A classic CAN frame -> bytes. Raises ValueError for a frame that is no 11-bit data frame of up to 8 bytes."""
    if message.is_extended_id or message.is_remote_frame or message.is_fd or message.dlc > 8:
        raise ValueError(f"wanted an 11-bit data frame of up to 8 bytes, got {message}")
    return _FRAME.pack(message.arbitration_id, message.dlc, bytes(message.data))


def unpack(data: bytes, timestamp_s: float) -> can.Message:
    """The inverse of pack; the time of arrival [s] comes from outside."""
    number, length, payload = _FRAME.unpack(data)
    return can.Message(
        timestamp=timestamp_s, arbitration_id=number, is_extended_id=False, dlc=length, data=payload[:length]
    )


class SocketBus(can.BusABC):
    """`can.Bus(interface="alam_socket", channel="/path/of/the/hub.sock")`."""

    def __init__(self, channel: str, can_filters: Any = None, **_: Any) -> None:
        """Raises can.CanInitializationError when nobody serves the channel."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
        self._is_shutdown = False
        try:
            self._socket.connect(str(socket_path(channel)))
        except OSError as error:
            self._socket.close()
            self._is_shutdown = True
            raise can.CanInitializationError(
                f"wanted a CAN hub at {socket_path(channel)}, got: {error.strerror}; "
                "start one with `ros2 run alam_piper piper_emulator`"
            ) from None
        self.channel_info = f"alam_socket {channel}"
        super().__init__(channel=channel, can_filters=can_filters)

    def _apply_filters(self, filters: Any) -> None:
        """filters: of python-can, "can_id" and "can_mask" of each; None: every frame."""
        pairs = [_FILTER.pack(each["can_id"], each["can_mask"]) for each in filters or ({"can_id": 0, "can_mask": 0},)]
        with suppress(OSError):  # of a bus that is down: sending and receiving say so
            self._socket.send(b"F" + b"".join(pairs))

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        self._socket.settimeout(timeout)
        try:
            data = self._socket.recv(_FRAME.size)
        except (TimeoutError, BlockingIOError):
            return None, False
        except OSError as error:
            raise can.CanOperationError(f"{self.channel_info}: {error.strerror}") from None
        if not data:
            raise can.CanOperationError(f"{self.channel_info}: the bus is down")
        return unpack(data, time.time()), True

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """At once or not at all. Raises can.CanOperationError when the bus is down or its queue is full."""
        try:
            self._socket.send(pack(msg), socket.MSG_DONTWAIT)
        except OSError as error:
            raise can.CanOperationError(f"{self.channel_info}: {error.strerror or error}") from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def shutdown(self) -> None:
        super().shutdown()
        self._socket.close()


class SocketHub:
    """Serves a channel: `receive` and `send` are the emulator's own end of the bus."""

    def __init__(self, channel: Path) -> None:
        """Raises ValueError when the channel is served already, or its folder cannot be written."""
        self.channel = channel
        self._refuse_twin()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listener.bind(str(channel))
        except OSError as error:
            raise ValueError(f"wanted to serve {channel}, got: {error.strerror}; name another --channel") from None
        os.chmod(channel, stat.S_IRUSR | stat.S_IWUSR)
        self._listener.listen()
        self._listener.setblocking(False)
        self._clients: dict[socket.socket, list[tuple[int, int]]] = {}  # each with its filters: id, mask
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self.down = False  # bus-off: frames of both directions are lost
        self.dropped = 0  # frames that a client was too slow for

    def receive(self, timeout_s: float) -> list[can.Message]:
        """Wait for frames of the clients, at most this long [s] -> those that have come, passed on to the others."""
        arrived = []
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._accept()
                continue
            client: Any = key.fileobj
            while True:
                try:
                    data = client.recv(LONGEST_BYTES)
                except BlockingIOError:
                    break
                except OSError:
                    data = b""
                if not data:
                    self._drop(client)
                    break
                if len(data) != _FRAME.size:
                    self._clients[client] = list(_FILTER.iter_unpack(data[1:]))
                elif not self.down:
                    self._give(data, client)
                    arrived.append(unpack(data, time.time()))
        return arrived

    def send(self, message: can.Message) -> None:
        """One frame to every client; a client that is too slow loses it."""
        if not self.down:
            self._give(pack(message), None)

    def close(self) -> None:
        for client in list(self._clients):
            self._drop(client)
        self._selector.close()
        self._listener.close()
        self.channel.unlink(missing_ok=True)

    def disconnect(self) -> None:
        """Every client sees the bus go down; they may come back."""
        for client in list(self._clients):
            self._drop(client)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
        if self.down:
            client.close()
            return
        self._clients[client] = [(0, 0)]
        self._selector.register(client, selectors.EVENT_READ)

    def _give(self, data: bytes, sender: socket.socket | None) -> None:
        number = int.from_bytes(data[:4], "little")
        for client, filters in list(self._clients.items()):
            if client is sender or not any(number & mask == wanted & mask for wanted, mask in filters):
                continue
            try:
                client.send(data)
            except BlockingIOError:
                self.dropped += 1
            except OSError:
                self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        if client in self._clients:
            del self._clients[client]
            self._selector.unregister(client)
            client.close()

    def _refuse_twin(self) -> None:
        if not self.channel.is_socket():
            if self.channel.exists():
                raise ValueError(f"wanted a free path or an old socket at {self.channel}, got a file; name another one")
            return
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            probe.connect(str(self.channel))
        except OSError:
            self.channel.unlink(missing_ok=True)  # left behind by one that was killed
            return
        finally:
            probe.close()
        raise ValueError(
            f"wanted to be the only emulator on {self.channel}, got another one; end it or name another path"
        )
