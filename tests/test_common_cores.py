"""Which cores the control loop has to itself, and that the others leave it."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alam_common import cores_io
from alam_common.cores_io import core_plan, cores_in_words, leave_loop_core, loop_core


@given(st.sets(st.integers(0, 300), min_size=1))
def test_the_loop_has_the_last_core_of_more_than_two_and_nobody_else_has_it(cores):
    loop, others = core_plan(cores)
    assert others, "nobody is left without a core"
    if len(cores) <= 2:
        assert loop == -1 and set(others) == cores
    else:
        assert loop == max(cores) and {loop, *others} == cores and loop not in others


@given(st.sets(st.integers(0, 60)))
def test_words_of_cores_can_be_read_back(cores):
    read = set()
    for part in filter(None, cores_in_words(cores).split(", ")):
        first, _, last = part.partition("-")
        read |= set(range(int(first), int(last or first) + 1))
    assert read == cores


def test_a_few_cores_in_words():
    assert cores_in_words({0, 1, 2, 5, 7, 8}) == "0-2, 5, 7-8"


@pytest.mark.parametrize(("cores", "wanted"), [({0, 1}, []), ({2}, []), ({0, 1, 2, 3}, [0, 1, 2]), ({4, 6, 9}, [4, 6])])
def test_every_thread_of_a_process_leaves_the_loops_core(monkeypatch, cores, wanted):
    set_to = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, to: set_to.update({thread: list(to)}))
    leave_loop_core()
    threads = {int(name) for name in os.listdir("/proc/self/task")}
    assert os.getpid() in threads and set_to == (dict.fromkeys(threads, wanted) if wanted else {})
    assert loop_core() == (max(cores) if wanted else -1)


PROBE = """
import os, threading
go, seen = threading.Event(), {}
def look(name):
    go.wait()
    seen[name] = os.sched_getaffinity(0)
early = threading.Thread(target=look, args=("early",))
early.start()
from alam_common.cores_io import core_plan, leave_loop_core
before = os.sched_getaffinity(0)
leave_loop_core()
late = threading.Thread(target=look, args=("late",))
late.start()
go.set()
early.join(), late.join()
wanted = set(core_plan(before)[1])
assert seen["early"] == seen["late"] == os.sched_getaffinity(0) == wanted, (seen, wanted)
print(len(before), len(wanted))
"""


def test_on_this_computer():
    """Threads from before and after have the affinity of the plan; with one or two cores all of them."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after == (before - 1 if before > 2 else before)


@pytest.mark.parametrize("module", ["alam_cameras.camera_node", "alam_policy.policy_node"])
def test_policy_and_cameras_leave_it_before_anything_else_starts(module, monkeypatch):
    """`main` calls `leave_loop_core` first: threads that a library starts inherit it."""
    pytest.importorskip("rclpy")
    pytest.importorskip("alam_msgs")
    node = pytest.importorskip(module)
    did = []
    monkeypatch.setattr(node, "leave_loop_core", lambda: did.append("left"))
    monkeypatch.setattr(node, "run_node", lambda *_: did.append("ran") or 0)
    with pytest.raises(SystemExit):
        node.main()
    assert did == ["left", "ran"] and cores_io.leave_loop_core is leave_loop_core
