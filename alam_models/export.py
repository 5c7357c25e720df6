"""Weights -> bundle: two ONNX graphs, the contract and a card.

    python -m alam_models.export --weights runs/policy --out checkpoints/my-policy --precision int8

`prefix.onnx` runs once per observation, `step.onnx` once per step of the sampler. A bundle is written only when ONNX
Runtime gives the same chunk as PyTorch, within what its precision may cost; the card says what it does cost."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml

from alam_models.contract import Contract
from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig, Intervention, shuffled
from alam_models.graphs import OPSET, example, write_graphs
from alam_models.precision import PRECISIONS, convert, rounded, save
from alam_models.runtime.bundle import digest
from alam_models.runtime.onnx import OnnxBackend
from alam_models.runtime.policy import generate, words
from alam_models.weights import load_policy_weights

INTERVENTIONS = ("freeze", "block", "shuffle")
COMPARED = 4  # chunks


def export(
    weights: Path,
    out: Path,
    measured: dict[str, Any] | None = None,
    intervention: Intervention | None = None,
    precision: str = "fp32",
) -> Path:
    """A transfer output folder -> a bundle at `out`, whole or not at all; `measured` goes into its card. With an
    intervention the bundle's policy is the one intervened in, for measurements (Tab. 11). precision: of PRECISIONS.

    Raises ValueError when the weights are not there or the graphs disagree with PyTorch, and for a diffusion that is to
    be frozen."""
    if precision not in PRECISIONS:
        raise ValueError(f"--precision: wanted one of {tuple(PRECISIONS)}, got {precision!r}")
    if out.resolve() == weights.resolve() or (out / "policy.safetensors").exists():
        raise ValueError(f"--out: wanted a folder of its own, got trained weights at {out}")
    if out.exists() and any(out.iterdir()) and not (out / "step.onnx").exists():
        raise ValueError(f"--out: wanted a new folder or a bundle to replace, got {out} with other files in it")
    policy = load_policy_weights(weights)
    if intervention is not None and policy.config.views == 0:
        raise ValueError(f"--intervention: wanted a policy with latents to intervene in, got one without at {weights}")
    contract, config = Contract.load(weights / "contract.yaml"), policy.config
    assert contract.tokenizer is not None
    contract = replace(contract, tokenizer=replace(contract.tokenizer, vocabulary=config.backbone.vocabulary))
    training = yaml.safe_load((weights / "card.yaml").read_text()) if (weights / "card.yaml").is_file() else {}
    temporary = out.with_name(out.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        wanted = [chunk(policy, contract, seed, intervention) for seed in range(COMPARED)]
        written = write_graphs(policy, contract, temporary, intervention)
        del policy  # a large one leaves no room for what comes now
        for name, kept in written.kept.items():
            convert(temporary / name, precision, kept)
        contract.save(temporary / "contract.yaml")
        with tempfile.TemporaryDirectory() as scratch:
            compared = temporary
            if precision == "bf16":  # ONNX Runtime has none on a CPU
                compared = Path(scratch)
                for name in written.kept:
                    save(rounded(onnx.load(temporary / name)), compared / name)
            agreement = compare(wanted, compared, config, contract, PRECISIONS[precision])
        if measured is not None:
            check_measured(measured, digest(temporary / "step.onnx"))
        card = {
            "steps": config.steps,
            "sampler": asdict(config.sampler),
            **({"intervention": asdict(intervention)} if intervention else {}),
            "replan": training.pop("replan", max(1, config.horizon // 2)),
            "tasks": training.pop("tasks", []),
            "sha256": {path.name: digest(path) for path in sorted(temporary.iterdir())},
            "export": {
                "precision": precision,
                "prefix_tokens": list(written.prefix_tokens),  # fewest and most
                "opset": OPSET,
                "torch": str(torch.__version__),
                **agreement,
            },
            "measured": measured or {},
            "training": training,
        }
        (temporary / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False, width=120))
        shutil.rmtree(out, ignore_errors=True)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def read_measured(path: Path) -> dict[str, Any]:
    """Raises ValueError for what no measurement wrote."""
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--measured: wanted the JSON of run_tasks.py, got {path}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"--measured: wanted the JSON of run_tasks.py, got a {type(found).__name__} in {path}")
    return found


def check_measured(measured: dict[str, Any], step_digest: str) -> None:
    """Raises ValueError unless the success was measured with these very graphs (run_tasks.py names its policy)."""
    policy = str(measured.get("policy"))
    if policy.rpartition("@")[2] != step_digest[:8]:
        raise ValueError(f"--measured: wanted figures of a policy ...@{step_digest[:8]}, got those of {policy}")


@dataclass(frozen=True)
class Compared:
    """A chunk of PyTorch's: inputs (see graphs.example), how many first steps were given, what came out."""

    inputs: dict[str, np.ndarray]
    given: int
    latents: np.ndarray  # (1, H, V, P), as generated
    actions: np.ndarray  # (1, H, A), standardised


