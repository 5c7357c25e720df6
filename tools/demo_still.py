"""The demo's still: frames of an episode above the magnitude of the latents generated together with its actions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from alam_common.scores import Attempt, Latents

FRAMES = 6


def magnitudes(latents: tuple[Latents, ...], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """chunks in order of time -> times [s] since the first observation (N,), RMS of each view's latent (N, V).

    Of each chunk only the rows whose actions were executed: before the next observation, and within `steps`."""
    times, values = [], []
    ends = [chunk.time_s for chunk in latents[1:]] + [latents[0].time_s + steps * latents[0].dt_s]
    for chunk, end_s in zip(latents, ends, strict=True):
        rows = min(len(chunk.values), round((end_s - chunk.time_s) / chunk.dt_s))
        times.append(chunk.time_s - latents[0].time_s + chunk.dt_s * np.arange(rows))
        values.append(np.sqrt((chunk.values[:rows] ** 2).mean(axis=-1)))
    return np.concatenate(times), np.concatenate(values)


def film_frames(film: Path, count: int) -> list[np.ndarray]:
    """-> `count` frames (h, w, 3) uint8, evenly spread from the first to the last."""
    import av

    with av.open(str(film)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [frames[index] for index in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def draw_still(film: Path, attempt: Attempt, views: tuple[str, ...], out: Path) -> Path:
    """-> out, a PNG: frames of the film (third person left, wrist right of each) above the latents over robot time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(13, 6.5), layout="constrained")
    grid = figure.add_gridspec(3, FRAMES, height_ratios=(1, 1, 1.6))
    for column, frame in enumerate(film_frames(film, FRAMES)):
        half = frame.shape[1] // 2
        for row, picture in enumerate((frame[:, :half], frame[:, half:])):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture)
            axes.set_xticks([])
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(("third person", "wrist")[row])
    axes = figure.add_subplot(grid[2, :])
    if attempt.latents:
        times, values = magnitudes(attempt.latents, attempt.steps)
        for view, name in enumerate(views):
            axes.plot(times, values[:, view], label=name.replace("_", " "), linewidth=1.4)
        for chunk in attempt.latents:
            axes.axvline(chunk.time_s - attempt.latents[0].time_s, color="0.9", linewidth=0.8, zorder=0)
        axes.legend(loc="upper right", frameon=False)
    axes.set_xlabel("robot time [s]; grey lines: a new chunk")
    axes.set_ylabel("RMS of generated latent [1]")
    axes.margins(x=0.01)
    outcome = f"solved after {attempt.steps} steps" if attempt.success else f"not solved in {attempt.steps} steps"
    figure.suptitle(f"{attempt.task}, seed {attempt.seed}: {outcome}; latents generated together with the actions")
    figure.savefig(out, dpi=110)
    pyplot.close(figure)
    return out
