"""The probe's figures as text for a terminal and as a page: relative links, small screens, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

# LAM / ALAM at horizon t [strides], as the paper tells it (Sec. 4.1).
PAPER = {("add", 5): 46, ("rev", 5): 25, ("rev", 1): 85}
MEASURES = {
    "add": "Add(t)",
    "relative_add": "Add(t) / |z|",
    "rev": "Rev(t)",
    "relative_rev": "Rev(t) / |z|",
    "relative_add_two_legs": "|z_ac - z_ab - z_bc| / |z|, b in the middle",
}
METRICS = {"psnr": "PSNR [dB]", "ssim": "SSIM", "lpips": "LPIPS"}
LINEAR = (
    "R²: ridge regression from a transition to the robot's own motion, fitted on training episodes, tested on held-out "
    "ones; 1 is exact, 0 no better than the mean. Within tasks: transitions and motion less their mean over each task, "
    "on both sides, so that telling which task it is explains nothing."
)
OVER_COPY = " of z less that of copying frame a"

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#ddd, #3a3d44); --soft: light-dark(#f4f5f7, #22252b) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem;
  background: light-dark(#fff, #16181c); color: light-dark(#1b1d21, #d8dade) }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
img { width: 100%; height: auto } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .7rem }
.tile { background: var(--soft); border-radius: .5rem; padding: .7rem 1rem }
.tile b { display: block; font-size: 1.5rem }
small, figcaption { color: light-dark(#5a5f68, #9aa0aa) } figure { margin: 1rem 0 }
"""


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def between(measure: dict[str, Any], place: int | None = None) -> str:
    """value, low and high, or the ones at a place -> "45.2 [40.1, 51.3]"; no brackets where there is no interval."""
    ends = (measure[key] for key in ("value", "low", "high"))
    value, low, high = ends if place is None else (listed[place] for listed in ends)
    return number(value) + (f" [{number(low)}, {number(high)}]" if low is not None else "")


def rows(result: dict[str, Any], measure: str) -> tuple[list[str], list[list[str]]]:
    """-> heading and rows, one a horizon: pairs, each encoder's figure, the baseline's over each other's."""
    (base, _), *others = result["encoders"].items()
    paper = {t: f"{value}x" for (m, t), value in PAPER.items() if m == measure}
    heading = ["t", "pairs", *result["encoders"], *[f"{base}/{name} [95 %]" for name, _ in others]]
    heading += ["paper's LAM/ALAM"] * bool(paper)
    lines = []
    for place, t in enumerate(result["horizons"]):
        line = [f"{t}k", str(result["pairs"][place])]
        line += [number(encoder["measures"][measure]["value"][place]) for encoder in result["encoders"].values()]
        line += [between(encoder["measures"][f"times_{measure}"], place) for _, encoder in others]
        lines.append(line + [paper.get(t, "")] * bool(paper))
    return heading, lines


def reconstruction_rows(result: dict[str, Any], metric: str) -> tuple[list[str], list[list[str]]]:
    """-> heading and rows, one a horizon: what copying frame a scores (once for encoders of one frame size), and each
    encoder's decoder on direct, cumulative and two-leg transitions, and on z = 0."""
    encoders = result["encoders"]
    copies = {name: encoder["measures"][f"{metric}_copy"]["value"] for name, encoder in encoders.items()}
    columns = {f"{name}, copy of a": copy for name, copy in copies.items()}
    if len(set(map(tuple, copies.values()))) == 1:
        columns = {"copy of a": next(iter(copies.values()))}
    ways = {"direct": "z", "cumulative": "Z", "two_legs": "2 legs", "zero": "z = 0"}
    for name, encoder in encoders.items():
        columns |= {f"{name}, {short}": encoder["measures"][f"{metric}_{way}"]["value"] for way, short in ways.items()}
    lines = [[f"{t}k", *[number(c[i], 4) for c in columns.values()]] for i, t in enumerate(result["horizons"])]
    return ["t", *columns], lines


