"""The stand-in's `ros2 launch`: output, exit codes, respawn, the ordered way down, and nothing left behind."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from launch_files.harness import ROS2, Prefix, alive, until

# Says what reaches it. Arguments: signals to ignore; "child": start a child that ignores everything and outlives it;
# "daemon": the same in a session of its own.
STUBBORN = """\
    import os, signal, sys, time
    ignored = [word for word in sys.argv[1:] if word.startswith("SIG")]
    def say(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # one write: parent and child share the pipe
    def heard(number, frame):
        name = signal.Signals(number).name
        say("heard", name)
        if name not in ignored:
            sys.exit(0)
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), heard)
    for word in ("child", "daemon"):
        if word in sys.argv and os.fork() == 0:
            if word == "daemon":
                os.setsid()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say(word, os.getpid())
            while True:
                time.sleep(60)
    say("ready")
    while True:
        time.sleep(60)
    """
QUICK = ("SetLaunchConfiguration('sigterm_timeout', '0.3')", "SetLaunchConfiguration('sigkill_timeout', '0.3')")


@pytest.fixture
def prefix(tmp_path) -> Iterator[Prefix]:
    with Prefix(tmp_path) as made:
        made.executable("stubborn", STUBBORN)
        made.executable("end", "import sys; sys.exit(int(sys.argv[1]))")
        yield made


def node(executable: str, *arguments: str, more: str = "") -> str:
    """-> a Node expression; sys.argv of the executable starts with these arguments."""
    return f"Node(package='demo', executable={executable!r}, arguments={list(arguments)!r}, {more})"


def word_of(running, word: str) -> int:
    """-> the pid that `stubborn` said after this word."""
    return int(running.line(f"] {word} ").split()[-1])


# Output


def test_lines_have_a_prefix_and_come_at_once(prefix):
    prefix.executable(
        "talk",
        """\
        import os, sys, time
        print("first")
        print("an error", file=sys.stderr, flush=True)
        sys.stdout.write("half ")
        sys.stdout.flush()
        until_there = sys.argv[1]
        while not os.path.exists(until_there):
            time.sleep(0.01)
        os.write(1, b"a line\\nbad \\xff byte\\nno end")
        """,
    )
    there = prefix.folder / "there"
    prefix.launch_file(node("talk", str(there)))
    running = prefix.start("launch", "demo", "demo.launch.py")
    running.line("[talk-1] first")
    running.line("[talk-1] an error")
    assert "half" not in running.text
    there.touch()
    assert running.end() == 0
    assert [line for line in running.lines if line.startswith("[talk-1]")][-3:] == [
        "[talk-1] half a line",
        "[talk-1] bad \ufffd byte",
        "[talk-1] no end",
    ]


def test_much_output_is_complete(prefix):
    prefix.executable("much", "for n in range(20000): print(n, 'x' * 50)")
    prefix.launch_file(node("much"), node("much"))
    running = prefix.launch()
    for label in ("much-1", "much-2"):
        numbers = [line.split()[1] for line in running.lines if line.startswith(f"[{label}]")]
        assert numbers == [str(n) for n in range(20000)]


# Exit codes

REQUIRED = "on_exit=Shutdown(reason='it was needed')"


@pytest.mark.parametrize(
    ("entities", "code"),
    [
        ([node("end", "0"), node("end", "0")], 0),
        ([node("end", "3"), node("end", "0")], 1),
        ([node("end", "0", more=REQUIRED), node("stubborn")], 0),
        ([node("end", "3", more=REQUIRED), node("stubborn")], 1),
        ([node("end", "0", more="on_exit=[LogInfo(msg='one'), Shutdown()]"), node("stubborn")], 0),
        ([node("end", "0", more="on_exit=lambda event, context: 1 / 0"), node("stubborn")], 1),
        ([node("end", "0", more="on_exit=lambda event, context: event.gone"), node("stubborn")], 1),
        (["RegisterEventHandler(OnProcessExit(on_exit=Shutdown()))", node("end", "4"), node("stubborn")], 1),
        (["Shutdown(reason='at once')", node("stubborn")], 0),
        (["ExecuteProcess(cmd=['/nowhere/program'])", node("stubborn")], 1),
        ([], 0),
    ],
)
def test_exit_code(prefix, entities, code):
    prefix.launch_file(*entities)
    running = prefix.launch()
    assert running.process.returncode == code, running.text
    assert not [line for line in running.lines if not line.startswith("[") and "Traceback" in line]


def test_exit_handler_knows_who_ended_and_how(prefix):
    before = """
