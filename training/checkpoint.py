"""Checkpoints that resume exactly: weights, optimiser, random generators and step, as safetensors and JSON only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.data.samplers import generator_state, set_generator_state

KEEP = 2


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: np.random.Generator,
    identity: dict[str, Any],
    ema: dict[str, Tensor] | None = None,
) -> None:
    """-> folder/step-<n>/, written aside and renamed: a checkpoint that is there is whole. The last two are kept.

    identity: what makes this run this run (settings, data, encoder), plain values; see resume."""
    target = folder / f"step-{step:08d}"
    temporary = folder / f"step-{step:08d}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary / "model.safetensors")
    if ema is not None:
        save_file(ema, temporary / "ema.safetensors")
    state = optimiser.state_dict()
    moments = {f"{i}.{key}": value for i, entry in state["state"].items() for key, value in entry.items()}
    save_file({**moments, "torch_generator": torch.get_rng_state()}, temporary / "optimiser.safetensors")
    record = {"step": step, "param_groups": state["param_groups"], "sampler": generator_state(generator)}
    record["identity"] = identity
    (temporary / "state.json").write_text(json.dumps(record))
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    for old in sorted(folder.glob("step-????????"))[:-KEEP]:
        shutil.rmtree(old)


def resume(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: np.random.Generator,
    identity: dict[str, Any],
    ema: dict[str, Tensor] | None = None,
) -> int:
    """Puts the newest checkpoint of `folder` back in place; -> its step, 0 when there is none.

    Raises ValueError, naming the first difference, when the checkpoint is of a run with another identity."""
    found = sorted(folder.glob("step-????????"))
    if not found:
        return 0
    path = found[-1]
    record = json.loads((path / "state.json").read_text())
    wanted, got = _flat(record.get("identity", {})), _flat(json.loads(json.dumps(identity)))
    for name in sorted(wanted.keys() | got.keys()):
        if wanted.get(name) != got.get(name):
            raise ValueError(
                f"{folder} holds a run with {name} {wanted.get(name)!r}, got {got.get(name)!r}; "
                "give the same, or another --out"
            )
    model.load_state_dict(load_file(path / "model.safetensors"))
    if ema is not None:
        ema.update(load_file(path / "ema.safetensors"))
    tensors = load_file(path / "optimiser.safetensors")
    torch.set_rng_state(tensors.pop("torch_generator"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": moments, "param_groups": record["param_groups"]})
    set_generator_state(generator, record["sampler"])
    return int(record["step"])


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"width": 8}} -> {"model.width": 8}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
