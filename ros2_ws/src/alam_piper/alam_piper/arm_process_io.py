"""The process that owns the arm: the bus, the driver, the gate and the control loop, and nothing of ROS.

The ROS node starts it (`arm_client_io.py`), shares memory with it and asks it questions over two pipes, so that chunks
never keep a stop waiting. A process of its own, because threads of one Python process wait for each other: with rclpy
beside it the loop woke milliseconds late. When the node goes, it brakes the arm and ends."""

from __future__ import annotations

import fcntl
import math
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import numpy as np

from alam_common.cores_io import loop_core
from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import MOVING, GateConfig
from alam_piper import arm
from alam_piper.arrivals import Arrivals
from alam_piper.driver import DriverConfig, PiperDriver
from alam_piper.geometry import piper_geometry, piper_limits
from alam_piper.loop_io import Histogram, RealTimeLoop, prioritise_others
from alam_piper.sdk_io import Feedback, SdkBus
from alam_piper.shared_io import COMMANDS, FEEDBACK, SharedArm
from alam_piper.snapshot import Snapshot
from alam_piper.stop_input_io import StopInput

PERIOD_S = 0.005
RETRY_S = 0.3  # between two attempts to open the bus again
WATCH_S = 0.1  # between two looks at the bus and the loop
STILL_LOOKS = 10  # in a row at a loop that does not go on: it hangs
HELPERS_PRIORITY = 40  # of this process' other threads, below the loop's
BRAKE_S = 1.0  # the longest brake from full speed
CLAIM_S = 3.0  # how long one before it may take to brake and end
AGE_BIN = 100  # command ages reach seconds: bins of 1 ms


