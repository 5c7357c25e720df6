"""Pretraining steps of ALAM beside the straightforward implementation, in one run.

    python benchmarks/pretrain_throughput.py --size mini base --data data/metaworld-mini --json pretrain_throughput.json

Measures, in turn on the same random triplets, a training step of the model (forward and backward; then with clipping
and AdamW) and the same step with the four pairs each by themselves (tests/four_pass.py, which gives the same loss and
gradients), once with the fused attention kernel and once with attention as in a textbook. Utilisation is the step's
floating-point operations, counted on the model that is measured (attention's backward pass as twice its forward), over
what this machine does in float32 matrix products in the same seconds with the same threads. With --data, what the
loader of that size's settings gives when nobody else computes, beside what a step with the optimiser takes; with
--memory-minutes, too, the resident memory of a training on it and of its workers, and whether it grows. LPIPS is left
out: its backbone is a download, and it costs all alike."""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
from four_pass import four_passes  # noqa: E402
from memory import MemoryWatch  # noqa: E402

from alam_models.latent_action import ALAM  # noqa: E402
from training.configs import PRETRAIN  # noqa: E402
from training.data.loader import TripletLoader, load_corpus, loading_rate  # noqa: E402
from training.data.mixture import load_mixture  # noqa: E402
from training.optimiser import clip_gradients, make_optimiser, optimise  # noqa: E402
from training.pretrain import gradients  # noqa: E402
from training.settings import PretrainConfig  # noqa: E402

BATCH = {"mini": 32, "base": 2, "paper": 1, "release": 1}  # triplets a step that fit a small machine
MATMUL = 2048  # side of the square product that gives the machine's rate
FIGURES = (
    "utilisation",
    "utilisation, four passes",
    "times four passes",
    "times four passes, textbook",
    "times four passes at equal utilisation",
    "loader [triplets/s]",
    "loader, times the model",
)
GOALS = {"times four passes": 1.5, "utilisation": 0.5, "loader, times the model": 3.0}


