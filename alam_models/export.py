"""Weights -> bundle: two ONNX graphs, the contract and a card.

    python -m alam_models.export --weights runs/policy --out checkpoints/my-policy

`prefix.onnx` runs once per observation, `step.onnx` once per step of the sampler. A bundle is written only when ONNX
Runtime gives the same chunk as PyTorch."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from alam_models.contract import Contract, encode_instruction
from alam_models.flow_policy import FlowPolicy, Intervention, shuffled
from alam_models.runtime.bundle import FILES, digest
from alam_models.runtime.onnx import OnnxBackend
from alam_models.runtime.policy import generate
from alam_models.transformer import Prefix
from alam_models.weights import load_policy_weights

OPSET = 20  # TensorRT parses this one; 23 fuses attention in a way it refuses
SMALLEST_COSINE = 0.9999
INTERVENTIONS = ("freeze", "block", "shuffle")


class PrefixGraph(nn.Module):
    """Frames as they leave prepare_frame -> keys and values (layers, 1, heads, L, D / heads), valid (1, L) bool."""

    def __init__(self, policy: FlowPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One (1, h, w, 3) uint8 image per role, then text (1, L) int64 and state (1, S) standardised."""
        *images, text, state = inputs
        frames = {
            role: image.permute(0, 3, 1, 2).float() / 255
            for role, image in zip(self.policy.config.roles, images, strict=True)
        }
        keys_values, valid = self.policy.prefix(frames, text, state)
        return torch.stack([k for k, _ in keys_values]), torch.stack([v for _, v in keys_values]), valid


class StepGraph(nn.Module):
    """One step of the sampler: (1, H, V, P), (1, H, A) and flow times (1, H) -> what the network says of both streams.

    Takes and gives latents only where the policy generates them, and their own time only where it differs."""

    def __init__(self, policy: FlowPolicy, intervention: Intervention | None = None) -> None:
        super().__init__()
        self.policy, self.intervention = policy, intervention
        of_latents = ["latents"] if policy.config.views else []
        own_time = ["tau_latents"] if policy.config.coupling == "two_stage" else []
        self.takes = [*of_latents, "actions", "tau", *own_time, "keys", "values", "valid"]
        self.gives = ["latent_velocity", "action_velocity"][-1 if not of_latents else -2 :]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.takes, inputs, strict=True))
        actions, config = given["actions"], self.policy.config
        latents = given.get("latents", actions.new_zeros(1, config.horizon, 0, config.projected_width))
        prefix = Prefix(list(zip(given["keys"], given["values"], strict=True)), given["valid"])
        said = self.policy.velocity(latents, actions, given["tau"], prefix, given.get("tau_latents"), self.intervention)
        return said[-len(self.gives) :]


