"""ALAM: a latent transition between two frames, learned from action-free video (paper, Sec. 3.1-3.2, Eq. 1-9).

Letters: B batch, N patches of a frame, Q query tokens, Z latent width, D model width, h = w the square frame size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from alam_models.transformer import Block, CrossAttention, KeysValues

Distance = Callable[[Tensor, Tensor], Tensor]  # (B, 3, h, w) in [0, 1] twice -> (B,)

# Pairs (source, target) of the frames a, b, c = 0, 1, 2. Forward pairs first: only they are reconstructed.
PAIRS = {"triplet": ((0, 1), (1, 2), (0, 2), (1, 0)), "pair": ((0, 1),)}


@dataclass(frozen=True)
class LossWeights:
    """The five weights of Eq. 9, each 1.0 in the paper (Tab. 6); 0 switches a term off.

    Terms are means over their elements, as in the authors' release, where Eq. 5, 7 and 8 write squared norms."""

    rec: float = 1.0  # pixel reconstruction; paper: 1
    perc: float = 1.0  # LPIPS, needs its backbone; paper: 1
    add: float = 1.0  # composition consistency; paper: 1
    rev: float = 1.0  # reversal consistency; paper: 1
    vq: float = 1.0  # VQ commitment; paper: 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"ALAM: weights.{name}: wanted 0 or more, got {value}")


@dataclass(frozen=True)
class ALAMConfig:
    """Sizes; the paper's are in Tab. 5.

    scale: "free", the squared errors on latents as published, which small latents lower. "whitened": latents of mean
    square 1 in every direction (Whiten), so that no linear map of the head changes the algebraic terms. "standardised":
    each output by itself (Standardise); older weights have it, whose subtracted mean contradicts Eq. 2."""

    image_size: int = 64  # of the square frames [px]; paper: 200
    patch: int = 16  # side of a patch [px]; paper: 14
    width: int = 128  # D, hidden size of the transformers; paper: 768
    heads: int = 4  # of attention; paper: 12
    depth: int = 3  # blocks of the encoder, and of the decoder; paper: 12
    queries: int = 4  # Q, latent tokens of a transition; paper: 256
    latent_width: int = 16  # Z, numbers in a latent token; paper: 128
    codes: int = 32  # codebook size; paper: 7
    pairs: Literal["triplet", "pair"] = "triplet"  # the four of Eq. 3, or (a, b) alone: a LAM; paper: triplet
    scale: Literal["free", "whitened", "standardised"] = "free"  # of the latents; paper: free
    fade_in: int = 0  # forward passes of the training over which quantisation sets in; paper: at once
    source_skip: bool = False  # the pixel decoder adds to the source frame; paper: it does not
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < (name != "fade_in"):
                raise ValueError(f"ALAM: {name}: wanted {'0' if name == 'fade_in' else '1'} or more, got {value}")
        if self.image_size < self.patch:
            raise ValueError(f"ALAM: wanted image_size >= patch, got {self.image_size} < {self.patch}")
        if self.pairs not in PAIRS:
            raise ValueError(f"ALAM: pairs: wanted one of {sorted(PAIRS)}, got {self.pairs!r}")
        if self.scale not in ("free", "whitened", "standardised"):
            raise ValueError(f"ALAM: scale: wanted free, whitened or standardised, got {self.scale!r}")

    @property
    def grid(self) -> int:
        """Patches along one side; pixels left over at the border (paper: 200 = 14 * 14 + 4) are interpolated away."""
        return self.image_size // self.patch


FLOOR = 1e-6  # of a whitened direction's variance, relative to the mean
UNEVEN = 0.1  # weight of Whiten.uneven

# Tab. 4: the pairs, and the terms that are switched off. All but LAM encode the same four pairs of the same triplets;
# LAM sees the pair (a, b) of each and nothing else: as many clips in a batch, a third of the reconstructions.
VARIANTS: dict[str, tuple[Literal["triplet", "pair"], tuple[str, ...]]] = {
    "lam": ("pair", ("add", "rev")),
    "without_both": ("triplet", ("add", "rev")),
    "without_rev": ("triplet", ("rev",)),
    "without_add": ("triplet", ("add",)),
    "alam": ("triplet", ()),
}


def variant(config: ALAMConfig, name: str) -> ALAMConfig:
    """The full config -> its row of Tab. 4, everything else alike. Raises ValueError for an unknown name."""
    if name not in VARIANTS:
        raise ValueError(f"ALAM variant: wanted one of {list(VARIANTS)}, got {name!r}")
    pairs, off = VARIANTS[name]
    return replace(config, pairs=pairs, weights=replace(config.weights, **dict.fromkeys(off, 0.0)))


