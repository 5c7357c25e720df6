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
    """chunk: alam_models.runtime.Chunk; id, robot time [ns] and instruction of the observation it answers."""

    chunk: Any
    observation_id: int
    observation_ns: int
    instruction: str


@dataclass
class _Session:
    """What was answered since the robot, or this node, last started: the worker's alone. A start makes another one, so
    that what began before it can change nothing after it."""

    on_the_way: OnTheWay
    last: Answer | None = None


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
        self._session = self._new_session()
        self._outdated = 0
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
        self._session = self._new_session()  # it has just started: its time may have, too
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
            self._worker.offer((self._session, whole, stamp_ns))

    def activate(self, active: bool) -> None:
        self._session = self._new_session()
        self.active = active
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
            "observations_outdated": str(self._outdated),
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

    def _new_session(self) -> _Session:
        return _Session(OnTheWay(self._policy.contract.control_rate_hz, self._policy.sampler.committed))

    def _answer(self, request: tuple[_Session, dict[str, Any], int]) -> None:
        """On the worker's thread, which nothing may end: whatever fails is said, and the robot holds meanwhile."""
        session, whole, stamp_ns = request
        try:
            answer = self._infer_once(session, whole, stamp_ns) if self._goes_on(session) else None
            if answer is None or not self._goes_on(session):
                self._outdated += 1
                return
            sent_ns = self._publish(answer)
            session.on_the_way.sent(answer.chunk, stamp_ns, sent_ns)
            self._answers.tick(self._clock())
            self._error = ""
        except Exception as error:
            self._error = f"observation {whole[STATE_STREAM].observation_id} got no answer: {error}"

    def _goes_on(self, session: _Session) -> bool:
        return self.active and session is self._session

    def _infer_once(self, session: _Session, whole: dict[str, Any], stamp_ns: int) -> Answer:
        """The same observation again (its answer was lost) gets the same answer again."""
        sensed: Proprioception = whole[STATE_STREAM]
        question = (sensed.observation_id, stamp_ns, sensed.instruction)
        last = session.last
        if last is not None and (last.observation_id, last.observation_ns, last.instruction) == question:
            return last
        images = {role: whole[role] for role in self._policy.contract.roles}
        seen = self._make_observation(images, sensed.state, sensed.instruction, sensed.observation_id)
        rest, why = session.on_the_way.at(stamp_ns, sensed.instruction, sensed.under_way)
        delay = len(rest.actions) if rest else 0
        chunk = self._policy.infer(seen, self._seed, rest, delay)
        self._inference.add(chunk.inference_time_s)
        self._committed = f"{delay}: {why}" if why else f"{delay}"
        session.last = Answer(chunk, *question)
        return session.last
