"""The process that owns the arm, and the memory that it shares."""

import json
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alam_piper.arm_client_io import ArmClient
from alam_piper.settings import PARAMETERS
from alam_piper.shared_io import COMMANDS, FEEDBACK, ROWS, SharedArm


@given(st.lists(st.integers(0, 2 * ROWS), min_size=1, max_size=6))
def test_a_reader_gets_every_row_once_in_order_until_it_is_too_late(bursts):
    written = SharedArm()
    read, seen, number = SharedArm(written.fd), 0, 0
    for burst in bursts:
        for _ in range(burst):
            number += 1
            written.put(COMMANDS, float(number), np.full(7, number), np.full(7, -number))
        rows, seen = read.since(COMMANDS, seen)
        assert seen == number == read.count(COMMANDS) and read.count(FEEDBACK) == 0
        assert rows.shape == (min(burst, ROWS - 1), 15)
        assert np.array_equal(rows[:, 0], np.arange(number - len(rows), number) + 1)
        assert (rows[:, 1:8] == rows[:, :1]).all() and (rows[:, 8:] == -rows[:, :1]).all()


def test_cameras_that_were_never_seen_are_infinitely_old():
    assert (SharedArm().camera_stamps == -np.inf).all()


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
        )
    )
)
def test_each_stop_is_said_once_in_order(steps):
    node, asked = SharedArm(), []
    loop = SharedArm(node.fd)
    for reads, reason in steps:
        if reads or len(asked) == 8:
            assert loop.stop_asked() == (asked.pop(0) if asked else "")
        number = node.ask_stop(reason)
        asked.append(reason)
        assert not node.stop_taken(number)
    for reason in asked:
        assert loop.stop_asked() == reason
    assert loop.stop_asked() == "" and node.count(COMMANDS) == 0 and (node.camera_stamps == -np.inf).all()
    assert not steps or node.stop_taken(number)


def test_a_flood_of_stops_from_many_threads_still_stops():
    node = SharedArm()
    loop = SharedArm(node.fd)
    threads = [
        threading.Thread(target=node.ask_stop, args=(f"reason {number} {'long ' * 99}",)) for number in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = list(iter(loop.stop_asked, ""))
    assert len(said) == len(set(said)) == 8 and all(text.startswith("reason ") and len(text) == 256 for text in said)
    assert node.stop_taken(50)
    for reason in ("", "\ud800"):
        node.ask_stop(reason)
        assert loop.stop_asked(), "a stop without a reason, or with a broken one, is a stop"


def test_asking_whether_to_stop_makes_nothing():
    shared, peaks = SharedArm(), []
    shared.stop_asked()
    tracemalloc.start()
    try:
        for _ in range(20):  # threads that other tests left behind are counted too: not every time
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for _ in range(1000):
                shared.stop_asked()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        assert min(peaks) < 200
    finally:
        tracemalloc.stop()


def client(channel):
    settings = {parameter.name: parameter.default for parameter in PARAMETERS}
    return ArmClient(settings | {"can_interface": "alam_socket", "can_channel": channel, "priority": 0})


def test_a_bus_that_is_not_there_is_a_sentence_and_the_process_ends(tmp_path):
    arm = client(str(tmp_path / "none.sock"))
    assert "wanted the CAN bus" in arm.ask("open")
    with pytest.raises(RuntimeError, match="AttributeError"):
        arm.ask("dance")
    assert arm.end() and arm.gone
    with pytest.raises(ConnectionError):
        arm.ask("snapshot")


@pytest.mark.sim
def test_one_process_an_arm_and_it_ends_with_its_node(tmp_path):
    pytest.importorskip("mujoco")
    from piper_rig import Emulator, until

    with Emulator(tmp_path) as emulator:
        first = client(emulator.channel)
        assert first.ask("open") == ""
        first.ask("start")
        until(lambda: first.snapshot().phase == "asleep", "feedback")
        second = client(emulator.channel)
        assert "another process" in second.ask("open")
        assert second.end()
        first.ask("enable")
        until(lambda: first.snapshot().mode == "holding", "power")
        assert first.shared.count(FEEDBACK) > 0 and first.shared.count(COMMANDS) > 0
        first._requests.close()  # as when the node is killed
        until(lambda: first.gone, "the end of the process")
        assert json.loads(emulator.tell("state").stdout)["enabled"] == [True] * 7, "it keeps its power, and its place"
        third = client(emulator.channel)
        assert third.ask("open") == ""
        assert third.end()
