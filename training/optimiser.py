"""How gradients are computed, weights moved and averaged, and when a training ends itself; for both stages."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.checkpoint import newest, set_aside
from training.distributed import gradients_stay, own_part, whole
from training.settings import PretrainConfig, TransferConfig

WINDOW = 100  # losses whose median a spike is told by


def make_optimiser(model: nn.Module, config: PretrainConfig | TransferConfig) -> torch.optim.AdamW:
    """AdamW with the paper's betas (A.1)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters, config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True
    )


def learning_rate(config: PretrainConfig | TransferConfig, step: int) -> float:
    """Linear warm-up, cosine to zero."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    progress = (step - config.warm_up) / max(1, config.steps - config.warm_up)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def precision(config: PretrainConfig | TransferConfig, device: torch.device) -> torch.autocast:
    """Within it, matrix products are computed in bfloat16 where asked for; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def gradients_in_parts(
    replica: nn.Module,
    parts: Iterable[tuple[Any, ...]],
    config: PretrainConfig | TransferConfig,
    device: torch.device,
) -> list[dict[str, Tensor]]:
    """What the module takes for each of `accumulate` equal parts of a batch -> what it gives, detached.

    Computed one after the other, to save memory; the gradients of their mean "total" are in .grad."""
    found = []
    for number, part in enumerate(parts, 1):
        with nullcontext() if number == config.accumulate else gradients_stay(replica):
            with precision(config, device):
                terms = replica(*part)
            (terms["total"] / config.accumulate).backward()
        found.append({name: value.detach() for name, value in terms.items()})
    return found


def over_parts(found: list[dict[str, Tensor]], sizes: list[int]) -> dict[str, Tensor]:
    """Means () over each part of a batch -> means over the batch."""
    shares = [size / sum(sizes) for size in sizes]
    return {
        k: torch.stack([s * part[k].float() for s, part in zip(shares, found, strict=True)]).sum() for k in found[0]
    }


def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scales all gradients down to a norm of at most `largest`. -> the norm before, over all processes' parts."""
    return float(whole(nn.utils.clip_grad_norm_(model.parameters(), largest)))


def optimise(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """One step with the gradients that are there, which then are gone."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """-> what of the model's state a training changes, to be averaged from here on."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value.detach().clone() for name, value in model.state_dict().items() if name not in frozen}


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Moves an exponential average on by the model's weights and statistics; it forgets faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    state = model.state_dict()
    for name in average:
        value = state[name]
        if value.is_floating_point():
            own_part(average[name]).lerp_(own_part(value), 1 - decay)
        else:
            average[name].copy_(value)


@contextmanager
def averaged(model: nn.Module, average: dict[str, Tensor] | None) -> Iterator[None]:
    """Within it the model has the averaged weights, where there are such."""
    if average is None:
        yield
        return
    own = copy_of(model)
    model.load_state_dict(average, strict=False)  # what is frozen is not in it
    try:
        yield
    finally:
        model.load_state_dict(own, strict=False)


class LossWatch:
    """Ends a training that has gone wrong, and sees to it that its newest checkpoint is a good one.

    At once when loss or gradients are not finite; and when the loss was above `factor` times the median of the WINDOW
    losses before (high ones do not count) for `patience` steps in a row. Weights that gave the first bad loss may have
    been saved just before: that checkpoint is set aside. While the loss is high, none should be written."""

    def __init__(self, factor: float, patience: int, out: Path, losses: Iterable[float] = ()) -> None:
        """factor 0: high losses end nothing; losses: those of before an interruption."""
        self.factor, self.patience, self.out = factor, patience, out
        self.losses = deque(losses, WINDOW)
        self.high_since: int | None = None
        """The step from which on all losses have been high."""

    def __call__(self, loss: float, gradient_norm: float, step: int, last: bool = False) -> None:
        """last: no step follows in which a high loss could come down. Raises ValueError when the training must end."""
        finite = math.isfinite(loss) and math.isfinite(gradient_norm)
        median = float(np.median(self.losses)) if len(self.losses) == WINDOW else math.inf
        if finite and (not self.factor or loss <= self.factor * median):
            self.high_since = None
            self.losses.append(loss)
            return
        if self.high_since is None:
            self.high_since = step
        steps = step - self.high_since + 1
        if finite and steps < self.patience and not last:
            return
        set_aside(self.out, self.high_since)
        check_finite("loss", loss, step, self.out)
        check_finite("the norm of the gradients", gradient_norm, step, self.out)
        raise ValueError(
            f"loss {loss:.4g} at step {step}: above {self.factor:g} times its median of before, {median:.4g}, for "
            f"{steps} steps; {kept(self.out)}; try a lower --learning-rate or --clip and another --out, or a higher "
            "--spike"
        )


def check_finite(what: str, value: float, step: int, out: Path) -> None:
    """Raises ValueError, naming the checkpoint that is left, when a figure of a step is not finite."""
    if not math.isfinite(value):
        raise ValueError(f"{what} became {value} at step {step}; {kept(out)}")


def kept(out: Path) -> str:
    """-> words on the newest checkpoint in a folder."""
    found = newest(out)
    return f"the last checkpoint is {found}" if found else f"there is no checkpoint in {out} yet"