def measure(training: PretrainConfig, batch: int, seconds: float, compiled: bool) -> dict[str, Any]:
    """Steps in turn, until `seconds` are over and each has run five times -> figures by name."""
    config = replace(training.model, pairs="triplet", weights=replace(training.model.weights, perc=0.0))
    torch.manual_seed(0)
    model = ALAM(config).train()
    plain = copy.deepcopy(model)
    triplet = torch.rand(batch, 3, 3, config.image_size, config.image_size)
    forward = torch.compile(model) if compiled else model
    optimiser = make_optimiser(model, training)
    square = torch.randn(MATMUL, MATMUL)

    def whole_step() -> None:
        backward(model, lambda: forward(triplet))
        clip_gradients(model, training.clip)
        optimise(optimiser, training.learning_rate)

    steps: dict[str, Callable[[], object]] = {
        "matmul": lambda: square @ square,
        "model": lambda: backward(model, lambda: forward(triplet)),
        "model + optimiser": whole_step,
        "four passes": lambda: backward(plain, lambda: four_passes(plain, triplet)),
        "four passes, textbook": lambda: backward(plain, lambda: four_passes(plain, triplet, textbook=True)),
    }
    flops = {
        "matmul": 2 * MATMUL**3,
        "model": count_flops(lambda: backward(model, lambda: model(triplet))),
        "four passes": count_flops(steps["four passes"]),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():  # the first call allocates, and compiles where asked
        step()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["matmul"]) < 5:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    peak = flops["matmul"] / np.median(times["matmul"])
    figures = {name: percentiles(values) for name, values in times.items()}
    for name in steps:
        figures[name]["triplets/s"] = batch / figures[name]["p50 [s]"] if name != "matmul" else None
    ours = np.median(times["model"])
    return {
        "batch": batch,
        "repetitions": len(times["matmul"]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "matmul rate [GFLOP/s]": peak / 1e9,
        "GFLOP a step": {name: count / 1e9 for name, count in flops.items() if name != "matmul"},
        "utilisation": flops["model"] / ours / peak,
        "utilisation, four passes": flops["four passes"] / np.median(times["four passes"]) / peak,
        "times four passes": np.median(times["four passes"]) / ours,
        "times four passes, textbook": np.median(times["four passes, textbook"]) / ours,
        "times four passes at equal utilisation": flops["four passes"] / flops["model"],
        "steps": figures,
    }


@contextmanager
def loading(config: PretrainConfig) -> Iterator[TripletLoader]:
    """The loader of a training; frames decoded before where the settings say so."""
    with tempfile.TemporaryDirectory() as folder:
        reads = replace(config.data, cache=Path(folder) if config.data.cache_frames else None)
        corpus = load_corpus(reads, config.model.image_size)
        loader = TripletLoader(reads, "training", config.model.image_size, config.batch, config.seed, corpus=corpus)
        with closing(loader):
            yield loader


def remember(config: PretrainConfig, minutes: float) -> dict[str, Any]:
    """Training steps on the real loader for so long -> memory.summary, and the steps taken."""
    config = replace(config, model=replace(config.model, weights=replace(config.model.weights, perc=0.0)))
    torch.manual_seed(config.seed)
    model = ALAM(config.model).train()
    optimiser = make_optimiser(model, config)
    with loading(config) as loader:
        batches, steps = iter(loader), 0
        next(batches)  # the workers are there
        watch = MemoryWatch(interval_s=min(3.0, minutes * 60 / 20))
        while watch() < minutes * 60:
            gradients(model, next(batches).frames, None, config)
            clip_gradients(model, config.clip)
            optimise(optimiser, config.learning_rate)
            steps += 1
        return {"workers": config.data.workers, "steps": steps, **watch.summary()}


def backward(model: ALAM, forward: Callable[[], dict[str, Tensor]]) -> None:
    model.zero_grad(set_to_none=True)
    forward()["total"].backward()


def count_flops(step: Callable[[], object]) -> int:
    """Of matrix products, convolutions and attention, for which torch counts no CPU kernel by itself."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def forward(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def twice(_: Any, q: Any, k: Any, v: Any, *__: Any, **___: Any) -> int:
        return 2 * sdpa_flop_count(q, k, v)

    with FlopCounterMode(display=False, custom_mapping={attention: forward, attention_backward: twice}) as counter:
        step()
    return counter.get_total_flops()


def percentiles(seconds: list[float]) -> dict[str, Any]:
    return {f"p{p} [s]": float(np.percentile(seconds, p)) for p in (10, 50, 90)}


def report(size: str, figures: dict[str, Any]) -> None:
    print(f"\n{size}: {figures['parameters'] / 1e6:.1f} M parameters, {figures['batch']} triplets a step, ", end="")
    print(f"{figures['repetitions']} repetitions; matmul {figures['matmul rate [GFLOP/s]']:.0f} GFLOP/s")
    for name, step in figures["steps"].items():
        rate = f"{step['triplets/s']:9.1f} triplets/s" if step["triplets/s"] else ""
        print(f"  {name:22s}" + "".join(f"  {k[:3]} {step[k] * 1e3:8.1f} ms" for k in step if k[0] == "p") + rate)
    for name in FIGURES:
        if name not in figures:
            continue
        goal = f"   goal {GOALS[name]:g}  {'ok' if figures[name] >= GOALS[name] else 'MISSED'}" if name in GOALS else ""
        print(f"  {name:40s} {figures[name]:6.2f}{goal}")
    if memory := figures.get("memory"):
        print(f"  memory over {memory['minutes']:.1f} min, {memory['steps']} steps, {memory['workers']} workers")
        for name in ("resident", "without mapped files"):
            told = ", ".join(f"{words} {value:.1f}" for words, value in memory[name].items())
            print(f"    {name:38s} {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=sorted(PRETRAIN), default=["mini", "base"])
    parser.add_argument("--batch", type=int, help="triplets a step (default: by size)")
    parser.add_argument("--seconds", type=float, default=30.0, help="a size (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default %(default)s")
    parser.add_argument("--compile", action="store_true", help="the model through torch.compile")
    parser.add_argument("--data", type=Path, help="as of train.py pretrain: measure the loader on it, too")
    parser.add_argument(
        "--memory-minutes", type=float, help="train on --data for so long and watch its memory (default: not)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that decode --data, nothing decoded before (default: as the size's settings)",
    )
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    if arguments.memory_minutes is not None and not (arguments.data and arguments.memory_minutes > 0):
        parser.error("--memory-minutes: wanted more than 0, and --data to train on")
    if arguments.data:
        try:
            load_mixture(arguments.data)
        except ValueError as error:
            parser.error(f"--data: {error}")
    torch.set_num_threads(arguments.threads)
    print(f"{cpu()}, {arguments.threads} threads, torch {torch.__version__}, float32")
    results: dict[str, Any] = {"machine": cpu(), "threads": arguments.threads, "torch": torch.__version__}
    results["compiled"] = arguments.compile
    for size in arguments.size:
        batch, config = arguments.batch or BATCH[size], PRETRAIN[size]
        results[size] = measure(config, batch, arguments.seconds, arguments.compile)
        if arguments.data:
            config = replace(config, data=replace(config.data, mixture=arguments.data))
            if arguments.workers is not None:
                config = replace(config, data=replace(config.data, workers=arguments.workers, cache_frames=False))
            try:
                with loading(config) as loader:
                    rate = loading_rate(loader, arguments.seconds / 3)
            except ValueError as error:
                parser.error(f"--data: {error}")
            results[size]["loader [triplets/s]"] = rate
            results[size]["loader, times the model"] = rate / results[size]["steps"]["model + optimiser"]["triplets/s"]
        if arguments.memory_minutes:
            try:
                results[size]["memory"] = remember(replace(config, batch=batch), arguments.memory_minutes)
            except ValueError as error:
                parser.error(f"--memory-minutes: {error}")
        report(size, results[size])
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def cpu() -> str:
    """-> the processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
