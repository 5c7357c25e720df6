"""Attempts at tasks and what they add up to: success rates with intervals, steps, latencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alam_common.statistics import percentile_ms, wilson


@dataclass(frozen=True)
class Latents:
    """The latents of one chunk: (H, V, width) float32 from robot time [s] on, one row each dt [s]."""

    time_s: float
    dt_s: float
    values: np.ndarray


@dataclass(frozen=True)
class Attempt:
    """One goal and how it ended. status: "succeeded" (ran to its end, solved or not), "aborted" or "canceled".

    latencies: observation seen to chunk seen [s]; inference: what the policy says it computed [s]."""

    task: str
    seed: int
    success: bool
    steps: int
    reason: str
    status: str
    latencies: tuple[float, ...] = ()
    inference: tuple[float, ...] = ()
    latents: tuple[Latents, ...] = ()


def summarise(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """-> {"tasks": {task: episodes, successes, success_rate, wilson_95, steps_to_success_mean, failed_seeds},
    "chunk_latency_ms" and "inference_ms": {p50, p99}}; plain values for JSON, None where nothing was measured."""
    tasks = {}
    for task in dict.fromkeys(attempt.task for attempt in attempts):
        mine = [attempt for attempt in attempts if attempt.task == task]
        solved = [attempt for attempt in mine if attempt.success]
        tasks[task] = {
            "episodes": len(mine),
            "successes": len(solved),
            "success_rate": round(len(solved) / len(mine), 4),
            "wilson_95": [round(bound, 4) for bound in wilson(len(solved), len(mine))],
            "steps_to_success_mean": round(float(np.mean([a.steps for a in solved])), 1) if solved else None,
            "failed_seeds": [attempt.seed for attempt in mine if not attempt.success],
        }
    latencies = [value for attempt in attempts for value in attempt.latencies]
    inference = [value for attempt in attempts for value in attempt.inference]
    return {"tasks": tasks, "chunk_latency_ms": _percentiles(latencies), "inference_ms": _percentiles(inference)}


def table(attempts: Sequence[Attempt]) -> str:
    """-> task, success (with its 95 % interval), steps, chunk latency p50/p99 as plain text, a line a task."""
    rows = [("task", "success", "95 %", "steps", "chunk latency p50/p99 [ms]")]
    for task, score in summarise(attempts)["tasks"].items():
        mine = [attempt for attempt in attempts if attempt.task == task]
        low, high = score["wilson_95"]
        latencies = [value for attempt in mine for value in attempt.latencies]
        steps = [str(attempt.steps) if attempt.success else f"({attempt.steps})" for attempt in mine]
        rows.append(
            (
                task,
                f"{score['successes']}/{score['episodes']}",
                f"{low:.0%}-{high:.0%}",
                " ".join(steps) if len(steps) <= 4 else f"mean {score['steps_to_success_mean']}",
                f"{percentile_ms(latencies, 50):.0f} / {percentile_ms(latencies, 99):.0f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def parse_seeds(text: str) -> range:
    """ "first:end" (end excluded) or one seed -> range. Raises ValueError for anything else."""
    first, colon, end = text.partition(":")
    try:
        seeds = range(int(first), int(end) if colon else int(first) + 1)
    except ValueError:
        seeds = range(0)
    if not seeds or seeds.start < 0 or seeds.stop > 2**32:
        raise ValueError(f"seeds: wanted FIRST:END with 0 <= FIRST < END (END excluded), or one seed; got {text!r}")
    return seeds


def _percentiles(durations_s: Sequence[float]) -> dict[str, float | None]:
    if not durations_s:
        return {"p50": None, "p99": None}
    return {f"p{percent}": round(percentile_ms(durations_s, percent), 1) for percent in (50, 99)}
