"""ALAM: a latent transition between two frames, learned from action-free video (paper, Sec. 3.1-3.2, Eq. 1-9).

Letters: B batch, N patches of a frame, Q query tokens, Z latent width, D model width, h = w the square frame size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alam_models.transformer import Block, CrossAttention

Distance = Callable[[Tensor, Tensor], Tensor]  # (B, 3, h, w) in [0, 1] twice -> (B,)


@dataclass(frozen=True)
class LossWeights:
    """The five weights of Eq. 9, each 1.0 in the paper (Tab. 6); 0 switches a term off."""

    rec: float = 1.0  # pixel reconstruction
    perc: float = 1.0  # LPIPS; needs its backbone
    add: float = 1.0  # composition consistency
    rev: float = 1.0  # reversal consistency
    vq: float = 1.0  # VQ commitment


@dataclass(frozen=True)
class ALAMConfig:
    """Sizes; the paper's are in Tab. 5."""

    image_size: int = 64  # [px], frames are square; paper: 200
    patch: int = 16  # [px]; paper: 14
    width: int = 128  # D; paper: 768
    heads: int = 4  # paper: 12
    depth: int = 3  # of the encoder and of the decoder; paper: 12
    queries: int = 4  # Q; paper: 256
    latent_width: int = 16  # Z; paper: 128
    codes: int = 32  # codebook size; paper: 7
    standardise: bool = False  # fix the latents' scale by batch statistics; paper: free, which rewards shrinking
    fade_in: int = 0  # training steps over which quantisation sets in; paper: at once
    source_skip: bool = False  # the pixel decoder adds to the source frame; paper: it does not
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if self.image_size < self.patch:
            raise ValueError(f"ALAM: wanted image_size >= patch, got {self.image_size} < {self.patch}")

    @property
    def grid(self) -> int:
        """Patches along one side; pixels left over at the border (paper: 200 = 14 * 14 + 4) are interpolated away."""
        return self.image_size // self.patch


