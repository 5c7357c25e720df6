"""How structured a set of latent transitions is, in figures that no rescaling of the latents changes.

Squared errors reward small latents: these do not. Letters: n samples, F = Q * Z features. Latents come as (n, ...) and
are flattened to (n, F)."""

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

    Centred: a constant part is no structure. All rows equal give 0, and nan what is not finite."""
    x = latents.flatten(1).double()
    if not x.isfinite().all():
        return float("nan")
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
