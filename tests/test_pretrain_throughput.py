"""benchmarks/pretrain_throughput.py runs, and its figures are there; memory figures by hand."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pretrain import MODEL, videos

from training.configs import PRETRAIN
from training.settings import PretrainConfig

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
from memory import resident, summary  # noqa: E402


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain_throughput.py", *map(str, words)])
    threads, path = torch.get_num_threads(), list(sys.path)
    try:
        runpy.run_path(str(BENCHMARKS / "pretrain_throughput.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
        sys.path[:] = path


@pytest.mark.parametrize("workers", [None, 1])
def test_it_measures_what_it_says(
    workers: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mini = PRETRAIN["mini"]
    assert isinstance(mini, PretrainConfig)
    monkeypatch.setitem(PRETRAIN, "mini", PretrainConfig(data=mini.data, out=tmp_path, model=MODEL))
    written = tmp_path / "figures.json"
    words = ["--size", "mini", "--batch", 4, "--seconds", 0.6, "--threads", 1, "--json", written]
    words += ["--data", videos(tmp_path / "videos"), "--memory-minutes", 0.05]
    run(monkeypatch, *words, *(["--workers", workers] if workers else []))
    figures = json.loads(written.read_text())
    assert figures["threads"] == 1 and figures["compiled"] is False
    mini_figures = figures["mini"]
    assert mini_figures["batch"] == 4 and mini_figures["repetitions"] >= 5
    ratios = {name: value for name, value in mini_figures.items() if "times" in name or "utilisation" in name}
    assert len(ratios) == 6 and all(value > 0 for value in ratios.values())
    assert mini_figures["times four passes at equal utilisation"] > 1  # it computes less
    steps = mini_figures["steps"]
    assert set(steps) == {"matmul", "model", "model + optimiser", "four passes", "four passes, textbook"}
    for step in steps.values():
        assert 0 < step["p10 [s]"] <= step["p50 [s]"] <= step["p90 [s]"]
    memory = mini_figures["memory"]
    assert memory["steps"] > 0 and memory["workers"] == (workers or 0)
    assert 50 < memory["without mapped files"]["peak [MiB]"] <= memory["resident"]["peak [MiB]"]
    printed = capsys.readouterr().out
    assert "memory over" in printed and "times four passes" in printed


def test_memory_is_that_of_a_process_and_its_children() -> None:
    child = subprocess.Popen([sys.executable, "-c", "x = b'x' * (64 << 20); print(1, flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == b"1\n"
    _, own = resident(child.pid)
    _, both = resident(os.getpid())
    child.communicate(b"\n")
    _, alone = resident(os.getpid())
    assert 64 < own < 128 and both - alone == pytest.approx(own, abs=16)


def test_growth_is_told_from_warming_up() -> None:
    seconds = np.linspace(0, 600, 61)
    flat = np.where(seconds < 100, 10 * seconds, 1000.0)
    growing = flat + 36 * seconds / 3600
    found = summary(np.stack([seconds, growing, flat], 1))
    assert found["without mapped files"] == pytest.approx(
        {"start [MiB]": 1000, "end [MiB]": 1000, "peak [MiB]": 1000, "slope [MiB/h]": 0}, abs=1e-6
    )
    assert found["resident"]["slope [MiB/h]"] == pytest.approx(36) and found["minutes"] == 10
    assert found["resident"]["end [MiB]"] == found["resident"]["peak [MiB]"] == pytest.approx(1006)
    with pytest.raises(ValueError, match="three samples"):
        summary(np.zeros((1, 3)))


def test_memory_wants_data_to_train_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--memory-minutes", 1)
    assert "--data to train on" in capsys.readouterr().err
