"""Small statistics of measurements: percentiles of durations, intervals of success rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def percentile_ms(durations_s: Sequence[float], percent: float) -> float:
    """durations [s] -> their percentile [ms]; NaN when there are none."""
    return float(np.percentile(durations_s, percent)) * 1e3 if len(durations_s) else float("nan")


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """-> low, high of the success rate in [0, 1], 95 % at the default z (Wilson, 1927). (0, 1) when nothing was tried.

    Raises ValueError unless 0 <= successes <= trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f"wilson: wanted 0 <= successes <= trials, got {successes} of {trials}")
    if trials == 0:
        return 0.0, 1.0
    rate, z2 = successes / trials, z * z
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * float(np.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2)))
    return max(0.0, middle - half), min(1.0, middle + half)
