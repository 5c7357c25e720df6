"""What the policy node knows: which observation is whole, whether the robot fits, what was answered. Pure: no ROS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from alam_common.alignment import Synchroniser
from alam_common.diagnostics import ERROR, OK, WARN, Durations, Rate, Status
from alam_common.pairing import Pairing
from alam_models.contract import Contract, disagreements
from alam_policy.on_the_way import OnTheWay
from alam_policy.worker import NewestWins

STATE_STREAM = "state"


@dataclass(frozen=True)
class Proprioception:
    """state (S,) float64 with what else came in its message. under_way: see StateVector."""

    state: np.ndarray
    instruction: str
    observation_id: int
    under_way: bool = False


@dataclass(frozen=True)
class Answer:
    """chunk: alam_models.runtime.Chunk; robot time [ns] and id of the observation it answers."""

    chunk: Any
    observation_id: int
    observation_ns: int


class PolicyServer:
    """Observations in, answers out (on the worker's thread), while active and once the robot's contract fits."""

    def __init__(
        self,
        policy: Any,
        make_observation: Callable[..., Any],
        seed: int,
        publish: Callable[[Answer], int],
        clock: Callable[[], float],
        max_skew_s: float = 0.0,
    ) -> None:
        """policy, make_observation: of alam_models.runtime; publish: -> robot time [ns] at which it did; clock:
        monotonic wall time [s].

        max_skew_s: how far apart the stamps of one observation may lie; 0: they are equal, as simulators give them."""
        self._policy, self._make_observation, self._seed = (policy, make_observation, seed)
        self._publish, self._clock = publish, clock
        self._streams = (*policy.contract.roles, STATE_STREAM)
        self._align = Synchroniser(self._streams)
        leading, *others = self._streams
        skew_ns = int(max_skew_s * 1e9)
        self._pairing = Pairing(leading, others, skew_ns, shared=(STATE_STREAM,)) if skew_ns else None
        self._streams_seen = {stream: Rate() for stream in self._streams}
        self._worker = NewestWins(self._answer)
        self._last: Answer | None = None
        self._on_the_way = OnTheWay(policy.contract.control_rate_hz, policy.sampler.committed)
        self._committed = ""
        self.active = False
        self._fits = False
        self._error = ""
        self._observations, self._answers = Rate(), Rate()
        self._inference = Durations()

    def robot(self, contract_yaml: str) -> str:
        """The robot has said what it is -> "" when this policy fits it, else a sentence with every difference."""
        try:
            robot = Contract.from_yaml(contract_yaml, "/robot/contract")
        except ValueError as error:
            return str(error)
        self._on_the_way.clear()  # it has just started: its time may have, too
        if self._pairing is not None:
            self._pairing.clear()
        sentences = disagreements(wanted=self._policy.contract, got=robot)
        self._fits = not sentences
        return f"policy {self._policy.id} was made for another robot: {'; '.join(sentences)}" if sentences else ""

    def add(self, stream: str, stamp_ns: int, item: Any) -> None:
        """stream: a camera role with item (h, w, 3) uint8, or "state" with a Proprioception; stamp: robot time [ns]."""
        if not (self.active and self._fits):
            return
        self._streams_seen[stream].tick(self._clock())
        whole: dict[str, Any] | None
        if self._pairing is not None:
            paired = self._pairing.add(stream, stamp_ns, item)
            whole, stamp_ns = (paired.items, paired.stamp_ns) if paired else (None, 0)
        else:
            whole = self._align.add(stream, stamp_ns, item)
        if whole is not None:
            self._observations.tick(self._clock())
            self._worker.offer((whole, stamp_ns))

    def activate(self, active: bool) -> None:
        self.active = active
        self._on_the_way.clear()
        self._align.clear()
        if self._pairing is not None:
            self._pairing.clear()

    def stop(self, timeout_s: float = 0.7) -> bool:
        """-> whether the worker's thread ended in time."""
        self.active = False
        return self._worker.stop(timeout_s)

    def status(self, now: float) -> Status:
        """now: wall time [s] -> what /diagnostics says of this policy."""
        if not self.active:
            mode, reason = "inactive", ""
        elif not self._fits:
            mode, reason = "waiting", "no contract on /robot/contract yet"
        else:
            mode, reason = "serving", self._error
        level = ERROR if self._error else WARN if mode == "waiting" else OK
        values = {
            "mode": mode,
            "reason": reason,
            "policy": self._policy.id,
            "observation_rate_hz": f"{self._observations.rate_hz(now):.1f}",
            "observation_age_s": f"{self._observations.age_s(now):.2f}",
            "chunk_rate_hz": f"{self._answers.rate_hz(now):.1f}",
            "inference_p50_ms": f"{self._inference.percentile_ms(50):.1f}",
            "inference_p99_ms": f"{self._inference.percentile_ms(99):.1f}",
            "committed_steps": self._committed,
            "items_dropped": str(self._align.dropped),
            "observations_superseded": str(self._worker.superseded),
        }
        for stream, seen in self._streams_seen.items():
            values[f"{stream}_count"] = str(seen.count)
            values[f"{stream}_age_s"] = f"{seen.age_s(now):.2f}"
        if self._pairing is not None:
            values["pairs"] = str(self._pairing.complete)
            for reason, count in self._pairing.rejected.items():
                values[f"rejected_{reason}"] = str(count)
            for stream, skew in self._pairing.skew.items():
                for name, percent in (("p50", 50), ("p99", 99), ("max", 100)):
                    values[f"{stream}_skew_{name}_ms"] = f"{skew.percentile_ms(percent):.1f}"
        return Status(level, f"{mode}: {reason}" if reason else mode, values)

    def _answer(self, request: tuple[dict[str, Any], int]) -> None:
        """On the worker's thread. The same observation again (its answer was lost) gets the same answer again."""
        whole, stamp_ns = request
        sensed: Proprioception = whole[STATE_STREAM]
        last, new = self._last, False
        if last is None or (last.observation_id, last.observation_ns) != (sensed.observation_id, stamp_ns):
            images = {role: whole[role] for role in self._policy.contract.roles}
            try:
                seen = self._make_observation(images, sensed.state, sensed.instruction, sensed.observation_id)
                rest, why = self._on_the_way.at(stamp_ns, sensed.instruction, sensed.under_way)
                delay = len(rest.actions) if rest else 0
                chunk = self._policy.infer(seen, self._seed, rest, delay)
            except Exception as error:  # whatever a bundle does, the node stays and says so; the robot holds meanwhile
                self._error = f"observation {sensed.observation_id} got no answer: {error}"
                return
            self._inference.add(chunk.inference_time_s)
            self._committed = f"{delay}: {why}" if why else f"{delay}"
            self._last = last = Answer(chunk, sensed.observation_id, stamp_ns)
            new = True
        self._error = ""
        self._answers.tick(self._clock())
        if self.active:
            sent_ns = self._publish(last)
            if new:
                self._on_the_way.sent(last.chunk, stamp_ns, sent_ns)
