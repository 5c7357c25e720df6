"""One attempt at a task against the wall clock: the world moves on while the policy thinks, as on a robot."""

from __future__ import annotations

from alam_control.chunk_buffer import TimedChunk
from alam_sim.actuator import NO_CHUNK_YET, Actuator, Step
from alam_sim.episode import Env, Episode, Goal

MAX_LAG_S = (
    0.25  # a machine too slow to keep up slips by more than this: the world then runs slower than the wall clock
)


class RealtimeEpisode(Episode):
    """Steps at the control rate, observes every few steps, picks actions by the age of what was seen."""

    def __init__(self, env: Env, goal: Goal, actuator: Actuator, start_ns: int, camera_rate_hz: float = 30.0) -> None:
        super().__init__(env, goal, actuator, start_ns)
        self.every = max(1, round(env.contract.control_rate_hz / camera_rate_hz))
        self.slips = 0
        self._begin: float | None = None  # wall time [s] of step 0
        self._given = -1  # step of the newest observation given out
        self._given_at: dict[int, float] = {}  # observation id -> wall time [s]
        self._hold = NO_CHUNK_YET
        self._took = False  # the newest chunk was accepted

    def next(self, now: float) -> str:
        """now: wall time [s] -> "observe", "step", "wait" or "end"."""
        self._end_if_stopped()
        if self.result is not None:
            return "end"
        self._begin = now if self._begin is None else self._begin
        lag = now - self._due_at()
        if lag > MAX_LAG_S:
            self._begin += lag
            self.slips += 1
        if self.env.steps % self.every == 0 and self._given != self.env.steps:
            return "observe"
        return "step" if now >= self._due_at() else "wait"

    def given(self, now: float) -> None:
        """The observation goes out; now: wall time [s]."""
        self._given = self.env.steps
        self._given_at[self.observe().id] = now

    def wait_s(self, now: float) -> float:
        """-> seconds until the next step is due."""
        return max(0.0, self._due_at() - now)

    def offer(self, chunk: TimedChunk, names: tuple[str, ...], now: float) -> str:
        """A chunk has arrived; now: wall time [s] -> "" when it is spliced in, else why not."""
        asked = self._given_at.get(chunk.observation_id)
        if asked is None or chunk.observation_time < self.start_ns / 1e9:
            return f"observation {chunk.observation_id} is not of this episode"
        reason = self.actuator.offer(chunk, names, self.robot_time)
        self._took = not reason
        if not reason:
            self.latencies.append(now - asked)
            self._given_at = {key: at for key, at in self._given_at.items() if at > asked}
        return reason

    def step(self, now: float) -> Step | None:
        """One control step of the world: the action that is due, or a hold when there is none."""
        return self._execute(waits=False)

    @property
    def under_way(self) -> bool:
        return self._took and not (self.actuator.closed or self._hold)

    def hold_reason(self, now: float) -> str:
        """-> why the last step was a hold; "" when it was an action."""
        return self.actuator.closed or self._hold

    def _due_at(self) -> float:
        """-> wall time [s] at which the next step is due."""
        assert self._begin is not None
        return self._begin + (self.env.steps + 1) * self.period_ns / 1e9
