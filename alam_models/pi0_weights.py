"""Public pi0 weights -> a policy on the pi0 backbone, every key accounted for.

Two layouts of `model.safetensors` are known: LeRobot's, and that of openpi's conversion to PyTorch, which is the same
without a leading `model.`. Weights stay mapped from the file until something writes to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig, make_backbone
from alam_models.pi0 import Pi0Backbone, Pi0Config

PALIGEMMA = "paligemma_with_expert.paligemma."
VISION = PALIGEMMA + "model.vision_tower."
LANGUAGE = PALIGEMMA + "model.language_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."

# Ours -> theirs.
BACKBONE = {
    "vision.patch": VISION + "embeddings.patch_embedding",
    "vision.position": VISION + "embeddings.position_embedding",
    "vision.norm": VISION + "post_layernorm",
    "projector": PALIGEMMA + "model.multi_modal_projector.linear",
    "words": LANGUAGE + "embed_tokens",
    "state": "state_proj",
    "expert_norm": EXPERT + "norm",
}
SIGLIP_LAYER = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
GEMMA_LAYER = {
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
ACTION_STREAM = {  # the stream of actions is the policy's last
    "stream_in": "action_in_proj",
    "stream_time.0": "action_time_mlp_in",
    "stream_time.2": "action_time_mlp_out",
    "stream_out": "action_out_proj",
}
READ_OF_LAST = ("norm1", "k", "v")  # of the prefix's last layer
TIED = PALIGEMMA + "lm_head.weight"  # one tensor with the words; a file may hold it under either name
SAID = 20  # problems that a message lists


@dataclass(frozen=True)
class LoadReport:
    """What became of every key: ours that were loaded, ours that pi0 does not have, theirs that nothing reads; and
    which of the loaded were cut, with their shapes in the file and here."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    cut: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)


def pi0_policy(config: FlowPolicyConfig, path: Path | str) -> tuple[FlowPolicy, LoadReport]:
    """-> a policy on the pi0 backbone with public weights, in one copy, mapped from the file. Raises as load_pi0.

    Fewer actions than the file's, which pi0 pads with zeros, take the first of its action projections."""
    found = _keys(weights_file(path)).get(f"{ACTION_STREAM['stream_in']}.weight")
    theirs = found.shape[-1] if found else config.action_width
    if config.action_width > theirs:
        raise ValueError(f"{path}: wanted at most the {theirs} actions of this pi0, got {config.action_width}")
    with torch.device("meta"):
        backbone = make_backbone(config)
    policy = FlowPolicy(replace(config, action_width=theirs), backbone)
    report = load_pi0(policy, path)
    whole = {name: tuple(value.shape) for name, value in policy.state_dict().items()}
    keep_first_actions(policy, config.action_width)
    now = {name: tuple(value.shape) for name, value in policy.state_dict().items()}
    return policy, replace(report, cut={name: (whole[name], now[name]) for name in now if now[name] != whole[name]})


@torch.no_grad()
def keep_first_actions(policy: FlowPolicy, count: int) -> None:
    """Cuts the projections of actions: the velocity of what is left is that of all, when the others are zero."""
    into, out = policy.stream_in[-1], policy.stream_out[-1]
    assert isinstance(into, nn.Linear) and isinstance(out, nn.Linear)
    into.weight = nn.Parameter(into.weight[:, :count].clone())
    out.weight, out.bias = nn.Parameter(out.weight[:count].clone()), nn.Parameter(out.bias[:count].clone())
    into.in_features = out.out_features = count
    policy.config = replace(policy.config, action_width=count)


def weights_file(path: Path | str) -> Path:
    """model.safetensors or its folder -> the file."""
    path = Path(path)
    return path / "model.safetensors" if path.is_dir() else path


