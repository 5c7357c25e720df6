"""The parts of a policy around its backbone, one set a stream, without anything else of a policy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alam_models.pi0 import Pi0Backbone
from alam_models.transformer import Prefix, time_embedding


class Streams(nn.Module):
    """`widths`: of the latent streams, then of the actions."""

    def __init__(self, backbone: Pi0Backbone, widths: list[int]) -> None:
        super().__init__()
        self.backbone, width = backbone, backbone.width
        self.stream_in = nn.ModuleList(nn.Linear(w, width) for w in widths)
        self.stream_time = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in widths
        )
        self.stream_out = nn.ModuleList(nn.Linear(width, w) for w in widths)

    def velocity(self, streams: list[Tensor], tau: Tensor, prefix: Prefix, mask: Tensor) -> list[Tensor]:
        """streams (B, H, W) each at flow time tau (B,) -> velocities of the same shapes."""
        time = time_embedding(tau, self.backbone.width)[:, None].expand(-1, streams[0].shape[1], -1)
        tokens = [
            self.stream_time[i](torch.cat([self.stream_in[i](stream), time], -1)) for i, stream in enumerate(streams)
        ]
        x = self.backbone.expert(torch.stack(tokens, 2).flatten(1, 2), prefix, mask)
        x = x.unflatten(1, (-1, len(streams)))
        return [self.stream_out[i](x[:, :, i]) for i in range(len(streams))]
