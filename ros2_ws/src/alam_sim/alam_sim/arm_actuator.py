"""A simulated arm's actuator: the real arm's trajectories and gate (`alam_control.arm_executor`). Pure.

Every 5 ms of simulated time the executor says where the drives are to be, as on the arm's bus. Each episode has an
executor of its own and counts time from its reset: the same seed gives the same bits whatever came before. Nothing is
cleared but by a person: a stop, and being disabled, outlive the episode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import DISABLED, HOLDING, MOVING, STOPPED, GateConfig, Sensed
from alam_control.chunk_buffer import TimedChunk
from alam_piper import arm, words
from alam_piper.driver import ASLEEP, READY, DriverConfig
from alam_piper.geometry import piper_geometry, piper_limits
from alam_piper.snapshot import Snapshot
from alam_sim.actuator import Period, Step

PERIOD_NS = 5_000_000
PERIOD_S = PERIOD_NS / 1e9
EDGE_S = 1e-6  # a chunk that ends this much later than now has ended: times are in whole nanoseconds


class ArmEnv(Protocol):
    """A world whose joints are driven every PERIOD_S (PiperEnv is one)."""

    def state(self) -> np.ndarray: ...
    def joints(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
    def follow(self, set_point: Callable[[int], np.ndarray]) -> bool: ...


class ArmActuator:
    """The arm begins enabled. What a person asks for is taken up by the next step; `home`, `park` and `enable` are for
    when no episode runs."""

    def __init__(self, max_age_s: float = math.inf) -> None:
        """max_age_s: of the observation behind a command."""
        self._config = GateConfig(max_chunk_age_s=max_age_s)
        self._env: ArmEnv | None = None
        self._start_ns, self._end_s = 0, 0.0  # robot time of step 0; when the newest chunk ends, counted from there
        self._executor = self._make_executor(np.zeros(len(arm.NAMES)))
        self._executor.gate.change("enable", "")
        self._stop = ""  # asked for, until it is reset
        self._asked = False  # something that no step has taken up yet
        self._sent = np.zeros(len(arm.NAMES))
        self._measured, self._time_s = self._sent, 0.0
        self._clipped = self._held = 0  # in episodes before

    @property
    def stopped(self) -> str:
        return self._stop or (self._executor.reason if self._executor.mode == STOPPED else "")

    @property
    def closed(self) -> str:
        return self.stopped or (self._executor.reason if self._executor.mode == DISABLED else "")

    @property
    def clipped(self) -> int:
        return self._clipped + self._executor.clipped

    @property
    def held(self) -> int:
        return self._held + self._executor.held

    @property
    def restless(self) -> bool:
        return self._asked or not self._executor.trajectory.at_rest or self._executor.moving_itself

    # Requests

    def stop(self, reason: str) -> None:
        self._stop = self._stop or reason  # first: an episode that begins in this moment has a new executor
        self._executor.stop(reason)
        self._asked = True

    def reset(self) -> None:
        self._stop = ""
        self._executor.reset()
        self._asked = True

    def enable(self, enabled: bool) -> None:
        if not enabled:
            self._executor.disable(words.DISABLED)
        elif self._executor.mode == DISABLED and self._env is not None:
            self._executor.start(self._env.state())
            self._executor.enable()
        self._asked = True

    def home(self) -> None:
        """Slowly to the home position, through the gate."""
        self._executor.move_to(arm.HOME, DriverConfig.park_speed)

    def park(self) -> None:
        """Slowly to where the arm rests without power."""
        self._executor.move_to(arm.REST, DriverConfig.park_speed)

    def snapshot(self) -> tuple[Snapshot, float]:
        """-> what the arm says of itself, and when [s since the reset]."""
        executor = self._executor
        commanded, powered = executor.trajectory.state[0].copy(), executor.mode != DISABLED
        unknown = (math.nan,) * 6  # it has no temperatures
        said = Snapshot(
            mode=executor.mode,
            reason=executor.reason,
            phase=READY if powered else ASLEEP,
            answer="",
            faults=(),
            leader=False,
            firmware="",
            moving_itself=executor.moving_itself,
            commanded=commanded,
            observation_time=executor.observation_time,
            feedback_stamp=self._time_s,
            powered=powered,
            following_error=float(np.abs(commanded - self._measured)[:6].max()),
            motor_temperature=unknown,
            driver_temperature=unknown,
            voltage=unknown,
        )
        return said, self._time_s

    # An episode

    def begin(self, env: ArmEnv, start_ns: int) -> None:
        before = self._executor
        self._clipped, self._held = self.clipped, self.held
        self._env, self._start_ns = env, start_ns
        self._sent = self._measured = env.state()
        executor = self._make_executor(self._sent)
        if before.mode in (HOLDING, MOVING):
            executor.gate.change("enable", "")
        elif before.mode == STOPPED:
            executor.gate.change("stop", before.reason)
        executor.task(True)
        self._executor = executor
        if self._stop:
            executor.stop(self._stop)

    def offer(self, chunk: TimedChunk, names: tuple[str, ...], now: float) -> str:
        own = replace(chunk, observation_time=self._own_time(chunk.observation_time))
        reason = self._executor.offer(own, names, self._own_time(now))
        if not reason:
            self._end_s = own.end_time
        return reason

    def lasts(self, now: float) -> bool:
        return self._executor.trajectory.has_plan and self._own_time(now) < self._end_s - EDGE_S

    def step(self, now: float, waits: bool) -> Step:
        """The world never stands still for a hold: an arm that brakes takes time."""
        env, executor = self._env, self._executor
        assert env is not None
        periods: list[Period] = []
        executed: list[np.ndarray] = []
        hold = ""
        self._asked = False

        def set_point(number: int) -> np.ndarray:
            nonlocal hold
            measured = env.joints()
            self._measured, self._time_s = measured[0], number * PERIOD_S
            passed = executor.tick(self._time_s, Sensed(measured[0], measured[2], feedback_age_s=0.0))
            if passed is not None:
                self._sent = passed.position
            hold = "" if executor.mode == MOVING else hold or executor.reason  # the first is the cause
            commanded = None if passed is None else (passed.position, passed.velocity)
            periods.append(Period(number * PERIOD_NS, measured, commanded))
            executed.append(self._sent)
            return self._sent

        solved = env.follow(set_point)
        return Step(np.stack(executed), solved, hold, tuple(periods))

    def finish(self) -> None:
        """The arm brakes, in the steps that follow."""
        self._executor.task(False)
        self._asked = True

    # Helpers

    def _make_executor(self, position: np.ndarray) -> ArmExecutor:
        executor = ArmExecutor(arm.NAMES, piper_limits(), piper_geometry(), self._config, PERIOD_S)
        executor.start(position)
        return executor

    def _own_time(self, robot_time_s: float) -> float:
        """-> [s] since the reset, with the same bits whenever that was."""
        return float(np.rint(robot_time_s * 1e9) - self._start_ns) / 1e9
