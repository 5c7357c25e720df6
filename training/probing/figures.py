"""Curves over the horizon and grids of frames, each drawn for light and for dark pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

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
DARK: dict[Any, Any] = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "#16181c"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#d8dade"),
    "grid.color": "#3a3d44",
}
LIGHT: dict[Any, Any] = {"grid.color": "#dddddd"}
BOTH: dict[Any, Any] = {"font.size": 11.0, "axes.titlesize": 12.0, "axes.spines.top": False, "axes.spines.right": False}
METRICS = {"psnr": "PSNR [dB]", "ssim": "SSIM", "lpips": "LPIPS"}
DIFFERENCE = 4  # times
SIDE, GAP, LEFT, TITLE, BELOW = 1.5, 0.08, 0.45, 0.62, 0.26  # [in] of a grid of frames


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
            _logarithmic(axis)
            _ratio(axis, result, absolute if axis is top else relative, times, dark)
        none = 1.0 if absolute == "add" else 2.0  # what unordered, or constant, transitions would give
        low, high = bottom.get_ylim()
        bottom.set_ylim(min(low, none / 10), max(high, 1.6 * none))
        bottom.axhline(none, color=WARNING[dark], linewidth=1, linestyle=":")
        bottom.annotate(
            "error as large as the transition" if none == 1 else "the same both ways: 2",
            (1, none), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
            color=WARNING[dark], fontsize=9, ha="right", va="bottom",
        )  # fmt: skip
        bottom.set_xlabel("horizon t")
    axes[0, 0].set_ylabel("absolute (scale of the latents counts)")
    axes[1, 0].set_ylabel("relative (no scale)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside lower center", ncols=len(names))
    return figure


def reconstruction_figure(result: dict[str, Any], dark: bool = False) -> Figure:
    """How much worse each decoder gets with the horizon: differences to its own one-step score, which is named."""
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
        ends = [f"{n}, {e['measures'][f'{metric}_direct']['value'][0]:.3g} at k" for n, e in result["encoders"].items()]
        axes[row, 0].legend(axes[row, 0].get_lines()[: len(ends)], ends, frameon=False, loc="best")
    for axis in axes[-1]:
        axis.set_xlabel("horizon t")
    return figure


def grid_figure(panels: Sequence[Panel], columns: Sequence[str], dark: bool = False) -> Figure:
    """Panels below each other; in each a row of what was filmed and one for each encoder. columns: five headings."""
    height = sum(TITLE + len(panel.rows) * (SIDE + BELOW) for panel in panels)
    width = LEFT + len(columns) * (SIDE + GAP)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))  # in inches: drawing dozens of axes would take seconds
    axes.set_axis_off()
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    top = height
    for panel in panels:
        axes.text(0.06, top - 0.2, panel.title, fontsize=11, weight="bold", va="center")
        top -= TITLE
        named = 0  # columns whose heading is there
        for row in panel.rows:
            images, below = list(row.images), [""] * len(columns)
            if row.agreement_db is not None:
                images.append(np.clip(DIFFERENCE * np.abs(images[3] - images[2]), 0, 1))
                below[4] = "same codes" if row.same_codes else f"{row.agreement_db:.1f} dB"
            if row.filmed_db is not None:
                below[2] = f"{row.filmed_db:.1f} dB to filmed c"
            axes.text(LEFT / 2, top - SIDE / 2, row.label, fontsize=10, rotation=90, **middle)
            for column, image in enumerate(images):
                x = LEFT + column * (SIDE + GAP)
                axes.imshow(image, extent=(x, x + SIDE, top - SIDE, top), aspect="auto", interpolation="nearest")
                if column >= named:
                    axes.text(x + SIDE / 2, top + 0.1, columns[column], fontsize=10, **middle)
                axes.text(x + SIDE / 2, top - SIDE - 0.1, below[column], fontsize=9, **middle)
            named = max(named, len(images))
            top -= SIDE + BELOW
    axes.set(xlim=(0, width), ylim=(0, height))
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
    if horizons[-1] > trained:
        axis.axvspan(
            trained + 0.5, horizons[-1] + 0.5, color="#888", alpha=0.12, linewidth=0, label="_longer than trained"
        )
    axis.set_xticks(horizons, [f"{t}k" for t in horizons], fontsize=9)
    axis.set_xlim(0.5, horizons[-1] + 0.5)
    axis.grid(axis="y", linewidth=0.6)


def _logarithmic(axis: Axes) -> None:
    """Log scale with plain numbers at 1, 2 and 5 of each decade; none where every value is 0, as Add(1) is."""
    if not any(np.nanmax(line.get_ydata(), initial=0.0) > 0 for line in axis.get_lines()):
        return
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


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
