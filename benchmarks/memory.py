"""How much memory a training takes, and whether it grows: resident memory of a process and its workers over time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 0.2  # of the samples: what starts, fills caches and compiles is no leak


def resident(root: int) -> tuple[float, float]:
    """Process number -> resident memory of it and all below it [MiB]: all, and without files mapped into memory, whose
    pages the system takes back when it needs them. What several share counts for each. Linux."""
    parents, found = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            lines = (folder / "status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        kib = {key: int(status.get(key, "0").split()[0]) for key in ("VmRSS", "RssFile")}
        parents[int(folder.name)] = int(status["PPid"])
        found[int(folder.name)] = np.array([kib["VmRSS"], kib["VmRSS"] - kib["RssFile"]]) / 1024

    def below(process: int) -> bool:
        while process and process != root:
            process = parents.get(process, 0)
        return process == root

    total, own = sum((value for process, value in found.items() if below(process)), np.zeros(2))
    return float(total), float(own)


class MemoryWatch:
    """Samples of this process and its workers, every `interval_s` at most."""

    def __init__(self, interval_s: float = 3.0) -> None:
        self.interval_s, self.began = interval_s, time.monotonic()
        self.samples: list[tuple[float, float, float]] = []
        """Seconds since the beginning; resident [MiB], all and without mapped files."""

    def __call__(self) -> float:
        """-> seconds since the beginning."""
        now = time.monotonic() - self.began
        if not self.samples or now - self.samples[-1][0] >= self.interval_s:
            self.samples.append((now, *resident(os.getpid())))
        return now

    def summary(self) -> dict[str, Any]:
        """-> figures behind the warm-up."""
        return summary(np.array(self.samples))


def summary(samples: np.ndarray) -> dict[str, Any]:
    """samples (n, 3) of seconds and MiB (see MemoryWatch) -> start, end, peak [MiB] and least-squares slope [MiB/h] of
    what comes behind the warm-up. Raises ValueError with fewer than three samples there."""
    kept = samples[samples[:, 0] >= samples[0, 0] + WARM_UP * (samples[-1, 0] - samples[0, 0])]
    if len(kept) < 3:
        raise ValueError(f"memory: wanted three samples or more behind the warm-up, got {len(kept)}; run it for longer")
    hours, found = kept[:, 0] / 3600, {}
    for column, name in ((1, "resident"), (2, "without mapped files")):
        values = kept[:, column]
        found[name] = {
            "start [MiB]": float(values[0]),
            "end [MiB]": float(values[-1]),
            "peak [MiB]": float(values.max()),
            "slope [MiB/h]": float(np.polyfit(hours, values, 1)[0]),
        }
    return {"minutes": float(samples[-1, 0] / 60), "samples": len(kept), **found}
