"""The fault matrix: each fault, how it is caused, what must be said, and what must follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rig import Rig

HOLD_S = 1.5  # from a fault to the last command that moves a joint, unless a scenario says otherwise


def emulator(text: str) -> Callable[[Rig], None]:
    return lambda rig: rig.tell(text)


def both(*injections: Callable[[Rig], None]) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        for injection in injections:
            injection(rig)

    return inject


def camera(role: str, what: str, broken: bool) -> Callable[[Rig], None]:
    return lambda rig: rig.call(f"/camera_{role}/emulate_{what}", broken) and None


def kill(process: str) -> Callable[[Rig], None]:
    return lambda rig: rig.kill(process)


@dataclass(frozen=True)
class Scenario:
    """One fault. `clear`: what ends it, None when it passes by itself or never does.

    after: "goes on" (the arm moves on when the fault clears), "enable" (a person enables it, then it moves), "reset" (a
    person resets and enables it), "rides through" (the arm need not hold). words: one of them must be said."""

    name: str
    inject: Callable[[Rig], None]
    words: tuple[str, ...]
    after: str
    clear: Callable[[Rig], None] | None = None
    hold_s: float = HOLD_S
    new_task: bool = False  # the task ended with the fault: a person starts another one
    slow: bool = False  # a variant of another one: not part of every run of the tests


SCENARIOS = (
    Scenario("feedback frames lost, 30 %", emulator("loss p=0.3 for=2"), (), "rides through"),
    Scenario("feedback delayed by 10 ms", emulator("delay by=0.01 for=2"), (), "rides through"),
    Scenario("feedback delayed by 500 ms", emulator("delay by=0.5 for=2"), ("feedback",), "goes on"),
    Scenario("frames corrupted, 30 %", emulator("corruption p=0.3 for=2"), (), "rides through"),
    Scenario("feedback torn between its three frames", emulator("torn p=0.5 for=2"), (), "rides through"),
    Scenario("feedback frozen", emulator("frozen for=4"), ("frozen",), "reset", hold_s=2.0),
    Scenario("feedback silent", emulator("silence for=3"), ("feedback",), "goes on"),
    Scenario("bus-off", emulator("bus-off for=3"), ("bus", "feedback"), "goes on"),
    Scenario("motor 3 over-temperature", emulator("over-temperature motor=3 for=2"), ("temperature",), "reset"),
    Scenario("collision flag", emulator("collision for=1"), ("collision",), "reset"),
    Scenario("motor 2 disabled", emulator("motor-off motor=2"), ("motor 2", "joint2"), "reset"),
    Scenario("power drop", emulator("power-drop for=2"), ("power", "voltage", "motor", "feedback"), "reset"),
    Scenario("leader mode", emulator("leader for=2"), ("leader", "teach"), "enable"),
    Scenario(
        "third-person camera unplugged",
        camera("third_person", "unplug", True),
        ("camera",),
        "goes on",
        camera("third_person", "unplug", False),
        hold_s=1.5,
    ),
    Scenario(
        "wrist camera stalled",
        camera("wrist", "stall", True),
        ("camera",),
        "goes on",
        camera("wrist", "stall", False),
        hold_s=1.5,
    ),
    Scenario("policy killed", kill("policy"), ("chunk",), "goes on", hold_s=1.5),
    Scenario("wrist camera killed", kill("wrist camera"), ("camera",), "goes on", hold_s=1.5),
    Scenario("driver killed", kill("driver"), ("disabled",), "enable", new_task=True),
    Scenario("control process killed", kill("control process"), ("disabled",), "enable", new_task=True),
    Scenario("launcher killed", kill("launcher"), (), "launch", hold_s=2.0),
    Scenario(
        "policy killed while feedback is silent",
        both(emulator("silence for=2"), kill("policy")),
        ("feedback", "chunk"),
        "goes on",
    ),
    Scenario(
        "camera unplugged and collision flag",
        both(camera("wrist", "unplug", True), emulator("collision for=1")),
        ("collision",),
        "reset",
        camera("wrist", "unplug", False),
    ),
    Scenario(
        "driver killed while the bus is off",
        both(emulator("bus-off for=3"), kill("driver")),
        ("bus", "disabled"),
        "enable",
        new_task=True,
    ),
)
