"""Opening a bundle: every file there, whole, and of one make."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from alam_models.contract import Contract
from alam_models.runtime.policy import Backend, Policy, Shape
from alam_models.runtime.sampler import Sampler

RUNTIMES = ("onnxruntime", "tensorrt")
PREFIX, STEP = GRAPHS = ("prefix.onnx", "step.onnx")
FILES = (*GRAPHS, "contract.yaml")
DATA = ".data"  # ends the name of the weights that lie beside a graph too large for one file


def load_policy(
    bundle: Path | str,
    runtime: str = "onnxruntime",
    threads: int = 2,
    steps: int | None = None,
    provider: str = "cpu",
) -> Policy:
    """bundle folder -> policy; threads [1] of the inference library, steps of Eq. 15 (None: the bundle's own),
    provider: where ONNX Runtime computes (a key of `onnx.PROVIDERS`).

    Raises ValueError for a missing, damaged or foreign file, an unknown runtime or provider, or one that is not
    installed."""
    bundle = Path(bundle)
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime: wanted one of {RUNTIMES}, got {runtime!r}")
    if threads < 1 or (steps is not None and steps < 1):
        raise ValueError(f"wanted at least one thread and one step, got threads {threads}, steps {steps}")
    card = read_card(bundle)
    for name in dict.fromkeys((*FILES, *card["sha256"])):
        if not (bundle / name).is_file():
            raise ValueError(f"bundle {bundle}: wanted {name}, got no such file; export it again")
        got = digest(bundle / name)
        if got != card["sha256"].get(name):
            wanted = str(card["sha256"].get(name))[:12]
            raise ValueError(
                f"bundle {bundle}: {name}: wanted sha256 {wanted}..., got {got[:12]}...; damaged or foreign"
            )
    contract = Contract.load(bundle / "contract.yaml")
    try:
        sampler = Sampler(**card.get("sampler", {}))  # earlier bundles say nothing and are joint flow
    except (TypeError, ValueError) as error:
        raise ValueError(f"{bundle / 'card.yaml'}: sampler: {error}") from None
    for field in ("horizon", "latent", "tokenizer", "normalisation"):
        if getattr(contract, field) is None and not (field == "latent" and sampler.coupling == "none"):
            raise ValueError(f"bundle {bundle}: contract.yaml: wanted a policy's contract with {field!r}, got none")
    assert contract.horizon is not None
    if not 1 <= int(card["replan"]) <= contract.horizon:
        raise ValueError(
            f"{bundle / 'card.yaml'}: replan: wanted 1 to the horizon {contract.horizon}, got {card['replan']}"
        )
    backend = _backend(bundle, card, contract, runtime, threads, provider)
    check_shapes(backend.shapes, contract, bundle)
    return Policy(backend, contract, identity(bundle, card), steps or int(card["steps"]), int(card["replan"]), sampler)


def identity(bundle: Path, card: dict[str, Any]) -> str:
    """-> the folder's name and the first 8 hex digits over its step graph: what measurements call a policy."""
    return f"{bundle.resolve().name}@{card['sha256']['step.onnx'][:8]}"


def _backend(bundle: Path, card: dict[str, Any], contract: Contract, runtime: str, threads: int, where: str) -> Backend:
    about = card.get("export", {})
    if runtime == "onnxruntime":
        if about.get("precision") == "bf16":
            raise ValueError(
                "runtime onnxruntime: wanted a bundle in fp32, fp16 or int8, got bf16, which it cannot compute in; "
                "take runtime tensorrt or export it again"
            )
        from alam_models.runtime.onnx import OnnxBackend

        return OnnxBackend(bundle, threads, where)
    from alam_models.runtime.tensorrt_runtime import TensorrtBackend

    if about.get("precision") not in ("fp32", "fp16", "bf16") or "prefix_tokens" not in about:
        raise ValueError(
            f"runtime tensorrt: wanted a bundle that was exported with --precision fp16, bf16 or fp32, got "
            f"{about.get('precision', 'one of an earlier version')}; export it again or take runtime onnxruntime"
        )
    hashes = {
        name: hashlib.sha256("".join(card["sha256"].get(n, "") for n in (name, name + DATA)).encode()).hexdigest()
        for name in GRAPHS
    }
    assert contract.tokenizer is not None
    fewest, most = about["prefix_tokens"]
    return TensorrtBackend(bundle, hashes, (1, contract.tokenizer.length), (fewest, most))


def check_shapes(shapes: dict[str, Shape], contract: Contract, bundle: Path) -> None:
    """Raises ValueError, naming the input, where graphs want other frames, rows or words than the contract says."""
    assert contract.tokenizer is not None
    wanted: dict[str, Shape] = {camera.role: (1, camera.height, camera.width, 3) for camera in contract.cameras}
    wanted["state"], wanted["text"] = (1, len(contract.state)), (1, contract.tokenizer.length)
    wanted["actions"] = (1, contract.horizon, len(contract.action))
    for name, shape in wanted.items():
        got = shapes.get(name)
        if got is None or len(got) != len(shape) or any(n not in (None, m) for n, m in zip(got, shape, strict=True)):
            raise ValueError(f"bundle {bundle}: {name}: wanted {shape} as in contract.yaml, got {got} in its graphs")


def read_card(bundle: Path) -> dict[str, Any]:
    """-> card.yaml as a dict. Raises ValueError when the folder is no bundle."""
    path = bundle / "card.yaml"
    if not path.is_file():
        raise ValueError(
            f"wanted a bundle at {bundle}, got no card.yaml there; make one with python -m alam_models.export"
        )
    try:
        card = yaml.safe_load(path.read_text())
    except yaml.YAMLError:
        card = None
    kinds = {"sha256": dict, "steps": int, "replan": int}
    if not isinstance(card, dict) or not all(isinstance(card.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"{path}: wanted a bundle's card with sha256, steps and replan, got another file")
    return card


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
