"""A checkpoint that is there is whole: killed at any moment of writing, the one before stays."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training import checkpoint
from training.checkpoint import newest, resume, save_checkpoint


def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters(), 0.1)
    for _ in range(steps):
        model(torch.ones(1, 3)).sum().backward()
        optimiser.step()
    return model, optimiser


def save(folder: Path, steps: int) -> None:
    save_checkpoint(folder, steps, *trained(steps), {"next": steps}, {"seed": 0})


def moments() -> list[tuple[str, int]]:
    """Every call that writes, renames or removes: which function, and its how-manieth call."""
    return [("save_file", 0), ("save_file", 1), ("_flush", 0), ("_flush", 3), ("_flush", 4), ("rmtree", 1)]


@pytest.mark.parametrize(("name", "call"), moments())
def test_killed_while_writing_leaves_a_whole_checkpoint(name: str, call: int, tmp_path: Path) -> None:
    for steps in (1, 2):
        save(tmp_path, steps)
    child = os.fork()
    if child == 0:  # really killed: nothing is tidied up
        owner: Any = checkpoint.shutil if name == "rmtree" else checkpoint
        original, count = getattr(owner, name), iter(range(1000))

        def killed(*arguments: Any, **options: Any) -> Any:
            if next(count) == call:
                if name == "save_file":
                    arguments[1].write_bytes(b"half of it")
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, killed)
        save(tmp_path, 3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    reached = 3 if (name, call) in (("_flush", 4), ("rmtree", 1)) else 2
    model, optimiser = trained(0)
    assert resume(tmp_path, model, optimiser, {"seed": 0}) == (reached, {"next": reached})
    wanted, its_optimiser = trained(reached)
    assert torch.equal(model.weight, wanted.weight)  # type: ignore[arg-type]
    assert optimiser.state_dict()["state"][0]["exp_avg"].equal(its_optimiser.state_dict()["state"][0]["exp_avg"])
    save(tmp_path, 4)  # what was left lying about is no hindrance
    assert newest(tmp_path) == tmp_path / "step-00000004"
    assert len(list(tmp_path.glob("step-????????"))) == 2


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path).as_posix())
        original(descriptor)

    monkeypatch.setattr(checkpoint.os, "fsync", fsync)
    save(tmp_path, 1)
    part = "step-00000001.part"
    assert set(flushed[:-2]) == {f"{part}/{n}" for n in ("model.safetensors", "optimiser.safetensors", "state.json")}
    assert flushed[-2:] == [part, "."]


def test_a_run_of_another_identity_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(ValueError, match=r"holds a run with seed 0, got 1; give the same, or another --out"):
        resume(tmp_path, *trained(0), {"seed": 1})
    (tmp_path / "step-00000001" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"wanted a whole checkpoint, got a damaged one .*; remove it to go on"):
        resume(tmp_path, *trained(0), {"seed": 0})
    assert resume(tmp_path / "empty", *trained(0), {"seed": 0}) == (0, None)