def load_pi0(policy: FlowPolicy, path: Path | str) -> LoadReport:
    """Fill a policy, its backbone on the meta device or not, from public weights (model.safetensors or its folder).

    A latent stream starts with the action stream's time MLP and with a velocity of zero; without latent streams the
    policy is the original model. Raises ValueError, naming the keys, when the file lacks one, has one that is not
    pi0's, or has one of another shape; the policy is then as it was. One whose actions are narrower than pi0's is of
    another shape: see pi0_policy."""
    path = weights_file(path)
    backbone = policy.backbone
    if not isinstance(backbone, Pi0Backbone):
        raise ValueError(f"pi0 weights: wanted a policy on the pi0 backbone, got one on {type(backbone).__name__}")
    own = policy.state_dict(keep_vars=True)
    theirs = modules(backbone.config, action=policy.config.views)
    wanted = {}
    for ours in own:
        module, _, leaf = ours.rpartition(".")
        if module in theirs:
            wanted[ours] = f"{theirs[module]}.{leaf}"
    new = tuple(ours for ours in own if ours not in wanted)
    if left := [ours for ours in new if own[ours].is_meta]:
        raise ValueError(f"pi0 weights: wanted the backbone alone on the meta device, got {left} there too")

    found = _keys(path)
    words = wanted["backbone.words.weight"]
    if words not in found and TIED in found:
        wanted["backbone.words.weight"] = words = TIED
    unused = set(found) - set(wanted.values())
    problems = [f"lacks {key}" for key in wanted.values() if key not in found]
    problems += [f"has {key}, which this policy does not" for key in sorted(unused - not_needed(backbone.config))]
    problems += [
        f"has {key} of shape {found[key].shape}, not {tuple(own[ours].shape)}"
        for ours, key in wanted.items()
        if key in found and found[key].shape != tuple(own[ours].shape)
    ]
    if problems:
        more = f"; and {len(problems) - SAID} more" if len(problems) > SAID else ""
        raise ValueError(
            f"{path}: wanted pi0 at the size of this policy, but it " + "; it ".join(problems[:SAID]) + more
        )

    values = dict(_read(path, {ours: (found[key].name, own[ours]) for ours, key in wanted.items()}))
    policy.load_state_dict(values, strict=False, assign=True)
    begin_latent_streams(policy)
    return LoadReport(tuple(wanted), new, tuple(sorted(unused)))


def modules(config: Pi0Config, action: int) -> dict[str, str]:
    """Names of modules, ours -> theirs; `action` is the number of the stream of actions."""
    names = {f"backbone.{ours}": theirs for ours, theirs in BACKBONE.items()}
    stacks = (
        ("vision.layers", f"{VISION}encoder.layers", config.vision.depth, SIGLIP_LAYER),
        ("language", f"{LANGUAGE}layers", config.language.depth - 1, GEMMA_LAYER),
        ("expert_layers", f"{EXPERT}layers", config.expert.depth, GEMMA_LAYER),
    )
    for ours, theirs, depth, layer in stacks:
        for i in range(depth):
            names |= {f"backbone.{ours}.{i}.{mine}": f"{theirs}.{i}.{name}" for mine, name in layer.items()}
    last = f"{LANGUAGE}layers.{config.language.depth - 1}."
    names |= {f"backbone.language_end.{mine}": last + GEMMA_LAYER[mine] for mine in READ_OF_LAST}
    for ours, theirs in ACTION_STREAM.items():
        head, _, tail = ours.partition(".")
        names[".".join(filter(None, (head, str(action), tail)))] = theirs
    return names


def not_needed(config: Pi0Config) -> set[str]:
    """Keys of pi0 that nothing reads: the heads for words, and what comes after the prefix's last keys and values."""
    last = f"{LANGUAGE}layers.{config.language.depth - 1}."
    after = {f"{last}{name}.weight" for mine, name in GEMMA_LAYER.items() if mine not in READ_OF_LAST}
    return {TIED, "paligemma_with_expert.gemma_expert.lm_head.weight", f"{LANGUAGE}norm.weight", *after}


@torch.no_grad()
def begin_latent_streams(policy: FlowPolicy) -> None:
    """Latent tokens are mixed with the flow time as actions are; their velocity starts at zero."""
    for i in range(policy.config.views):
        policy.stream_time[i].load_state_dict(policy.stream_time[-1].state_dict())
        for parameter in policy.stream_out[i].parameters():
            parameter.zero_()


class _Key(NamedTuple):
    name: str  # as the file spells it
    shape: tuple[int, ...]


def _keys(path: Path) -> dict[str, _Key]:
    """The file's keys in openpi's spelling. Raises ValueError when there is no such file or it is damaged."""
    if not path.is_file():
        raise ValueError(f"pi0 weights: wanted a file at {path}, got none")
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"pi0 weights: wanted safetensors at {path}, got a damaged file ({error})") from None
    return {_spell(name): _Key(name, shape) for name, shape in shapes.items()}


def _spell(name: str) -> str:
    """LeRobot's prefix, and a level that `transformers` had before its release 5, left out."""
    return name.removeprefix("model.").replace("vision_tower.vision_model.", "vision_tower.")


def _read(path: Path, wanted: dict[str, tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """{ours: (name in the file, our parameter)} -> ours and its value, of our type and on our device if we have one.

    What needs no conversion stays a map of the file. What does is read through a map of its own: closing that gives
    the memory of the pages back, which otherwise would stand beside the converted values."""
    with safe_open(path, "pt") as shared:
        for ours, (name, parameter) in wanted.items():
            device = "cpu" if parameter.is_meta else parameter.device
            value = shared.get_tensor(name)
            if value.dtype != parameter.dtype:
                del value
                with safe_open(path, "pt") as alone:
                    value = alone.get_tensor(name).to(parameter.dtype)
            yield ours, value.to(device)
