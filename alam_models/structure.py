"""How structured a set of latent transitions is, in figures that no rescaling of the latents changes.

Squared errors reward small latents: these do not. Letters: n samples, F = Q * Z features, A target dimensions. Latents
come as (n, ...) and are flattened to (n, F)."""

from __future__ import annotations

import torch
from torch import Tensor


def structure(z_ab: Tensor, z_bc: Tensor, z_ac: Tensor, z_ba: Tensor) -> dict[str, float]:
    """Transitions of n triplets a < b < c, (n, ...) each -> relative_add, relative_rev, effective_rank (of z_ac)."""
    return {
        "relative_add": relative_error(z_ac - (z_ab + z_bc), z_ac).item(),
        "relative_rev": relative_error(z_ab + z_ba, z_ab).item(),
        "effective_rank": effective_rank(z_ac),
    }


@torch.no_grad()
def relative_error(error: Tensor, reference: Tensor) -> Tensor:
    """Mean |error| over mean |reference|, both (n, ...) -> (). 0 is exact; a constant latent gives 1 for Eq. 2's
    composition and 2 for its reversal.

    The means are divided, not the samples: clips without motion, whose transition is rightly 0, then weigh nothing."""
    reference_norm = reference.flatten(1).norm(dim=1).mean()
    return error.flatten(1).norm(dim=1).mean() / reference_norm.clamp_min(torch.finfo(reference_norm.dtype).tiny)


@torch.no_grad()
def effective_rank(latents: Tensor) -> float:
    """exp of the entropy of the normalised singular values (Roy & Vetterli 2007), latents (n, ...) centred -> 0 to F.

    Centred: a constant part is no structure. All rows equal give 0."""
    x = latents.flatten(1).double()
    values = torch.linalg.svdvals(x - x.mean(0))
    values = values[values > x.abs().max() * max(x.shape) * torch.finfo(x.dtype).eps]
    if not len(values):
        return 0.0
    share = values / values.sum()
    return float(torch.exp(-(share * share.log()).sum()))


@torch.no_grad()
def codebook_use(codes: Tensor, size: int) -> tuple[int, float]:
    """codes (...) int64 below size -> how many are used, perplexity: exp of the entropy of their use, 1 to size."""
    share = torch.bincount(codes.flatten(), minlength=size).double() / codes.numel()
    used = share[share > 0]
    return len(used), float(torch.exp(-(used * used.log()).sum()))


def linear_probe(latents: Tensor, targets: Tensor, episodes: Tensor, ridge: float = 1e-3, seed: int = 0) -> float:
    """ridge_r2 fitted on half of the episodes, tested on the others; episodes (n,) int64 names each row's episode.

    Raises ValueError with fewer than two episodes or constant targets."""
    names = episodes.unique()
    if len(names) < 2:
        raise ValueError(f"linear probe: wanted at least two episodes, got {len(names)}")
    order = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).to(names.device)]
    return ridge_r2(latents, targets, torch.isin(episodes, order[: len(names) // 2]), ridge)


@torch.no_grad()
def ridge_r2(latents: Tensor, targets: Tensor, fit: Tensor, ridge: float = 1e-3) -> float:
    """Ridge regression's R2 from latents (n, ...) to targets (n, A), fitted where fit (n,) bool, tested elsewhere.

    Features are standardised on the fitted rows, so that ridge is relative to a variance of 1. -> the mean over the
    target dimensions that vary: 1 is exact, 0 no better than the mean of the tested rows. Raises ValueError without
    rows to fit or to test, or with constant targets."""
    if not fit.any() or fit.all():
        raise ValueError(f"linear probe: wanted rows to fit and others to test, got {int(fit.sum())} of {len(fit)}")
    x, y = latents.flatten(1).double(), targets.flatten(1).double()
    mean, std = x[fit].mean(0), x[fit].std(0, correction=0)
    # A feature that is constant up to rounding says nothing; divided by its deviation it would say noise.
    x = torch.where(std > 1e-9 * x.abs().max(), (x - mean) / std.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
    offset, rows, features = y[fit].mean(0), int(fit.sum()), x.shape[1]
    fitted, wanted = x[fit], (y[fit] - offset) / rows
    if features <= rows:
        weights = torch.linalg.solve(fitted.T @ fitted / rows + ridge * _identity(features, x), fitted.T @ wanted)
    else:  # the same weights from the smaller matrix
        weights = fitted.T @ torch.linalg.solve(fitted @ fitted.T / rows + ridge * _identity(rows, x), wanted)
    tested = y[~fit]
    spread = (tested - tested.mean(0)).square().sum(0)
    varies = spread > 1e-12 * tested.square().sum(0)
    if not varies.any():
        raise ValueError("linear probe: wanted targets that vary, got constant ones")
    error = (x[~fit] @ weights + offset - tested).square().sum(0)
    return float((1 - error[varies] / spread[varies]).mean())


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
