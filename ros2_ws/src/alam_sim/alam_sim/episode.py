"""One attempt at a task in lockstep: the world waits for the answer to its own observation.

A plain state machine: chunks and times come in as arguments. The ROS node and in-process evaluation both drive it, so
the same seed gives the same episode to the bit either way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from alam_control.chunk_buffer import TimedChunk
from alam_models.contract import Contract
from alam_sim.actuator import Actuator, Step


class Env(Protocol):
    """A world as an episode sees it (MetaWorldEnv and PiperEnv are two). Its actuator moves it."""

    task: str
    instruction: str
    contract: Contract
    steps: int

    def reset(self, seed: int) -> None: ...
    def render(self) -> dict[str, np.ndarray]: ...
    def state(self) -> np.ndarray: ...
    def close(self) -> None: ...

    def actuator(self, max_age_s: float = ...) -> Actuator:
        """-> what executes chunks in worlds of this kind; max_age_s: of the observation behind an action."""
        ...


@dataclass(frozen=True)
class Goal:
    """What to attempt. max_steps: control steps until it counts as failed."""

    seed: int
    instruction: str
    max_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32 or self.max_steps < 1:
            raise ValueError(f"goal: wanted seed in 0..2**32-1 and max_steps >= 1, got {self.seed}, {self.max_steps}")


@dataclass(frozen=True)
class Observed:
    """images {role: (h, w, 3) uint8}, state (S,) float64; id = seed << 32 | step; stamp: robot time [ns]; under_way:
    the newest chunk was taken, is executed and goes on until the next one comes: never where the world waits."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    instruction: str
    id: int
    stamp_ns: int
    under_way: bool = False


@dataclass(frozen=True)
class EpisodeResult:
    """completed: solved or out of steps (not stopped, cancelled or left alone by the policy). latencies [s]:
    observation to accepted chunk. digest: over every frame, state and action that mattered."""

    success: bool
    steps: int
    reason: str
    latencies: tuple[float, ...]
    completed: bool
    digest: str


@dataclass(frozen=True)
class Patience:
    """Wall seconds: ask again, call it holding, give the episode up."""

    repeat_s: float = 0.5
    hold_after_s: float = 1.0
    give_up_s: float = 60.0


class Episode:
    """What both modes share: the world, its actuator, counting, the digest."""

    def __init__(self, env: Env, goal: Goal, actuator: Actuator, start_ns: int) -> None:
        self.env, self.goal, self.actuator = env, goal, actuator
        self.start_ns = start_ns
        self.period_ns = round(1e9 / env.contract.control_rate_hz)
        self.latencies: list[float] = []
        self.result: EpisodeResult | None = None
        self._digest = hashlib.sha256()
        self._observed: Observed | None = None
        self._hold = ""  # why the last step was a hold
        env.reset(goal.seed)
        actuator.begin(env, start_ns)

    @property
    def stamp_ns(self) -> int:
        """-> robot time [ns]."""
        return self.start_ns + self.env.steps * self.period_ns

    @property
    def robot_time(self) -> float:
        """-> robot time [s]."""
        return self.stamp_ns / 1e9

    @property
    def under_way(self) -> bool:
        """-> Observed.under_way, now."""
        return False

    def observe(self) -> Observed:
        """-> what the robot sees at this step; asked again at the same step, the very same object."""
        observation_id = self.goal.seed << 32 | self.env.steps
        if self._observed is None or self._observed.id != observation_id:
            images, state = self.env.render(), self.env.state()
            for role in sorted(images):
                self._digest.update(images[role].tobytes())
            self._digest.update(state.tobytes())
            about = (self.goal.instruction, observation_id, self.stamp_ns, self.under_way)
            self._observed = Observed(images, state, *about)
        return self._observed

    def frames(self) -> dict[str, np.ndarray]:
        """-> the views now, for a film: no part of the observations or the digest."""
        observed = self._observed
        return observed.images if observed and observed.stamp_ns == self.stamp_ns else self.env.render()

    def end(self, success: bool, reason: str, completed: bool = False) -> None:
        """End the episode; the first end stays."""
        if self.result is None:
            digest = self._digest.hexdigest()[:16]
            self.result = EpisodeResult(success, self.env.steps, reason, tuple(self.latencies), completed, digest)

    def _end_if_stopped(self) -> None:
        """A stop ends the episode once the robot is at rest."""
        if self.actuator.stopped and not self.actuator.restless:
            self.end(False, f"stopped: {self.actuator.stopped}")

    def _execute(self, waits: bool) -> Step | None:
        """One control step, and the end of the episode if it is one; waits: see `Actuator.step`."""
        step = self.actuator.step(self.robot_time, waits)
        if step is None:
            return None
        self._hold = step.hold
        self._digest.update(step.executed.tobytes() + self.env.state().tobytes() + bytes([step.solved]))
        if step.solved:
            self.end(True, "success", completed=True)
        elif self.env.steps >= self.goal.max_steps:
            seconds = self.env.steps * self.period_ns / 1e9
            self.end(False, f"time limit: {self.env.steps} steps ({seconds:.2f} s) without success", completed=True)
        return step