def over_copy_rows(result: dict[str, Any], metric: str) -> tuple[list[str], list[list[str]]]:
    """-> heading and rows, one a horizon: how far each encoder's direct transition scores above copying frame a."""
    gains = [encoder["measures"][f"{metric}_over_copy"] for encoder in result["encoders"].values()]
    lines = [[f"{t}k", *[between(gain, i) for gain in gains]] for i, t in enumerate(result["horizons"])]
    return ["t", *[f"{name} [95 %]" for name in result["encoders"]]], lines


def structure_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """-> heading and rows: rank and codebook use, one column an encoder."""
    encoders = result["encoders"]
    lines: list[list[str]] = []

    def line(words: str, values: Iterable[str]) -> None:
        lines.append([words, *values])

    for span in next(iter(encoders.values()))["effective_rank"]:
        ranks = [e["effective_rank"][span] for e in encoders.values()]
        line(
            f"effective rank, t = {span}k",
            [f"{number(r)} of {e['features']}" for r, e in zip(ranks, encoders.values(), strict=True)],
        )
    line("codes used", [f"{e['codebook']['used']} of {e['codebook']['size']}" for e in encoders.values()])
    line("codebook perplexity", [number(e["codebook"]["perplexity"]) for e in encoders.values()])
    return ["", *encoders], lines


def linear_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """-> heading and rows: R2 of the linear probes, overall and within tasks, one column an encoder."""
    encoders, lines = result["encoders"], []
    for view, spans in next(iter(encoders.values()))["linear_r2"].items():
        for span in spans:
            for target, words in (("state_change", "state change"), ("action", "mean action")):
                place = f"t = {span}k{', ' * bool(view)}{view.replace('_', ' ')}"
                for ending, where in (("", ""), ("_within_tasks", " within tasks")):
                    found = [between(e["linear_r2"][view][span][target + ending]) for e in encoders.values()]
                    lines.append([f"R² of {words}{where}, {place}", *found])
    return ["", *[f"{name} [95 %]" for name in encoders]], lines


def text_table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heading, *lines, strict=True)]
    made = []
    for line in (heading, *lines):
        first, *rest = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        made.append("  ".join([line[0].ljust(widths[0]) if line is not heading else first, *rest]).rstrip())
    return "\n".join(made)


def summary(result: dict[str, Any]) -> str:
    """-> what a terminal shows."""
    parts = [
        f"{len(result['clips'])} held-out clips of {result['episodes']} episodes; k = one stride ({_strides(result)}); "
        "times: mean of the first over mean of the other, same pairs"
    ]
    for measure, words in MEASURES.items():
        parts.append(f"{words}\n{text_table(*rows(result, measure))}")
    for metric in result["metrics"]:
        parts.append(f"{METRICS[metric]}\n{text_table(*reconstruction_rows(result, metric))}")
        parts.append(f"{METRICS[metric]}{OVER_COPY}\n{text_table(*over_copy_rows(result, metric))}")
    parts.append(text_table(*structure_rows(result)))
    if (linear := linear_rows(result))[1]:
        parts.append(text_table(*linear))
    return "\n\n".join(parts + _notes(result))


def _strides(result: dict[str, Any]) -> str:
    strides = sorted({s["stride"] for s in result["data"]["sources"].values()})
    return "/".join(map(str, strides)) + " frames"


def _notes(result: dict[str, Any]) -> list[str]:
    single = [name for name, encoder in result["encoders"].items() if encoder["codebook"]["used"] == 1]
    notes = [f"{name} uses a single code: its decoder knows nothing of the transition" for name in single]
    if result["lpips_missing"]:
        notes.append(f"LPIPS not measured: {result['lpips_missing'].removeprefix('LPIPS: ')}")
    if result["r2_missing"]:
        listed = [f"{name} ({why})" for name, why in result["r2_missing"].items()]
        more = f" and {len(listed) - 3} sources more" if len(listed) > 3 else ""
        notes.append(f"R² without {'; '.join(listed[:3])}{more}")
    if result["skipped"]:
        notes.append(f"{len(result['skipped'])} clips could not be read; probe.json names them")
    return notes


