"""Running a plan: start, respawn, exit handlers, and an ordered way down that leaves no process behind."""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import signal
import sys
import time
import uuid
from collections.abc import Callable

from ros2_standin.child import Child
from ros2_standin.context import LaunchContext, Plan, Process, ProcessExited
from ros2_standin.guard import start_guard
from ros2_standin.refusal import Refused
from ros2_standin.system import adopt_orphans, marked, send, send_group

STAGES = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
PATIENCE_S = {"sigterm_timeout": 2.0, "sigkill_timeout": 2.0}  # after Ctrl-C; the genuine launch has 5 s and 5 s
MOST_KILLS = 6  # half a second apart
SAME_KEY_S = 0.3  # SIGINTs closer than this are one: a terminal, `make` and `timeout` may each send it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


class Supervisor:
    """One run of one plan. One thread, one selector: pipes, signals, timers."""

    def __init__(self, plan: Plan, context: LaunchContext) -> None:
        self.plan = plan
        self.context = context
        self.exit_code = 0
        self.children: dict[int, Child] = {}
        self.failed = ""  # the last process that failed and was not started again
        self._mark = uuid.uuid4().hex
        self._stage = -1  # index into STAGES on the way down
        self._kills = 0
        self._asked_at = 0.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = itertools.count()
        self._selector = selectors.DefaultSelector()
        plan.log = self.log

    def log(self, level: str, text: str, who: str = "launch") -> None:
        """Say something about the launch itself."""
        self.say(f"[{level}] [{who}]: {text}")

    def say(self, line: str) -> None:
        """Print one line; with nobody left to read it, shut down."""
        try:
            print(line, flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.shut_down("nobody reads the output any more")

    def run(self) -> int:
        """Run until every process has ended; -> the exit code of `ros2 launch`."""
        guard_pipe = start_guard(self._mark)
        adopt_orphans()
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup keeps a launch alive
                signal.signal(number, lambda *_: None)
        self._selector.register(wake_read, selectors.EVENT_READ)
        self._start_planned()
        while (self.children or self._waiting() or self._left_over()) and self._kills <= MOST_KILLS:
            if not self.children and not self._waiting():
                self.exit_code = self.exit_code or int(bool(self.failed))
                self.shut_down("every process has ended, but not what they started")
            for key, _ in self._selector.select(self._until_timer()):
                if key.fd == wake_read:
                    for received in os.read(wake_read, 4096):
                        self._on_signal(received)
                else:
                    child, pipe = key.data
                    if child.read(pipe) == 0:
                        self._selector.unregister(pipe)
            self._reap()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()
        os.close(guard_pipe)
        if self._kills > MOST_KILLS:
            self.log("ERROR", f"these processes do not end, not even by SIGKILL: {marked(self._mark)}")
            self.exit_code = 1
        if self.failed and not self.context.is_shutdown:
            self.exit_code = 1
        return self.exit_code

    def shut_down(self, reason: str) -> None:
        """Begin the way down: SIGINT to everybody, later SIGTERM, then SIGKILL."""
        self.plan.shutdown_reason = self.plan.shutdown_reason or reason
        if self._stage < 0:
            self.log("INFO", f"shutting down: {self.plan.shutdown_reason}")
            self._escalate(0)

    def _escalate(self, stage: int) -> None:
        """Go to this stage of the way down, unless already there; the last one is repeated until nobody is left."""
        if stage < self._stage or (stage == self._stage < len(STAGES) - 1):
            return
        news, self._stage = stage > self._stage, stage
        number = STAGES[stage]
        if stage > 0 and news:
            for child in self.children.values():
                why = f"still running after {STAGES[stage - 1].name}: sending {number.name}"
                self.log("ERROR", why, child.process.label)
        for group in self.children:
            send_group(group, number)
        if stage > 0:
            for pid in self._left_over():
                send(pid, number)
        self._kills += stage == len(STAGES) - 1
        following = min(stage + 1, len(STAGES) - 1)
        patience = [self._patience("sigterm_timeout"), self._patience("sigkill_timeout"), 0.5][stage]
        self._after(patience, lambda: self._escalate(following))

    def _patience(self, name: str) -> float:
        try:
            return float(self.context.launch_configurations.get(name, PATIENCE_S[name]))
        except ValueError:
            return PATIENCE_S[name]

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        now = time.monotonic()
        if self._stage < 0:
            self._asked_at = now
            self.exit_code = 0 if number == signal.SIGINT else 1  # as the genuine launch has it
            self.shut_down(f"{signal.Signals(number).name} received")
        elif now - self._asked_at > SAME_KEY_S:
            self._asked_at = now
            self._escalate(min(self._stage + 1, len(STAGES) - 1))

    def _start_planned(self) -> None:
        """Start what the description, or an exit handler, has planned."""
        planned, self.plan.processes[:] = list(self.plan.processes), []
        for process in planned:
            self._start(process)
        if self.context.is_shutdown:
            self.shut_down(self.plan.shutdown_reason)

    def _start(self, process: Process) -> None:
        if self.context.is_shutdown:
            return
        try:
            child = Child(process, self._mark, self.say)
        except Refused as refusal:
            self._fail(str(refusal))
            return
        self.children[child.pid] = child
        for pipe in child.pipes:
            self._selector.register(pipe, selectors.EVENT_READ, (child, pipe))
        self.log("INFO", f"process started with pid [{child.pid}]", process.label)

    def _fail(self, why: str) -> None:
        self.log("ERROR", why)
        self.exit_code = 1
        self.shut_down("an error in the launch")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self.children.pop(pid, None)
            if child is not None:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, returncode: int) -> None:
        for pipe in child.pipes:
            if pipe.fileno() in self._selector.get_map():
                self._selector.unregister(pipe)
        child.finish(returncode)
        process = child.process
        if returncode == 0:
            self.log("INFO", f"process has finished cleanly [pid {child.pid}]", process.label)
        else:
            self.log("ERROR", f"process has died [pid {child.pid}, exit code {returncode}]", process.label)
        going_down = self.context.is_shutdown
        event = ProcessExited(process.label, child.pid, returncode)
        for handle in [process.on_exit, *self.plan.on_any_exit]:
            if handle is not None:
                self._handle(handle, event)
        self._start_planned()
        if not going_down and self.context.is_shutdown and returncode != 0:
            self.exit_code = 1  # this one brought the launch down
        if not self.context.is_shutdown:
            if process.respawn:
                self._after(process.respawn_delay, lambda: self._start(process))
            elif returncode != 0:
                self.failed = process.label

    def _handle(self, handle: Callable[[ProcessExited, LaunchContext], None], event: ProcessExited) -> None:
        try:
            handle(event, self.context)
        except Exception as error:
            self._fail(f"exit handler: {error}")

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._ticket), action))

    def _waiting(self) -> bool:
        """Is a process about to be started again?"""
        return bool(self._timers) and not self.context.is_shutdown

    def _until_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _left_over(self) -> list[int]:
        """-> what the launched processes have started and left behind."""
        return [pid for pid in marked(self._mark) if pid not in self.children]
