"""What `training/train.py` can be told: one frozen dataclass a stage."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from alam_models.flow_policy import FlowPolicyConfig
from alam_models.latent_action import ALAMConfig
from training.data.loader import DataConfig
from training.provenance import plain


@dataclass(frozen=True)
class PretrainConfig:
    """ALAM from action-free video."""

    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    out: Path = tyro.MISSING
    """Folder for checkpoints, logs and the trained encoder; an interrupted run there is resumed. Shared by all
    processes."""
    variant: Literal["lam", "without_both", "without_rev", "without_add", "alam"] = "alam"
    """Row of the paper's Table 4: ALAM, or what it is without some of its algebraic terms, or an unstructured LAM that
    sees the pair (a, b) alone (paper: alam). Decides model.pairs, sets weights that it lacks to 0; the others stay."""
    model: ALAMConfig = field(default_factory=ALAMConfig)
    backbone: Literal["vgg", "alex", "squeeze"] = "vgg"
    """LPIPS backbone, used while model.weights.perc is above 0 (paper: not given)."""
    steps: int = 4000
    """Optimiser steps (paper: 39 epochs of a length it does not give)."""
    batch: int = 32
    """Triplets per step and process (paper: 32, on 128 GPUs)."""
    accumulate: int = 1
    """Equal parts in which a process computes its batch, one after the other, to save memory. Whitening and codebook
    then see a part at a time and are updated at each, and model.fade-in counts them (paper: not given)."""
    learning_rate: float = 1e-4
    """Peak learning rate (paper: 1e-4)."""
    weight_decay: float = 1e-4
    """AdamW weight decay (paper: 1e-4)."""
    warm_up: int = 100
    """Steps of linear warm-up, then cosine decay to 0 (paper: not given)."""
    clip: float = 1.0
    """Largest norm of all gradients together (paper: not given)."""
    ema: float = 0.0
    """Decay per step of averaged weights, which are then exported in place of the last step's; 0 for none (paper: not
    given)."""
    spike: float = 5.0
    """End the training when the loss stays above this many times the median of the 100 losses before; 0 for never
    (paper: not given)."""
    spike_steps: int = 20
    """Steps in a row above it that end the training (paper: not given)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products in the transformers; weights, latents and statistics stay float32 (paper: not given)."""
    compile: bool = False
    """Transformer blocks through torch.compile; takes a C++ compiler."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Between the processes of torchrun: ddp, each holds all weights; fsdp, each holds its part (FSDP2). One process
    alone does neither."""
    seed: int = 0
    """Of weights and sampling, and of the split where --split-seed is none."""
    log_every: int = 50
    """Steps between TensorBoard scalars."""
    save_every: int = 500
    """Steps between checkpoints, held-out scores and sample reconstructions."""

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class TransferConfig:
    """The joint flow-matching policy on demonstrations, with the encoder frozen."""

    data: Path = tyro.MISSING
    """LeRobot dataset with contract.yaml."""
    encoder: Path | None = None
    """Output folder of `pretrain`, frozen (paper: ALAM's encoder, frozen); none with --model.coupling none."""
    pi0: Path | None = None
    """Public pi0 weights to start from, LeRobot's or openpi's model.safetensors or its folder; none starts from random
    ones (paper: PaliGemma-2B and Gemma-300M of pi0). Fewer actions than pi0's take the first of its projections."""
    tokenizer: Path | None = None
    """PaliGemma's tokenizer.model, which pi0's words were learned with; none for bytes (paper: PaliGemma's)."""
    out: Path = tyro.MISSING
    """Folder for checkpoints, logs and the trained policy; an interrupted run there is resumed. Shared by all
    processes."""
    model: FlowPolicyConfig = field(default_factory=FlowPolicyConfig)
    """Sizes that the contract and the encoder decide are taken from them."""
    steps: int = 8000
    """Optimiser steps (paper: 30000)."""
    batch: int = 64
    """Observations per step and process (paper: 32 per GPU)."""
    accumulate: int = 1
    """Equal parts in which a process computes its batch, one after the other, to save memory (paper: not given)."""
    draws: int = 1
    """Noise and time draws per observation, which share its prefix (paper: not given, pi0's 1)."""
    learning_rate: float = 5e-5
    """Peak learning rate (paper: 5e-5)."""
    weight_decay: float = 1e-4
    """AdamW weight decay (paper: 1e-4)."""
    warm_up: int = 200
    """Steps of linear warm-up, then cosine decay to 0 (paper: not given)."""
    clip: float = 1.0
    """Largest norm of all gradients together (paper: not given)."""
    lora_rank: int = 0
    """Rank of LoRA adapters, trained in place of the backbone's weights and merged into them in what is saved; 0 trains
    all of it (paper: 0). Takes the extra `lora` and --pi0."""
    recompute: bool = False
    """Compute layers again in the backward pass in place of keeping what they computed: less memory, about a third more
    time, the same gradients (paper: not given)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products; weights and targets stay float32 (paper: not given)."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Between the processes of torchrun: ddp, each holds all weights; fsdp, each holds its part (FSDP2). One process
    alone does neither (paper: not given)."""
    ema: float = 0.999
    """Decay per step of averaged weights, which are then exported in place of the last step's; 0 for none (paper: not
    given)."""
    shift: int = 2
    """Largest random shift of each frame [px] (paper: not given)."""
    accept: tuple[str, ...] = ()
    """Dimensions to train on although the report before the training stops at them, by the names that it gives, such as
    action.grip of a task that never grips: nearly constant ones (deviation under 0.001 of the range) and clipped ones
    (more than half of the steps exactly at one end)."""
    replan: int = 4
    """Actions of a chunk that are executed before the next one; goes into the card (paper: 5 to 12 on LIBERO, not
    given elsewhere)."""
    seed: int = 0
    """Of weights, split and sampling."""
    log_every: int = 50
    """Steps between TensorBoard scalars."""
    save_every: int = 500
    """Steps between checkpoints and held-out scores."""

    def __post_init__(self) -> None:
        _check(self)


def _check(config: PretrainConfig | TransferConfig) -> None:
    """Raises ValueError, naming the option, for a number that no training can have."""
    from_one = ("steps", "batch", "accumulate", "draws", "spike_steps", "replan", "log_every", "save_every")
    from_zero = ("weight_decay", "warm_up", "spike", "ema", "shift", "lora_rank", "seed")
    for name, value in vars(config).items():
        option = f"--{name.replace('_', '-')}"
        if name in from_one and value < 1:
            raise ValueError(f"{option}: wanted 1 or more, got {value}")
        if name in from_zero and not 0 <= value < math.inf:
            raise ValueError(f"{option}: wanted 0 or more, got {value}")
        if name in ("learning_rate", "clip") and not 0 < value < math.inf:
            raise ValueError(f"{option}: wanted more than 0, got {value}")
    if config.ema >= 1:
        raise ValueError(f"--ema: wanted a decay below 1, got {config.ema}")


# Where things lie, how the work is done and when it ends: the trained weights do not depend on it.
_CIRCUMSTANCES = {"encoder", "out", "log_every", "save_every", "spike", "spike_steps", "compile", "parallel"}
_CIRCUMSTANCES |= {"accept", "recompute"}
_CIRCUMSTANCES |= {"pi0", "tokenizer", "lora_rank"}  # adapt.start_policy says what these are
# With one exception: `cache_frames` leaves out a clip that is damaged anywhere, decoding while training only the visits
# that meet the damage. It stays here since checkpoints do not record it; switch it on resuming only with whole data.
_CIRCUMSTANCES_OF_DATA = {"mixture", "workers", "prefetch", "keep_open", "cache", "cache_frames"}


def settings(config: PretrainConfig | TransferConfig) -> dict[str, Any]:
    """What decides the weights, as plain values: every option but folders and what changes a few last bits at most."""
    values: dict[str, Any] = plain({k: v for k, v in asdict(config).items() if k not in _CIRCUMSTANCES})
    data = values.pop("data")
    if isinstance(data, dict):
        values["data"] = {k: v for k, v in data.items() if k not in _CIRCUMSTANCES_OF_DATA}
    return values
