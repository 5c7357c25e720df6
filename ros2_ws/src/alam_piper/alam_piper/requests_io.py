"""What a person asks of the arm (enable, disable, reset, home), each with a finite patience and a sentence for answer.

One thing at a time: a second one meanwhile is refused at once, so that impatience cannot pile up. A stop does not come
this way (`SharedArm.ask_stop`): it waits for nothing here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Event, Lock
from typing import Any

import numpy as np

from alam_control.arm_gate import STOPPED
from alam_piper import arm, words
from alam_piper.arm_client_io import ArmClient
from alam_piper.snapshot import Snapshot

POLL_S = 0.02  # between two looks at what the arm does
RESET_S = 1.0  # within which the control loop takes up a reset
LONGEST_S = 60.0  # that a caller waits for an arm on its way
Answer = tuple[bool, str]  # whether it was done, and a sentence


class Requests:
    """settings: the parameters of `settings.PARAMETERS` by name; over: set when the arm is let go."""

    def __init__(self, settings: Mapping[str, Any], over: Event) -> None:
        self._enable_s = settings["enable_timeout"] + 2.0
        self._speed = arm.VELOCITY * settings["speed"] * settings["park_speed"]
        self._over = over
        self._lock = Lock()

    @property
    def under_way(self) -> bool:
        return self._lock.locked()

    def answer(self, name: str, client: Callable[[], ArmClient], task_runs: Callable[[], bool]) -> Answer:
        """name: a method of this class; client: raises ConnectionError when no control loop runs."""
        if not self._lock.acquire(blocking=False):
            return False, "another request is under way: wait for its answer, or call /robot/stop"
        try:
            if name != "enable" and task_runs():
                return False, words.TASK_RUNS
            request: Callable[[ArmClient], Answer] = getattr(self, name)
            return request(client())
        except (ConnectionError, RuntimeError) as error:
            return False, str(error)
        finally:
            self._lock.release()

    def enable(self, client: ArmClient) -> Answer:
        if refused := client.ask("enable"):
            return False, refused
        said = self._wait(client, lambda said: bool(said.answer), self._enable_s)
        return said.answer == "ok", _ended(said.answer, words.ENABLED, self._enable_s)

    def disable(self, client: ArmClient) -> Answer:
        patience_s = self._patience_s(client, arm.REST)
        if refused := client.ask("disable"):
            return False, refused
        said = self._wait(client, lambda said: bool(said.answer), patience_s)
        return said.answer == "ok", _ended(said.answer, words.AT_REST, patience_s)

    def reset(self, client: ArmClient) -> Answer:
        sags = client.snapshot().reset_sags
        if refused := client.ask("reset"):
            return False, refused
        said = self._wait(client, lambda said: said.mode != STOPPED, RESET_S)
        if said.mode == STOPPED:
            return False, f"still stopped: {said.reason}"
        warning = "the arm's own error was cleared: it has no power and SAGS, hold it; " if sags else ""
        return True, warning + words.WAS_RESET

    def home(self, client: ArmClient) -> Answer:
        patience_s = self._patience_s(client, arm.HOME)
        if refused := client.ask("home"):
            return False, refused
        said = self._wait(client, lambda said: not said.moving_itself, patience_s)
        if said.moving_itself:
            return False, _ended("", "home", patience_s)
        return words.home_answer(said.commanded, said.reason)

    def _wait(self, client: ArmClient, condition: Callable[[Snapshot], bool], patience_s: float) -> Snapshot:
        """-> the newest word of the arm: once the condition holds, the patience is over, or the arm is let go."""
        end = time.monotonic() + patience_s
        while not condition(said := client.snapshot()) and time.monotonic() < end and not self._over.is_set():
            time.sleep(POLL_S)
        return said

    def _patience_s(self, client: ArmClient, target: np.ndarray) -> float:
        """How long the arm may take from where it is to a target (7,): twice what it should."""
        way = np.abs(client.snapshot().commanded - target)
        return min(LONGEST_S, 5.0 + 2.0 * float((way / self._speed).max()))


def _ended(answer: str, good: str, patience_s: float) -> str:
    """The arm's answer ("" none yet, "ok") in words."""
    if answer == "ok":
        return good
    return answer or f"not done within {patience_s:.0f} s, and it may go on: look at the arm, or call /robot/stop"
