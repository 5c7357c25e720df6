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
from training.data.corpus import Corpus
from training.probing.clips import anchors, fitting, stride_of
from training.probing.measures import (
    SPANS,
    WAYS,
    Probed,
    algebra,
    as_frames,
    estimate,
    mean,
    ratio_of_means,
    reconstructions,
)

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