def ended(event, context):
    return LogInfo(msg=f'{event.process_name} {event.returncode} {context.is_shutdown}')
"""
    prefix.launch_file(
        "RegisterEventHandler(OnProcessExit(on_exit=ended))", node("end", "5"), node("end", "0"), before=before
    )
    lines = prefix.launch().lines
    assert "[INFO] [launch]: end-1 5 False" in lines and "[INFO] [launch]: end-2 0 False" in lines


def test_exit_handler_of_one_process_starts_another(prefix):
    before = "first = Node(package='demo', executable='end', arguments=['0'])\n"
    handler = "RegisterEventHandler(OnProcessExit(target_action=first, on_exit=[LogInfo(msg='next'), second]))"
    before += "second = Node(package='demo', executable='end', arguments=['0'], exec_name='second')\n"
    prefix.launch_file("first", node("end", "0"), handler, before=before)
    running = prefix.launch()
    assert running.lines.count("[INFO] [launch]: next") == 1
    assert "[second-3]: process has finished cleanly" in running.text


# Respawn


def test_respawn_after_its_delay_until_the_launch_ends(prefix):
    prefix.executable("mortal", "import os, time; print('at', time.monotonic(), flush=True); os.kill(os.getpid(), 9)")
    prefix.launch_file(node("mortal", more="respawn=True, respawn_delay=0.5"))
    running = prefix.start("launch", "demo", "demo.launch.py")
    until(lambda: running.text.count("] at ") >= 3, "three lives")
    times = [float(line.split()[2]) for line in running.lines if "] at " in line]
    assert all(after - before >= 0.5 for before, after in itertools.pairwise(times))
    assert running.interrupt() == 0
    assert running.text.count("process started") == running.text.count("exit code -9")


def test_ended_process_without_respawn_stays_ended(prefix):
    prefix.launch_file(node("end", "0"), node("stubborn"))
    running = prefix.start("launch", "demo", "demo.launch.py")
    running.line("[end-1]: process has finished cleanly")
    running.line("ready")
    assert running.interrupt() == 0 and running.text.count("[end-1]: process started") == 1


# The way down


def test_ctrl_c_is_passed_on_and_is_no_failure(prefix):
    prefix.launch_file(node("stubborn"), node("stubborn"))
    running = prefix.start("launch", "demo", "demo.launch.py")
    until(lambda: running.text.count("ready") == 2, "both")
    assert running.interrupt() == 0
    assert running.text.count("heard SIGINT") == 2 and "SIGTERM" not in running.text


def test_sigterm_is_an_ordered_way_down_too(prefix):
    prefix.launch_file(node("stubborn"))
    running = prefix.start("launch", "demo", "demo.launch.py")
    running.line("ready")
    running.signal(signal.SIGTERM)
    assert running.end() == 1
    assert "heard SIGINT" in running.text


@pytest.mark.parametrize(
    ("ignored", "heard", "code"),
    [(["SIGINT"], ["SIGINT", "SIGTERM"], 0), (["SIGINT", "SIGTERM"], ["SIGINT", "SIGTERM"], -9)],
)
def test_order_of_signals(prefix, ignored, heard, code):
    prefix.launch_file(*QUICK, node("stubborn", *ignored))
    running = prefix.start("launch", "demo", "demo.launch.py")
    running.line("ready")
    assert running.interrupt() == 0
    assert [line.split()[-1] for line in running.lines if "] heard " in line] == heard
    assert ("exit code -9" in running.text) == (code == -9)


def test_ctrl_c_ends_the_most_stubborn_in_under_5_s(prefix):
    """With the default patience; the best of three, because other work on the machine must not decide this."""
    prefix.launch_file(node("stubborn", "SIGINT", "SIGTERM", "child", "daemon"), node("stubborn"))
    took = []
    for _ in range(3):
        running = prefix.start("launch", "demo", "demo.launch.py")
        until(lambda: running.text.count("ready") == 2, "both")  # noqa: B023
        pids = [
            running.pid_of("stubborn-1"),
            running.pid_of("stubborn-2"),
            word_of(running, "child"),
            word_of(running, "daemon"),
        ]
        start = time.monotonic()
        assert running.interrupt() == 0
        took.append(time.monotonic() - start)
        assert not [pid for pid in pids if alive(pid)], running.text
        if took[-1] < 5.0:
            return
    raise AssertionError(f"Ctrl-C took {took} s")


def test_second_ctrl_c_speeds_it_up(prefix):
    prefix.launch_file(
        "SetLaunchConfiguration('sigterm_timeout', '600')",
        "SetLaunchConfiguration('sigkill_timeout', '600')",
        node("stubborn", "SIGINT", "SIGTERM"),
    )
    running = prefix.start("launch", "demo", "demo.launch.py")
    running.line("ready")
    running.signal(signal.SIGINT)
    running.line("heard SIGINT")

    def again(what):
        running.signal(signal.SIGINT)
        time.sleep(0.1)
        return what in running.text or running.process.poll() is not None

    until(lambda: again("heard SIGTERM"), "SIGTERM after another Ctrl-C")
    until(lambda: again("exit code -9"), "SIGKILL after another Ctrl-C")
    assert running.end() == 0


def test_one_key_press_that_arrives_twice_is_one(prefix):
    prefix.launch_file(*QUICK[1:], "SetLaunchConfiguration('sigterm_timeout', '2')", node("stubborn", "SIGINT"))
    running = prefix.start("launch", "demo", "demo.launch.py")
    running.line("ready")
    start = time.monotonic()
    running.signal(signal.SIGINT)
    running.signal(signal.SIGINT)
    running.line("heard SIGTERM")
    assert time.monotonic() - start >= 1.9
    running.end()


def test_started_in_the_background_of_a_script(prefix):
    """A shell script's `&` has SIGINT ignored; the launch and what it launches obey it all the same."""
    prefix.executable("plain", "import time; print('ready', flush=True); time.sleep(600)")
    prefix.launch_file(node("plain"))
    log = prefix.folder / "log"
    script = f"{sys.executable} {ROS2} launch demo demo.launch.py > {log} 2>&1 & echo $!; wait $!; echo code $?"
    with subprocess.Popen(["sh", "-c", script], env=prefix.env, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        until(lambda: log.exists() and "ready" in log.read_text(), "the process")
        os.kill(pid, signal.SIGINT)
        assert shell.stdout.readline() == "code 0\n", log.read_text()
    assert "exit code -2" in log.read_text()


# Nothing is left behind


def test_what_a_process_leaves_behind_is_ended_with_it(prefix):
    prefix.executable(
        "leaver",
        """\
        import os, time
        if os.fork() == 0:
            print("left", os.getpid(), flush=True)
            time.sleep(600)
        time.sleep(0.2)
        """,
    )
    prefix.launch_file(*QUICK, node("leaver"), node("stubborn"))
    running = prefix.start("launch", "demo", "demo.launch.py")
    left = word_of(running, "left")
    running.line("[leaver-1]: process has finished cleanly")
    until(lambda: not alive(left), "the end of what was left")
    assert alive(running.pid_of("stubborn-2"))
    running.interrupt()


def test_daemons_end_with_the_launch(prefix):
    prefix.launch_file(*QUICK, node("stubborn", "daemon"))
    running = prefix.start("launch", "demo", "demo.launch.py")
    daemon = word_of(running, "daemon")
    os.kill(running.pid_of("stubborn-1"), signal.SIGKILL)
    assert running.end() == 1
    assert not alive(daemon)


def test_killed_launcher_takes_everything_with_it(prefix):
    prefix.launch_file(node("stubborn"), node("stubborn", "SIGINT", "SIGTERM", "child", "daemon"))
    running = prefix.start("launch", "demo", "demo.launch.py")
    until(lambda: running.text.count("ready") == 2, "both")
    mine = [running.pid_of("stubborn-1"), running.pid_of("stubborn-2"), word_of(running, "child")]
    mine.append(word_of(running, "daemon"))
    with open(f"/proc/{running.pid}/task/{running.pid}/children") as file:
        mine += [int(pid) for pid in file.read().split()]
    assert len(set(mine)) == 5, "the two processes, one's child and daemon, and the guard"
    running.signal(signal.SIGKILL)
    running.process.wait()
    until(lambda: not [pid for pid in mine if alive(pid)], "everybody's end")


def test_nobody_reads_the_output_any_more(prefix):
    prefix.executable("chatter", "import time\nwhile True: print('x', flush=True); time.sleep(0.01)")
    prefix.launch_file(node("chatter"))
    command = [sys.executable, str(ROS2), "launch", "demo", "demo.launch.py"]
    with subprocess.Popen(command, env=prefix.env, stdout=subprocess.PIPE, text=True) as launch:
        assert launch.stdout is not None
        pid = int(launch.stdout.readline().split("[")[-1].strip("]\n"))
        launch.stdout.readline()
        launch.stdout.close()
        launch.wait(20)
    assert not alive(pid)
