"""The constant offset between the stamps of two cameras, from a lamp that both see going on and off. Pure.

Each camera's mean brightness over its stamps is a signal. Their cross-correlation says which edges belong together; an
edge's moment is then found between frames, from how much of the step each frame shows. One edge is good to a part of
the frame period (a step while no shutter is open shows in no frame); the mean over many, at moments that have nothing
to do with the frames, has no such error, and resampling the edges says how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_CONTRAST = 6.0  # grey levels between dark and lit, of 255
MIN_OVER_NOISE = 8.0  # contrast over the noise's standard deviation
MIN_EDGES = 6
MIN_CORRELATION = 0.5
CLIPPED = 0.5  # part of the pixels at the upper end of the scale: the step's height is no longer known
GRID_S = 0.002  # of the cross-correlation
RESAMPLES = 2000


@dataclass(frozen=True)
class Signal:
    """times_s (N,) rising stamps [s], levels (N,) mean brightness 0-255, clipped (N,) part of saturated pixels 0-1."""

    name: str
    times_s: np.ndarray
    levels: np.ndarray
    clipped: np.ndarray

    @property
    def period_s(self) -> float:
        return float(np.median(np.diff(self.times_s)))


@dataclass(frozen=True)
class Offset:
    """How much later the second camera's stamps are than the first's [s], with a 95 % interval, and from what."""

    offset_s: float
    low_s: float
    high_s: float
    edges: int
    correlation: float


def brightness(image: np.ndarray) -> tuple[float, float]:
    """image (h, w, 3) uint8 -> mean 0-255, part of saturated pixels 0-1; every eighth row and column."""
    pixels = image[::8, ::8]
    return float(pixels.mean()), float((pixels.max(axis=2) >= 254).mean())


def find_offset(first: Signal, second: Signal, max_lag_s: float = 0.3, seed: int = 0) -> Offset:
    """-> the offset of the second camera's stamps against the first's, at most max_lag_s [s].

    Raises ValueError when no lamp is seen, a camera is saturated, or the two do not see the same."""
    found = [edges(signal) for signal in (first, second)]
    lag_s, correlation = correlate(first, second, max_lag_s)
    if correlation < MIN_CORRELATION:
        raise ValueError(
            f"wanted two cameras that see the same lamp, got brightness that correlates by {correlation:.2f}; let it "
            "fill a good part of both images"
        )
    period_s = max(first.period_s, second.period_s)
    differences = []
    for time_s, sign in found[0]:
        near = [
            other - time_s for other, way in found[1] if way == sign and abs(other - time_s - lag_s) < 1.5 * period_s
        ]
        if near:
            differences.append(min(near, key=lambda difference: abs(difference - lag_s)))
    kept = _without_outliers(np.array(differences), period_s)
    if len(kept) < MIN_EDGES:
        raise ValueError(
            f"wanted {MIN_EDGES} edges of the lamp or more that both cameras saw, got {len(kept)}; switch it more often"
        )
    random = np.random.default_rng(seed)
    means = kept[random.integers(0, len(kept), (RESAMPLES, len(kept)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    offset, least = float(kept.mean()), period_s / len(kept)  # edges that all agree prove no more than that
    return Offset(offset, min(float(low), offset - least), max(float(high), offset + least), len(kept), correlation)


def edges(signal: Signal) -> list[tuple[float, int]]:
    """-> [(moment [s], +1 lamp on or -1 off)] found between frames. Raises ValueError when there is nothing to find."""
    times, levels = signal.times_s, signal.levels
    if len(times) < 10:
        raise ValueError(f"{signal.name}: wanted images for some seconds, got {len(times)}")
    low, high = float(levels.min()), float(levels.max())
    contrast = high - low
    noise = float(np.median(np.abs(np.diff(levels)))) / 0.6745 / np.sqrt(2)
    if contrast < max(MIN_CONTRAST, MIN_OVER_NOISE * noise):
        raise ValueError(
            f"{signal.name}: wanted a lamp going on and off, got brightness from {low:.0f} to {high:.0f} of 255 with "
            f"noise of {noise:.1f}"
        )
    lit = levels > low + contrast / 2
    if np.median(signal.clipped[lit]) > CLIPPED or np.median(levels[lit]) > 250 or np.median(levels[~lit]) < 1:
        raise ValueError(
            f"{signal.name}: wanted images that are neither white nor black, got {np.median(levels[lit]):.0f} with the "
            f"lamp on, {np.median(levels[~lit]):.0f} with it off; change `exposure` or the lamp"
        )
    period_s, found, up = signal.period_s, [], bool(lit[0])
    for i in range(1, len(times)):
        if up == (levels[i] > low + contrast * (0.4 if up else 0.6)):  # hysteresis: noise makes no edges
            continue
        up = not up
        if i < 3 or i + 2 >= len(times) or np.diff(times[i - 3 : i + 3]).max() > 1.5 * period_s:
            continue  # at an end, or a frame is missing
        before, after = levels[i - 3 : i - 1].mean(), levels[i + 1 : i + 3].mean()
        if abs(after - before) < contrast / 2:
            continue  # too short a flash
        part = (levels[i - 2 : i + 2] - before) / (after - before)  # of the step that each frame shows
        shown_s = ((part[1:] + part[:-1]) / 2 * np.diff(times[i - 2 : i + 2])).sum()
        found.append((float(times[i + 1] - shown_s), 1 if up else -1))
    return found


def correlate(first: Signal, second: Signal, max_lag_s: float) -> tuple[float, float]:
    """-> the lag of the second signal against the first [s] at which they correlate best, and by how much (-1 to 1).

    Raises ValueError when they do not overlap by more than the greatest lag."""
    begin = max(first.times_s[0], second.times_s[0]) + max_lag_s
    end = min(first.times_s[-1], second.times_s[-1]) - max_lag_s
    if end - begin < max(1.0, max_lag_s):
        raise ValueError(
            f"wanted images of {first.name} and {second.name} of the same seconds, got {max(0.0, end - begin):.1f} s "
            "in common"
        )
    grid = np.arange(begin, end, GRID_S)
    one = np.interp(grid, first.times_s, first.levels)
    lags = np.arange(-max_lag_s, max_lag_s + GRID_S / 2, GRID_S)
    other = np.interp(np.arange(len(grid) + len(lags)) * GRID_S + begin - max_lag_s, second.times_s, second.levels)
    windows = np.lib.stride_tricks.sliding_window_view(other, len(grid))[: len(lags)]
    one = (one - one.mean()) / max(float(one.std()), 1e-9)
    values = windows @ one / len(grid) / np.maximum(windows.std(axis=1), 1e-9)
    best = int(values.argmax())
    return float(lags[best]), float(values[best])


def _without_outliers(differences: np.ndarray, period_s: float) -> np.ndarray:
    """differences (N,) [s] -> those within a frame period of their median."""
    return differences[np.abs(differences - np.median(differences)) <= period_s] if len(differences) else differences
