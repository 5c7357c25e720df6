"""What every node does the same way: QoS, parameters, diagnostics, a refusal to have a twin, start and stop."""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription

from alam_common.cores_io import cores_in_words
from alam_common.diagnostics import Status
from alam_common.parameters import Parameter
from alam_common.refusal import Refusal
from alam_common.topics import DIAGNOSTICS, Qos, Topic

REFUSED = 2  # exit code: these settings cannot work, starting again would not help


def qos_profile(qos: Qos) -> QoSProfile:
    return QoSProfile(
        depth=qos.depth,
        reliability=ReliabilityPolicy[qos.reliability.upper()],
        durability=DurabilityPolicy[qos.durability.upper()],
    )


def message_class(name: str) -> Any:
    """ "package/kind/Name" -> its class. Raises Refusal when the interfaces are not built."""
    package, kind, cls = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), cls)
    except ImportError as error:
        raise Refusal(
            f"wanted the interface {name}, got: {error}; run `make setup`, then `source tools/env.sh`"
        ) from None


def publisher(node: Node, topic: Topic) -> Publisher:
    return node.create_publisher(message_class(topic.type), topic.name, qos_profile(topic.qos))


def subscribe(node: Node, topic: Topic, callback: Callable[[Any], None]) -> Subscription:
    return node.create_subscription(message_class(topic.type), topic.name, callback, qos_profile(topic.qos))


def declare(node: Node, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Declare each, read-only -> {name: value}. Raises Refusal for a value that does not fit."""
    values = {}
    for parameter in parameters:
        descriptor = ParameterDescriptor(
            description=parameter.description, additional_constraints=parameter.bound, read_only=True
        )
        if parameter.type == "int":
            low, high = int(parameter.low or 0), int(parameter.high or 0)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
        elif parameter.type == "float":
            low_f, high_f = float(parameter.low or 0), float(parameter.high or 0)
            descriptor.floating_point_range = [FloatingPointRange(from_value=low_f, to_value=high_f, step=0.0)]
        try:
            value = node.declare_parameter(parameter.name, parameter.default, descriptor).value
            parameter.check(value)
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise Refusal(
                f"parameter {parameter.name}: wanted {parameter.type}, {parameter.bound}; got: {error}"
            ) from None
        except ValueError as error:
            raise Refusal(str(error)) from None
        values[parameter.name] = value
    return values


def claim(name: str) -> IO[bytes] | None:
    """Be the only node of this name on this host and ROS domain -> a file whose lock the kernel drops when we end.

    Raises Refusal when another process holds it. None when this host gives no lock: `refuse_twin` still looks."""
    try:
        file = (Path(tempfile.gettempdir()) / f"alam-ros-domain-{_domain()}-{name}.lock").open("ab")
    except OSError:  # another user's
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise _twin(f"/{name}") from None
    return file


def refuse_twin(node: Node, until_s: float) -> None:
    """Raises Refusal when discovery shows another node of this name, on whatever host; looks until time.monotonic() is
    `until_s`."""
    me = (node.get_name(), node.get_namespace())
    while True:
        if [pair for pair in node.get_node_names_and_namespaces() if tuple(pair) == me][1:]:
            raise _twin(node.get_fully_qualified_name())
        if time.monotonic() >= until_s:
            return
        time.sleep(0.05)


def _domain() -> str:
    return os.environ.get("ROS_DOMAIN_ID") or "0"


def _twin(name: str) -> Refusal:
    return Refusal(
        f"wanted to be the only {name} on ROS domain {_domain()}, got another one there already; end it, or set "
        "ROS_DOMAIN_ID to a free number from 0 to 101"
    )


class Diagnostics:
    """Publishes a node's Status, and the cores it may use, at 1 Hz of wall time and at once when asked to."""

    def __init__(self, node: Node, hardware_id: str, status: Callable[[float], Status]) -> None:
        """status: called with time.monotonic() [s]."""
        self._node, self._hardware_id, self._status = node, hardware_id, status
        self._publisher = publisher(node, DIAGNOSTICS)
        self._clock = Clock(clock_type=ClockType.SYSTEM_TIME)
        # Simulator time stands still while a robot waits; diagnostics must not.
        self._timer = node.create_timer(1.0, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        status = self._status(time.monotonic())
        values = {**status.values, "cpus": cores_in_words(os.sched_getaffinity(0))}
        message = DiagnosticArray()
        message.header.stamp = self._clock.now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=bytes([status.level]),
                name=self._node.get_name(),
                message=status.message,
                hardware_id=self._hardware_id,
                values=[KeyValue(key=key, value=value) for key, value in values.items()],
            )
        ]
        self._publisher.publish(message)


class Served(Protocol):
    """What `run_node` needs beyond rclpy.node.Node."""

    failure: str  # set, and then rclpy shut down, by whoever finds that the node cannot go on

    def open(self) -> None:
        """What takes time before the first callback."""
        ...

    def close(self) -> bool:
        """Stop own threads, while messages can still be sent -> whether all of them ended."""
        ...


class _Spin:
    """An executor on a thread of its own: the main thread stays free for signals."""

    def __init__(self, node: Node, threads: int, over: threading.Event) -> None:
        self._over = over
        self.error: BaseException | None = None
        self._executor = SingleThreadedExecutor() if threads == 1 else MultiThreadedExecutor(threads)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._run, name="spin", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass
        except BaseException as error:  # handed to the main thread, which raises it
            self.error = error
        finally:
            self._over.set()

    def stop(self) -> None:
        self._executor.shutdown(timeout_sec=0.5)
        self._thread.join(0.5)


def run_node(name: str, make: Callable[[], Any], threads: int = 1) -> int:
    """Make a node, spin it until Ctrl-C, SIGTERM or a Refusal -> the exit code: 0, or 2 for a Refusal (a restart would
    not help; any other failure leaves as an exception and exit code 1)."""
    node: Any = None
    spin: _Spin | None = None
    failure = ""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    try:
        held = claim(name)  # noqa: F841 - until the end of the process
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        node = make()
        node.open()
        spin = _Spin(node, threads, over)
        over.wait()
    except KeyboardInterrupt:
        pass
    except Refusal as refusal:
        failure = str(refusal)
    failure = failure or getattr(node, "failure", "")
    if failure:
        print(f"{name}: {failure}", file=sys.stderr, flush=True)
    ended = node is None or node.close()
    if spin is not None:
        spin.stop()
    if node is not None:
        node.destroy_node()
    rclpy.try_shutdown()
    if spin is not None and spin.error is not None:
        raise spin.error
    if not ended:  # a thread is inside a library call that cannot be interrupted; do not wait for it
        os._exit(REFUSED if failure else 0)
    return REFUSED if failure else 0


def _interrupt_once(number: int, frame: Any) -> None:
    """The first signal begins the end; another one must not break it."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