class VectorQuantizer(nn.Module):
    """Nearest codebook entry with EMA updates (paper, Eq. 5; van den Oord et al. 2017).

    The codebook starts from the first training batch; entries unused for long restart from the current batch. Ranks of
    a process group, with equal batches each, share one codebook: that of a single process with the whole batch."""

    def __init__(self, codes: int, width: int, decay: float = 0.9, fade_in: int = 0) -> None:
        """fade_in: passes in training over which the output moves from the continuous to the quantised vector."""
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
        flat = z.detach().reshape(-1, z.shape[-1]).to(self.codebook.dtype)
        if self.training and self.steps == 0:
            self._restart(flat, torch.ones_like(self.usage, dtype=torch.bool))
        codes = torch.cdist(flat, self.codebook).argmin(-1)
        quantised = self.codebook[codes].view_as(z).to(z.dtype)
        if self.training:
            self._update(flat, codes)
        commitment = F.mse_loss(z, quantised.detach())
        share = (self.steps / self.fade_in).clamp(max=1) if self.fade_in else 1.0
        return z + share * (quantised - z).detach(), codes.view(z.shape[:-1]), commitment

    @torch.no_grad()
    def _update(self, flat: Tensor, codes: Tensor) -> None:
        self.steps += 1
        chosen = F.one_hot(codes, len(self.codebook)).to(flat.dtype)
        counts_sums = _sum_over_ranks(torch.cat([chosen.sum(0)[:, None], chosen.T @ flat], 1))
        self.usage.lerp_(counts_sums[:, 0], 1 - self.decay)
        self.total.lerp_(counts_sums[:, 1:], 1 - self.decay)
        alive = self.usage > 0.05 * self.usage.mean()
        self.codebook[alive] = self.total[alive] / self.usage[alive, None]
        if not alive.all():
            self._restart(flat, ~alive)

    def _restart(self, flat: Tensor, dead: Tensor) -> None:
        # Rows of the batch of all ranks, the same ones everywhere: rank 0 draws, the owner of a row gives it.
        rank, ranks = _rank_of()
        rows = torch.randint(ranks * len(flat), (int(dead.sum()),), device=flat.device)
        if ranks > 1:
            dist.broadcast(rows, 0)
        own = (rows // len(flat) == rank)[:, None]
        picks = _sum_over_ranks(torch.where(own, flat[rows % len(flat)], 0.0))
        self.codebook[dead] = picks
        self.usage[dead] = self.usage.mean().clamp_min(1.0)
        self.total[dead] = picks * self.usage[dead, None]


class LastBlock(Block):
    """A Block of which only the first `rows` tokens are read: the others give keys and values, and end there."""

    def __init__(self, width: int, heads: int, rows: int) -> None:
        super().__init__(width, heads)
        self.rows = rows

    def forward(
        self, x: Tensor, joint: KeysValues | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        """x (B, T, D) -> the first rows of what Block.forward gives (B, rows, D), own KeysValues; no joint, no mask."""
        assert joint is None and mask is None
        batch, tokens, width = x.shape
        heads, qkv, y = self.attention.heads, self.attention.qkv, self.norm1(x)
        q = F.linear(y[:, : self.rows].flatten(0, 1), qkv.weight[:width], qkv.bias[:width])
        q = q.view(batch, self.rows, heads, -1).transpose(1, 2)
        kv = F.linear(y, qkv.weight[width:], qkv.bias[width:])
        k, v = kv.view(batch, tokens, 2, heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, self.rows, width)
        x = x[:, : self.rows] + self.attention.out(y)
        return x + self.mlp(self.norm2(x)), (k, v)


class Whiten(nn.Module):
    """Latents of offset 0 and covariance 1 over the training batch (Ermolov et al. 2021, there against collapse): they
    cannot shrink, nor collapse to few directions. At inference a fixed affine map behind the linear head.

    The offset, of each query by itself, is the mean over pairs and their reversals: 0 by Eq. 2, whatever is filmed. The
    mean over all pairs is not where scenes drift; subtracting it would write a constant into every transition. The
    linear map is one for all queries, as the head is. Wants well over Z latents in a batch, all ranks together.

    What is whitened may have any covariance, so training lets it wander until it has no inverse. `uneven` (), 0 where
    all of its directions are as large, is for the loss: it changes nothing of what comes out (LOG.md)."""

    def __init__(self, queries: int, width: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.uneven: Tensor | None = None
        self.offset: Tensor
        self.covariance: Tensor
        self.register_buffer("offset", torch.zeros(queries, width))
        self.register_buffer("covariance", torch.eye(width))

    def forward(self, z: Tensor, balanced: Tensor | None = None) -> Tensor:
        """z (B, Q, Z), balanced int64 the rows whose mean is the offset (all, where None) -> (B, Q, Z)."""
        x, offset, covariance = z.to(self.offset.dtype), self.offset, self.covariance
        if self.training:
            offset = _mean_over_ranks((x if balanced is None else x[balanced]).mean(0))
            flat = (x - offset).flatten(0, 1)
            covariance = _mean_over_ranks(flat.T @ flat / len(flat))
            self.offset.lerp_(offset.detach(), self.momentum)
            self.covariance.lerp_(covariance.detach(), self.momentum)
        # A floor relative to the mean variance: no scale is preferred by it, and it is too low to shrink behind.
        # What is not finite stays so: no exception.
        mean, identity = covariance.diagonal().mean() + 1e-20, torch.eye(len(covariance), device=x.device)
        self.uneven = (covariance / mean - identity).square().mean() if self.training else None
        exact = (covariance / mean).double() + FLOOR * identity
        root = (torch.linalg.cholesky_ex(exact).L * mean.sqrt()).to(x.dtype)
        flat = torch.linalg.solve_triangular(root.mT, (x - offset).flatten(0, 1), upper=True, left=False)
        return flat.reshape(z.shape).to(z.dtype)


class Standardise(nn.BatchNorm1d):
    """nn.BatchNorm1d over the batches of all ranks, equal ones: torch's own SyncBatchNorm wants GPUs."""

    def forward(self, z: Tensor) -> Tensor:
        """z (B, F) -> (B, F)."""
        ranks = _rank_of()[1]
        if ranks == 1 or not self.training:
            return super().forward(z)
        mean = _mean_over_ranks(z.mean(0))
        variance = _mean_over_ranks((z - mean).square().mean(0))
        rows = ranks * len(z)
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * rows / (rows - 1), self.momentum)
            self.num_batches_tracked += 1
        return (z - mean) * (variance + self.eps).rsqrt()


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
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth - 1))
        self.blocks.append(LastBlock(width, config.heads, rows=config.queries))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.latent_width)
        self.scale: nn.Module | None = None
        if config.scale == "whitened":
            self.scale = Whiten(config.queries, config.latent_width)
        elif config.scale == "standardised":
            self.scale = Standardise(config.queries * config.latent_width, affine=False)

    def embed(self, frames: Tensor) -> Tensor:
        """frames (B, 3, h, w) in [0, 1] of any size -> patch sequences (B, N, D), computed once per frame."""
        frames = resize(frames, self.config.grid * self.config.patch)
        return self.patchify(2 * frames - 1).flatten(2).transpose(1, 2) + self.position

    def transition(self, patches_i: Tensor, patches_j: Tensor, balanced: Tensor | None = None) -> Tensor:
        """Patch sequences of both frames, (B, N, D) each -> z (B, Q, Z); balanced as in Whiten, for training."""
        query = self.query.expand(len(patches_i), -1, -1)
        x = torch.cat([query, patches_i + self.frame[0], patches_j + self.frame[1]], 1)
        for block in self.blocks:
            x, _ = block(x)
        # Eq. 2 is about differences of latents: they stay float32 where the blocks compute in bfloat16.
        with _float32(x.device):
            z = self.head(self.norm(x.to(self.head.weight.dtype)))
            if isinstance(self.scale, Whiten):
                return self.scale(z, balanced)
            return z if self.scale is None else self.scale(z.flatten(1)).view(z.shape)

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
        x = x.reshape(-1, 3, grid * patch, grid * patch).to(frames.dtype)  # no pixel is rounded to bfloat16
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

        prediction (P, B, 3, h, w) are the forward pairs reconstructed, target their second frames: (a,b), (b,c), (a,c),
        or (a,b) alone where config.pairs is "pair"; then b is the last frame read and there are no algebraic terms.
        Raises ValueError when weights.perc is above 0 and there is no perceptual distance."""
        config, weights, batch = self.config, self.config.weights, len(triplet)
        if weights.perc and perceptual is None:
            raise ValueError("ALAM: weights.perc > 0 wants a perceptual distance; give one or set weights.perc to 0")
        pairs = PAIRS[config.pairs]
        sources, targets = zip(*pairs, strict=True)
        forward = sum(i < j for i, j in pairs)
        frames = triplet[:, : 1 + max(targets)].transpose(0, 1).flatten(0, 1)
        frames = resize(frames, config.grid * config.patch)
        patches = self.encoder.embed(frames).unflatten(0, (-1, batch))  # once per frame, for all pairs
        frames = frames.unflatten(0, (-1, batch))

        latents = self.encoder.transition(
            _pick(patches, sources), _pick(patches, targets), _balanced_rows(pairs, batch, triplet.device)
        )
        with _float32(triplet.device):  # sums over many vectors
            quantised, codes, commitment = self.quantizer(latents)
        prediction = self.decoder(
            quantised[: forward * batch], _pick(patches, sources[:forward]), _pick(frames, sources[:forward])
        )
        target = _pick(frames, targets[:forward])
        terms = {"rec": F.mse_loss(prediction, target), "vq": commitment}
        if weights.perc and perceptual is not None:
            with _float32(triplet.device):
                terms["perc"] = perceptual(prediction, target).mean()
        reported = {}
        if config.pairs == "triplet":
            z_ab, z_bc, z_ac, z_ba = latents.chunk(4)
            terms["add"] = (z_ac - (z_ab + z_bc)).square().mean()
            terms["rev"] = (z_ab + z_ba).square().mean()
        total = sum((getattr(weights, name) * value for name, value in terms.items()), latents.new_zeros(()))
        if isinstance(self.encoder.scale, Whiten) and self.encoder.scale.uneven is not None:
            total = total + UNEVEN * self.encoder.scale.uneven
            reported["uneven"] = self.encoder.scale.uneven
        return {
            **terms,
            **reported,
            "total": total,
            "codes": codes,
            "prediction": prediction.unflatten(0, (-1, batch)),
            "target": target.unflatten(0, (-1, batch)),
        }

    @torch.no_grad()
    def transitions(self, triplet: Tensor) -> tuple[Tensor, ...]:
        """triplet (B, 3, 3, h, w) in [0, 1] -> z_ab, z_bc, z_ac, z_ba (B, Q, Z) each, whichever of them are trained.

        For inference mode: in training mode, statistics of the latents would move."""
        patches = self.encoder.embed(triplet.flatten(0, 1)).unflatten(0, (-1, 3)).transpose(0, 1)
        sources, targets = zip(*PAIRS["triplet"], strict=True)
        return self.encoder.transition(_pick(patches, sources), _pick(patches, targets)).chunk(4)


def resize(frames: Tensor, side: int) -> Tensor:
    """frames (B, 3, h, w) -> (B, 3, side, side), antialiased; as they are when they have that size."""
    if frames.shape[-2:] == (side, side):
        return frames
    return F.interpolate(frames, (side, side), mode="bilinear", antialias=True)


def _float32(device: torch.device) -> AbstractContextManager[Any]:
    """Within it nothing is rounded to bfloat16, whatever torch.autocast is in force outside."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _balanced_rows(pairs: Sequence[tuple[int, int]], batch: int, device: torch.device) -> Tensor:
    """-> int64, the rows of a batch (len(pairs) * B, ...) whose pair is there both ways; all, where none is."""
    both_ways = [p for p, (i, j) in enumerate(pairs) if (j, i) in pairs] or list(range(len(pairs)))
    return torch.arange(len(pairs) * batch, device=device).view(len(pairs), batch)[both_ways].flatten()


def _pick(frames: Tensor, indices: Sequence[int]) -> Tensor:
    """(F, B, ...) -> (len(indices) * B, ...), frame after frame."""
    return torch.cat([frames[i] for i in indices])


def _rank_of() -> tuple[int, int]:
    """-> rank, ranks; (0, 1) outside a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _sum_over_ranks(x: Tensor) -> Tensor:
    """In place, no gradient."""
    if _rank_of()[1] > 1:
        dist.all_reduce(x)
    return x


class _MeanOverRanks(torch.autograd.Function):
    """Mean over ranks. So is its gradient: averaged over ranks as data parallelism does, it is that of one process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum_over_ranks(x.clone()) / _rank_of()[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum_over_ranks(gradient.clone()) / _rank_of()[1]


def _mean_over_ranks(x: Tensor) -> Tensor:
    return _MeanOverRanks.apply(x) if _rank_of()[1] > 1 else x
