"""What executes chunks in a simulated world and has the last word before its actuators. Pure: time is an argument.

Here the interface and the one of worlds that take an action a control step; a robot arm's is `arm_actuator.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from alam_control.action_gate import ActionGate, GateLimits
from alam_control.chunk_buffer import ChunkBuffer, TimedChunk
from alam_models.contract import Contract

KEEP = "grip"  # an action channel that keeps its last value in a hold, as positions do; motion increments rest
DT_TOLERANCE = 0.01  # by how much of a control period a chunk's dt may differ
NO_CHUNK_YET = "no chunk yet"


@dataclass(frozen=True)
class Period:
    """One period of an arm that moved: time [ns] since the world's reset, measured position, velocity, effort (J,), and
    the commanded position and velocity (J,), None where nothing was commanded."""

    time_ns: int
    measured: tuple[np.ndarray, np.ndarray, np.ndarray]
    commanded: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class Step:
    """One control step: what the actuators got (...,), whether the task is solved by it, why it was a hold ("": it was
    none), and an arm's periods within it."""

    executed: np.ndarray
    solved: bool
    hold: str = ""
    periods: tuple[Period, ...] = ()


class Actuator(Protocol):
    """`begin`, `offer`, `step` and `finish` belong to the world's thread; stop, reset and enable may come from any."""

    @property
    def stopped(self) -> str:
        """-> why the robot was stopped, until it is reset; "" when it was not."""
        ...

    @property
    def closed(self) -> str:
        """-> why no action may pass now; "" when one may."""
        ...

    @property
    def clipped(self) -> int:
        """-> how often something was clipped to the limits."""
        ...

    @property
    def held(self) -> int:
        """-> how often there was a hold in place of what was due."""
        ...

    @property
    def restless(self) -> bool:
        """-> whether it needs more steps before the world may stand still: it moves, or was asked something."""
        ...

    def stop(self, reason: str) -> None: ...
    def reset(self) -> None: ...
    def enable(self, enabled: bool) -> None: ...

    def begin(self, env: Any, start_ns: int) -> None:
        """An episode begins in a world that was just reset; start_ns: robot time [ns] of its step 0."""
        ...

    def offer(self, chunk: TimedChunk, names: tuple[str, ...], now: float) -> str:
        """A chunk has arrived; now: robot time [s] -> "" when it will be executed, else why not."""
        ...

    def lasts(self, now: float) -> bool:
        """now: robot time [s] -> whether something of the chunk is left to execute."""
        ...

    def step(self, now: float, waits: bool) -> Step | None:
        """One control step of the world; now: robot time [s]; waits: the world stands still rather than hold -> None
        when it does."""
        ...

    def finish(self) -> None:
        """The episode is over."""
        ...


class ActionActuator:
    """The chunk buffer and the action gate: one action a control step. The world can stand still at any moment."""

    restless = False

    def __init__(self, contract: Contract, max_age_s: float = float("inf")) -> None:
        """max_age_s: of the observation behind an action."""
        self.gate = make_gate(contract, max_age_s)
        self._names, self._period_s = contract.action_names, round(1e9 / contract.control_rate_hz) / 1e9
        self._buffer = ChunkBuffer(len(contract.action))
        self._env: Any = None

    @property
    def stopped(self) -> str:
        return self.gate.stopped

    @property
    def closed(self) -> str:
        return self.gate.closed

    @property
    def clipped(self) -> int:
        return self.gate.clipped

    @property
    def held(self) -> int:
        return self.gate.held

    def stop(self, reason: str) -> None:
        self.gate.stop(reason)

    def reset(self) -> None:
        self.gate.reset()

    def enable(self, enabled: bool) -> None:
        self.gate.enable(enabled)

    def begin(self, env: Any, start_ns: int) -> None:
        self._env = env
        self._buffer.clear()
        self.gate.limits = replace(self.gate.limits, rest=rest_action(env))
        self.gate.forget()

    def offer(self, chunk: TimedChunk, names: tuple[str, ...], now: float) -> str:
        if names != self._names:
            return f"wanted actions named {list(self._names)}, got {list(names)}"
        if not abs(chunk.dt - self._period_s) <= DT_TOLERANCE * self._period_s:
            return f"wanted dt {self._period_s} s, got {chunk.dt} s"
        return self.gate.fault(chunk.actions) or self._buffer.push(chunk, now)

    def lasts(self, now: float) -> bool:
        return self._buffer.pick(now).action is not None

    def step(self, now: float, waits: bool) -> Step | None:
        pick = self._buffer.pick(now)
        verdict = self.gate.check(pick.action, pick.age, pick.reason if self._buffer.chunk else NO_CHUNK_YET)
        if verdict.held and waits:  # closed in this very moment
            return None
        return Step(verdict.action, self._env.step(verdict.action), verdict.reason)

    def finish(self) -> None:
        """Nothing: the world stands still between episodes."""


def make_gate(contract: Contract, max_age_s: float = float("inf")) -> ActionGate:
    """The gate of a robot whose actions are positions, motion increments or a grip: a hold keeps positions and grip."""
    keep = [name for name in contract.action_names if name == KEEP or is_position(contract, name)]
    return ActionGate(GateLimits.of(contract.action, keep=keep, max_age=max_age_s))


def is_position(contract: Contract, name: str) -> bool:
    """Whether an action channel commands what a state channel of the same name senses: a position, not an increment."""
    return name in contract.state_names


def rest_action(env: Any) -> np.ndarray:
    """-> (A,) float32 inside the limits: the action that does not move. Positions are where they are, the rest is 0."""
    contract, state = env.contract, env.state()
    limits = GateLimits.of(contract.action)
    where = {name: state[contract.state_names.index(name)] for name in contract.state_names}
    rest = [where[name] if is_position(contract, name) else 0.0 for name in contract.action_names]
    return np.clip(np.array(rest, np.float32), limits.low, limits.high)
