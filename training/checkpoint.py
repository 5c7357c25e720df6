"""Checkpoints that resume exactly: weights, optimiser, random generator and step, as safetensors and JSON only.

A checkpoint holds whole tensors, however many processes the weights were spread over."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.distributed import agreed, collect, is_first, laid_out

KEEP = 2


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: Any,
    identity: dict[str, Any],
    ema: dict[str, Tensor] | None = None,
) -> None:
    """-> folder/step-<n>/, written aside, on the disk, then renamed: a checkpoint that is there is whole. Two are kept.

    progress: what the loop needs to go on, plain values; identity: what makes this run this run (settings, data,
    encoder), see resume. Every process calls, the first one writes."""
    state = optimiser.state_dict()
    moments = {f"{i}.{key}": value for i, entry in state["state"].items() for key, value in entry.items()}
    files = {"model": collect(model.state_dict()), "optimiser": {**collect(moments), **_random_states()}}
    if ema is not None:
        files["ema"] = collect(ema)
    if not is_first():
        return
    target = folder / f"step-{step:08d}"
    temporary = folder / f"step-{step:08d}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, tensors in files.items():
        save_file(tensors, temporary / f"{name}.safetensors")
    record = {"step": step, "param_groups": state["param_groups"], "progress": progress, "identity": identity}
    (temporary / "state.json").write_text(json.dumps(record))
    for path in (*temporary.iterdir(), temporary):
        _flush(path)
    temporary.rename(target)
    _flush(folder)
    for old in sorted(folder.glob("step-????????"))[:-KEEP]:
        shutil.rmtree(old)


def newest(folder: Path) -> Path | None:
    """-> the newest checkpoint in a folder."""
    return max(folder.glob("step-????????"), default=None)


def set_aside(folder: Path, step: int) -> None:
    """Renames the checkpoint of that step, where there is one, to step-<n>.bad: nothing goes on from it."""
    path = folder / f"step-{step:08d}"
    if is_first() and path.is_dir():
        shutil.rmtree(path.with_suffix(".bad"), ignore_errors=True)
        path.rename(path.with_suffix(".bad"))


def resume(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    identity: dict[str, Any],
    ema: dict[str, Tensor] | None = None,
) -> tuple[int, Any]:
    """Puts the newest checkpoint of `folder` back in place; -> its step and progress, (0, None) when there is none.

    Raises ValueError when the checkpoint is damaged, or of a run with another identity, naming the first difference."""
    name = agreed(path.name if (path := newest(folder)) else None)
    if name is None:
        return 0, None
    path = folder / name
    if not path.is_dir():
        raise ValueError(f"wanted the first process' checkpoint at {path}, got none; --out must be a folder all share")
    try:
        record = json.loads((path / "state.json").read_text())
        weights, tensors = load_file(path / "model.safetensors"), load_file(path / "optimiser.safetensors")
        average = load_file(path / "ema.safetensors") if ema is not None else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{path}: wanted a whole checkpoint, got a damaged one ({error}); remove it to go on from the one before"
        ) from None
    wanted, got = _flat(record.get("identity", {})), _flat(json.loads(json.dumps(identity)))
    for name in sorted(wanted.keys() | got.keys()):
        if wanted.get(name) != got.get(name):
            raise ValueError(
                f"{folder} holds a run with {name} {wanted.get(name)!r}, got {got.get(name)!r}; "
                "give the same, or another --out"
            )
    own = model.state_dict()
    model.load_state_dict({k: laid_out(v, own[k]) for k, v in weights.items()})
    if ema is not None:
        ema.update({k: laid_out(v, ema[k]) for k, v in average.items()})
    _set_random_states(tensors)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for entry, value in tensors.items():
        index, key = entry.split(".", 1)
        moments.setdefault(int(index), {})[key] = laid_out(value, parameters[int(index)])
    optimiser.load_state_dict({"state": moments, "param_groups": record["param_groups"]})
    return int(record["step"]), record["progress"]


def _random_states() -> dict[str, Tensor]:
    """Of this process: those of the others, where they differ, decide nothing."""
    states = {"torch_generator": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda_generator"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(tensors: dict[str, Tensor]) -> None:
    """Takes them out of the tensors of a checkpoint."""
    torch.set_rng_state(tensors.pop("torch_generator"))
    state = tensors.pop("cuda_generator", None)
    if state is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state)


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"width": 8}} -> {"model.width": 8}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
