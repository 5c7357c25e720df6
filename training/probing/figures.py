"""Curves over the horizon and grids of frames, each drawn for light and for dark pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.probing.pictures import Panel

# Distinct for colour-blind eyes (Okabe & Ito); the baseline, first, is the warm one. (light page, dark page)
COLOURS = (
    ("#c75000", "#ff9d4d"),
    ("#0067a3", "#5ab8f2"),
    ("#007a59", "#3fd0a6"),
    ("#8c3d73", "#dd93c4"),
    ("#555", "#bbb"),
)
MARKERS = "osD^v"
WARNING = ("#b00020", "#ff6b81")
DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "#16181c"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#d8dade"),
    "grid.color": "#3a3d44",
}
LIGHT = {"grid.color": "#dddddd"}
BOTH = {"font.size": 11.0, "axes.titlesize": 12.0, "axes.spines.top": False, "axes.spines.right": False}
METRICS = {"psnr": "PSNR [dB]", "ssim": "SSIM", "lpips": "LPIPS"}
DIFFERENCE = 4  # times


def save_both(draw: Callable[[bool], Figure], path: Path) -> None:
    """draw(dark) -> path, and beside it <name>-dark.png."""
    for dark, where in ((False, path), (True, path.with_name(f"{path.stem}-dark.png"))):
        with rc_context({**BOTH, **(DARK if dark else LIGHT)}):
            draw(dark).savefig(where, dpi=110)


def structure_figure(result: dict[str, Any], dark: bool = False) -> Figure:
    """The algebraic errors as published, above, and relative to the transitions, below: those no shrinking lowers."""
    figure = Figure(figsize=(8.4, 7.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    rows = (
        ("add", r"Add(t) = E$\,|z_a^{tk} - Z_t|$", "relative_add", r"$|z_a^{tk} - Z_t|\;/\;|z_a^{tk}|$"),
        ("rev", r"Rev(t) = E$\,|z_a^{tk} + z_{tk}^a|$", "relative_rev", r"$|z_a^{tk} + z_{tk}^a|\;/\;|z_a^{tk}|$"),
    )
    for column, (absolute, title, relative, words) in enumerate(rows):
        top, bottom = axes[:, column]
        _curves(top, result, absolute, dark)
        _curves(bottom, result, relative, dark)
        top.set_title(title)
        bottom.set_title(words)
        for axis, times in ((top, f"times_{absolute}"), (bottom, f"times_{relative}")):
            axis.set_yscale("log")
            _ratio(axis, result, absolute if axis is top else relative, times, dark)
        none = 1.0 if absolute == "add" else 2.0  # what unordered, or constant, transitions would give
        bottom.axhline(none, color=WARNING[dark], linewidth=1, linestyle=":")
        bottom.annotate(
            "error as large as the transition" if none == 1 else "constant transition: 2",
            (1, none), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
            color=WARNING[dark], fontsize=9, ha="right", va="bottom",
        )  # fmt: skip
        bottom.set_xlabel("horizon t")
    axes[0, 0].set_ylabel("absolute (scale of the latents counts)")
    axes[1, 0].set_ylabel("relative (no scale)")
    axes[0, 0].legend(frameon=False, loc="best")
    return figure


def reconstruction_figure(result: dict[str, Any], dark: bool = False) -> Figure:
    """How much worse each decoder gets with the horizon: differences to its own one-step score."""
    metrics = [m for m in METRICS if m in result["metrics"]]
    figure = Figure(figsize=(8.4, 2.9 * len(metrics)), layout="constrained")
    axes = figure.subplots(len(metrics), 2, sharex=True, sharey="row", squeeze=False)
    for row, metric in enumerate(metrics):
        for axis, way, words in zip(axes[row], ("direct", "cumulative"), ("D(a, z)", "D(a, Z)"), strict=True):
            _curves(axis, result, f"delta_{metric}_{way}", dark)
            axis.axhline(0, color="#888", linewidth=0.8)
            if row == 0:
                axis.set_title(f"{way}: {words}")
        axes[row, 0].set_ylabel(f"Δ {METRICS[metric]} to t = k")
    for axis in axes[-1]:
        axis.set_xlabel("horizon t")
    axes[0, 0].legend(frameon=False, loc="best")
    return figure


def grid_figure(panels: Sequence[Panel], columns: Sequence[str], dark: bool = False) -> Figure:
    """Panels below each other; in each a row of what was filmed and one for each encoder."""
    heights = [len(panel.rows) for panel in panels]
    figure = Figure(figsize=(8.4, 1.62 * sum(heights) + 0.62 * len(panels)), layout="constrained")
    parts = figure.subfigures(len(panels), 1, height_ratios=[h + 0.36 for h in heights], squeeze=False)[:, 0]
    for part, panel in zip(parts, panels, strict=True):
        if dark:
            part.set_facecolor(DARK["figure.facecolor"])
        part.suptitle(panel.title, fontsize=11, x=0.01, ha="left")
        axes = part.subplots(len(panel.rows), 5, squeeze=False)
        for line, row in zip(axes, panel.rows, strict=True):
            images = list(row.images)
            if row.agreement_db is not None:
                images.append(np.clip(DIFFERENCE * np.abs(images[3] - images[2]), 0, 1))
            for axis, image in zip(line, images, strict=False):
                axis.imshow(image, interpolation="nearest")
            for axis in line:
                axis.set_xticks([])
                axis.set_yticks([])
                axis.spines[:].set_visible(False)
            line[0].set_ylabel(row.label, fontsize=10)
            if row.agreement_db is not None:
                line[4].set_xlabel(f"{row.agreement_db:.1f} dB", fontsize=10)
        for axis, title in zip(axes[0], (*columns[:3], "", ""), strict=True):
            axis.set_title(title, fontsize=10)
        for axis, title in zip(axes[1][3:], columns[3:], strict=True):
            axis.set_title(title, fontsize=10)
    return figure


def _curves(axis: Axes, result: dict[str, Any], measure: str, dark: bool) -> None:
    horizons = np.array(result["horizons"])
    for place, (name, encoder) in enumerate(result["encoders"].items()):
        value, low, high = (
            np.array(
                [
                    np.nan if v is None or (v == 0 and not measure.startswith("delta")) else v
                    for v in encoder["measures"][measure][key]
                ],
                float,
            )
            for key in ("value", "low", "high")
        )
        colour = COLOURS[place % len(COLOURS)][dark]
        axis.plot(horizons, value, color=colour, marker=MARKERS[place % len(MARKERS)], markersize=5, label=name)
        axis.fill_between(horizons, low, high, color=colour, alpha=0.2, linewidth=0)
    trained = result["longest_trained"]
    if trained is not None and horizons[-1] > trained:
        axis.axvspan(
            trained + 0.5, horizons[-1] + 0.5, color="#888", alpha=0.12, linewidth=0, label="_longer than trained"
        )
    axis.set_xticks(horizons, [f"{t}k" for t in horizons])
    axis.set_xlim(0.5, horizons[-1] + 0.5)
    axis.grid(axis="y", linewidth=0.6)


def _ratio(axis: Axes, result: dict[str, Any], measure: str, times: str, dark: bool) -> None:
    """The baseline's figure over the last encoder's, between both curves, where the paper tells it: at t = 5k."""
    *_, (_, last) = result["encoders"].items()
    if 5 not in result["horizons"] or times not in last["measures"]:
        return
    place = result["horizons"].index(5)
    value = last["measures"][times]["value"][place]
    ends = [e["measures"][measure]["value"][place] for e in (next(iter(result["encoders"].values())), last)]
    if value is None or not all(ends):
        return
    axis.annotate("", (5, ends[0]), (5, ends[1]), arrowprops={"arrowstyle": "<->", "color": WARNING[dark], "lw": 1.2})
    middle = float(np.sqrt(ends[0] * ends[1]))
    axis.annotate(
        f"{value:.3g}x",
        (5, middle),
        (5, 0),
        textcoords="offset points",
        color=WARNING[dark],
        weight="bold",
        va="center",
    )
