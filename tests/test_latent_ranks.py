"""Two processes with half of the batch each are one process with all of it: gradients, statistics, codebook."""

import copy
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from alam_models.latent_action import ALAM, ALAMConfig, LossWeights, VectorQuantizer

CONFIG = ALAMConfig(
    image_size=32,
    width=32,
    heads=2,
    depth=2,
    queries=2,
    latent_width=4,
    codes=4,
    scale="whitened",
    weights=LossWeights(perc=0.0),
)


def make_model() -> tuple[ALAM, torch.Tensor]:
    torch.manual_seed(0)
    model = ALAM(CONFIG)
    model.quantizer.steps.fill_(1)
    model.quantizer.usage.fill_(100.0)  # none of the codes restarts
    return model, torch.rand(8, 3, 3, 32, 32)


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
    model, triplet = make_model()
    replica = torch.nn.parallel.DistributedDataParallel(model)
    replica(triplet[4 * rank : 4 * rank + 4])["total"].backward()
    torch.manual_seed(2)
    vectors = [batch.chunk(2)[rank] for batch in torch.randn(8, 20, 3)]
    torch.manual_seed(5 + rank)  # a rank's random numbers are its own
    gradients = {name: p.grad for name, p in model.named_parameters()}
    state = (gradients, model.state_dict(), quantise_as_rank(vectors, rank).state_dict())
    torch.save(state, Path(folder) / f"{rank}.pt")
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
    model, triplet = make_model()
    before = copy.deepcopy(model.state_dict())
    model(triplet)["total"].backward()
    torch.manual_seed(2)
    quantizer = quantise(list(torch.randn(8, 20, 3)))
    for rank in (0, 1):
        gradients, state, codebook = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=f"{rank} {name}")
        torch.testing.assert_close(state, model.state_dict(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(codebook, quantizer.state_dict(), rtol=1e-5, atol=1e-5)
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert {"encoder.scale.offset", "encoder.scale.covariance", "quantizer.codebook"} <= set(moved)
