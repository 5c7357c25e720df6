"""All encoders on the same frames of the same held-out clips, and the figures that come of it, as plain values."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alam_models.latent_action import Distance
from alam_models.structure import ridge_r2
from training.data.corpus import Corpus
from training.data.lerobot import LeRobotDataset
from training.probing.clips import anchors, fitting, stride_of
from training.probing.measures import WAYS, Probed, algebra, as_frames, estimate, mean, ratio_of_means, reconstructions

SPANS = (1, 5)  # [strides] over which rank, codebook use and linear probes are told: both ends of the paper's range
_log = logging.getLogger(__name__)


@dataclass
class Survey:
    """N anchors; T horizons; NaN where a clip is too short for a horizon."""

    horizons: list[int]
    values: dict[str, dict[str, np.ndarray]]
    """{encoder: {measure: (N, T)}}"""
    latents: dict[str, dict[int, Tensor]]
    """{encoder: {span: transitions (n, ...)}}"""
    groups: np.ndarray
    """(N,) number of each anchor's episode"""
    clips: dict[str, list[int]]
    """{clip: frame numbers of its anchors}"""
    skipped: dict[str, str] = field(default_factory=dict)
    """{clip: why it could not be read}"""


def read(corpus: Corpus, number: int, index: np.ndarray, encoders: Mapping[str, Probed]) -> dict[str, Tensor]:
    """index (n, F) frame numbers of a clip -> {encoder: frames (n, F, 3, h, w) in [0, 1] of its size}."""
    images = {size: corpus.read(number, index.ravel(), size) for size in {e.read_size for e in encoders.values()}}
    made: dict[tuple[int, int], Tensor] = {}
    for e in encoders.values():
        if (e.read_size, e.size) not in made:
            made[e.read_size, e.size] = as_frames(images[e.read_size], e.size).unflatten(0, index.shape)
    return {name: made[e.read_size, e.size] for name, e in encoders.items()}


def survey(
    encoders: Mapping[str, Probed],
    corpus: Corpus,
    numbers: Sequence[int],
    horizons: Sequence[int],
    count: int,
    seed: int,
    perceptual: Distance | None = None,
) -> Survey:
    """`count` anchors of each of the clips `numbers`. Raises ValueError when no clip can be read."""
    parts: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in encoders}
    latents: dict[str, dict[int, list[Tensor]]] = {name: {span: [] for span in SPANS} for name in encoders}
    episodes: dict[tuple[str, str], int] = {}
    groups: list[np.ndarray] = []
    clips: dict[str, list[int]] = {}
    skipped: dict[str, str] = {}
    for number in tqdm(numbers, unit="clip", desc="probe"):
        clip, here = corpus.clip(number), fitting(corpus, number, horizons)
        start = anchors(corpus, number, here[-1], count, seed)
        index = start[:, None] + stride_of(corpus, number) * np.arange(here[-1] + 1)
        try:
            frames = read(corpus, number, index, encoders)
        except ValueError as error:
            skipped[clip.name] = str(error)
            _log.warning(f"clip skipped: {clip.name}: {error}")
            continue
        for name, encoder in encoders.items():
            errors, ways = algebra(encoder, frames[name], here)
            for measure, value in (errors | reconstructions(encoder, frames[name], ways, here, perceptual)).items():
                padded = np.full((len(start), len(horizons)), np.nan)
                padded[:, [horizons.index(t) for t in here]] = value
                parts[name].setdefault(measure, []).append(padded)
            for span in SPANS:
                if span in here:
                    latents[name][span].append(ways["direct"][:, here.index(span)])
        groups.append(np.full(len(start), episodes.setdefault((clip.source, clip.episode), len(episodes))))
        clips[clip.name] = start.tolist()
    if not clips:
        raise ValueError(f"wanted a held-out clip that can be read, got none; the last: {list(skipped.items())[-1]}")
    return Survey(
        list(horizons),
        {n: {m: np.concatenate(rows) for m, rows in measures.items()} for n, measures in parts.items()},
        {n: {span: torch.cat(z) for span, z in spans.items() if z} for n, spans in latents.items()},
        np.concatenate(groups),
        clips,
        skipped,
    )