class ArmProcess:
    """settings: the parameters of `settings.PARAMETERS` by name. Public methods are what the node may ask for; those
    that a person asks for answer "" or why not."""

    def __init__(self, settings: Mapping[str, Any], shared: SharedArm) -> None:
        self._settings, self._shared = settings, shared
        config = GateConfig(
            settings["max_chunk_age"],
            settings["max_camera_age"],
            settings["max_feedback_age"],
            settings["following_error"],
            max_gripper_effort_nm=settings["gripper_effort"],
        )
        geometry = piper_geometry(settings["link_margin"], settings["table_clearance"])
        self._executor = ArmExecutor(arm.NAMES, piper_limits(settings["speed"]), geometry, config, PERIOD_S)
        driver = DriverConfig(
            settings["mode"] == "mit",
            settings["speed_percent"],
            settings["enable_timeout"],
            settings["mit_kp"],
            settings["mit_kd"],
            settings["park_speed"],
        )
        self._stop_input: StopInput | None = None
        self._driver = PiperDriver(self._executor, driver, self._hardware_stop)
        self._roles = arm.piper_contract().roles
        core = settings["cpu"] if settings["cpu"] >= 0 else loop_core()
        self._loop = RealTimeLoop(self._tick, PERIOD_S, settings["priority"], core)
        self._warnings: list[str] = []
        self._command_age, self._to_bus = Histogram(), Histogram()
        self._accepted = self._unreadable = 0
        self._arrivals = Arrivals(PERIOD_S)
        self._said = ("", "")
        self._failure = ""
        self._over = threading.Event()

    def open(self) -> str:
        """Open the bus and the hardware stop -> "" or why that cannot be."""
        try:
            if path := self._settings["hardware_stop"]:
                self._stop_input = StopInput(path)
            self._lock = _claim(self._settings["can_channel"])
            self._driver.bus = self._connect()
        except ValueError as error:
            return str(error)
        return ""

    def start(self) -> list[str]:
        """Start the control loop -> warnings."""
        self._warnings = self._loop.start()
        threading.Thread(target=self._keep_bus, name="bus", daemon=True).start()
        self._prioritise()
        return self._warnings

    def end(self) -> bool:
        """Brake, stop the loop, let the bus go -> whether the loop ended. The arm keeps its power, and its place."""
        self._executor.stop("the driver is shutting down")
        end = time.monotonic() + BRAKE_S
        while self._loop.alive and not self._executor.trajectory.at_rest and time.monotonic() < end:
            time.sleep(PERIOD_S)
        ended = self._loop.stop()
        self._over.set()
        if self._driver.bus is not None:
            self._driver.bus.close()
        return ended

    def offer(self, chunk: Any, names: tuple[str, ...]) -> str:
        """A chunk (TimedChunk) with its channels -> "" or why it is refused."""
        self._loop.wait_for_gap()
        reason = self._executor.offer(chunk, names, time.monotonic())
        self._accepted += not reason
        return reason

    def refuse(self, reason: str) -> None:
        """A chunk that the node could not even read."""
        self._unreadable += 1
        self._executor.why_refused = reason

    def task(self, runs: bool) -> None:
        self._executor.task(runs)

    def home(self) -> str:
        return self._driver.home()

    def enable(self) -> str:
        return self._driver.enable()

    def disable(self) -> str:
        return self._driver.disable()

    def reset(self) -> str:
        return self._driver.reset()

    def snapshot(self, figures: bool = False) -> Snapshot:
        self._loop.wait_for_gap()
        driver, executor, bus = self._driver, self._executor, self._driver.bus
        feedback = bus.feedback if bus is not None else None
        commanded = executor.trajectory.state[0].copy()
        none = (math.nan,) * 6
        return Snapshot(
            executor.mode,
            executor.reason,
            driver.phase,
            driver.answer,
            (*driver.faults, *driver.waits),
            driver.leader,
            driver.firmware,
            executor.moving_itself,
            commanded,
            executor.observation_time,
            math.nan if feedback is None else feedback.stamp_s,
            feedback is not None and all(feedback.motors),
            math.nan if feedback is None else float(np.abs(commanded - feedback.position)[:6].max()),
            none if feedback is None else feedback.motor_temperature,
            none if feedback is None else feedback.driver_temperature,
            none if feedback is None else feedback.voltage,
            self._figures() if figures else {},
            self._failure,
            driver.reset_sags,
        )

    # The loop's thread

    def _tick(self, now: float) -> None:
        driver, executor = self._driver, self._executor
        stamps = self._shared.camera_stamps
        for index, role in enumerate(self._roles):
            driver.camera_stamps[role] = float(stamps[index])
        if reason := self._shared.stop_asked():
            executor.stop(reason)
        driver.tick(now)
        if driver.passed is not None:
            self._to_bus.add(time.monotonic() - now)  # from the deadline: waking, deciding and sending
            self._shared.put(COMMANDS, now, driver.passed.position, driver.passed.velocity)
            if executor.mode == MOVING and not math.isnan(executor.observation_time):
                self._command_age.add((now - executor.observation_time) / AGE_BIN)
        said = (executor.mode, executor.reason)
        if said != self._said:
            self._said = said
            self._shared.changed()

    # Other threads

    def _on_feedback(self, feedback: Feedback) -> None:
        """On the SDK's reader thread."""
        self._arrivals.add(feedback.stamp_s)
        self._shared.put(FEEDBACK, feedback.stamp_s, feedback.position, feedback.velocity, feedback.effort)

    def _keep_bus(self) -> None:
        """Open a lost bus again, as often as it takes; see that the loop goes on."""
        try:
            told, ticks, still = "", -1, 0
            while not self._over.wait(WATCH_S):
                if self._loop.error is not None:
                    raise self._loop.error
                still = still + 1 if self._loop.figures.wake.count == ticks else 0
                ticks = self._loop.figures.wake.count
                if still >= STILL_LOOKS:
                    raise RuntimeError(f"the control loop has stood still for {STILL_LOOKS * WATCH_S:.0f} s")
                bus = self._driver.bus
                if bus is None or bus.check():
                    self._reopen(bus)
                elif self._driver.firmware != told:
                    told = self._driver.firmware
                    _say(f"firmware {told} on {self._settings['can_channel']}")
        except BaseException as error:  # the node looks at it, and ends
            self._failure = f"the control process failed: {type(error).__name__}: {error}"

    def _reopen(self, bus: SdkBus | None) -> None:
        if bus is not None:
            _say(f"{bus.check()}; opening it again until it is there")
            self._driver.bus = None
            self._over.wait(2 * PERIOD_S)  # until the loop has let it go
            bus.close()
        self._over.wait(RETRY_S)
        try:
            self._driver.bus = self._connect()
        except ValueError:
            return  # not yet
        _say("the bus is there again")
        self._prioritise()

    # Helpers

    def _connect(self) -> SdkBus:
        bus = SdkBus(self._settings["can_interface"], self._settings["can_channel"])
        bus.on_feedback, bus.before_read = self._on_feedback, self._loop.stand_aside
        return bus

    def _prioritise(self) -> None:
        if self._settings["priority"] and not self._warnings:
            prioritise_others(HELPERS_PRIORITY)

    def _hardware_stop(self) -> str:
        return self._stop_input.pressed() if self._stop_input is not None else ""

    def _figures(self) -> dict[str, str]:
        executor, loop, bus = self._executor, self._loop.figures, self._driver.bus
        values = {
            "chunks_accepted": str(self._accepted),
            "chunks_rejected": str(executor.rejected + self._unreadable),
            "last_rejection": executor.why_refused,
            "chunks_clipped": str(executor.clipped),
            "splices_limited": str(executor.trajectory.limited),
            "gate_refused": str(executor.gate.refused),
            "last_refusal": executor.gate.refusal,
            "periods_held": str(executor.held),
            "feedback_late": str(self._arrivals.late),
            "feedback_missed": str(self._arrivals.missed),
            "ticks": str(loop.wake.count),
            "ticks_missed": str(loop.missed),
        }
        for name, histogram in (("wake_error", loop.wake), ("tick", loop.work), ("command_to_bus", self._to_bus)):
            for percent in (50, 99, 99.9):
                values[f"{name}_p{percent:g}_ms"] = f"{histogram.percentile_ms(percent):.2f}"
            values[f"{name}_max_ms"] = f"{histogram.most_s * 1e3:.2f}"
            values[f"{name}_histogram"] = histogram.text()
        for percent in (50, 99):
            values[f"command_age_p{percent}_ms"] = f"{self._command_age.percentile_ms(percent) * AGE_BIN:.0f}"
        values["command_age_histogram"] = self._command_age.text(AGE_BIN)
        if bus is not None:
            values["frames_sent"] = str(bus.counters.sent)
            values["feedback_torn"] = str(bus.counters.torn)
            values["feedback_implausible"] = str(bus.counters.implausible)
        return values


