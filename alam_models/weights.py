"""Weights on disk: safetensors plus the YAML of the config that sized them, nothing pickled."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig
from alam_models.latent_action import ALAM, ALAMConfig, RelationalEncoder

Config = TypeVar("Config", ALAMConfig, FlowPolicyConfig)

# What policies of before small_backbone.py kept at the top, by how the names begin.
ONCE_AT_THE_TOP = ("vision.", "byte.", "text.", "state.", "prefix_", "step_position", "stream_position", "expert_")


def save_weights(folder: Path, name: str, weights: dict[str, Tensor], config: ALAMConfig | FlowPolicyConfig) -> None:
    """-> folder/<name>.safetensors and folder/<name>.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(_lists(asdict(config)), sort_keys=False))
    save_file({k: v.detach().contiguous() for k, v in weights.items()}, folder / f"{name}.safetensors")


def load_encoder(folder: Path | str) -> RelationalEncoder:
    """A pretraining output -> its encoder, frozen. Raises ValueError when the folder holds none or it does not fit."""
    config, weights = _load(Path(folder), "alam", ALAMConfig)
    prefix = "encoder."
    encoder = RelationalEncoder(config)
    _fill(encoder, {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}, Path(folder))
    return encoder.eval().requires_grad_(False)


def load_alam(folder: Path | str) -> ALAM:
    """A pretraining output -> encoder, quantizer and decoder, frozen, in evaluation mode. Raises as load_encoder."""
    config, weights = _load(Path(folder), "alam", ALAMConfig)
    model = ALAM(config)
    _fill(model, weights, Path(folder))
    return model.eval().requires_grad_(False)


def load_policy_weights(folder: Path | str) -> FlowPolicy:
    """A transfer output -> its policy in evaluation mode. Raises ValueError as load_encoder."""
    config, weights = _load(Path(folder), "policy", FlowPolicyConfig)
    weights = {f"backbone.{k}" if k.startswith(ONCE_AT_THE_TOP) else k: v for k, v in weights.items()}
    policy = FlowPolicy(config)
    _fill(policy, weights, Path(folder))
    return policy.eval()


def _load(folder: Path, name: str, kind: type[Config]) -> tuple[Config, dict[str, Tensor]]:
    for path in (folder / f"{name}.yaml", folder / f"{name}.safetensors"):
        if not path.is_file():
            raise ValueError(f"wanted trained weights at {path}, got no such file")
    try:
        data = yaml.safe_load((folder / f"{name}.yaml").read_text())
        config = _build(kind, _today(kind, data), f"{folder / name}.yaml")
        return config, load_file(folder / f"{name}.safetensors")
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(f"{folder / name}.yaml: wanted a {kind.__name__}, got a damaged file ({error})") from None
    except SafetensorError as error:
        raise ValueError(f"{folder / name}.safetensors: wanted safetensors, got a damaged file ({error})") from None


def _today(kind: type, data: Any) -> Any:
    """The fields that an earlier version wrote -> today's, with what was meant then."""
    if kind is ALAMConfig and isinstance(data, dict) and "standardise" in data:
        data = {**data, "pairs": "triplet"}
        data["scale"] = "standardised" if data.pop("standardise") else "free"
    if kind is FlowPolicyConfig and isinstance(data, dict) and "width" in data:
        sizes = {name: data[name] for name in ("width", "heads", "depth")}
        then = {
            "coupling": "joint",
            "mask": "paper",
            "objective": "flow",
            "state_dropout": 0.0,
            "prefix_conditioning": 0,
        }
        data = {**{k: v for k, v in data.items() if k not in sizes}, "backbone": sizes, **then}
        data["weights"] = {"other": 1.0, **data["weights"]}
    return data


def _build(kind: Any, data: Any, where: str) -> Any:
    """What YAML read -> `kind`: nested dataclasses from dicts, one of a union by its fields, tuples from lists."""
    if get_origin(kind) is UnionType and isinstance(data, dict):
        kinds = get_args(kind)
        kind = next((one for one in kinds if {field.name for field in fields(one)} == set(data)), kinds[0])
    if not is_dataclass(kind):
        return tuple(data) if isinstance(data, list) else data
    wanted = {field.name for field in fields(kind)}
    if not isinstance(data, dict) or set(data) != wanted:
        got = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{where}: wanted the fields {sorted(wanted)}, got {got}")
    hints = get_type_hints(kind)
    assert isinstance(kind, type)
    return kind(**{name: _build(hints[name], value, f"{where}: {name}") for name, value in data.items()})


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
