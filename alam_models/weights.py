"""Weights on disk: safetensors plus the YAML of the config that sized them, nothing pickled."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig, FlowWeights
from alam_models.latent_action import ALAM, ALAMConfig, LossWeights, RelationalEncoder

Config = TypeVar("Config", ALAMConfig, FlowPolicyConfig)


def save_weights(folder: Path, name: str, weights: dict[str, Tensor], config: ALAMConfig | FlowPolicyConfig) -> None:
    """-> folder/<name>.safetensors and folder/<name>.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(_lists(asdict(config)), sort_keys=False))
    save_file({k: v.detach().contiguous() for k, v in weights.items()}, folder / f"{name}.safetensors")


def load_encoder(folder: Path | str) -> RelationalEncoder:
    """A pretraining output -> its encoder, frozen. Raises ValueError when the folder holds none or it does not fit."""
    config, weights = _load(Path(folder), "alam", ALAMConfig, LossWeights)
    prefix = "encoder."
    encoder = RelationalEncoder(config)
    _fill(encoder, {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}, Path(folder))
    return encoder.eval().requires_grad_(False)


def load_alam(folder: Path | str) -> ALAM:
    """A pretraining output -> encoder, quantizer and decoder, frozen, in evaluation mode. Raises as load_encoder."""
    config, weights = _load(Path(folder), "alam", ALAMConfig, LossWeights)
    model = ALAM(config)
    _fill(model, weights, Path(folder))
    return model.eval().requires_grad_(False)


def load_policy_weights(folder: Path | str) -> FlowPolicy:
    """A transfer output -> its policy in evaluation mode. Raises ValueError as load_encoder."""
    config, weights = _load(Path(folder), "policy", FlowPolicyConfig, FlowWeights)
    policy = FlowPolicy(config)
    _fill(policy, weights, Path(folder))
    return policy.eval()


def _load(folder: Path, name: str, kind: type[Config], nested: type) -> tuple[Config, dict[str, Tensor]]:
    for path in (folder / f"{name}.yaml", folder / f"{name}.safetensors"):
        if not path.is_file():
            raise ValueError(f"wanted trained weights at {path}, got no such file")
    try:
        data = yaml.safe_load((folder / f"{name}.yaml").read_text())
        if kind is ALAMConfig and isinstance(data, dict) and "standardise" in data:
            # Before `scale` and `pairs`.
            data["scale"], data["pairs"] = "standardised" if data.pop("standardise") else "free", "triplet"
        wanted = {field.name for field in fields(kind)}
        if not isinstance(data, dict) or set(data) != wanted:
            got = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"{folder / name}.yaml: wanted the fields {sorted(wanted)}, got {got}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        values["weights"] = nested(**data["weights"])
        return kind(**values), load_file(folder / f"{name}.safetensors")
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(f"{folder / name}.yaml: wanted a {kind.__name__}, got a damaged file ({error})") from None
    except SafetensorError as error:
        raise ValueError(f"{folder / name}.safetensors: wanted safetensors, got a damaged file ({error})") from None


def _fill(module: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    own = module.state_dict()
    for name, value in own.items():
        if name not in weights:
            raise ValueError(f"{folder}: weights lack {name!r}")
        if weights[name].shape != value.shape:
            raise ValueError(f"{folder}: {name}: wanted shape {tuple(value.shape)}, got {tuple(weights[name].shape)}")
    if unknown := set(weights) - set(own):
        raise ValueError(f"{folder}: weights hold {sorted(unknown)[0]!r}, which this model lacks")
    module.load_state_dict(weights)


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, tuple) else value
