"""What a linear map reads of the robot's own motion from transitions, on episodes that it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.data.corpus import Corpus
from training.data.lerobot import LeRobotDataset
from training.probing.clips import anchors, fitting, stride_of
from training.probing.measures import SPANS, Estimate, Probed, estimate
from training.probing.survey import read

TARGETS = ("state_change", "action")  # the latter its mean over the span
RIDGE = 1e-3  # relative to features of variance 1


def linear_probes(
    encoders: Mapping[str, Probed],
    corpus: Corpus,
    datasets: Mapping[int, LeRobotDataset],
    training: Sequence[int],
    held_out: Sequence[int],
    count: int,
    seed: int,
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """R2 from transitions to TARGETS, fitted on training clips, tested on held-out ones, each view by itself ->
    {encoder: {view: {span: {target: {"value", "low", "high"}, target_within_tasks: the same, "fitted", "tested"}}}}."""
    rows: dict[tuple[str, int], dict[str, list[Any]]] = {}
    episodes: dict[tuple[str, str], int] = {}
    tasks: dict[tuple[str, str], int] = {}
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
        constant = {
            "fit": fit,
            "episode": episodes.setdefault((clip.source, clip.episode), len(episodes)),
            "task": tasks.setdefault((clip.source, dataset.instruction(int(clip.episode))), len(tasks)),
        }
        for i, span in enumerate(spans):
            row = rows.setdefault((clip.view, span), {})
            change = dataset.state[step[:, i + 1]] - dataset.state[step[:, 0]]
            action = np.mean([dataset.action[step[:, 0] + s] for s in range(span * stride)], 0)
            for key, value in {**{f"z {n}": z[n][:, i] for n in z}, "state_change": change, "action": action}.items():
                row.setdefault(key, []).append(torch.as_tensor(value))
            for key, value in constant.items():
                row.setdefault(key, []).append(torch.full((len(start),), value))
    out: dict[str, dict[str, dict[str, dict[str, Any]]]] = {name: {} for name in encoders}
    for (view, span), lists in sorted(rows.items()):
        joined = {key: torch.cat(value) for key, value in lists.items()}
        fit, episode = joined["fit"], joined["episode"]
        for name in encoders:
            found: dict[str, Any] = {"fitted": int(fit.sum()), "tested": int((~fit).sum())}
            for target in TARGETS:
                for ending, task in (("", None), ("_within_tasks", joined["task"])):
                    made = r2(joined[f"z {name}"], joined[target], fit, episode, task, seed)
                    found[target + ending] = dict(zip(("value", "low", "high"), made, strict=True))
            out[name].setdefault(view, {})[str(span)] = found
    return out


@torch.no_grad()
def r2(
    latents: Tensor, targets: Tensor, fit: Tensor, episodes: Tensor, tasks: Tensor | None = None, seed: int = 0
) -> Estimate:
    """Ridge regression from latents (n, ...) to targets (n, A), fitted where fit (n,) bool, tested elsewhere -> R2,
    mean over the target dimensions that vary, and its 95 % interval by bootstrap over the tested episodes (n,) int64.

    1 is exact, 0 no better than the mean of the tested rows. With tasks (n,) int64, latents and targets are less their
    mean over each task, on either side by itself: naming the scene explains nothing. None, where nothing can be fitted
    or tested, or no target varies."""
    if not fit.any() or fit.all():
        return None, None, None
    x, y = latents.flatten(1).double(), targets.flatten(1).double()
    x_scale, y_scale = x.abs().max(), y[~fit].square().sum(0)  # to tell what is constant up to rounding
    if tasks is not None:
        x, y = (_centred(values, 2 * tasks + fit) for values in (x, y))
    mean, std = x[fit].mean(0), x[fit].std(0, correction=0)
    # A feature that is constant says nothing; divided by its deviation it would say noise.
    x = torch.where(std > 1e-9 * x_scale, (x - mean) / std.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
    offset, rows, features = y[fit].mean(0), int(fit.sum()), x.shape[1]
    fitted, wanted = x[fit], (y[fit] - offset) / rows
    if features <= rows:
        weights = torch.linalg.solve(fitted.T @ fitted / rows + RIDGE * _identity(features, x), fitted.T @ wanted)
    else:  # the same weights from the smaller matrix
        weights = fitted.T @ torch.linalg.solve(fitted @ fitted.T / rows + RIDGE * _identity(rows, x), wanted)
    error = (x[~fit] @ weights + offset - y[~fit]).square()
    tested = y[~fit] - y[~fit].mean(0)
    varies = tested.square().sum(0) > 1e-12 * y_scale
    if not varies.any():
        return None, None, None
    level = tested if tasks is None else torch.zeros_like(tested)  # a resample's own mean is not that of its tasks
    columns = torch.stack([error, level, tested.square()], -1)[:, varies].flatten(1).T.numpy()
    return estimate(_explained, [np.ones(len(tested)), *columns], episodes[~fit].numpy(), seed)


def _explained(sums: np.ndarray) -> np.ndarray:
    """For `estimate`: of columns of ones and, for each target, squared error, target and squared target, mean R2."""
    error, target, square = np.moveaxis(sums[..., 1:].reshape(*sums.shape[:-1], -1, 3), -1, 0)
    return (1 - error / (square - target**2 / sums[..., :1])).mean(-1)


def _centred(values: Tensor, groups: Tensor) -> Tensor:
    """values (n, F) less the mean of each group (n,) int64."""
    sums = values.new_zeros(int(groups.max()) + 1, values.shape[1]).index_add_(0, groups, values)
    return values - (sums / torch.bincount(groups, minlength=len(sums)).clamp_min(1)[:, None])[groups]


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
