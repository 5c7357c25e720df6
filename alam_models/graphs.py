"""The two ONNX graphs of a policy: the prefix, once per observation, and one step of the sampler.

What the prefix computes and the step reads has one name in both graphs, so that a runtime binds one to the other and
need not know what it is: `key_0`, `value_0`, `key_1`, ... and, where the prefix is as long as the instruction,
`valid`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from onnxscript.onnx_opset import opset20 as op
from torch import Tensor, nn

from alam_models.contract import Contract, encode_instruction
from alam_models.flow_policy import FlowPolicy, Intervention
from alam_models.pi0 import Pi0Backbone
from alam_models.precision import INLINE_BYTES
from alam_models.transformer import Prefix

OPSET = 20  # TensorRT parses this one; 23 fuses attention in a way it refuses


class PrefixGraph(nn.Module):
    """Frames as they leave prepare_frame -> keys and values (1, heads, L, width of a head) of every layer in turn."""

    def __init__(self, policy: FlowPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.takes = [*policy.config.roles, "text", "state"]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One (1, h, w, 3) uint8 image per role, then text (1, words) int64 and state (1, S) standardised."""
        *images, text, state = inputs
        frames = {  # floats before anything else: TensorRT moves no bytes
            role: image.float().permute(0, 3, 1, 2) / 255
            for role, image in zip(self.policy.config.roles, images, strict=True)
        }
        # The backbone itself: the policy wants every word of text_length, of which here only those that are there come.
        prefix = self.policy.backbone.prefix(frames, text, state)
        outputs = tuple(tensor for layer in prefix.keys_values for tensor in layer)
        return (*outputs, prefix.valid) if varies(self.policy) else outputs


class StepGraph(nn.Module):
    """One step of the sampler: (1, H, V, P) and (1, H, A) at flow times (1, H) -> what the network says of both.

    Takes and gives latents only where the policy generates them, and their own time only where it differs."""

    def __init__(self, policy: FlowPolicy, handed_on: list[str], intervention: Intervention | None = None) -> None:
        """handed_on: names of what PrefixGraph gives."""
        super().__init__()
        self.policy, self.handed_on, self.intervention = policy, handed_on, intervention
        of_latents = ["latents"] if policy.config.views else []
        own_time = ["tau_latents"] if policy.config.coupling == "two_stage" else []
        self.takes = [*of_latents, "actions", "tau", *own_time, *handed_on]
        self.gives = ["latent_velocity", "action_velocity"][-1 if not of_latents else -2 :]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.takes, inputs, strict=True))
        actions, config = given["actions"], self.policy.config
        latents = given.get("latents", actions.new_zeros(1, config.horizon, 0, config.projected_width))
        layers = [given[name] for name in self.handed_on if name != "valid"]
        valid = given.get("valid", torch.ones(1, layers[0].shape[2], dtype=torch.bool))
        prefix = Prefix(list(zip(layers[::2], layers[1::2], strict=True)), valid)
        said = self.policy.velocity(latents, actions, given["tau"], prefix, given.get("tau_latents"), self.intervention)
        return said[-len(self.gives) :]


@dataclass(frozen=True)
class Written:
    """prefix_tokens: fewest and most; kept: by file, the nodes that fewer bits would harm or that are too few to gain:
    norms, and all that is in no backbone."""

    prefix_tokens: tuple[int, int]
    kept: dict[str, set[str]]


def varies(policy: FlowPolicy) -> bool:
    """Whether the prefix is as long as the instruction. The small backbone's has a place for every byte."""
    return isinstance(policy.backbone, Pi0Backbone)