def export(
    weights: Path, out: Path, measured: dict[str, Any] | None = None, intervention: Intervention | None = None
) -> Path:
    """A transfer output folder -> a bundle at `out`, whole or not at all; `measured` goes into its card. With an
    intervention the bundle's policy is the one intervened in, for measurements (Tab. 11).

    Raises ValueError when the weights are not there or the graphs disagree with PyTorch, and for a diffusion that is to
    be frozen."""
    if out.resolve() == weights.resolve() or (out / "policy.safetensors").exists():
        raise ValueError(f"--out: wanted a folder of its own, got trained weights at {out}")
    if out.exists() and any(out.iterdir()) and not (out / "step.onnx").exists():
        raise ValueError(f"--out: wanted a new folder or a bundle to replace, got {out} with other files in it")
    policy = load_policy_weights(weights)
    contract = Contract.load(weights / "contract.yaml")
    training = yaml.safe_load((weights / "card.yaml").read_text()) if (weights / "card.yaml").is_file() else {}
    temporary = out.with_name(out.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write_graphs(policy, contract, temporary, intervention)
        contract.save(temporary / "contract.yaml")
        agreement = compare(policy, contract, temporary, intervention)
        if measured is not None:
            check_measured(measured, digest(temporary / "step.onnx"))
        card = {
            "steps": policy.config.steps,
            "sampler": asdict(policy.config.sampler),
            **({"intervention": asdict(intervention)} if intervention else {}),
            "replan": training.pop("replan", max(1, policy.config.horizon // 2)),
            "tasks": training.pop("tasks", []),
            "sha256": {name: digest(temporary / name) for name in FILES},
            "export": {"opset": OPSET, "torch": str(torch.__version__), **agreement},
            "measured": measured or {},
            "training": training,
        }
        (temporary / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False, width=120))
        shutil.rmtree(out, ignore_errors=True)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def check_measured(measured: dict[str, Any], step_digest: str) -> None:
    """Raises ValueError unless the success was measured with these very graphs (run_tasks.py names its policy)."""
    policy = str(measured.get("policy"))
    if policy.rpartition("@")[2] != step_digest[:8]:
        raise ValueError(f"--measured: wanted figures of a policy ...@{step_digest[:8]}, got those of {policy}")


def write_graphs(
    policy: FlowPolicy, contract: Contract, folder: Path, intervention: Intervention | None = None
) -> None:
    inputs = example(policy, contract)
    images = [inputs[role] for role in policy.config.roles]
    observation = (*images, inputs["text"], inputs["state"])
    outputs = ["keys", "values", "valid"]
    _write(PrefixGraph(policy), observation, [*policy.config.roles, "text", "state"], outputs, folder / FILES[0])
    inputs |= dict(zip(outputs, PrefixGraph(policy)(*observation), strict=True))
    for name in ("tau", "tau_latents"):  # two tensors: of one, the graph would have one input
        inputs[name] = torch.full((1, policy.config.horizon), 0.5)
    step = StepGraph(policy, intervention)
    _write(step, tuple(inputs[name] for name in step.takes), step.takes, step.gives, folder / FILES[1])


def _write(graph: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], outputs: list[str], path: Path) -> None:
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of outputs that are constant, as `valid` can be
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            arguments,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the folders of the machine that exported
    program.save(str(path), external_data=False)


def example(policy: FlowPolicy, contract: Contract, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of both graphs, batch 1."""
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


@torch.no_grad()
def compare(
    policy: FlowPolicy, contract: Contract, folder: Path, intervention: Intervention | None = None
) -> dict[str, float]:
    """Whole chunks, latents and actions, PyTorch against ONNX Runtime -> {"cosine", "largest_error"}, standardised.

    Raises ValueError below the bar."""
    config = policy.config
    backend = OnnxBackend(folder, contract.roles, threads=1)
    cosines, errors = [], []
    for seed in range(4):
        inputs = example(policy, contract, seed)
        images = {role: inputs[role] for role in config.roles}
        frames = {role: image.permute(0, 3, 1, 2).float() / 255 for role, image in images.items()}
        noise, observation = (inputs["latents"], inputs["actions"]), (frames, inputs["text"], inputs["state"])
        given = seed % (config.prefix_conditioning + 1)
        latents, wanted_actions = policy.sample(
            *observation,
            *noise,
            intervention=intervention,
            committed_actions=noise[1] if given else None,  # the noise itself stands for what is given
            committed_latents=policy.unproject(noise[0]) if given else None,
            delay=given,
        )
        wanted_latents = latents @ policy.projection  # as generated
        backend.prefix({r: i.numpy() for r, i in images.items()}, inputs["text"].numpy(), inputs["state"].numpy())
        got = generate(backend, config.sampler, noise[0].numpy(), noise[1].numpy(), config.steps, given)
        for wanted, mine in list(zip((wanted_latents, wanted_actions), got, strict=True))[0 if config.views else 1 :]:
            a, b = wanted.numpy().ravel(), mine.ravel()
            cosines.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
            errors.append(float(np.abs(a - b).max()))
    if not (np.isfinite(cosines).all() and min(cosines) >= SMALLEST_COSINE):
        raise ValueError(f"export: wanted a cosine of at least {SMALLEST_COSINE} to PyTorch, got {cosines}")
    return {"cosine": round(min(cosines), 8), "largest_error": max(errors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="output folder of `train.py transfer`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--measured", type=Path, help="JSON of tools/run_tasks.py, copied into the card")
    parser.add_argument("--intervention", choices=INTERVENTIONS, help="in the latent stream, to measure what it does")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffled order (default %(default)s)")
    arguments = parser.parse_args()
    try:
        measured = None
        if arguments.measured is not None:
            measured = json.loads(arguments.measured.read_text())
        intervention = None
        if arguments.intervention is not None:
            horizon = load_policy_weights(arguments.weights).config.horizon
            intervention = {
                "freeze": Intervention(freeze=True),
                "block": Intervention(block=True),
                "shuffle": Intervention(order=shuffled(horizon, arguments.seed)),
            }[arguments.intervention]
        out = export(arguments.weights, arguments.out, measured, intervention)
    except (ValueError, OSError) as error:
        sys.exit(f"export: {error}")
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    agreement = yaml.safe_load((out / "card.yaml").read_text())["export"]
    print(f"bundle at {out}: {size:.1f} MB, cosine to PyTorch {agreement['cosine']:.6f}")


if __name__ == "__main__":
    main()
