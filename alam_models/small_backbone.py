"""The small backbone: convolutional vision, byte tokens and an expert; what `mini` trains from scratch.

A backbone turns an observation into a Prefix and lets an expert's tokens attend to it layer by layer: `prefix`,
`expert` and `width` are all that the flow needs of it. Letters: B batch, L prefix tokens, T expert tokens, D width."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from alam_models.transformer import Block, Prefix

BYTES_PER_TOKEN = 8
VOCABULARY = 257  # bytes plus padding
STRIDE = 16  # of the vision tower [px]


@dataclass(frozen=True)
class SmallConfig:
    """Sizes of the prefix and of the expert, which are alike."""

    width: int = 128  # D
    heads: int = 4
    depth: int = 4
    vocabulary: ClassVar[int] = VOCABULARY


class VisionTower(nn.Module):
    """A convolutional stem of stride 16: (B, 3, s, s) in [0, 1] -> tokens (B, (s / 16)^2, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [3, width // 4, width // 2, width, width]
        for inside, outside in pairwise(channels):
            layers += [nn.Conv2d(inside, outside, 3, 2, 1), nn.GroupNorm(8, outside), nn.GELU("tanh")]
        self.stem = nn.Sequential(*layers, nn.Conv2d(width, width, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.stem(2 * image - 1).flatten(2).transpose(1, 2)


class SmallBackbone(nn.Module):
    """Prefix (images, instruction, state), every token of which sees every other, and the expert that attends to it."""

    def __init__(
        self,
        config: SmallConfig,
        roles: tuple[str, ...],
        image_sizes: tuple[int, ...],
        text_length: int,
        state_width: int,
        horizon: int,
        streams: int,
    ) -> None:
        """image_sizes [px], one a role; text_length [bytes]; each of `horizon` steps has `streams` expert tokens.

        Raises ValueError for sizes that do not divide."""
        super().__init__()
        if any(size % STRIDE for size in image_sizes):
            raise ValueError(f"image_sizes: wanted multiples of {STRIDE} for {roles}, got {image_sizes}")
        if text_length % BYTES_PER_TOKEN or config.width % BYTES_PER_TOKEN:
            raise ValueError(
                f"text_length, width: wanted multiples of {BYTES_PER_TOKEN}, got {text_length}, {config.width}"
            )
        self.config, self.roles = config, roles
        self.width = width = config.width
        self.vision = nn.ModuleDict({role: VisionTower(width) for role in roles})
        tokens = sum((size // STRIDE) ** 2 for size in image_sizes) + text_length // BYTES_PER_TOKEN + 1
        self.byte = nn.Embedding(VOCABULARY, width // BYTES_PER_TOKEN)
        self.text = nn.Linear(width, width)
        self.state = nn.Linear(state_width, width)
        self.prefix_position = nn.Parameter(torch.randn(1, tokens, width) * 0.2)
        self.prefix_blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        last = self.prefix_blocks[-1]
        assert isinstance(last, Block)
        for unread in (last.attention.out, last.norm2, last.mlp):  # of the last, others see keys and values alone
            unread.requires_grad_(False)
        self.step_position = nn.Parameter(torch.randn(1, horizon, 1, width) * 0.2)
        self.stream_position = nn.Parameter(torch.randn(1, 1, streams, width) * 0.2)
        self.expert_blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.expert_norm = nn.LayerNorm(width)

    def prefix(self, images: dict[str, Tensor], text: Tensor, state: Tensor) -> Prefix:
        """images {role: (B, 3, s, s) in [0, 1]}, text (B, text_length) int64, state (B, S) standardised -> Prefix."""
        tokens = [self.vision[role](images[role]) for role in self.roles]
        words = self.byte(text).flatten(1).unflatten(1, (-1, self.width))  # eight bytes make a token
        tokens += [self.text(words), self.state(state)[:, None]]
        x = torch.cat(tokens, 1) + self.prefix_position
        keys_values = []
        for block in self.prefix_blocks:
            x, own = block(x)
            keys_values.append(own)
        return Prefix(keys_values, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))

    def expert(self, tokens: Tensor, prefix: Prefix, mask: Tensor) -> Tensor:
        """tokens (B, T, D), the streams of a step side by side; mask (T, T) bool, True where seen -> (B, T, D)."""
        x = tokens + (self.step_position + self.stream_position).flatten(1, 2)
        seen = torch.cat([prefix.valid[:, None].expand(-1, len(mask), -1), mask.expand(len(x), -1, -1)], 2)[:, None]
        for block, keys_values in zip(self.expert_blocks, prefix.keys_values, strict=True):
            x, _ = block(x, keys_values, seen)
        return self.expert_norm(x)
