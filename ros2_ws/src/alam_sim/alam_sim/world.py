"""The simulated robot behind the interface: one environment, one robot clock, one actuator, one episode at a time.

Pure: wall time comes from a `clock` that is passed in, and whatever must be published goes through an `Outlet`.
`open`, `run`, `idle` and `close` belong to one thread (a GL context does); all else may be called from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alam_common.diagnostics import ERROR, OK, WARN, Durations, Rate, Status
from alam_control.chunk_buffer import TimedChunk
from alam_models.contract import Contract
from alam_sim.actuator import Actuator, Period, Step
from alam_sim.episode import Env, Episode, EpisodeResult, Goal, LockstepEpisode, Observed, Patience
from alam_sim.realtime import RealtimeEpisode
from alam_sim.video import EpisodeVideo

CAMERA_RATE_HZ = 30.0
VIDEO_RATE_HZ = 20.0
INBOX = 16  # chunks that may wait to be looked at
REALTIME_MAX_AGE_S = 1.0  # of the observation behind an action, when the world does not wait


@dataclass(frozen=True)
class WorldConfig:
    """mode: "lockstep" or "realtime"; replan: actions of a chunk (lockstep; 0: half); video_dir None: no films."""

    mode: str
    replan: int = 0
    patience: Patience = Patience()
    video_dir: Path | None = None


class Outlet(Protocol):
    """Where a world's news goes."""

    def observation(self, observed: Observed) -> None: ...
    def clock(self, time_ns: int) -> None: ...
    def moved(self, periods: tuple[Period, ...], start_ns: int) -> None:
        """What an arm did in a control step; start_ns: robot time [ns] of the reset."""
        ...

    def changed(self) -> None:
        """The mode (running, holding, idle) is another one now."""
        ...


