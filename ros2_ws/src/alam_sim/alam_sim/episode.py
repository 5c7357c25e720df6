"""One attempt at a task in lockstep: the world waits for the answer to its own observation.

A plain state machine: chunks and times come in as arguments. The ROS node and in-process evaluation both drive it, so
the same seed gives the same episode to the bit either way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from alam_control.action_gate import ActionGate, GateLimits
from alam_control.chunk_buffer import ChunkBuffer, TimedChunk
from alam_models.contract import Contract

KEEP = "grip"  # an action channel that keeps its last value in a hold, as positions do; motion increments rest
DT_TOLERANCE = 0.01  # by how much of a control period a chunk's dt may differ


class Env(Protocol):
    """A world as an episode sees it (MetaWorldEnv and PiperEnv are two)."""

    task: str
    instruction: str
    contract: Contract
    steps: int

    def reset(self, seed: int) -> None: ...
    def render(self) -> dict[str, np.ndarray]: ...
    def state(self) -> np.ndarray: ...
    def step(self, action: np.ndarray) -> bool: ...
    def close(self) -> None: ...


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
    """images {role: (h, w, 3) uint8}, state (S,) float64; id = seed << 32 | step; stamp: robot time [ns]."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    instruction: str
    id: int
    stamp_ns: int


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
    """What both modes share: the world, the gate, counting, the digest."""

    def __init__(self, env: Env, goal: Goal, gate: ActionGate, start_ns: int) -> None:
        self.env, self.goal, self.gate = env, goal, gate
        self.start_ns = start_ns
        self.period_ns = round(1e9 / env.contract.control_rate_hz)
        self.buffer = ChunkBuffer(len(env.contract.action))
        self.latencies: list[float] = []
        self.result: EpisodeResult | None = None
        self._digest = hashlib.sha256()
        self._observed: Observed | None = None
        env.reset(goal.seed)
        gate.limits = replace(gate.limits, rest=rest_action(env))
        gate.forget()

    @property
    def stamp_ns(self) -> int:
        """-> robot time [ns]."""
        return self.start_ns + self.env.steps * self.period_ns

    @property
    def robot_time(self) -> float:
        """-> robot time [s]."""
        return self.stamp_ns / 1e9

    def observe(self) -> Observed:
        """-> what the robot sees at this step; asked again at the same step, the very same object."""
        observation_id = self.goal.seed << 32 | self.env.steps
        if self._observed is None or self._observed.id != observation_id:
            images, state = self.env.render(), self.env.state()
            for role in sorted(images):
                self._digest.update(images[role].tobytes())
            self._digest.update(state.tobytes())
            self._observed = Observed(images, state, self.goal.instruction, observation_id, self.stamp_ns)
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

    def _execute(self, action: np.ndarray) -> None:
        """action (A,) from the gate -> one control step, and the end of the episode if it is one."""
        solved = self.env.step(action)
        self._digest.update(action.tobytes() + self.env.state().tobytes() + bytes([solved]))
        if solved:
            self.end(True, "success", completed=True)
        elif self.env.steps >= self.goal.max_steps:
            seconds = self.env.steps * self.period_ns / 1e9
            self.end(False, f"time limit: {self.env.steps} steps ({seconds:.2f} s) without success", completed=True)

    def _objection(self, chunk: TimedChunk, names: tuple[str, ...]) -> str:
        """-> "" or why a chunk cannot be for this robot."""
        wanted = self.env.contract.action_names
        if names != wanted:
            return f"wanted actions named {list(wanted)}, got {list(names)}"
        if not abs(chunk.dt - self.period_ns / 1e9) <= DT_TOLERANCE * self.period_ns / 1e9:
            return f"wanted dt {self.period_ns / 1e9} s, got {chunk.dt} s"
        return self.gate.fault(chunk.actions)