def estimates(found: Survey, encoder: str, baseline: str, seed: int) -> dict[str, dict[str, list[float | None]]]:
    """-> {measure: {"value", "low", "high"}}, each a list over the horizons, ends of 95 % intervals.

    relative_*: mean error over mean |z_0t|. delta_*: difference to the same anchors' one-step score. *_over_copy: of
    the direct transition, difference to what copying frame a scores. times_*: how many times the baseline's figure is
    this encoder's."""
    values, base, ones = found.values[encoder], found.values[baseline], np.ones(len(found.groups))
    columns: dict[str, tuple[Any, tuple[Any, ...]]] = {}
    for measure, rows in values.items():
        columns[measure] = mean, (rows, None)
    for measure in ("add", "add_two_legs", "rev"):
        columns[f"relative_{measure}"] = mean, (values[measure], values["norm"])
        if encoder != baseline:
            columns[f"times_{measure}"] = mean, (base[measure], values[measure])
            four = base[measure], base["norm"], values[measure], values["norm"]
            columns[f"times_relative_{measure}"] = ratio_of_means, four
    for measure, rows in values.items():
        metric, _, way = measure.partition("_")
        if way in WAYS:
            columns[f"delta_{measure}"] = mean, (rows - rows[:, :1], None)
        elif way == "copy":
            columns[f"{metric}_over_copy"] = mean, (values[f"{metric}_direct"] - rows, None)
    out: dict[str, dict[str, list[float | None]]] = {}
    for measure, (statistic, arrays) in columns.items():
        made = []
        for t in range(len(found.horizons)):
            there = ~np.isnan(values["norm"][:, t])
            picked = [ones[there] if a is None else a[there, t] for a in arrays]
            made.append(estimate(statistic, picked, found.groups[there], seed) if there.any() else (None,) * 3)
        out[measure] = {key: [e[i] for e in made] for i, key in enumerate(("value", "low", "high"))}
    return out


def linear_probes(
    encoders: Mapping[str, Probed],
    corpus: Corpus,
    datasets: Mapping[int, LeRobotDataset],
    training: Sequence[int],
    held_out: Sequence[int],
    count: int,
    seed: int,
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """R2 from transitions to the robot's own motion, fitted on training clips, tested on held-out ones, each view by
    itself -> {encoder: {view: {span: {"state_change", "action" (mean over the span), "fitted", "tested"}}}}."""
    rows: dict[tuple[str, int], dict[str, list[Any]]] = {}
    numbers = [(n, side) for numbers, side in ((training, True), (held_out, False)) for n in numbers]
    for number, fit in tqdm(numbers, unit="clip", desc="linear probes"):
        dataset = datasets.get(int(corpus.source[number]))
        if dataset is None:
            continue
        clip, stride, spans = corpus.clip(number), stride_of(corpus, number), fitting(corpus, number, SPANS)
        start = anchors(corpus, number, spans[-1], count, seed)
        index = start[:, None] + stride * np.array([0, *spans])
        try:
            frames = read(corpus, number, index, encoders)
        except ValueError:  # told of by the survey, or a training clip that can be spared
            continue
        with torch.no_grad():
            pairs = [(0, i + 1) for i in range(len(spans))]
            z = {name: encoder.encode(frames[name], pairs) for name, encoder in encoders.items()}
        step = dataset.episodes[int(clip.episode)]["dataset_from_index"] + index
        for i, span in enumerate(spans):
            row = rows.setdefault((clip.view, span), {})
            change = dataset.state[step[:, i + 1]] - dataset.state[step[:, 0]]
            action = np.mean([dataset.action[step[:, 0] + s] for s in range(span * stride)], 0)
            for key, value in {**{f"z {n}": z[n][:, i] for n in z}, "state_change": change, "action": action}.items():
                row.setdefault(key, []).append(torch.as_tensor(value))
            row.setdefault("fit", []).append(torch.full((len(start),), fit))
    out: dict[str, dict[str, dict[str, dict[str, Any]]]] = {name: {} for name in encoders}
    for (view, span), lists in sorted(rows.items()):
        joined = {key: torch.cat(value) for key, value in lists.items()}
        is_fit = joined["fit"]
        for name in encoders:
            found = {"fitted": int(is_fit.sum()), "tested": int((~is_fit).sum())}
            r2 = {target: _r2(joined[f"z {name}"], joined[target], is_fit) for target in ("state_change", "action")}
            out[name].setdefault(view, {})[str(span)] = {**r2, **found}
    return out


def _r2(latents: Tensor, targets: Tensor, fit: Tensor) -> float | None:
    try:
        return ridge_r2(latents, targets, fit)
    except ValueError:  # nothing on one side, or nothing that varies
        return None