class World:
    """Opens environments, runs goals in them and knows what to say in /diagnostics."""

    def __init__(
        self,
        make_env: Callable[[str], Env],
        contract: Contract,
        config: WorldConfig,
        out: Outlet,
        clock: Callable[[], float],
    ) -> None:
        """clock: monotonic wall time [s]."""
        self._make_env, self.contract, self._config, self._out, self._clock = (make_env, contract, config, out, clock)
        self.actuator: Actuator  # of the first environment, for all that follow: a stop outlives them
        self._env: Env | None = None
        self._start_ns = self._next_ns = 0  # robot time [ns] of the environment's reset; of the next one's
        self._episode: Episode | None = None
        self._inbox: list[tuple[TimedChunk, tuple[str, ...]]] = []
        self._arrived = threading.Condition()
        self._said_mode = "idle"
        self.rejected = 0
        self.rejection = ""
        self._chunks, self._observations = Rate(), Rate()
        self._latency = Durations()
        self._last = "none"

    @property
    def env(self) -> Env | None:
        """-> the environment that is open; its own methods belong to the world's thread."""
        return self._env

    def open(self, task: str) -> Env:
        """-> the environment of a task, made anew only when the task is another one. Raises what making one raises."""
        if self._env is not None and self._env.task != task:
            self.close()
        if self._env is None:
            self._env = self._make_env(task)
            if not hasattr(self, "actuator"):
                age = REALTIME_MAX_AGE_S if self._config.mode == "realtime" else float("inf")
                self.actuator = self._env.actuator(age)
        return self._env

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def offer(self, chunk: TimedChunk, names: tuple[str, ...]) -> None:
        """A chunk has arrived; the world's thread takes it up."""
        with self._arrived:
            self._inbox = [*self._inbox[-INBOX + 1 :], (chunk, names)]
            self._arrived.notify()

    def wake(self) -> None:
        """Something else has changed (stop, enable, cancel): look at once."""
        with self._arrived:
            self._arrived.notify()

    def run(
        self,
        task: str,
        goal: Goal,
        cancelled: Callable[[], str] = lambda: "",
        feedback: Callable[[int, str], None] = lambda step, mode: None,
    ) -> EpisodeResult:
        """One episode, start to end. cancelled: -> why it is to end now, "" to go on; feedback: step and mode."""
        env = self.open(task)
        with self._arrived:
            self._inbox.clear()
        self._start_ns = self._next_ns
        episode = self._make_episode(env, goal)
        film = self._film(task, goal)
        self._episode = episode
        try:
            self._run(episode, film, cancelled, feedback)
        finally:
            self._episode = None
            self.actuator.finish()
            self.idle()
            result = episode.result
            if film:
                film.close(self._film_path(task, goal, result) if result else None)
        assert result is not None
        self._last = (
            f"{task} seed {goal.seed}: {'success' if result.success else 'no success'}, {result.steps} steps, "
            f"digest {result.digest}"
        )
        self._notice_mode("idle")
        return result

    def ready(self) -> None:
        """The environment was reset by its owner: the robot is there, and rests."""
        assert self._env is not None
        self._start_ns = self._next_ns
        self.actuator.begin(self._env, self._start_ns)
        self.actuator.finish()
        self.idle()

    def idle(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """No task runs: move the world on until the robot is at rest and has taken up what a person asked of it.

        Against the wall clock in realtime mode."""
        assert self._env is not None
        period_ns = round(1e9 / self.contract.control_rate_hz)
        due = self._clock()
        while self.actuator.restless and not cancelled():
            due += period_ns / 1e9
            while self._config.mode == "realtime" and (early_s := due - self._clock()) > 0:
                with self._arrived:
                    self._arrived.wait(early_s)
            now_ns = self._start_ns + self._env.steps * period_ns
            step = self.actuator.step(now_ns / 1e9, waits=False)
            if step is not None:
                self._tell(step, now_ns + period_ns)
        self._next_ns = self._start_ns + (self._env.steps + 1) * period_ns

    def mode(self, now: float) -> tuple[str, str]:
        """-> "idle", "running" or "holding", and why it holds."""
        episode = self._episode
        if episode is None or episode.result is not None:
            return ("holding", self.actuator.closed) if self.actuator.closed else ("idle", "")
        reason = episode.hold_reason(now)  # type: ignore[attr-defined]
        return ("holding", reason) if reason else ("running", "")

    def status(self, now: float) -> Status:
        """now: wall time [s] -> what /diagnostics says of this robot."""
        mode, reason = self.mode(now)
        episode = self._episode
        level = OK if mode != "holding" else ERROR if self.actuator.stopped else WARN
        values = {
            "mode": mode,
            "reason": reason,
            "world": self._config.mode,
            "task": f"{episode.env.task} seed {episode.goal.seed} step {episode.env.steps}" if episode else "",
            "observation_rate_hz": f"{self._observations.rate_hz(now):.1f}",
            "chunk_rate_hz": f"{self._chunks.rate_hz(now):.1f}",
            "chunk_age_s": f"{self._chunks.age_s(now):.2f}",
            "chunks_accepted": str(self._chunks.count),
            "chunks_rejected": str(self.rejected),
            "last_rejection": self.rejection,
            "chunk_latency_p50_ms": f"{self._latency.percentile_ms(50):.1f}",
            "chunk_latency_p99_ms": f"{self._latency.percentile_ms(99):.1f}",
            "actions_clipped": str(self.actuator.clipped),
            "actions_held": str(self.actuator.held),
            "slips": str(episode.slips) if isinstance(episode, RealtimeEpisode) else "0",
            "last_episode": self._last,
        }
        return Status(level, f"{mode}: {reason}" if reason else mode, values)

    def _make_episode(self, env: Env, goal: Goal) -> LockstepEpisode | RealtimeEpisode:
        if self._config.mode == "realtime":
            return RealtimeEpisode(env, goal, self.actuator, self._next_ns, CAMERA_RATE_HZ)
        return LockstepEpisode(env, goal, self.actuator, self._next_ns, self._config.replan, self._config.patience)

    def _run(
        self,
        episode: LockstepEpisode | RealtimeEpisode,
        film: EpisodeVideo | None,
        cancelled: Callable[[], str],
        feedback: Callable[[int, str], None],
    ) -> None:
        # In lockstep nobody waits for a film: every step is in it, and it plays slower than life.
        lockstep = self._config.mode == "lockstep"
        every = 1 if lockstep else max(1, round(self.contract.control_rate_hz / VIDEO_RATE_HZ))
        while True:
            if reason := cancelled():
                episode.end(False, reason)
            self._take_chunks(episode)
            now = self._clock()
            todo = episode.next(now)
            mode = self.mode(now)[0] if episode.result is None else self._said_mode
            if todo == "observe" or mode != self._said_mode:
                feedback(episode.env.steps, mode)
            self._notice_mode(mode)
            if todo == "end":
                if film:
                    film.add(episode.frames())
                return
            if todo == "observe":
                observed = episode.observe()
                self._observations.tick(now)
                episode.given(self._clock())
                self._out.clock(observed.stamp_ns)
                self._out.observation(observed)
            elif todo == "step":
                if film and episode.env.steps % every == 0:
                    film.add(episode.frames())
                step = episode.step(now)
                if step is not None:
                    self._tell(step, episode.stamp_ns)
            elif (wait_s := episode.wait_s(now)) > 0:
                with self._arrived:
                    if not self._inbox:
                        self._arrived.wait(wait_s)

    def _tell(self, step: Step, stamp_ns: int) -> None:
        """The clock first: no stamp of an arm's periods lies ahead of it."""
        if self._config.mode == "realtime" or step.periods:
            self._out.clock(stamp_ns)
        if step.periods:
            self._out.moved(step.periods, self._start_ns)

    def _take_chunks(self, episode: LockstepEpisode | RealtimeEpisode) -> None:
        with self._arrived:
            arrived, self._inbox = self._inbox, []
        for chunk, names in arrived:
            now = self._clock()
            if reason := episode.offer(chunk, names, now):
                self.rejected += 1
                self.rejection = reason
            else:
                self._chunks.tick(now)
                self._latency.add(episode.latencies[-1])

    def _notice_mode(self, mode: str) -> None:
        if mode != self._said_mode:
            self._said_mode = mode
            self._out.changed()

    def _film(self, task: str, goal: Goal) -> EpisodeVideo | None:
        if self._config.video_dir is None:
            return None
        return EpisodeVideo(self._config.video_dir / f"{task}-seed{goal.seed}.mp4", VIDEO_RATE_HZ)

    def _film_path(self, task: str, goal: Goal, result: EpisodeResult) -> Path:
        assert self._config.video_dir is not None
        outcome = "success" if result.success else "failure"
        return self._config.video_dir / f"{task}-seed{goal.seed}-{outcome}.mp4"