@torch.no_grad()
def chunk(policy: FlowPolicy, contract: Contract, seed: int, intervention: Intervention | None = None) -> Compared:
    """One whole chunk for random inputs; the noise itself stands for what is given."""
    inputs, config = example(policy, contract, seed), policy.config
    frames = {role: inputs[role].permute(0, 3, 1, 2).float() / 255 for role in config.roles}
    noise, given = (inputs["latents"], inputs["actions"]), seed % (config.prefix_conditioning + 1)
    latents, actions = policy.sample(
        frames,
        inputs["text"],
        inputs["state"],
        *noise,
        intervention=intervention,
        committed_actions=noise[1] if given else None,
        committed_latents=policy.unproject(noise[0]) if given else None,
        delay=given,
    )
    arrays = {name: value.numpy() for name, value in inputs.items()}
    return Compared(arrays, given, (latents @ policy.projection).numpy(), actions.numpy())


def compare(
    chunks: list[Compared], folder: Path, config: FlowPolicyConfig, contract: Contract, smallest: float
) -> dict[str, float]:
    """PyTorch's chunks against ONNX Runtime's -> the smallest cosine of latents and actions, and the largest and mean
    error of actions, in their standard deviations. Raises ValueError for a cosine below `smallest`."""
    backend = OnnxBackend(folder, threads=1)
    cosines, errors = [], []
    for one in chunks:
        images = {role: one.inputs[role] for role in contract.roles}
        backend.prefix(images, words(one.inputs["text"], backend), one.inputs["state"])
        noise = one.inputs["latents"], one.inputs["actions"]
        latents, actions = generate(backend, config.sampler, *noise, config.steps, one.given)
        errors.append(np.abs(actions - one.actions))
        for wanted, got in ((one.latents, latents), (one.actions, actions)):
            if wanted.size:
                a, b = wanted.ravel().astype(float), got.ravel().astype(float)
                cosines.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    if not (np.isfinite(cosines).all() and min(cosines) >= smallest):
        raise ValueError(f"export: wanted a cosine of at least {smallest} to PyTorch, got {min(cosines):.6f}")
    return {
        "cosine": round(min(cosines), 8),
        "largest_error": float(np.max(errors)),
        "mean_error": float(np.mean(errors)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="output folder of `train.py transfer`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--measured", type=Path, help="JSON of tools/run_tasks.py, copied into the card")
    parser.add_argument("--intervention", choices=INTERVENTIONS, help="in the latent stream, to measure what it does")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32", help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffled order (default %(default)s)")
    arguments = parser.parse_args()
    try:
        measured = None
        if arguments.measured is not None:
            measured = read_measured(arguments.measured)
        intervention = None
        if arguments.intervention is not None:
            horizon = load_policy_weights(arguments.weights).config.horizon
            intervention = {
                "freeze": Intervention(freeze=True),
                "block": Intervention(block=True),
                "shuffle": Intervention(order=shuffled(horizon, arguments.seed)),
            }[arguments.intervention]
        out = export(arguments.weights, arguments.out, measured, intervention, arguments.precision)
    except (ValueError, OSError) as error:
        sys.exit(f"export: {error}")
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    agreement = yaml.safe_load((out / "card.yaml").read_text())["export"]
    print(
        f"bundle at {out}: {size:.1f} MB, cosine to PyTorch {agreement['cosine']:.6f}, "
        f"actions off by {agreement['mean_error']:.1e} of their deviation, at most {agreement['largest_error']:.1e}"
    )


if __name__ == "__main__":
    main()
