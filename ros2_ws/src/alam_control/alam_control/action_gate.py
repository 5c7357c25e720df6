"""The last check before an actuator. Whatever comes in, only a finite action inside the limits goes out. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alam_models.contract import Channel


@dataclass(frozen=True)
class GateLimits:
    """low, high (A,) in contract units; `keep` (A,) bool: channels that hold their last value, the others go to rest.

    rest (A,): the action that does not move (0 for motion increments). `fault`: a value outside the limits by more than
    this many ranges (high - low) is a fault of the policy, not an overshoot to be clipped. max_age [s]: of the
    observation behind an action."""

    low: np.ndarray
    high: np.ndarray
    keep: np.ndarray
    rest: np.ndarray
    fault: float = 1.0
    max_age: float = math.inf

    def __post_init__(self) -> None:
        shapes = {np.shape(a) for a in (self.low, self.high, self.keep, self.rest)}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            raise ValueError("gate: wanted low, high, keep and rest of one shape (A,)")
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all() and (self.low < self.high).all()):
            raise ValueError(f"gate: wanted finite limits with low < high, got {self.low} and {self.high}")
        if not (np.isfinite(self.rest).all() and self.fault >= 0 and self.max_age > 0):
            raise ValueError("gate: wanted a finite rest action, fault >= 0 and max_age > 0")

    @classmethod
    def of(cls, channels: Sequence[Channel], keep: Sequence[str] = (), max_age: float = math.inf) -> GateLimits:
        """The limits of a contract's action channels; `keep` names those that hold their value. Raises ValueError for
        a name that is no channel."""
        names = [channel.name for channel in channels]
        if unknown := set(keep) - set(names):
            raise ValueError(f"gate: wanted channels of {names} to keep, got {sorted(unknown)}")
        low = _inside(np.array([channel.low for channel in channels], np.float64), np.inf)
        high = _inside(np.array([channel.high for channel in channels], np.float64), -np.inf)
        rest = np.clip(np.zeros(len(names), np.float32), low, high)
        return cls(low, high, np.array([name in keep for name in names]), rest, max_age=max_age)


@dataclass(frozen=True)
class Verdict:
    """What may go to the actuator: action (A,) float32, finite, inside the limits. `reason` says why it is a hold."""

    action: np.ndarray
    held: bool
    reason: str


class ActionGate:
    """Passes actions on, clips small overshoots, makes all else a hold. A stop is latched until reset."""

    def __init__(self, limits: GateLimits, enabled: bool = True) -> None:
        self.limits = limits
        self._last = limits.rest.astype(np.float32)
        self._enabled = enabled
        self._stop = ""
        self.clipped = 0  # actions that were clipped
        self.held = 0  # actions that became a hold

    @property
    def stopped(self) -> str:
        """-> why the robot was stopped; "" when it was not."""
        return self._stop

    @property
    def closed(self) -> str:
        """-> why no action may pass now, "" when one may."""
        return self._stop or ("" if self._enabled else "disabled (call /robot/enable)")

    def stop(self, reason: str) -> None:
        """Hold until reset, whatever else happens; the first reason stays."""
        self._stop = self._stop or reason or "stopped"

    def reset(self) -> None:
        """Clear a latched stop. Being disabled is not cleared by it."""
        self._stop = ""

    def enable(self, enabled: bool) -> None:
        """Allow or forbid motion; does not clear a latched stop."""
        self._enabled = enabled

    def forget(self) -> None:
        """Start anew: kept channels hold the rest action until one passes (a new episode)."""
        self._last = self.limits.rest.astype(np.float32)

    def fault(self, actions: np.ndarray) -> str:
        """actions (..., A) -> "" when every one may be executed (after clipping), else why not."""
        actions = np.asarray(actions)
        width = len(self.limits.low)
        if actions.ndim == 0 or actions.shape[-1] != width or actions.dtype.kind not in "fiu":
            return f"wanted actions (..., {width}), got shape {actions.shape} {actions.dtype}"
        if not (finite := np.isfinite(actions)).all():
            return f"wanted finite actions, got {int((~finite).sum())} of {finite.size} numbers that are not"
        slack = self.limits.fault * (self.limits.high.astype(np.float64) - self.limits.low)
        outside = np.maximum(actions - (self.limits.high + slack), (self.limits.low - slack) - actions)
        if (outside > 0).any():
            channel = int(np.argmax(outside.reshape(-1, width).max(0)))
            value = actions.reshape(-1, width)[int(np.argmax(outside.reshape(-1, width)[:, channel])), channel]
            low, high = self.limits.low[channel], self.limits.high[channel]
            return f"wanted action {channel} in [{low:g}, {high:g}], got {value:g}: too far outside to be clipped"
        return ""

    def check(self, action: np.ndarray | None, age: float, reason: str = "") -> Verdict:
        """action (A,) or None with the reason why there is none; age [s] of its observation -> what may be executed."""
        reason = self.closed or (reason or "no action" if action is None else self._objection(action, age))
        if reason or action is None:
            self.held += 1
            return Verdict(self.hold_action(), True, reason)
        safe = np.clip(np.asarray(action, np.float64), self.limits.low, self.limits.high).astype(np.float32)
        self.clipped += int((safe != np.asarray(action, np.float32)).any())
        self._last = safe
        return Verdict(safe.copy(), False, "")

    def hold_action(self) -> np.ndarray:
        """-> (A,) float32: kept channels as last executed, the others at rest."""
        return np.where(self.limits.keep, self._last, self.limits.rest).astype(np.float32)

    def _objection(self, action: np.ndarray, age: float) -> str:
        if np.ndim(action) != 1:
            return f"wanted one action (A,), got shape {np.shape(action)}"
        if not 0 <= age <= self.limits.max_age:  # false for NaN too
            return f"wanted an observation at most {self.limits.max_age:.2f} s old, got {age:.2f} s"
        return self.fault(action)


def _inside(limit: np.ndarray, towards: float) -> np.ndarray:
    """float64 limits -> float32, rounded to the safe side: a float32 action at the limit must not lie beyond it."""
    rounded = limit.astype(np.float32)
    outside = rounded < limit if towards > 0 else rounded > limit
    return np.where(outside, np.nextafter(rounded, np.float32(towards)), rounded).astype(np.float32)
