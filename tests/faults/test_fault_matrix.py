"""Every fault while the arm moves: no limit broken, a hold in time, said in words, and what comes after as it must
be."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("alam_msgs")

from judge import moved_at, seconds_to_hold
from rig import Rig
from scenarios import RIDES, SCENARIOS, Scenario

pytestmark = [pytest.mark.ros, pytest.mark.sim]

BUNDLE = Path(__file__).resolve().parents[2] / "checkpoints/piper-practice"
BRAKE_S = 0.6  # from a stop while the arm moves to its rest
RECOVERY_S = 40.0  # for a process that starts anew on a loaded machine
EFFECT_S = 5.0  # within which the diagnostics, once a second, tell a counter


@pytest.fixture(scope="module")
def rigs(tmp_path_factory):
    """One graph for as many faults as it survives in order."""
    kept: list[Rig] = []

    def give() -> Rig:
        if not kept:
            kept.append(Rig(BUNDLE, tmp_path_factory.mktemp("rig")))
            kept[0].launch()
        return kept[0]

    def drop() -> None:
        while kept:
            kept.pop().close()

    give.drop = drop  # type: ignore[attr-defined]
    yield give
    drop()


@pytest.fixture(scope="module")
def results():
    """What was measured, written where ALAM_FAULT_RESULTS says (tools/fault_table.py makes the README's table of
    it)."""
    measured: list[dict[str, object]] = []
    yield measured
    if path := os.environ.get("ALAM_FAULT_RESULTS"):
        Path(path).write_text(json.dumps(measured, indent=2) + "\n")


def parameters() -> list[object]:
    """Every scenario; all but a few only when the slow ones are asked for."""
    return [
        pytest.param(scenario, id=scenario.name, marks=() if scenario.every_run else pytest.mark.slow)
        for scenario in SCENARIOS
    ]


@pytest.mark.parametrize("scenario", parameters())
def test_fault(scenario: Scenario, rigs, results):
    rig = rigs()
    try:
        run(scenario, rig, results)
    except BaseException:
        rigs.drop()  # the next one starts from a fresh graph
        raise


def run(scenario: Scenario, rig: Rig, results: list[dict[str, object]]) -> None:
    opened = time.monotonic()
    rig.begin()
    before = rig.figure(scenario.effect[0]) if scenario.effect else 0
    began = time.monotonic()
    scenario.inject(rig)
    rides = scenario.after == RIDES
    if rides:
        time_to_hold = 0.0
        rig.until(lambda: time.monotonic() - began > 2.5, 5, "the fault to pass")
    else:
        rig.until(lambda: held_after(rig, began) is not None, scenario.hold_s + 10, "the arm to hold")
        time_to_hold = held_after(rig, began) or 0.0
        assert time_to_hold <= scenario.hold_s
    if scenario.words and scenario.after != "launch":
        rig.until(lambda: any(word in rig.said(began) for word in scenario.words), 10, f"one of {scenario.words}")
    if scenario.effect:
        counter, least = scenario.effect
        rig.until(lambda: rig.figure(counter) >= before + least, EFFECT_S, f"{counter} to grow by {least}")
    if scenario.clear:
        scenario.clear(rig)
    recovered = recover(scenario, rig)
    assert rig.broken(opened) == []
    said = telling(rig.said(began), scenario.words)
    assert said or not scenario.words, f"nothing said of {scenario.words}"
    if scenario.effect:
        said = "; ".join(filter(None, (said, f"{scenario.effect[0]} +{rig.figure(scenario.effect[0]) - before}")))
    results.append(
        {
            "fault": scenario.name,
            "held_after_s": None if rides else round(time_to_hold, 2),
            "hold_limit_s": None if rides else scenario.hold_s,
            "said": said,
            "after": scenario.after,
            "moves_again_after_s": round(recovered, 1),
        }
    )


def held_after(rig: Rig, began: float) -> float | None:
    return seconds_to_hold(*rig.sent(began), began, time.monotonic())


def recover(scenario: Scenario, rig: Rig) -> float:
    """Do what a person must, and nothing before -> seconds until the arm moved again."""
    if scenario.after == "launch":
        left = lambda: [pid for process in ("driver", "control process", "policy") for pid in rig.pids(process)]  # noqa: E731
        rig.until(lambda: not left(), 15, "no process of the graph to be left")
        rig.launch()
        began = time.monotonic()
        rig.begin()
        return time.monotonic() - began
    if scenario.after in ("reset", "enable"):
        wanted = "stopped" if scenario.after == "reset" else "disabled"
        rig.until(lambda: rig.mode() == wanted, RECOVERY_S, f"the mode {wanted}")
        stopped = time.monotonic()
        rig.until(lambda: time.monotonic() - stopped > BRAKE_S, 3, "")
        since = time.monotonic()
        rig.until(lambda: time.monotonic() - since > 1.5, 3, "")  # nothing moves by itself
        assert not len(moved_at(*rig.sent(since))), "it moved before a person allowed it"
        if scenario.after == "reset":
            rig.reset()
        began = time.monotonic()
        rig.begin()
        return time.monotonic() - began
    if scenario.new_task:
        rig.start_task()
    return rig.until(rig.moving, RECOVERY_S, "the arm to move again")


def telling(said: str, words: tuple[str, ...]) -> str:
    """-> the line that names the fault."""
    for line in said.splitlines():
        if any(word in line for word in words):
            return line
    return ""
