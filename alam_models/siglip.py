"""SigLIP's vision tower (Zhai et al. 2023): a square image becomes one token a patch.

Letters: B batch, N patches, D width, s image side."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6  # of every norm


@dataclass(frozen=True)
class SiglipConfig:
    """Sizes; the defaults are So400m/14, the tower of PaliGemma and pi0."""

    width: int = 1152
    depth: int = 27
    heads: int = 16
    mlp_width: int = 4304
    patch: int = 14  # [px]

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"SigLIP: wanted a width divisible by heads, got width {self.width}, heads {self.heads}")


class SiglipLayer(nn.Module):
    """Pre-norm attention, then a GELU MLP. Queries, keys and values stand apart, as in the public weights."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, config.mlp_width), nn.Linear(config.mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, D) -> (B, N, D)."""
        h = self.norm1(x)
        q, k, v = (map_(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for map_ in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Siglip(nn.Module):
    """Patches, learned positions, layers, a last norm."""

    def __init__(self, config: SiglipConfig, image_size: int) -> None:
        """image_size [px]. Raises ValueError unless whole patches fill the image."""
        super().__init__()
        if image_size % config.patch:
            raise ValueError(f"SigLIP: wanted an image size divisible by patch {config.patch}, got {image_size}")
        self.patch = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.position = nn.Embedding((image_size // config.patch) ** 2, config.width)
        self.layers = nn.ModuleList(SiglipLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, EPSILON)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, 3, s, s) in [0, 1] -> tokens (B, N, D), row by row."""
        pixels = (2 * image - 1).to(self.patch.weight.dtype)
        x = self.patch(pixels).flatten(2).transpose(1, 2) + self.position.weight
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)
