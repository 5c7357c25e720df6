"""The fault matrix: each fault, how it is caused, what must be said, and what must follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rig import Rig

HOLD_S = 1.5  # from a fault to the last command that moves a joint, unless a scenario says otherwise
RIDES = "rides through"
LEADER, LEAD, FOLLOW = 0x470, bytes([0xFA, *[0] * 7]), bytes([0xFC, *[0] * 7])  # frame 470, as another device sends it


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


def frame(number: int, data: bytes) -> Callable[[Rig], None]:
    return lambda rig: rig.watch.send(number, data)


@dataclass(frozen=True)
class Scenario:
    """One fault. `clear`: what ends it, None when it passes by itself or never does.

    after: "goes on" (the arm moves on when the fault clears), "enable" (a person enables it, then it moves), "reset" (a
    person resets and enables it), "launch" (a person launches anew, then enables it), "rides through" (the arm need not
    hold). words: one of them must be said. effect: a counter of the arm's diagnostics, and how much it must grow: that
    the fault was there."""

    name: str
    inject: Callable[[Rig], None]
    words: tuple[str, ...]
    after: str
    clear: Callable[[Rig], None] | None = None
    hold_s: float = HOLD_S
    effect: tuple[str, int] | None = None
    new_task: bool = False  # the task ended with the fault: a person starts another one
    every_run: bool = False  # one of the few that every run of the tests has


SINGLE = (
    Scenario("feedback frames lost, 30 %", emulator("loss p=0.3 for=2"), (), RIDES, effect=("feedback_missed", 50)),
    Scenario(
        "feedback delayed by 10 ms, ten times",
        both(*(emulator(f"delay by=0.01 from={0.2 * k:.1f} for=0.1") for k in range(10))),
        (),
        RIDES,
        effect=("feedback_late", 10),
    ),
    Scenario("feedback delayed by 500 ms", emulator("delay by=0.5 for=2"), ("feedback",), "goes on"),
    Scenario(
        "frames corrupted, 30 %", emulator("corruption p=0.3 for=2"), (), RIDES, effect=("feedback_implausible", 20)
    ),
    Scenario(
        "feedback torn between its three frames", emulator("torn p=0.5 for=2"), (), RIDES, effect=("feedback_torn", 50)
    ),
    Scenario("feedback frozen", emulator("frozen for=4"), ("frozen",), "reset", hold_s=2.0),
    Scenario("feedback silent", emulator("silence for=3"), ("feedback",), "goes on", every_run=True),
    Scenario(
        "commands lost", emulator("loss of=commands"), ("following error", "frozen"), "reset", emulator("clear"), 10.0
    ),
    Scenario("bus-off", emulator("bus-off for=3"), ("bus", "feedback"), "goes on"),
    Scenario("motor 3 over-temperature", emulator("over-temperature motor=3 for=2"), ("temperature",), "reset"),
    Scenario("collision flag", emulator("collision for=1"), ("collision",), "reset"),
    Scenario("a motor not reached inside the arm", emulator("joint-comms motor=4 for=1"), ("communication",), "reset"),
    Scenario("a brake not opened", emulator("brake motor=2 for=1"), ("brake",), "reset"),
    Scenario("a joint's driver in error", emulator("joint-error motor=5 for=1"), ("error",), "reset"),
    Scenario("motor 2 disabled", emulator("motor-off motor=2"), ("motor 2", "joint2"), "reset"),
    Scenario("gripper's motor disabled", emulator("motor-off motor=7"), ("gripper",), "reset"),
    Scenario("power drop", emulator("power-drop for=2"), ("power", "voltage", "motor", "feedback"), "reset"),
    Scenario("leader mode", emulator("leader for=2"), ("leader", "teach"), "enable"),
    Scenario("leader mode by frame", frame(LEADER, LEAD), ("leader", "teach"), "enable", frame(LEADER, FOLLOW)),
    Scenario(
        "third-person camera unplugged",
        camera("third_person", "unplug", True),
        ("camera third_person",),
        "goes on",
        camera("third_person", "unplug", False),
        every_run=True,
    ),
    Scenario(
        "wrist camera stalled",
        camera("wrist", "stall", True),
        ("camera wrist",),
        "goes on",
        camera("wrist", "stall", False),
    ),
    Scenario("policy killed", kill("policy"), ("chunk",), "goes on", every_run=True),
    Scenario("wrist camera killed", kill("wrist camera"), ("camera wrist",), "goes on"),
    Scenario("driver killed", kill("driver"), ("disabled",), "enable", new_task=True),
    Scenario("control process killed", kill("control process"), ("disabled",), "enable", new_task=True),
    Scenario("launcher killed", kill("launcher"), ("shutting down", "disabled"), "launch", hold_s=2.0),
)
COMBINED = (
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
    Scenario(
        "feedback lost, corrupted and torn at once",
        both(emulator("loss p=0.1 for=2"), emulator("corruption p=0.1 for=2"), emulator("torn p=0.2 for=2")),
        (),
        RIDES,
        effect=("feedback_torn", 20),
    ),
    Scenario(
        "feedback frames lost and wrist camera stalled",
        both(emulator("loss p=0.3 for=4"), camera("wrist", "stall", True)),
        ("camera wrist",),
        "goes on",
        camera("wrist", "stall", False),
        effect=("feedback_missed", 50),
    ),
    Scenario("policy killed and bus-off", both(kill("policy"), emulator("bus-off for=3")), ("bus", "chunk"), "goes on"),
    Scenario(
        "driver killed and collision flag",
        both(emulator("collision for=1"), kill("driver")),
        ("collision", "disabled"),
        "enable",
        new_task=True,
    ),
    Scenario(
        "wrist camera killed while unplugged",
        both(camera("wrist", "unplug", True), kill("wrist camera")),
        ("camera wrist",),
        "goes on",
    ),
    Scenario(
        "power drop and launcher killed",
        both(emulator("power-drop for=2"), kill("launcher")),
        ("power", "feedback", "disabled"),
        "launch",
        hold_s=2.0,
    ),
    Scenario(
        "leader mode while the policy is killed",
        both(kill("policy"), emulator("leader for=2")),
        ("leader", "teach"),
        "enable",
    ),
)
SCENARIOS = SINGLE + COMBINED