def page(result: dict[str, Any], figures: Sequence[tuple[str, str, str]]) -> str:
    """figures [(file, heading, caption)] beside the page -> HTML."""
    base, *others = result["encoders"]
    parts = [f"<h1>Is the latent space additive? {escape(' against '.join([*reversed(others), base]))}</h1>"]
    parts.append(f"<p>{_opening(result)}</p>")
    if others and 5 in result["horizons"]:
        parts.append(f'<div class="tiles">{_tiles(result, others[-1], base)}</div>')
    for file, heading, caption in figures:
        parts.append(f"<h2>{escape(heading)}</h2>{_picture(file, heading)}<p><small>{escape(caption)}</small></p>")
        if file == "figure.png":
            for measure, words in MEASURES.items():
                parts.append(f"<h3>{escape(words)}</h3>{_table(*rows(result, measure))}")
        if file == "reconstruction.png":
            for metric in result["metrics"]:
                parts.append(f"<h3>{METRICS[metric]}</h3>{_table(*reconstruction_rows(result, metric))}")
                parts.append(f"<h3>{METRICS[metric]}{OVER_COPY}</h3>{_table(*over_copy_rows(result, metric))}")
    parts.append(f"<h2>Structure, not shrinkage</h2>{_table(*structure_rows(result))}")
    if (linear := linear_rows(result))[1]:
        parts.append(f"<h2>Linear probes</h2>{_table(*linear)}<p><small>{LINEAR}</small></p>")
    parts += [f"<p>{escape(note)}</p>" for note in _notes(result)]
    listed = "".join(
        f"<li>{escape(name)}: frames {', '.join(map(str, at))}</li>" for name, at in result["clips"].items()
    )
    parts.append(
        f"<h2>How</h2><p>All figures, settings and intervals: <a href='probe.json'>probe.json</a>. Intervals: 95 %, "
        f"bootstrap over episodes, seed {result['settings']['seed']}.</p>"
    )
    parts.append(
        f"<details><summary>{len(result['clips'])} clips and their anchor frames</summary><ul>{listed}</ul></details>"
    )
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Probe</title>'
    head += f"<style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _opening(result: dict[str, Any]) -> str:
    names = ", ".join(f"{name} ({encoder['steps']} steps)" for name, encoder in result["encoders"].items())
    return escape(
        f"{names}; {sum(map(len, result['clips'].values()))} anchors in {len(result['clips'])} clips of "
        f"{result['episodes']} episodes that no encoder was trained on; k is one stride of {_strides(result)}."
    )


def _tiles(result: dict[str, Any], name: str, base: str) -> str:
    """The four ratios at t = 5k: the first things to see."""
    place, measures = result["horizons"].index(5), result["encoders"][name]["measures"]
    made = []
    for measure, words in list(MEASURES.items())[:4]:
        paper = PAPER.get((measure, 5))
        said = f"; paper {paper}x" if paper else ", whatever their scale" if measure.startswith("relative") else ""
        value = number(measures[f"times_{measure}"]["value"][place])
        words = f"{escape(words)} at 5k<b>{value}x</b><small>smaller than {escape(base + said)}</small>"
        made.append(f'<div class="tile">{words}</div>')
    return "".join(made)


def _picture(file: str, words: str) -> str:
    dark = file.removesuffix(".png") + "-dark.png"
    source = f'<source srcset="{dark}" media="(prefers-color-scheme: dark)">'
    return f'<picture>{source}<a href="{file}"><img src="{file}" alt="{escape(words)}" loading="lazy"></a></picture>'


def _table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'
