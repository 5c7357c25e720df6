"""The demo and the measurement through the graph: what they write, and what they leave behind (nothing)."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from alam_common.graph import Graph
from alam_common.refusal import Refusal
from alam_common.scores import Attempt, Latents
from demo import best, parse, unseen_seed
from demo_still import magnitudes

TOOLS = Path(__file__).resolve().parent.parent / "tools"
PATIENCE_S = 240.0  # a loaded machine is slow; nothing here waits longer than it must


def test_seeds_are_none_of_training():
    assert unseen_seed({}) == 1000
    assert unseen_seed({"training": {"training_seeds": [0, 257]}}) == 1000
    assert unseen_seed({"training": {"training_seeds": [0, 1500]}}) == 1501


def test_magnitudes_are_those_of_executed_rows():
    chunks = tuple(Latents(5.0 + 0.4 * k, 0.1, np.full((8, 2, 3), k + 1, np.float32)) for k in range(3))
    times, values = magnitudes(chunks, steps=10)
    assert np.allclose(times, np.arange(10) * 0.1)
    assert values.shape == (10, 2)
    assert values[:, 0].tolist() == [1.0] * 4 + [2.0] * 4 + [3.0] * 2


def test_the_film_shown_is_of_a_success_if_there_is_one():
    failed, solved = Attempt("a", 1, False, 5, "", "succeeded"), Attempt("a", 2, True, 5, "", "succeeded")
    assert best([failed, solved]) is solved
    assert best([failed]) is failed


def test_defaults_of_the_demo():
    arguments = parse([])
    assert arguments.bundle.parts[-2:] == ("checkpoints", "metaworld-mini")
    assert arguments.out.name == "demo_output"


def test_a_graph_needs_ros2(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refusal, match="wanted a `ros2` command, got none"):
        Graph({}, tmp_path / "log")


def test_a_graph_that_fails_says_why_and_ends(tmp_path, monkeypatch):
    stub = tmp_path / "ros2"
    stub.write_text("#!/bin/sh\necho starting\necho 'policy: wanted a bundle, got none'\nexit 3\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with Graph({"robot": "metaworld"}, tmp_path / "log") as graph:
        wait(lambda: graph.failure(), 20.0)
        assert graph.failure().startswith("the graph ended with exit code 3: policy: wanted a bundle, got none")


def test_a_graph_that_ignores_signals_is_ended_all_the_same(tmp_path, monkeypatch):
    stub = tmp_path / "ros2"
    stub.write_text("#!/bin/sh\ntrap '' INT TERM\necho up\nsleep 600 &\nwhile :; do wait; done\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(
        "alam_common.graph.PATIENCE_S", ((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2), (signal.SIGKILL, 9))
    )
    monkeypatch.setenv("ALAM_TEST_MARK", mark := uuid.uuid4().hex)
    graph = Graph({}, tmp_path / "log")
    wait(lambda: "up" in (tmp_path / "log").read_text(), 20.0)
    assert graph.stop() == -signal.SIGKILL
    wait(lambda: not marked(mark), 20.0)


def wait(condition, patience_s):
    deadline, pause = time.monotonic() + patience_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s} s in vain"
        pause.wait(0.05)


def marked(mark):
    """-> ids of living processes other than this one that carry ALAM_TEST_MARK=mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in (entry / "environ").read_text():
                found.append(int(entry.name))
        except (OSError, UnicodeDecodeError):  # ended meanwhile
            continue
    return found


def run_tool(name, *arguments, mark=""):
    return subprocess.Popen(
        [sys.executable, str(TOOLS / name), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "ALAM_TEST_MARK": mark or uuid.uuid4().hex},
    )


def finish(process):
    """-> (exit code, output)."""
    said, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said


@pytest.mark.parametrize("tool", ["demo.py", "run_tasks.py"])
def test_a_missing_bundle_is_a_sentence(tool, tmp_path):
    code, said = finish(run_tool(tool, "--bundle", tmp_path / "none"))
    assert code == 1
    assert "wanted a bundle at" in said
    assert "Traceback" not in said


@pytest.mark.ros
@pytest.mark.sim
def test_the_demo_writes_table_films_and_still(tiny_bundle, tmp_path):
    import av

    mark = uuid.uuid4().hex
    arguments = ("--bundle", tiny_bundle, "--out", tmp_path, "--episodes", 1)
    code, said = finish(run_tool("demo.py", *arguments, mark=mark))
    assert code == 0, said
    for task in ("reach-v3", "drawer-close-v3"):
        assert task in said
        with av.open(str(tmp_path / f"{task}.mp4")) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert frames[0].shape == (256, 512, 3)
        left, right = frames[0][:, :256].astype(int), frames[0][:, 256:].astype(int)
        assert np.abs(left - right).mean() > 5, "the two views are alike"
        assert np.abs(frames[0].astype(int) - frames[-1]).max() > 30, "the picture does not move"
    assert (tmp_path / "latents.png").stat().st_size > 20_000
    assert marked(mark) == []


@pytest.mark.ros
@pytest.mark.sim
def test_ctrl_c_ends_the_demo_with_everything_it_started(tiny_bundle, tmp_path):
    mark = uuid.uuid4().hex
    demo = run_tool("demo.py", "--bundle", tiny_bundle, "--out", tmp_path, "--episodes", 50, mark=mark)
    episodes = tmp_path / "episodes"
    wait(lambda: episodes.is_dir() and list(episodes.iterdir()), PATIENCE_S)
    began = time.monotonic()
    demo.send_signal(signal.SIGINT)
    code, said = finish(demo)
    assert code == 130
    assert "demo: interrupted; everything it started has ended" in said
    assert "Traceback" not in said
    assert marked(mark) == []
    assert time.monotonic() - began < 5.0


@pytest.mark.ros
@pytest.mark.sim
def test_measurement_through_the_graph(tiny_bundle, tmp_path):
    summary = tmp_path / "measured.json"
    arguments = ("--bundle", tiny_bundle, "--tasks", "reach-v3", "--seeds", "3:5", "--timeout", 0.2, "--json", summary)
    code, said = finish(run_tool("run_tasks.py", *arguments))
    assert code == 0, said
    measured = json.loads(summary.read_text())
    assert measured["seeds"] == [3, 5]
    assert measured["tasks"]["reach-v3"]["episodes"] == 2
    assert measured["policy"].startswith("bundle@")
    assert measured["chunk_latency_ms"]["p99"] > 0
    assert "reach-v3" in said


@pytest.mark.ros
@pytest.mark.sim
def test_a_measurement_whose_graph_fails_says_why(tiny_bundle):
    arguments = ("--bundle", tiny_bundle, "--tasks", "reach-v9", "--seeds", "3")
    code, said = finish(run_tool("run_tasks.py", *arguments))
    assert code == 1
    assert "got 'reach-v9'" in said
    assert "Traceback" not in said