class VectorQuantizer(nn.Module):
    """Nearest codebook entry with EMA updates (paper, Eq. 5; van den Oord et al. 2017).

    The codebook starts from the first training batch; entries unused for long restart from the current batch."""

    def __init__(self, codes: int, width: int, decay: float = 0.9, fade_in: int = 0) -> None:
        """fade_in: training steps over which the output moves from the continuous to the quantised vector."""
        super().__init__()
        self.decay, self.fade_in = decay, fade_in
        self.codebook: Tensor
        self.usage: Tensor
        self.total: Tensor
        self.steps: Tensor
        self.register_buffer("codebook", torch.randn(codes, width))
        self.register_buffer("usage", torch.ones(codes))  # EMA of how many vectors chose each code
        self.register_buffer("total", torch.randn(codes, width))  # EMA of the sum of those vectors
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (..., Z) -> quantised (..., Z) straight-through, codes (...,) int64, commitment loss ()."""
        flat = z.detach().reshape(-1, z.shape[-1]).float()
        if self.training and self.steps == 0:
            self._restart(flat, torch.ones_like(self.usage, dtype=torch.bool))
        codes = torch.cdist(flat, self.codebook).argmin(-1)
        quantised = self.codebook[codes].view_as(z).to(z.dtype)
        if self.training:
            self._update(flat, codes)
        commitment = F.mse_loss(z, quantised.detach())
        share = min(1.0, self.steps.item() / self.fade_in) if self.fade_in else 1.0
        return z + share * (quantised - z).detach(), codes.view(z.shape[:-1]), commitment

    @torch.no_grad()
    def _update(self, flat: Tensor, codes: Tensor) -> None:
        self.steps += 1
        chosen = F.one_hot(codes, len(self.codebook)).to(flat.dtype)
        self.usage.lerp_(chosen.sum(0), 1 - self.decay)
        self.total.lerp_(chosen.T @ flat, 1 - self.decay)
        alive = self.usage > 0.05 * self.usage.mean()
        self.codebook[alive] = self.total[alive] / self.usage[alive, None]
        if not alive.all():
            self._restart(flat, ~alive)

    def _restart(self, flat: Tensor, dead: Tensor) -> None:
        count = int(dead.sum())
        picks = flat[torch.randint(len(flat), (count,), device=flat.device)]
        self.codebook[dead] = picks
        self.usage[dead] = self.usage.mean().clamp_min(1.0)
        self.total[dead] = picks * self.usage[dead, None]


class RelationalEncoder(nn.Module):
    """E(O_i, O_j): queries and the patches of both frames through one transformer (Eq. 1, 4)."""

    def __init__(self, config: ALAMConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patchify = nn.Conv2d(3, width, config.patch, config.patch)
        self.position = nn.Parameter(torch.randn(1, config.grid**2, width) * 0.5)
        self.frame = nn.Parameter(torch.randn(2, 1, 1, width) * 0.5)  # first or second of the pair
        self.query = nn.Parameter(torch.randn(1, config.queries, width) * 0.5)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.latent_width)
        # At inference a fixed scale and offset of every output: the head stays linear.
        features = config.queries * config.latent_width
        self.scale = nn.BatchNorm1d(features, affine=False) if config.standardise else nn.Identity()

    def embed(self, frames: Tensor) -> Tensor:
        """frames (B, 3, h, w) in [0, 1] of any size -> patch sequences (B, N, D), computed once per frame."""
        frames = resize(frames, self.config.grid * self.config.patch)
        return self.patchify(2 * frames - 1).flatten(2).transpose(1, 2) + self.position

    def transition(self, patches_i: Tensor, patches_j: Tensor) -> Tensor:
        """Patch sequences of both frames, (B, N, D) each -> z (B, Q, Z)."""
        query = self.query.expand(len(patches_i), -1, -1)
        x = torch.cat([query, patches_i + self.frame[0], patches_j + self.frame[1]], 1)
        for block in self.blocks:
            x, _ = block(x)
        z = self.head(self.norm(x[:, : self.config.queries]))
        return self.scale(z.flatten(1)).view(z.shape)

    def forward(self, frames_i: Tensor, frames_j: Tensor) -> Tensor:
        """Two frames (B, 3, h, w) in [0, 1] -> z (B, Q, Z), continuous."""
        return self.transition(self.embed(frames_i), self.embed(frames_j))


class TransitionDecoder(nn.Module):
    """O_j from the source patches of O_i and the quantised transition (Eq. 6)."""

    def __init__(self, config: ALAMConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.f_alpha = nn.Linear(config.latent_width, width)
        self.f_beta = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.h_psi = CrossAttention(width, config.heads)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.pixels = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * config.patch**2))

    def forward(self, z: Tensor, patches: Tensor, frames: Tensor) -> Tensor:
        """z (B, Q, Z), source patches (B, N, D) and frames (B, 3, h, w) -> target frame (B, 3, h, w) in [0, 1]."""
        source = self.f_beta(patches)
        context = self.norm(torch.cat([self.f_alpha(z), source], 1))
        x = source + self.h_psi(self.norm(source), context)
        for block in self.blocks:
            x, _ = block(x)
        grid, patch = self.config.grid, self.config.patch
        x = self.pixels(x).view(-1, grid, grid, 3, patch, patch).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(-1, 3, grid * patch, grid * patch)
        return torch.sigmoid(x + torch.logit(frames, 0.01) if self.config.source_skip else x)


class ALAM(nn.Module):
    """Encoder, quantizer and decoder with the objective of Eq. 9."""

    def __init__(self, config: ALAMConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = RelationalEncoder(config)
        self.quantizer = VectorQuantizer(config.codes, config.latent_width, fade_in=config.fade_in)
        self.decoder = TransitionDecoder(config)

    def forward(self, triplet: Tensor, perceptual: Distance | None = None) -> dict[str, Tensor]:
        """triplet (B, 3, 3, h, w) in [0, 1], frames a < b < c -> each term of Eq. 9 (), "total", "codes", "prediction".

        prediction (3, B, 3, h, w) are the forward pairs (a,b), (b,c), (a,c) reconstructed, target their second frames.
        Raises ValueError when weights.perc is above 0 and there is no perceptual distance."""
        weights = self.config.weights
        if weights.perc and perceptual is None:
            raise ValueError("ALAM: weights.perc > 0 wants a perceptual distance; give one or set weights.perc to 0")
        batch = triplet.shape[0]
        flat = resize(triplet.transpose(0, 1).flatten(0, 1), self.config.grid * self.config.patch)
        frames = flat.unflatten(0, (3, batch))
        a, b, c = self.encoder.embed(flat).unflatten(0, (3, batch))
        # One pass over the four pairs of Eq. 3; the reversed pair is encoded, never reconstructed.
        latents = self.encoder.transition(torch.cat([a, b, a, b]), torch.cat([b, c, c, a]))
        z_ab, z_bc, z_ac, z_ba = latents.chunk(4)
        quantised, codes, commitment = self.quantizer(latents)
        source, target = frames[[0, 1, 0]], frames[[1, 2, 2]]
        prediction = self.decoder(quantised[: 3 * batch], torch.cat([a, b, a]), source.flatten(0, 1))
        prediction = prediction.unflatten(0, (3, batch))
        terms = {
            "rec": F.mse_loss(prediction, target),
            "add": (z_ac - (z_ab + z_bc)).square().mean(),
            "rev": (z_ab + z_ba).square().mean(),
            "vq": commitment,
        }
        if weights.perc and perceptual is not None:
            terms["perc"] = perceptual(prediction.flatten(0, 1), target.flatten(0, 1)).mean()
        total = sum((getattr(weights, name) * value for name, value in terms.items()), torch.zeros(()))
        return {
            **terms,
            "total": total,
            "relative_add": _relative(z_ac - (z_ab + z_bc), z_ac),
            "relative_rev": _relative(z_ab + z_ba, z_ab),
            "codes": codes,
            "prediction": prediction,
            "target": target,
        }


def resize(frames: Tensor, side: int) -> Tensor:
    """frames (B, 3, h, w) -> (B, 3, side, side), antialiased; as they are when they have that size."""
    if frames.shape[-2:] == (side, side):
        return frames
    return F.interpolate(frames, (side, side), mode="bilinear", antialias=True)


def _relative(error: Tensor, reference: Tensor) -> Tensor:
    """Mean |error| / |reference| over the batch, both (B, Q, Z): unlike a squared error, blind to scale."""
    return (error.flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1).clamp_min(1e-12)).mean().detach()
