"""An emulator process, and the real SDK on it, for tests of the driver."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from bus_watch import BusWatch, forbidden, unexplained

from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import GateConfig
from alam_piper import arm
from alam_piper.driver import DriverConfig, PiperDriver
from alam_piper.geometry import piper_geometry, piper_limits
from alam_piper.loop_io import RealTimeLoop
from alam_piper.sdk_io import SdkBus

PERIOD_S = 0.005
PATIENCE_S = 30.0


def until(condition, what, patience_s=PATIENCE_S):
    """Wait for a condition. Fails the test when it does not come true in time."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"waited {patience_s} s for {what}"
        time.sleep(0.01)


class Emulator:
    """`piper_emulator` as a process. A context manager."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.channel = str(folder / "can.sock")
        self._options = options
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "alam_piper.emulator_node", "--channel", self.channel, *self._options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert "ready" in self.process.stdout.readline()

    def tell(self, text: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "alam_piper.emulator_node", "--channel", self.channel, "--tell", text]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()


class Driven:
    """The driver on the emulator, its loop running. A context manager: at its end the bus has got no motion that the
    gate had not passed, in order, and no frame of another kind than motion, mode, enable and those in `may`."""

    def __init__(self, emulator: Emulator, config: DriverConfig | None = None, may: tuple[str, ...] = ()) -> None:
        self.emulator, self.may = emulator, may
        self.watch = BusWatch(emulator.channel)
        self.watch.wait()
        self.executor = ArmExecutor(arm.NAMES, piper_limits(), piper_geometry(), GateConfig(), PERIOD_S)
        self.driver = PiperDriver(self.executor, config or DriverConfig())
        self.driver.bus = SdkBus("alam_socket", emulator.channel)
        self.passed: list[tuple[np.ndarray, np.ndarray]] = []  # position, velocity (7,) of each command
        self.measured: list[np.ndarray] = []  # (7,) as the driver knew it at each of them
        self.loop = RealTimeLoop(self._tick, PERIOD_S, 0, -1)

    def _tick(self, now):
        self.driver.tick(now)
        if self.driver.passed is not None and self.driver.bus is not None:
            self.measured.append(self.position)
            self.passed.append((self.driver.passed.position, self.driver.passed.velocity))

    def enable(self):
        """Ask for power until it is there: the driver refuses while it does not know enough of the arm."""
        until(lambda: self.driver.phase != "down", "feedback")

        def powered():
            if self.driver.enable():
                return False
            until(lambda: self.driver.answer, "an answer")
            return self.driver.answer == "ok"

        until(powered, "power")
        until(lambda: self.executor.mode == "holding", "holding")

    def move(self, target, speed=0.5):
        self.executor.move_to(target, speed)
        until(lambda: self.executor.mode != "holding" or not self.executor.moving_itself, "motion")

    def go(self, target, speed=0.5, tolerance=0.02):
        """Move until it is there: on a loaded machine late feedback may end a motion; then it is asked for again."""

        def there():
            if not self.executor.moving_itself and np.abs(self.position - target)[:6].max() > tolerance:
                assert self.executor.mode in ("holding", "moving"), self.executor.reason
                self.executor.move_to(target, speed)
            return not self.executor.moving_itself and np.abs(self.position - target)[:6].max() <= tolerance

        until(there, f"arrival; {self.executor.reason}")

    def reopen(self):
        """Open the bus anew, as often as it takes, as the arm's process does."""

        def heard():
            bus = self.driver.bus
            if bus is not None and not bus.check():
                return bus.feedback is not None
            self.driver.bus = None
            if bus is not None:
                bus.close()
            try:
                self.driver.bus = SdkBus("alam_socket", self.emulator.channel)
            except ValueError:
                pass
            return False

        until(heard, "the bus")

    @property
    def position(self):
        return self.driver.bus.feedback.position

    def __enter__(self):
        self.loop.start()
        return self

    def __exit__(self, kind, *_):
        self.loop.stop()
        sent = 0
        if self.driver.bus is not None:
            sent = self.driver.bus.counters.sent
            self.driver.bus.close()
        if kind is None:  # not when the test has failed already
            until(lambda: len(self.watch.frames) >= sent // 2, "a watch that hears what is sent")
        self.watch.close()
        assert self.loop.error is None
        if kind is None:
            assert not forbidden(self.watch.frames, self.may), forbidden(self.watch.frames, self.may)
            strange = unexplained(self.watch.frames, self.passed, self.driver.config.mit)
            assert not strange, strange
