"""Two processes with half of the batch each are one process with all of it: gradients, statistics, codebook."""

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from alam_models.latent_action import ALAM, ALAMConfig, LossWeights, VectorQuantizer

Scale = Literal["whitened", "standardised"]
CONFIG = ALAMConfig(
    image_size=32,
    width=32,
    heads=2,
    depth=2,
    queries=2,
    latent_width=4,
    codes=4,
    weights=LossWeights(perc=0.0),
)


SCALES: dict[Scale, set[str]] = {
    "whitened": {"offset", "covariance"},
    "standardised": {"running_mean", "running_var", "num_batches_tracked"},
}


def make_model(scale: Scale) -> tuple[ALAM, torch.Tensor]:
    torch.manual_seed(0)
    model = ALAM(replace(CONFIG, scale=scale)).double()  # differences are no rounding
    model.quantizer.steps.fill_(1)
    model.quantizer.usage.fill_(100.0)  # none of the codes restarts
    return model, torch.rand(8, 3, 3, 32, 32).double()


def quantise(vectors: list[torch.Tensor]) -> VectorQuantizer:
    """Starts from the first batch; a code far away dies and restarts."""
    torch.manual_seed(1)
    quantizer = VectorQuantizer(6, 3, decay=0.1)
    for step, batch in enumerate(vectors):
        quantizer(batch)
        if step == 1:
            quantizer.codebook[2] = 100.0
    return quantizer


def in_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    learned = {}
    for scale in SCALES:
        model, triplet = make_model(scale)
        replica = torch.nn.parallel.DistributedDataParallel(model)
        replica(triplet[4 * rank : 4 * rank + 4])["total"].backward()
        learned[scale] = {name: p.grad for name, p in model.named_parameters()}, model.state_dict()
    torch.manual_seed(2)
    vectors = [batch.chunk(2)[rank] for batch in torch.randn(8, 20, 3)]
    torch.manual_seed(5 + rank)  # a rank's random numbers are its own
    torch.save((learned, quantise_as_rank(vectors, rank).state_dict()), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def quantise_as_rank(vectors: list[torch.Tensor], rank: int) -> VectorQuantizer:
    quantizer = quantise(vectors[:0])
    if rank:
        torch.manual_seed(77)
    for step, batch in enumerate(vectors):
        quantizer(batch)
        if step == 1:
            quantizer.codebook[2] = 100.0
    return quantizer


def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(in_rank, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    torch.manual_seed(2)
    quantizer = quantise(list(torch.randn(8, 20, 3)))
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for _, codebook in found:
        torch.testing.assert_close(codebook, quantizer.state_dict(), rtol=1e-5, atol=1e-5)
    for scale, statistics in SCALES.items():
        model, triplet = make_model(scale)
        before = copy.deepcopy(model.state_dict())
        model(triplet)["total"].backward()
        for rank, (learned, _) in enumerate(found):
            gradients, state = learned[scale]
            for name, parameter in model.named_parameters():
                where = f"{scale}, rank {rank}, {name}: "
                torch.testing.assert_close(
                    gradients[name], parameter.grad, rtol=1e-7, atol=1e-9, msg=lambda said, at=where: at + said
                )
            torch.testing.assert_close(state, model.state_dict(), rtol=1e-7, atol=1e-9)
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert {f"encoder.scale.{name}" for name in statistics} | {"quantizer.codebook"} <= moved
