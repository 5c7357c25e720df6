"""ALAM's objective as one would first write it: each of the four pairs by itself, from pixels to pixels.

The oracle of tests/test_latent_action.py and what benchmarks/pretrain_throughput.py compares with. It uses the
model's parameters and none of its forward code, except for what needs all pairs: the quantizer's update and the batch
statistics."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alam_models.latent_action import ALAM, UNEVEN, Distance, Whiten, resize
from alam_models.transformer import Block, CrossAttention

PAIRS = ((0, 1), (1, 2), (0, 2), (1, 0))


def four_passes(
    model: ALAM, triplet: Tensor, perceptual: Distance | None = None, textbook: bool = False
) -> dict[str, Tensor]:
    """As ALAM.forward with config.pairs "triplet"; textbook: attention without the fused kernel."""
    config, weights = model.config, model.config.weights
    frames = [resize(frame, config.grid * config.patch) for frame in triplet.unbind(1)]
    raw = [encode(model, frames[i], frames[j], textbook) for i, j in PAIRS]
    latents = scale(model, raw)
    book = model.quantizer.codebook.clone()
    predictions, commitments, every_code = [], [], []
    for z, (i, _) in zip(latents, PAIRS, strict=True):
        codes = (z.detach()[..., None, :] - book).square().sum(-1).argmin(-1)
        commitments.append((z - book[codes]).square().mean())
        predictions.append(decode(model, z + (book[codes] - z).detach(), frames[i], textbook))
        every_code.append(codes)
    if model.training:
        model.quantizer._update(torch.cat(latents).detach().flatten(0, 1), torch.cat(every_code).flatten())
    z_ab, z_bc, z_ac, z_ba = latents
    forward = list(zip(predictions, PAIRS, strict=True))[:3]  # the reversed pair is not supervised
    terms = {
        "rec": sum((p - frames[j]).square().mean() for p, (_, j) in forward) / 3,
        "add": (z_ac - z_ab - z_bc).square().mean(),
        "rev": (z_ab + z_ba).square().mean(),
        "vq": sum(commitments) / 4,
    }
    if weights.perc and perceptual is not None:
        terms["perc"] = sum(perceptual(p, frames[j]).mean() for p, (_, j) in forward) / 3
    total = sum(getattr(weights, name) * value for name, value in terms.items())
    if model.training and config.scale == "whitened":
        total = total + UNEVEN * unevenness(raw)
    return {**terms, "total": total, "codes": torch.cat(every_code), "prediction": torch.stack(predictions[:3])}


def encode(model: ALAM, frames_i: Tensor, frames_j: Tensor, textbook: bool) -> Tensor:
    """Frames (B, 3, h, w) -> the head's output (B, Q, Z)."""
    encoder = model.encoder
    x = torch.cat(
        [
            encoder.query.expand(len(frames_i), -1, -1),
            embed(model, frames_i) + encoder.frame[0],
            embed(model, frames_j) + encoder.frame[1],
        ],
        1,
    )
    for module in encoder.blocks:
        x = block(module, x, textbook)
    return encoder.head(encoder.norm(x)[:, : model.config.queries])


def decode(model: ALAM, z: Tensor, frames: Tensor, textbook: bool) -> Tensor:
    """z (B, Q, Z), source frames (B, 3, h, w) -> (B, 3, h, w)."""
    decoder, grid, patch = model.decoder, model.config.grid, model.config.patch
    source = decoder.f_beta(embed(model, frames))
    h_psi: CrossAttention = decoder.h_psi
    context = decoder.norm(torch.cat([decoder.f_alpha(z), source], 1))
    keys, values = h_psi.kv(context).chunk(2, -1)
    x = source + h_psi.out(attend(h_psi.q(decoder.norm(source)), keys, values, h_psi.heads, textbook))
    for module in decoder.blocks:
        x = block(module, x, textbook)
    pixels = decoder.pixels(x).transpose(1, 2)
    pixels = F.fold(pixels, (grid * patch, grid * patch), patch, stride=patch)
    return torch.sigmoid(pixels + torch.logit(frames, 0.01) if model.config.source_skip else pixels)


def embed(model: ALAM, frames: Tensor) -> Tensor:
    return model.encoder.patchify(2 * frames - 1).flatten(2).transpose(1, 2) + model.encoder.position


def block(module: Block, x: Tensor, textbook: bool) -> Tensor:
    q, k, v = module.attention.qkv(module.norm1(x)).chunk(3, -1)
    x = x + module.attention.out(attend(q, k, v, module.attention.heads, textbook))
    return x + module.mlp(module.norm2(x))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, textbook: bool) -> Tensor:
    """(B, T, D), (B, S, D) twice -> (B, T, D)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if textbook:
        y = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    else:
        y = F.scaled_dot_product_attention(q, k, v)
    return y.transpose(1, 2).flatten(2)


def scale(model: ALAM, raw: list[Tensor]) -> list[Tensor]:
    module: Any = model.encoder.scale
    if module is None:
        return raw
    z, batch = torch.cat(raw), len(raw[0])
    if isinstance(module, Whiten):
        there_and_back = torch.cat([torch.arange(batch), torch.arange(3 * batch, 4 * batch)])
        return list(module(z, there_and_back).chunk(4))
    return list(module(z.flatten(1)).view(z.shape).chunk(4))


def unevenness(raw: list[Tensor]) -> Tensor:
    """Latents of the four pairs, before whitening -> (): by the eigenvalues of their covariance over their mean."""
    offset = (raw[0] + raw[3]).mean(0) / 2
    flat = (torch.cat(raw) - offset).flatten(0, 1)
    spectrum = torch.linalg.eigvalsh(flat.T @ flat / len(flat))
    return (spectrum / spectrum.mean() - 1).square().sum() / len(spectrum) ** 2