def write_graphs(
    policy: FlowPolicy, contract: Contract, folder: Path, intervention: Intervention | None = None
) -> Written:
    """-> prefix.onnx and step.onnx in `folder`, in float32, with their weights beside them where they are too large."""
    inputs = example(policy, contract)
    prefix = PrefixGraph(policy)
    with torch.no_grad():
        made = prefix(*(inputs[name] for name in prefix.takes))
    names = [f"{what}_{layer}" for layer in range(len(made) // 2) for what in ("key", "value")]
    names += ["valid"] if varies(policy) else []
    inputs |= dict(zip(names, made, strict=True))
    for name in ("tau", "tau_latents"):  # one tensor for both would become one input
        inputs[name] = torch.full((1, policy.config.horizon), 0.5)
    step = StepGraph(policy, names, intervention)
    axes: dict[str, dict[int, Any]] = {}
    if varies(policy):
        axes = {name: {1 if name == "valid" else 2: torch.export.Dim.DYNAMIC} for name in names}
        axes["text"] = {1: torch.export.Dim.DYNAMIC}
    kept = {
        "prefix.onnx": _write(prefix, inputs, prefix.takes, names, folder / "prefix.onnx", axes),
        "step.onnx": _write(step, inputs, step.takes, step.gives, folder / "step.onnx", axes),
    }
    words, tokens = inputs["text"].shape[1], made[0].shape[2]
    return Written((tokens - words + 1 if varies(policy) else tokens, tokens), kept)


def _write(
    graph: nn.Module,
    inputs: dict[str, Tensor],
    takes: list[str],
    gives: list[str],
    path: Path,
    axes: dict[str, dict[int, Any]],
) -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            tuple(inputs[name] for name in takes),
            input_names=takes,
            output_names=gives,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            dynamic_shapes={"inputs": tuple(axes.get(name) for name in takes)},
            custom_translation_table={
                torch.ops.aten.scaled_dot_product_attention.default: attention,
                torch.ops.aten.rms_norm.default: rms_norm,
            },
        )
    assert program is not None
    kept = set()
    for node in program.model.graph.all_nodes():
        place = node.metadata_props.get("namespace", "")
        if place and ("backbone" not in place or "Norm" in place):
            kept.add(node.name or "")
        node.metadata_props.clear()  # stack traces, with the folders of the machine that exported
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values() if value.const_value)
    program.save(str(path), external_data=size > INLINE_BYTES)
    return kept


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Scaled dot-product attention in the few operators that runtimes fuse: the exporter's own scales a copy of all
    keys and searches every layer for NaN. Here every token sees something, so that none can arise."""
    assert not is_causal and not enable_gqa and dropout_p == 0
    factor = op.Constant(value_float=scale or query.shape[-1] ** -0.5)
    scores = op.MatMul(op.Mul(query, factor), op.Transpose(key, perm=[0, 1, 3, 2]))
    if attn_mask is not None:
        unseen = op.Constant(value_float=float("-inf"))
        scores = op.Add(scores, op.Where(attn_mask, op.Constant(value_float=0.0), unseen))
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def rms_norm(x: Any, normalized_shape: Any, weight: Any, eps: float) -> Any:
    """As ONNX Runtime fuses it into one operator: it knows a division by the root, not the exporter's reciprocal."""
    square = op.ReduceMean(op.Pow(x, op.Constant(value_float=2.0)), op.Constant(value_ints=[-1]), keepdims=1)
    return op.Mul(op.Div(x, op.Sqrt(op.Add(square, op.Constant(value_float=eps)))), weight)


def example(policy: FlowPolicy, contract: Contract, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of both graphs, batch 1, with an instruction of as many words as there may be."""
    random = torch.Generator().manual_seed(seed)
    config = policy.config
    assert contract.tokenizer is not None
    inputs: dict[str, Tensor] = {
        role: torch.randint(0, 256, (1, size, size, 3), generator=random, dtype=torch.uint8)
        for role, size in zip(config.roles, config.image_sizes, strict=True)
    }
    inputs["text"] = torch.from_numpy(encode_instruction("open the drawer", contract.tokenizer))[None]
    inputs["state"] = torch.randn(1, config.state_width, generator=random)
    inputs["latents"], inputs["actions"] = policy.noise(1, random)
    return inputs
