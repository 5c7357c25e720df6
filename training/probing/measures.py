"""Add(t) and Rev(t), what a decoder makes of composed transitions, and how sure the figures are (paper, Sec. 4.1).

Letters: n anchors (frames a), F frames of each, one stride k apart, T horizons t [strides]; z_ij is the transition from
frame i to frame j, counted in strides from the anchor, and Z_t = z_01 + z_12 + ... up to t, one stride at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from alam_models.latent_action import ALAM, Distance, resize
from training.data.frames import to_frames

WAYS = ("direct", "cumulative", "two_legs")  # z_0t; Z_t; z_0b + z_bt with b in the middle
SPANS = (1, 5)  # [strides] over which rank, codebook use and linear probes are told: both ends of the paper's range
BATCH = 64  # pairs or frames in one pass of a network
BEST_PSNR = 100.0  # [dB]; equal frames would be infinitely good
RESAMPLES = 2000

Pair = tuple[int, int]
Estimate = tuple[float | None, float | None, float | None]  # value, ends of its 95 % interval


@dataclass(frozen=True)
class Probed:
    """An encoder and its decoder. encode: frames (n, F, 3, h, w) in [0, 1] and P pairs of them -> (n, P, ...);
    decode: frames (n, 3, h, w) and transitions (n, ...) -> (n, 3, h, w); codes: transitions (n, ...) -> what the
    codebook calls them, (n, ...)."""

    read_size: int
    """[px] at which clips are read, as in training."""
    size: int
    """[px] of the frames that are encoded and decoded."""
    encode: Callable[[Tensor, Sequence[Pair]], Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]
    codes: Callable[[Tensor], Tensor]


def probed(model: ALAM) -> Probed:
    """Decoding passes the codebook, as in training: the decoder has seen nothing else (Eq. 6)."""
    device = next(model.parameters()).device

    def encode(frames: Tensor, pairs: Sequence[Pair]) -> Tensor:
        n, f = frames.shape[:2]
        patches = torch.cat([model.encoder.embed(part.to(device)) for part in frames.flatten(0, 1).split(BATCH)])
        rows = torch.arange(n)[:, None] * f + torch.tensor(pairs).T[:, None]  # (2, n, P)
        i, j = rows.flatten(1)
        parts = zip(i.split(BATCH), j.split(BATCH), strict=True)
        z = torch.cat([model.encoder.transition(patches[a], patches[b]).cpu() for a, b in parts])
        return z.unflatten(0, (n, len(pairs)))

    def decode(frames: Tensor, z: Tensor) -> Tensor:
        out = []
        for a, b in zip(frames.split(BATCH), z.split(BATCH), strict=True):
            source = a.to(device)
            out.append(model.decoder(model.quantizer(b.to(device))[0], model.encoder.embed(source), source).cpu())
        return torch.cat(out)

    def codes(z: Tensor) -> Tensor:
        return model.quantizer(z.to(device))[1].cpu()

    return Probed(model.config.image_size, model.config.grid * model.config.patch, encode, decode, codes)


def as_frames(images: np.ndarray, size: int) -> Tensor:
    """(..., h, w, 3) uint8 -> (..., 3, size, size) float32 in [0, 1], as a model resizes them."""
    frames = to_frames(torch.from_numpy(images))
    return resize(frames.flatten(0, -4), size).unflatten(0, frames.shape[:-3])


@torch.no_grad()
def algebra(
    encoder: Probed, frames: Tensor, horizons: Sequence[int]
) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
    """frames (n, F, 3, h, w) in [0, 1], F > max(horizons) -> {"add", "add_two_legs", "rev", "norm"}: (n, T) each, and
    transitions (n, T, ...) of each of WAYS.

    add |z_0t - Z_t|, rev |z_0t + z_t0|, norm |z_0t|: Euclidean over all of a transition, none squared."""
    steps = [(i, i + 1) for i in range(max(horizons))]
    legs = [pair for t in horizons if t > 1 for pair in ((0, t // 2), (t // 2, t))]
    ends = [pair for t in horizons for pair in ((0, t), (t, 0))]
    pairs = sorted({*steps, *legs, *ends})
    z = dict(zip(pairs, encoder.encode(frames, pairs).unbind(1), strict=True))
    ways = {
        "direct": torch.stack([z[0, t] for t in horizons], 1),
        "cumulative": torch.stack([sum((z[i, i + 1] for i in range(1, t)), z[0, 1]) for t in horizons], 1),
        "two_legs": torch.stack([z[0, t] if t == 1 else z[0, t // 2] + z[t // 2, t] for t in horizons], 1),
    }
    back = torch.stack([z[t, 0] for t in horizons], 1)
    errors = {
        "add": ways["direct"] - ways["cumulative"],
        "add_two_legs": ways["direct"] - ways["two_legs"],
        "rev": ways["direct"] + back,
        "norm": ways["direct"],
    }
    return {name: value.flatten(2).norm(dim=2).double().numpy() for name, value in errors.items()}, ways


@torch.no_grad()
def reconstructions(
    encoder: Probed,
    frames: Tensor,
    ways: dict[str, Tensor],
    horizons: Sequence[int],
    perceptual: Distance | None = None,
) -> dict[str, np.ndarray]:
    """frames and transitions as in `algebra` -> {"psnr_direct" [dB], "ssim_direct", "lpips_direct", ...}: (n, T) each.

    The frame t strides on, decoded from the anchor frame alone by each of WAYS, against what was filmed; beside it what
    a decoder must beat: "copy", the anchor as it is, and "zero", decoded from z = 0 (through the codebook)."""
    target, anchor = frames[:, list(horizons)].flatten(0, 1), frames[:, 0]

    def at_each(images: Tensor) -> Tensor:
        return images[:, None].expand(-1, len(horizons), -1, -1, -1).flatten(0, 1)

    source = at_each(anchor)
    predictions = {way: encoder.decode(source, z.flatten(0, 1)) for way, z in ways.items()}
    predictions["copy"] = source
    predictions["zero"] = at_each(encoder.decode(anchor, torch.zeros_like(ways["direct"][:, 0])))
    found = {}
    for way, prediction in predictions.items():
        for name, value in scores(prediction, target, perceptual).items():
            found[f"{name}_{way}"] = value.reshape(len(frames), len(horizons))
    return found


@torch.no_grad()
def scores(prediction: Tensor, target: Tensor, perceptual: Distance | None = None) -> dict[str, np.ndarray]:
    """(n, 3, h, w) in [0, 1] twice -> {"psnr" [dB], "ssim", and "lpips" where there is a distance}: (n,) each.

    SSIM as published (Wang et al. 2004): Gaussian window of 1.5 px, on each colour."""
    error = (prediction - target).square().flatten(1).mean(1).double()
    settings = {"data_range": 1.0, "channel_axis": 0, "gaussian_weights": True, "use_sample_covariance": False}
    both = zip(prediction.numpy(), target.numpy(), strict=True)
    found = {
        "psnr": (-10 * error.log10()).clamp(max=BEST_PSNR).numpy(),
        "ssim": np.array([structural_similarity(a, b, **settings) for a, b in both]),
    }
    if perceptual is not None:
        parts = zip(prediction.split(BATCH), target.split(BATCH), strict=True)
        found["lpips"] = torch.cat([perceptual(a, b) for a, b in parts]).double().numpy()
    return found


def mean(sums: np.ndarray) -> np.ndarray:
    """For `estimate`: of columns x and y, the mean of x over that of y (with y = 1, the mean of x)."""
    return sums[..., 0] / sums[..., 1]


def ratio_of_means(sums: np.ndarray) -> np.ndarray:
    """For `estimate`: of columns x, y, u, v, (x / y) / (u / v)."""
    return (sums[..., 0] / sums[..., 1]) / (sums[..., 2] / sums[..., 3])


def estimate(
    statistic: Callable[[np.ndarray], np.ndarray], columns: Sequence[np.ndarray], groups: np.ndarray, seed: int = 0
) -> Estimate:
    """statistic of the sums of C columns (n,) each -> it, and the ends of its 95 % interval by bootstrap over groups
    (n,): what comes from one episode is alike. Calls with the same groups and seed draw alike.

    None for what is undefined (a division by zero), and for the ends where there is a single group."""
    names, of = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(of, column, len(names)) for column in columns], 1)  # (G, C)
    draws = np.random.default_rng([seed, 9]).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, drawn = float(statistic(sums.sum(0))), statistic(draws @ sums)
    if not np.isfinite(value):
        return None, None, None
    drawn = drawn[np.isfinite(drawn)]
    if len(names) < 2 or not len(drawn):
        return value, None, None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return value, float(low), float(high)
