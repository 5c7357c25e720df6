"""What the published objective does to the scale of the latents in a small training, and what whitening does."""

import pytest
import torch
from torch import Tensor

from alam_models.latent_action import ALAM, ALAMConfig, LossWeights, variant
from alam_models.structure import structure
from training.probing.linear import r2

SIZE, LENGTH, LARGEST_GAP = 16, 32, 8  # [px], frames, frames


def blobs(clips: int, seed: int) -> tuple[Tensor, Tensor]:
    """A blob on a random walk -> frames (clips, T, 3, h, w) in [0, 1], its positions (clips, T, 2) in [0, 1]."""
    random = torch.Generator().manual_seed(seed)
    start = 2 * torch.rand(clips, 1, 2, generator=random)
    walk = start + (0.12 * torch.randn(clips, LENGTH, 2, generator=random)).cumsum(1)
    position = 0.15 + 0.7 * (walk % 2 - 1).abs()  # reflected at the border
    pixel = (torch.arange(SIZE) + 0.5) / SIZE
    x, y = position[..., 0, None, None], position[..., 1, None, None]
    blob = torch.exp(-((pixel[:, None] - y).square() + (pixel - x).square()) / 0.02)[:, :, None]
    return 0.1 + 0.8 * torch.cat([blob, blob, 1 - blob], 2), position


def draw(clips: int, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """-> clips (n, 1), frames a < b < c (n, 3)."""
    gaps = torch.randint(1, LARGEST_GAP + 1, (count, 2), generator=random)
    a = (torch.rand(count, generator=random) * (LENGTH - gaps.sum(1))).long()
    return torch.randint(clips, (count, 1), generator=random), torch.stack([a, a + gaps[:, 0], a + gaps.sum(1)], 1)


def train(config: ALAMConfig, steps: int) -> ALAM:
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    frames, _ = blobs(128, seed=1)
    model = ALAM(config)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.9, 0.95))
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 50, 3 * (1 - step / steps))
        optimiser.zero_grad()
        model(frames[draw(128, 32, random)])["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


@torch.no_grad()
def judge(model: ALAM) -> dict[str, float]:
    """Scale, structure and what a linear probe reads of the motion, on clips that were not trained on."""
    frames, position = blobs(64, seed=2)
    clip, time = draw(64, 512, torch.Generator().manual_seed(2))
    a, b, c = frames[clip, time].unbind(1)
    encode = model.encoder
    z_ab = encode(a, b)
    moved = position[clip[:, 0], time[:, 1]] - position[clip[:, 0], time[:, 0]]
    return {
        "rms": z_ab.square().mean().sqrt().item(),
        "R2": r2(z_ab, moved, clip[:, 0] % 2 == 0, clip[:, 0])[0] or 0.0,
        **structure(z_ab, encode(b, c), encode(a, c), encode(b, a)),
    }


@pytest.mark.slow
def test_free_latents_shrink_and_whitened_ones_become_structured() -> None:
    weights = LossWeights(perc=0.0, add=0.1, rev=0.1, vq=0.01)
    sizes = {"image_size": SIZE, "patch": 4, "width": 64, "heads": 4, "depth": 2, "queries": 1, "latent_width": 8}
    config = {
        scale: ALAMConfig(**sizes, scale=scale, fade_in=100, source_skip=True, weights=weights)  # type: ignore[arg-type]
        for scale in ("free", "whitened")
    }
    figures = {
        "LAM, free": judge(train(variant(config["free"], "lam"), 500)),
        "ALAM, free": judge(train(config["free"], 500)),
        "LAM, whitened": judge(train(variant(config["whitened"], "lam"), 500)),
        "ALAM, whitened": judge(train(config["whitened"], 500)),
    }
    for name, values in figures.items():
        print(f"{name:14s}", {k: round(v, 4) for k, v in values.items()})
    free, whitened, lam = figures["ALAM, free"], figures["ALAM, whitened"], figures["LAM, whitened"]
    assert free["rms"] < 0.05 * figures["LAM, free"]["rms"]  # the algebraic terms are low ...
    assert free["relative_rev"] > 1.0 and free["R2"] < 0.2  # ... and nothing is learned
    assert whitened["rms"] == pytest.approx(1.0, abs=0.5)
    assert lam["relative_add"] > 5 * whitened["relative_add"] and lam["relative_rev"] > 5 * whitened["relative_rev"]
    assert whitened["relative_rev"] < 0.3 and whitened["effective_rank"] > 5 and whitened["R2"] > 0.5
