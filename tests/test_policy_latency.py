"""benchmarks/policy_latency.py runs, exported and not; a peer that dies is told of."""

import json
import runpy
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("onnxruntime")

BENCHMARK = Path(__file__).resolve().parent.parent / "benchmarks" / "policy_latency.py"


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [BENCHMARK.name, "--threads", "1", "--seconds", "0.1", *map(str, words)])
    monkeypatch.setattr(sys, "path", [str(BENCHMARK.parent), *sys.path])
    runpy.run_path(str(BENCHMARK), run_name="__main__")


@pytest.mark.slow
def test_figures_of_an_exported_size_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--size", "tiny", "--json", tmp_path / "latency.json")
    found: dict[str, Any] = json.loads((tmp_path / "latency.json").read_text())["tiny"]
    assert set(found["chunk [ms]"]) == {"torch", "onnx fp32", "onnx fp16", "onnx int8", "onnx fp32, action-only"}
    assert all(0 < chunk["p50"] <= chunk["p99"] for chunk in found["chunk [ms]"].values())
    assert found["ratios"]["joint / action-only"] > 0 and "no --peer" in found["peer"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARK.parent), *sys.path])
    return import_module("policy_latency")


def test_a_size_that_cannot_be_exported_is_timed_in_pytorch(benchmark: ModuleType) -> None:
    found = benchmark.measure_eager("tiny", 1, 0.1, None)
    assert set(found["chunk [ms]"]) == {"torch", "torch, action-only"} and found["weights"] == "bfloat16"
    benchmark.report("tiny", found)


def test_a_peer_that_dies_says_why(benchmark: ModuleType, tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho no lerobot here >&2\n")
    python.chmod(0o755)
    with pytest.raises(RuntimeError, match="--peer: wanted an answer of the peer, got its end: no lerobot here"):
        benchmark.measure_eager("tiny", 1, 0.1, tmp_path)
