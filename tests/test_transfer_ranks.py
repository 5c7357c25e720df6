"""Transfer in two processes with half of a batch each is transfer in one with all of it, however weights are spread."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from safetensors.torch import load_file
from synthetic import make_dataset
from test_adapt import config_of, data_of, on
from test_pi0_weights import public, saved
from test_training import ALAM_SIZE, POLICY_SIZE
from torch.distributed.tensor import DTensor

from alam_models.latent_action import ALAM
from alam_models.weights import save_weights
from training import transfer as module
from training.settings import TransferConfig
from training.transfer import transfer

STEPS = 2
RATE = 1e-3  # of learning
HELD_OUT = 16
SMALL: dict[str, Any] = {"model": POLICY_SIZE, "encoder": Path("alam")}
VARIANT: dict[str, Any] = {
    "model": replace(
        POLICY_SIZE, coupling="two_stage", prefix_conditioning=2, state_dropout=0.3, latent_projection="learned"
    ),
    "encoder": Path("alam"),
    "accumulate": 2,
    "draws": 2,
}
PI0: dict[str, Any] = {"model": on(), "pi0": Path("pi0"), "tokenizer": Path("pieces.model"), "recompute": True}
CASES: dict[str, dict[str, Any]] = {
    "ddp": SMALL,
    "fsdp": {**SMALL, "parallel": "fsdp"},
    "ddp in parts": VARIANT,
    "fsdp in parts": {**VARIANT, "parallel": "fsdp"},
    "ddp pi0": PI0,
    "fsdp lora": {**PI0, "lora_rank": 2, "parallel": "fsdp"},
}
STOPPED = ("ddp", "fsdp lora")  # also broken off and gone on with


def case(folder: Path, name: str, world: int, run: str = "whole") -> TransferConfig:
    """-> what to train, of 8 observations a step, with a checkpoint after each."""
    values = dict(CASES[name])
    for option in ("encoder", "pi0", "tokenizer"):
        if option in values:
            values[option] = folder / values[option]
    data = folder / ("small" if values.get("pi0") else "squares")
    out = folder / f"{world} {name} {run}"
    options = {"steps": STEPS, "save_every": 1, "batch": 8 // world, "clip": 0.2, "learning_rate": RATE}
    return config_of(data, out, **options, **values)


class Stop(Exception):
    """Stands for a power cut."""


def in_rank(rank: int, folder: str, ports: list[int]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    spread: dict[str, bool] = {}
    module.HELD_OUT, optimise, kinds = HELD_OUT, module.optimise, []
    for name in CASES:
        for run in ("whole", "stopped", "stopped") if name in STOPPED else ("whole",):
            os.environ["MASTER_PORT"] = str(ports.pop(0))
            count = iter(range(1000))
            first = run == "stopped" and not (Path(folder) / f"2 {name} stopped").exists()

            def step(optimiser: Any, rate: float, count: Any = count, breaks: bool = first) -> None:
                kinds.append(isinstance(optimiser.param_groups[0]["params"][0], DTensor))
                if breaks and next(count) == 1:
                    raise Stop
                optimise(optimiser, rate)

            module.optimise = step
            try:
                transfer(case(Path(folder), name, 2, run))
            except Stop:
                assert dist.get_world_size() == 2
                dist.destroy_process_group()
        spread[name] = kinds[-1]
    torch.save(spread, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> where two processes have trained every case."""
    pytest.importorskip("sentencepiece")
    from test_tokenizer import train

    folder = tmp_path_factory.mktemp("ranks")
    make_dataset(folder / "squares")
    data_of(folder / "small")
    train(folder)
    (folder / "pi0").mkdir()
    saved(public(), folder / "pi0")
    torch.manual_seed(0)
    save_weights(folder / "alam", "alam", ALAM(ALAM_SIZE).state_dict(), ALAM_SIZE)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    held = [socket.socket() for _ in range(len(CASES) + 2 * len(STOPPED))]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    mp.spawn(in_rank, (str(folder), ports), nprocs=2)  # type: ignore[no-untyped-call]
    return folder


def tensors(config: TransferConfig, file: str) -> dict[str, torch.Tensor]:
    return load_file(config.out / f"{file}.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_OUT", HELD_OUT)
    two, one = case(folder, name, 2), case(folder, name, 1)
    transfer(one)
    for rank in (0, 1):
        assert torch.load(folder / f"{rank}.pt")[name] == (two.parallel == "fsdp")
    # Adam's first moments are a tenth of the first step's gradients, clipped; its second ones are their squares.
    ours, wanted = (tensors(config, "step-00000001/optimiser") for config in (two, one))
    assert ours.keys() == wanted.keys() and sum(value.abs().max() > 1e-4 for value in wanted.values()) > 20
    for entry in wanted:
        torch.testing.assert_close(ours[entry], wanted[entry], rtol=1e-3, atol=1e-6, msg=entry)
    # A step later, Adam has made rounding as large as the learning rate wherever the gradient is near zero.
    for file in ("step-00000002/model", "policy"):
        ours, wanted = tensors(two, file), tensors(one, file)
        assert ours.keys() == wanted.keys()
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in wanted.items()}
        off = torch.cat([(ours[k] - wanted[k]).abs().flatten() for k in wanted])
        assert off.max() < 5 * RATE and off.mean() < 0.02 * RATE
    cards = [yaml.safe_load((config.out / "card.yaml").read_text()) for config in (two, one)]
    assert cards[0]["processes"] == {"count": 2, "device": "cpu", "parallel": two.parallel}
    for term, value in cards[1]["held_out"].items():
        assert cards[0]["held_out"][term] == pytest.approx(value, abs=1e-3), term


@pytest.mark.parametrize("name", STOPPED)
def test_two_processes_go_on_to_the_bit(name: str, folder: Path) -> None:
    whole, stopped = case(folder, name, 2), case(folder, name, 2, "stopped")
    for file in (f"step-0000000{STEPS}/optimiser", f"step-0000000{STEPS}/model", f"step-0000000{STEPS}/ema", "policy"):
        one, two = tensors(whole, file), tensors(stopped, file)
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one), file
    with pytest.raises(ValueError, match="holds a run with processes 2, got 1"):
        transfer(replace(stopped, steps=STEPS + 1))
