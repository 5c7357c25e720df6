"""Attention blocks shared by everything. A block attends over its own tokens and, where given, over the keys and
values another stream computed at the same depth (layer-wise joint attention, as in pi0)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]  # each (B, heads, T, D / heads)


class Prefix(NamedTuple):
    """What the expert attends to: keys and values of every layer, and valid (B, L) bool, False where padding stands."""

    keys_values: list[KeysValues]
    valid: Tensor


class Attention(nn.Module):
    """Multi-head attention over own tokens and, optionally, the keys and values of other streams."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"attention: wanted a width divisible by heads, got width {width}, heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, joint: KeysValues | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        """x (B, T, D), J joint keys and values, mask (T, J + T) or (B, 1, T, J + T) True where seen -> (B, T, D), own
        KeysValues."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        keys, values = (k, v) if joint is None else (torch.cat([joint[0], k], 2), torch.cat([joint[1], v], 2))
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width)), (k, v)


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values from another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, T, D), context (B, S, D) -> (B, T, D)."""
        batch, tokens, width = x.shape
        q = self.q(x).view(batch, tokens, self.heads, -1).transpose(1, 2)
        k, v = self.kv(context).view(batch, context.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU MLP of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(
        self, x: Tensor, joint: KeysValues | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        """As Attention.forward."""
        y, own = self.attention(self.norm1(x), joint, mask)
        x = x + y
        return x + self.mlp(self.norm2(x)), own


def time_embedding(tau: Tensor, width: int) -> Tensor:
    """tau (B,) in [0, 1] -> (B, width) sines and cosines, periods 4e-3 to 4 (pi0)."""
    period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, width // 2, device=tau.device)
    angle = 2 * math.pi * tau[:, None] / period
    return torch.cat([angle.sin(), angle.cos()], -1)
