"""Gemma's layers (Gemma Team 2024), of which pi0 has two stacks: PaliGemma's language model and the action expert.

A layer attends over its own tokens and, where given, over the keys and values of the other stack at the same depth.
Letters: B batch, T own tokens, J joint tokens, D width, G heads that have keys, E width of a head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alam_models.transformer import KeysValues

EPSILON = 1e-6  # of every norm
ROTARY_BASE = 10_000.0

Rotary = tuple[Tensor, Tensor]  # cosines and sines, each (B, 1, T, E / 2) float32


@dataclass(frozen=True)
class GemmaConfig:
    """Sizes of a stack of layers; two stacks attend jointly when all but width and mlp_width agree."""

    width: int
    mlp_width: int
    depth: int = 18
    heads: int = 8
    kv_heads: int = 1  # G: each set of keys and values serves heads / kv_heads heads
    head_width: int = 256  # E

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads or self.head_width % 2:
            raise ValueError(
                f"Gemma: wanted heads divisible by kv_heads and an even head_width, got {self.heads}, {self.kv_heads}, "
                f"{self.head_width}"
            )


class RMSNorm(nn.Module):
    """x (..., D) over its root mean square, times 1 + weight; computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], 1 + self.weight.float(), EPSILON).to(x.dtype)


class GemmaLayer(nn.Module):
    """Pre-norm attention in which heads share keys and values, then a GELU-gated MLP; no biases."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        width, self.head_width = config.width, config.head_width
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.q = nn.Linear(width, config.heads * config.head_width, bias=False)
        self.k = nn.Linear(width, config.kv_heads * config.head_width, bias=False)
        self.v = nn.Linear(width, config.kv_heads * config.head_width, bias=False)
        self.out = nn.Linear(config.heads * config.head_width, width, bias=False)
        self.gate = nn.Linear(width, config.mlp_width, bias=False)
        self.up = nn.Linear(width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, width, bias=False)

    def forward(
        self, x: Tensor, rotary: Rotary, mask: Tensor, joint: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """x (B, T, D), mask (B, T or 1, J + T) True where seen, joint keys and values -> (B, T, D), own KeysValues."""
        h = self.norm1(x)
        q = rotate(split_heads(self.q(h), self.head_width), rotary)
        own = rotate(split_heads(self.k(h), self.head_width), rotary), split_heads(self.v(h), self.head_width)
        keys, values = own if joint is None else (torch.cat([joint[0], own[0]], 2), torch.cat([joint[1], own[1]], 2))
        x = x + self.out(attend(q, keys, values, mask))
        h = self.norm2(x)
        return x + self.down(F.gelu(self.gate(h), approximate="tanh") * self.up(h)), own


class KeysValuesLayer(nn.Module):
    """What is left of a layer of which others see the keys and values and nobody reads the output."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.norm1 = RMSNorm(config.width)
        self.k = nn.Linear(config.width, config.kv_heads * config.head_width, bias=False)
        self.v = nn.Linear(config.width, config.kv_heads * config.head_width, bias=False)

    def forward(self, x: Tensor, rotary: Rotary) -> KeysValues:
        """x (B, T, D) -> keys and values, each (B, G, T, E)."""
        h = self.norm1(x)
        return rotate(split_heads(self.k(h), self.head_width), rotary), split_heads(self.v(h), self.head_width)


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """q (B, heads, T, E), keys and values (B, G, J + T, E), mask (B, T or 1, J + T) -> (B, T, heads * E).

    Heads that share keys become more queries of one head: keys and values are neither copied nor read twice."""
    batch, heads, tokens, width = q.shape
    sharing = heads // keys.shape[1]
    q = q.reshape(batch, heads // sharing, sharing * tokens, width)
    if mask.shape[1] > 1:
        mask = mask.repeat(1, sharing, 1)
    y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask[:, None])
    return y.reshape(batch, heads, tokens, width).transpose(1, 2).flatten(2)


def split_heads(x: Tensor, head_width: int) -> Tensor:
    """(B, T, heads * E) -> (B, heads, T, E)."""
    return x.unflatten(2, (-1, head_width)).transpose(1, 2)


def rotary(positions: Tensor, head_width: int) -> Rotary:
    """positions (B, T) int64 -> the rotation of each (Su et al. 2021), in float32 however the layers compute."""
    exponent = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width
    angle = positions[:, None, :, None] * (1.0 / ROTARY_BASE**exponent)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """x (B, heads, T, E), its two halves taken as real and imaginary parts, turned by its positions."""
    (cos, sin), (real, imaginary) = rotary, x.float().chunk(2, -1)
    return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], -1).to(x.dtype)