class LockstepEpisode(Episode):
    """Observe, wait for the chunk of that observation, execute `replan` actions, observe again."""

    def __init__(
        self, env: Env, goal: Goal, gate: ActionGate, start_ns: int, replan: int, patience: Patience | None = None
    ) -> None:
        """replan: actions executed of each chunk; 0: half of it."""
        super().__init__(env, goal, gate, start_ns)
        self.replan = replan
        self.patience = patience or Patience()
        self._waiting = True
        self._asked: float | None = None  # when this observation was first given out
        self._repeated = 0.0  # when it was last given out
        self._rejection = ""  # of the last chunk for this observation
        self._since_observation = 0

    def next(self, now: float) -> str:
        """now: wall time [s] -> what to do: "observe" (give the observation out), "step", "wait" or "end"."""
        if self.gate.stopped:
            self.end(False, f"stopped: {self.gate.stopped}")
        if self.result is not None:
            return "end"
        if not self._waiting:
            return "wait" if self.gate.closed else "step"
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
        self._rejection = self._objection(chunk, names) or self.buffer.push(chunk, self.robot_time)
        if self._rejection:
            return self._rejection
        if self._asked is not None:
            self.latencies.append(now - self._asked)
        self.replan = self.replan or max(1, len(chunk.actions) // 2)
        self._waiting, self._since_observation = False, 0
        return ""

    def step(self, now: float) -> None:
        """Execute one action; afterwards `next` says what follows. now: wall time [s], of no use here."""
        pick = self.buffer.pick(self.robot_time)
        verdict = self.gate.check(pick.action, pick.age, pick.reason)
        if verdict.held:  # closed in this very moment: the world stands still
            return
        self._execute(verdict.action)
        self._since_observation += 1
        if self._since_observation >= self.replan or self.buffer.pick(self.robot_time).action is None:
            self._waiting, self._asked, self._rejection = True, None, ""

    def hold_reason(self, now: float) -> str:
        """now: wall time [s] -> why the robot stands still; "" while it runs."""
        if self.gate.closed:
            return self.gate.closed
        asked = self._asked  # once: the world's thread may clear it while diagnostics ask
        if not self._waiting or asked is None:
            return ""
        waited = now - asked
        if self._rejection:
            return f"no usable chunk for {waited:.0f} s: {self._rejection}"
        return f"no chunk for {waited:.0f} s" if waited >= self.patience.hold_after_s else ""


def make_gate(contract: Contract, max_age_s: float = float("inf")) -> ActionGate:
    """The gate of a robot whose actions are positions, motion increments or a grip: a hold keeps positions and grip."""
    keep = [name for name in contract.action_names if name == KEEP or is_position(contract, name)]
    return ActionGate(GateLimits.of(contract.action, keep=keep, max_age=max_age_s))


def is_position(contract: Contract, name: str) -> bool:
    """Whether an action channel commands what a state channel of the same name senses: a position, not an increment."""
    return name in contract.state_names


def rest_action(env: Env) -> np.ndarray:
    """-> (A,) float32 inside the limits: the action that does not move. Positions are where they are, the rest is 0."""
    contract, state = env.contract, env.state()
    limits = GateLimits.of(contract.action)
    where = {name: state[contract.state_names.index(name)] for name in contract.state_names}
    rest = [where[name] if is_position(contract, name) else 0.0 for name in contract.action_names]
    return np.clip(np.array(rest, np.float32), limits.low, limits.high)


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
    episode = LockstepEpisode(env, goal, make_gate(env.contract), 0, replan or policy.replan)
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
        timed = TimedChunk(chunk.actions, seen.stamp_ns / 1e9, seen.id, episode.period_ns / 1e9)
        if reason := episode.offer(timed, env.contract.action_names, 0.0):
            episode.end(False, f"chunk refused: {reason}")
    assert episode.result is not None
    result = episode.result
    return EpisodeResult(result.success, result.steps, result.reason, tuple(latencies), result.completed, result.digest)
