"""What a transfer starts from and what of it is trained: public pi0 weights, LoRA adapters, recomputed layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alam_models.contract import Tokenizer
from alam_models.flow_policy import FlowPolicy
from alam_models.lpips import define_torchvision_operators
from alam_models.pi0 import Pi0Config
from alam_models.pi0_weights import pi0_policy, weights_file
from training.distributed import LAYERS
from training.settings import TransferConfig


def check_start(config: TransferConfig) -> None:
    """Raises ValueError, before anything is read, for options that do not go together."""
    if (config.encoder is None) != (config.model.coupling == "none"):
        raise ValueError(
            "encoder: wanted the output folder of `pretrain`, or none with --model.coupling none; "
            f"got {config.encoder} with {config.model.coupling}"
        )
    on_pi0 = isinstance(config.model.backbone, Pi0Config)
    if config.pi0 and not on_pi0:
        kind = type(config.model.backbone).__name__
        raise ValueError(f"--pi0: wanted a model on the pi0 backbone, as of --config paper, got one on {kind}")
    if config.pi0 and not config.tokenizer:
        raise ValueError("--pi0: wanted the tokens that its words were learned with (--tokenizer), got none")
    if config.tokenizer and not on_pi0:
        raise ValueError("--tokenizer: wanted the pi0 backbone, as of --config paper; the small one reads bytes")
    if config.lora_rank and not config.pi0:
        raise ValueError(
            f"--lora-rank: wanted pretrained weights to adapt (--pi0), got a rank of {config.lora_rank} alone"
        )
    if config.replan > config.model.horizon:
        raise ValueError(f"--replan: wanted at most the horizon {config.model.horizon}, got {config.replan}")
    if config.accumulate < 1 or config.batch % config.accumulate:
        raise ValueError(f"accumulate: wanted equal parts of a batch of {config.batch}, got {config.accumulate}")


def start_policy(config: TransferConfig) -> tuple[FlowPolicy, dict[str, Any] | None]:
    """-> the policy before its first step; with public weights also which file, and what became of every key.

    Raises ValueError when the weights do not fit or peft is not there."""
    if config.pi0 is None:
        model, said = FlowPolicy(config.model), None
    else:
        model, report = pi0_policy(config.model, config.pi0)
        keys = {"loaded": len(report.loaded), "new": report.new, "cut": report.cut, "unused": report.unused}
        said = {"file": hash_of(weights_file(config.pi0)), "lora_rank": config.lora_rank, "keys": keys}
        assert config.tokenizer is not None
        said["tokenizer"] = hash_of(config.tokenizer)
    if config.lora_rank:
        add_adapters(model, config.lora_rank)
    if config.recompute:
        recompute_layers(model)
    return model.train(), said


def hash_of(path: Path) -> str:
    """-> 12 hex digits over a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def tokenizer_of(config: TransferConfig) -> Tokenizer:
    """-> how instructions become tokens."""
    kind, path = ("paligemma", str(config.tokenizer)) if config.tokenizer else ("bytes", None)
    return Tokenizer(kind, config.model.text_length, path, config.model.backbone.vocabulary)


def recompute_layers(model: nn.Module) -> None:
    """Layers keep their input alone and compute the rest once more when gradients are asked for (Chen et al. 2016)."""
    for module in model.modules():
        if isinstance(module, LAYERS):
            forward: Callable[..., Any] = module.forward
            module.forward = partial(checkpoint, forward, use_reentrant=False)  # type: ignore[method-assign]


def add_adapters(model: FlowPolicy, rank: int) -> None:
    """LoRA (Hu et al. 2022) on every linear map of the backbone, scaled by one, the rest of the backbone frozen.

    What carries the streams into and out of the expert is trained as without. Raises ValueError without peft."""
    define_torchvision_operators()  # peft imports transformers, which imports torchvision
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(f"--lora-rank: wanted the package peft ({error}); install the extra `lora`") from None
    linear = [name for name, module in model.backbone.named_modules() if isinstance(module, nn.Linear)]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=linear), model.backbone)
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)


def plain_weights(weights: dict[str, Tensor], model: FlowPolicy) -> dict[str, Tensor]:
    """Weights of a model with adapters -> with the adapters merged into them, under the names that they have without.

    Those of a model without adapters are what they were."""
    plain = {name.replace(".base_layer.", "."): value for name, value in weights.items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):  # of peft's layers
            into, out = (weights[f"{name}.{part}.default.weight"] for part in ("lora_A", "lora_B"))
            plain[f"{name}.weight"] = plain[f"{name}.weight"] + out @ into * module.scaling["default"]
    return plain
