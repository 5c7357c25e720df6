"""An emulator process, and the real SDK on it, for tests of the driver."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

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
    """The driver on the emulator, its loop running. A context manager."""

    def __init__(self, emulator: Emulator, config: DriverConfig | None = None) -> None:
        self.emulator = emulator
        self.executor = ArmExecutor(arm.NAMES, piper_limits(), piper_geometry(), GateConfig(), PERIOD_S)
        self.driver = PiperDriver(self.executor, config or DriverConfig())
        self.driver.bus = SdkBus("alam_socket", emulator.channel)
        self.passed = []
        self.loop = RealTimeLoop(self._tick, PERIOD_S, 0, -1)

    def _tick(self, now):
        self.driver.tick(now)
        if self.driver.passed is not None:
            self.passed.append(self.driver.passed.position)

    def enable(self):
        until(lambda: self.driver.phase != "down", "feedback")
        self.driver.enable()
        until(lambda: self.driver.answer, "an answer")
        assert self.driver.answer == "ok"
        until(lambda: self.executor.mode == "holding", "holding")

    def move(self, target, speed=0.5):
        self.executor.move_to(target, speed)
        until(lambda: self.executor.mode != "holding" or not self.executor.moving_itself, "motion")

    @property
    def position(self):
        return self.driver.bus.feedback.position

    def __enter__(self):
        self.loop.start()
        return self

    def __exit__(self, *_):
        self.loop.stop()
        if self.driver.bus is not None:
            self.driver.bus.close()
        assert self.loop.error is None