def serve(process: ArmProcess, connection: Connection) -> None:
    """Answer questions (method, arguments) with (True, result) or (False, words) until the other end has gone."""
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = (True, getattr(process, method)(*arguments))
        except Exception as error:  # told to the one who asked
            answer = (False, f"{type(error).__name__}: {error}")
        try:
            connection.send(answer)
        except OSError:
            return


def _claim(channel: str) -> IO[bytes]:
    """Be the only process of this host that drives the arm on this channel. Raises ValueError when one does already."""
    name = re.sub(r"\W+", "-", channel).strip("-")
    file = (Path(tempfile.gettempdir()) / f"alam-arm-{name}.lock").open("ab")
    end = time.monotonic() + CLAIM_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > end:
                file.close()
                raise ValueError(
                    f"wanted to be the only one that drives the arm on {channel}, got another process that does; end it"
                ) from None
            time.sleep(0.05)


def _say(text: str) -> None:
    print(f"piper: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """arguments: file descriptors of the shared memory, of the pipe for chunks and of the one for everything else."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the node, which says when to end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    memory, chunks, requests = (int(text) for text in sys.argv[1:])
    ask = Connection(requests)
    process = ArmProcess(ask.recv(), SharedArm(memory))
    threading.Thread(target=serve, args=(process, Connection(chunks)), name="chunks", daemon=True).start()
    serve(process, ask)
    process.end()
    sys.stderr.flush()
    os._exit(0)  # what ruckig's bindings say of objects that an end in the midst of threads leaves is no news


if __name__ == "__main__":
    main()