class LockstepEpisode(Episode):
    """Observe, wait for the chunk of that observation, execute `replan` actions, observe again."""

    def __init__(
        self, env: Env, goal: Goal, actuator: Actuator, start_ns: int, replan: int, patience: Patience | None = None
    ) -> None:
        """replan: actions executed of each chunk; 0: half of it."""
        super().__init__(env, goal, actuator, start_ns)
        self.replan = replan
        self.patience = patience or Patience()
        self._waiting = True
        self._asked: float | None = None  # when this observation was first given out
        self._repeated = 0.0  # when it was last given out
        self._rejection = ""  # of the last chunk for this observation
        self._since_observation = 0

    def next(self, now: float) -> str:
        """now: wall time [s] -> what to do: "observe" (give the observation out), "step", "wait" or "end"."""
        self._end_if_stopped()
        if self.result is not None:
            return "end"
        if self.actuator.stopped:  # it brakes
            return "step"
        if not self._waiting:
            return "wait" if self.actuator.closed else "step"
        if self._asked is None or now - self._repeated >= self.patience.repeat_s:
            return "observe"
        if now - self._asked >= self.patience.give_up_s:
            self.end(False, f"given up: {self.hold_reason(now)}; is the policy node running and active?")
            return "end"
        return "wait"

    def given(self, now: float) -> None:
        """The observation goes out; now: wall time [s]."""
        self._asked = now if self._asked is None else self._asked
        self._repeated = now

    def wait_s(self, now: float) -> float:
        """-> how long "wait" may sleep [s] when no chunk arrives."""
        return 0.1

    def offer(self, chunk: TimedChunk, names: tuple[str, ...], now: float) -> str:
        """A chunk has arrived; now: wall time [s] -> "" when it will be executed, else why not."""
        observed = self.observe() if self._waiting else None
        if observed is None:
            return f"nothing is waiting for the answer to observation {chunk.observation_id}"
        if (chunk.observation_id, chunk.observation_time) != (observed.id, observed.stamp_ns / 1e9):
            return (
                f"wanted the answer to observation {observed.id} of {observed.stamp_ns / 1e9:.4f} s, "
                f"got one to {chunk.observation_id} of {chunk.observation_time:.4f} s"
            )
        self._rejection = self.actuator.offer(chunk, names, self.robot_time)
        if self._rejection:
            return self._rejection
        if self._asked is not None:
            self.latencies.append(now - self._asked)
        self.replan = self.replan or max(1, len(chunk.actions) // 2)
        self._waiting, self._since_observation = False, 0
        return ""

    def step(self, now: float) -> Step | None:
        """Execute one action; afterwards `next` says what follows. now: wall time [s], of no use here."""
        step = self._execute(waits=True)
        if step is None:
            return None
        self._since_observation += 1
        if self._since_observation >= self.replan or not self.actuator.lasts(self.robot_time):
            self._waiting, self._asked, self._rejection = True, None, ""
        return step

    def hold_reason(self, now: float) -> str:
        """now: wall time [s] -> why the robot stands still; "" while it runs."""
        if self.actuator.closed:
            return self.actuator.closed
        asked = self._asked  # once: the world's thread may clear it while diagnostics ask
        if not self._waiting or asked is None:
            return self._hold
        waited = now - asked
        if self._rejection:
            return f"no usable chunk for {waited:.0f} s: {self._rejection}"
        return f"no chunk for {waited:.0f} s" if waited >= self.patience.hold_after_s else ""


def run_episode(
    env: Env,
    policy: Any,
    task: str,
    seed: int,
    *,
    max_steps: int = 500,
    instruction: str = "",
    replan: int = 0,
    policy_seed: int = 0,
    on_step: Callable[[LockstepEpisode], None] | None = None,
) -> EpisodeResult:
    """One lockstep episode in this process: the same bits as through ROS. latencies are the policy's inference times.

    replan 0: the policy's own. Raises ValueError when env is of another task."""
    from alam_models.runtime import Observation

    if env.task != task:
        raise ValueError(f"run_episode: wanted an env of {task!r}, got one of {env.task!r}")
    goal = Goal(seed, instruction or env.instruction, max_steps)
    episode = LockstepEpisode(env, goal, env.actuator(), 0, replan or policy.replan)
    latencies: list[float] = []
    while (todo := episode.next(0.0)) != "end":
        if todo == "step":
            episode.step(0.0)
            if on_step:
                on_step(episode)
            continue
        seen = episode.observe()
        episode.given(0.0)
        chunk = policy.infer(Observation(seen.images, seen.state, seen.instruction, seen.id), policy_seed)
        latencies.append(chunk.inference_time_s)
        timed = TimedChunk(chunk.actions, seen.stamp_ns / 1e9, seen.id, 1 / env.contract.control_rate_hz)
        if reason := episode.offer(timed, env.contract.action_names, 0.0):
            episode.end(False, f"chunk refused: {reason}")
    assert episode.result is not None
    result = episode.result
    return EpisodeResult(result.success, result.steps, result.reason, tuple(latencies), result.completed, result.digest)
