"""Two processes with half of a batch each do what one does with all of it: gradients, clipping, steps, checkpoints."""

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from tiny_pretrain import MODEL, tiny
from torch.distributed.tensor import DTensor

from alam_models.latent_action import ALAM
from training.checkpoint import resume, save_checkpoint
from training.distributed import Ranks, agreed, collect, gather, join, mean, spread
from training.optimiser import averaged, clip_gradients, copy_of, make_optimiser, optimise, update_average
from training.pretrain import evaluate, gradients

STEPS = 3
CLIP = 0.05  # below the norms that come up: it clips
CASES = [("ddp", 1), ("fsdp", 1), ("ddp", 2), ("fsdp", 2)]  # how weights are spread, parts a batch is computed in


class Run:
    """A model, its optimiser and the module to call, spread over the processes."""

    def __init__(self, seed: int, kind: str, accumulate: int, folder: Path, ranks: Ranks) -> None:
        torch.manual_seed(seed)
        self.ranks, self.config = ranks, tiny(folder, folder, batch=8 // ranks.world, accumulate=accumulate)
        # What is measured over a batch is measured over a part of it, when it is computed in parts.
        self.model = ALAM(replace(MODEL, scale="whitened" if accumulate == 1 else "free"))
        self.model.quantizer.steps.fill_(1)
        self.model.quantizer.usage.fill_(100.0)  # none of the codes restarts
        self.model.quantizer.train(accumulate == 1)
        self.replica = spread(self.model, kind, ranks, also=("transitions",))
        self.optimiser = make_optimiser(self.model, self.config)
        self.average = copy_of(self.model)

    def step(self, triplets: torch.Tensor) -> dict[str, Any]:
        terms, _ = gradients(self.replica, triplets, None, self.config)
        found: dict[str, Any] = {
            "terms": mean({k: terms[k] for k in ("rec", "vq", "add", "rev", "total")}, self.ranks),
            "gradients": copies({n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}),
            "norm": clip_gradients(self.model, CLIP),
        }
        optimise(self.optimiser, 1e-3)
        update_average(self.average, self.model, 0.5, step=2)
        return {**found, "weights": copies(self.model.state_dict())}


def copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """-> whole tensors that do not change any more."""
    return {name: tensor.clone() for name, tensor in collect(tensors).items()}


def train(ranks: Ranks, folder: Path, kind: str, accumulate: int) -> dict[str, Any]:
    """Some steps on this process' share of the triplets, a checkpoint, one more step of it and of what it resumes."""
    torch.manual_seed(3)
    triplets = torch.randint(0, 256, (STEPS + 1, 8, 3, 32, 32, 3), dtype=torch.uint8)
    share = triplets.chunk(ranks.world, 1)[ranks.rank]
    run = Run(0, kind, accumulate, folder, ranks)
    found: dict[str, Any] = {"steps": [run.step(share[step]) for step in range(STEPS)]}
    with averaged(run.model, run.average):
        scores, _ = evaluate(run.model, share[0], None, run.config, ranks)
    found["scores"] = scores
    found["in parts"] = any(isinstance(p, DTensor) for p in run.model.parameters())
    found["said"] = gather(ranks.rank, ranks), agreed(ranks.rank)
    save_checkpoint(folder, STEPS, run.model, run.optimiser, {"next": 7}, {}, run.average)
    gather(0, ranks)  # the first process has written it
    other = Run(1, kind, accumulate, folder, ranks)
    assert resume(folder, other.model, other.optimiser, {}, other.average) == (STEPS, {"next": 7})
    run.model.quantizer.train(accumulate == 1)  # evaluation ended with all in training mode
    found["went on"] = [each.step(share[STEPS])["weights"] for each in (run, other)]
    return found


def in_rank(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {name: str(value) for name, value in names.items()}
    with join() as ranks:
        found = [train(ranks, Path(folder) / f"two-{kind}-{parts}", kind, parts) for kind, parts in CASES]
    torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], list[Any]]:
    """-> the folder of checkpoints, what each process of two found, one list a process, in the order of CASES."""
    folder = tmp_path_factory.mktemp("ranks")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(in_rank, (str(folder), port), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(folder / f"{rank}.pt") for rank in (0, 1))
    return folder, first, second


@pytest.mark.parametrize(("kind", "accumulate"), CASES)
def test_two_processes_are_one(kind: str, accumulate: int, both: tuple[Path, list[Any], list[Any]]) -> None:
    folder, case = both[0], CASES.index((kind, accumulate))
    two = [found[case] for found in both[1:]]
    name = f"{kind}-{accumulate}"
    with join() as ranks:
        one = train(ranks, folder / f"one-{name}", kind, accumulate)

    assert [two[0]["said"], two[1]["said"]] == [([0, 1], 0)] * 2 and one["said"] == ([0], 0)
    assert two[0]["in parts"] == two[1]["in parts"] == (kind == "fsdp")
    assert two[1]["steps"][0]["gradients"] == {}  # files are the first process' business
    for ours, wanted in zip(two[0]["steps"], one["steps"], strict=True):
        assert wanted["norm"] > CLIP
        assert ours["gradients"].keys() == wanted["gradients"].keys() and len(ours["gradients"]) > 50
        # Behind the first step, Adam makes rounding as large as a small gradient.
        loose = {"rtol": 2e-2, "atol": 2e-3} if ours is not two[0]["steps"][0] else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(ours["gradients"], wanted["gradients"], **loose)
        torch.testing.assert_close(ours["norm"], wanted["norm"], rtol=loose["rtol"], atol=0)
        torch.testing.assert_close(ours["terms"], wanted["terms"], rtol=1e-3, atol=1e-5)
    for figures in (two[0], two[1]):
        torch.testing.assert_close(figures["scores"], one["scores"], rtol=1e-2, atol=1e-4)

    resumed, same = two[0]["went on"]
    assert resumed.keys() == same.keys() and all(torch.equal(resumed[k], same[k]) for k in same)
    for file in ("model", "optimiser", "ema"):  # whole tensors, however they were spread
        ours, wanted = (load_file(folder / f"{n}-{name}/step-00000003/{file}.safetensors") for n in ("two", "one"))
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in wanted.items()}
