"""The latent action model from action-free video: one loop, in one process or in as many as torchrun starts."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from itertools import chain
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from alam_models.latent_action import ALAM, variant
from alam_models.lpips import PerceptualDistance
from alam_models.structure import codebook_use, structure
from alam_models.transformer import Block
from alam_models.weights import save_weights
from training.checkpoint import resume, save_checkpoint
from training.data.clips import Skipped
from training.data.corpus import Corpus
from training.data.frames import to_frames
from training.data.loader import TripletLoader, load_corpus
from training.distributed import Ranks, collect, gather, join, mean, spread
from training.optimiser import (
    LossWatch,
    averaged,
    clip_gradients,
    copy_of,
    gradients_in_parts,
    learning_rate,
    make_optimiser,
    optimise,
    over_parts,
    precision,
    update_average,
)
from training.progress import figures, log, say
from training.provenance import provenance, write_card
from training.settings import PretrainConfig, settings

HELD_OUT = 256  # triplets behind the held-out figures, all processes together; no more behind those of structure


def pretrain(config: PretrainConfig) -> None:
    """ALAM from the frames alone (paper, Sec. 3.2). -> out/alam.safetensors, alam.yaml, card.yaml.

    Raises ValueError when data, options or a checkpoint in `out` do not fit, and when the training goes wrong."""
    if config.accumulate < 1 or config.batch % config.accumulate:
        raise ValueError(f"accumulate: wanted equal parts of a batch of {config.batch}, got {config.accumulate}")
    with join() as ranks:
        model_config = variant(config.model, config.variant)
        perceptual = PerceptualDistance(config.backbone).to(ranks.device) if model_config.weights.perc else None
        corpus = load_corpus(config.data, model_config.image_size)
        torch.manual_seed(config.seed)
        model = ALAM(model_config).to(ranks.device)
        if config.compile:
            compile_blocks(model)
        replica = spread(model, config.parallel, ranks, also=("transitions",))
        optimiser = make_optimiser(model, config)
        average = copy_of(model) if config.ema else None

        identity, card = identity_of(config, corpus, ranks), card_of(config, model, ranks)
        first, progress = resume(config.out, model, optimiser, identity, average)
        if first >= config.steps:
            say(f"{config.out} is trained: {first} steps")
            return
        progress = progress or {"next": 0, "losses": [], "unreadable": []}
        watch = LossWatch(config.spike, config.spike_steps, config.out, progress["losses"])
        held_out = held_out_triplets(config, corpus, ranks)
        loader = TripletLoader(
            config.data,
            "training",
            model_config.image_size,
            config.batch,
            config.seed,
            ranks.rank,
            ranks.world,
            progress["next"],
            corpus,
        )
        for clip, why in progress["unreadable"]:
            loader.note(Skipped(clip, why))
        writer = SummaryWriter(str(config.out / "logs"), purge_step=first + 1) if ranks.rank == 0 else None
        bar = tqdm(total=config.steps, initial=first, unit="step", desc="pretrain", disable=ranks.rank > 0)
        with closing(loader), bar:
            batches, began, waited = iter(loader), perf_counter(), 0.0
            for step in range(first, config.steps):
                asked = perf_counter()
                batch = next(batches)
                waited += perf_counter() - asked

                terms, codes = gradients(replica, batch.frames.to(ranks.device), perceptual, config)
                scores, norm = mean(terms, ranks), clip_gradients(model, config.clip)
                done = step + 1
                watch(scores["total"], norm, step, last=done == config.steps)
                optimise(optimiser, learning_rate(config, step))
                if average is not None:
                    update_average(average, model, config.ema, step)
                bar.update()

                if done % config.log_every == 0:
                    seconds, began = perf_counter() - began, perf_counter()
                    scores |= code_use(codes, config, ranks)
                    scores |= structure_scores(model, batch.frames[: share(ranks)], config, ranks)
                    scores["gradient_norm"], scores["waiting_for_data_share"] = norm, waited / seconds
                    scores["triplets_per_s"] = config.log_every * config.batch * ranks.world / seconds
                    waited = 0.0
                    log(writer, "train", scores, done)
                    bar.set_postfix({k: f"{scores[k]:.4f}" for k in ("rec", "relative_add")})
                if (done % config.save_every == 0 and watch.high_since is None) or done == config.steps:
                    with averaged(model, average):
                        scores, picture = evaluate(model, held_out, perceptual, config, ranks)
                    weights = collect({**model.state_dict(), **(average or {})})
                    for skipped in chain(*gather(loader.unreadable, ranks)):
                        loader.note(skipped)
                    log(writer, "held_out", scores, done, picture)
                    if ranks.rank == 0:
                        told = {
                            "steps": done,
                            "held_out": {"triplets": HELD_OUT, **scores},
                            "data": loader.description(),
                        }
                        write_card(config.out, {**card, **told})
                        if done == config.steps:
                            save_weights(config.out, "alam", weights, model_config)
                    progress = {
                        "next": batch.next,
                        "losses": list(watch.losses),
                        "unreadable": [[skipped.clip, skipped.why] for skipped in loader.unreadable],
                    }
                    # The checkpoint comes last: whoever finds the final one finds everything else, too.
                    save_checkpoint(config.out, done, model, optimiser, progress, identity, average)
        say(f"encoder at {config.out}; held-out: {figures(scores)}")


def gradients(
    replica: nn.Module, frames: Tensor, perceptual: nn.Module | None, config: PretrainConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """frames (B, 3, s, s, 3) uint8 -> each term () and the codes; the mean loss' gradients are in .grad.

    Computed in `accumulate` equal parts, one after the other; batch statistics (whitening, codebook) are a part's."""
    parts = ((to_frames(part), perceptual) for part in frames.chunk(config.accumulate))
    return summed_up(gradients_in_parts(replica, parts, config, frames.device))


@torch.no_grad()
def evaluate(
    model: ALAM, triplets: Tensor, perceptual: nn.Module | None, config: PretrainConfig, ranks: Ranks
) -> tuple[dict[str, float], Tensor]:
    """triplets (n, 3, s, s, 3) uint8 -> means over all processes' triplets; a picture (3, h, w) in [0, 1].

    The picture shows eight triplets: target frames and, in the row below, their reconstructions."""
    model.eval()
    found = []
    for part in triplets.split(config.batch // config.accumulate):
        with precision(config, ranks.device):
            found.append(model(to_frames(part.to(ranks.device)), perceptual))
    model.train()
    target, prediction = found[0]["target"], found[0]["prediction"]
    rows = [row[pair, :8] for pair in sorted({0, len(target) - 1}) for row in (target, prediction)]
    picture = torch.cat([torch.cat(list(row), 2) for row in rows], 1).float().cpu()
    terms, codes = summed_up(found)
    structured = structure_scores(model, triplets, config, ranks)
    return {**mean(terms, ranks), **code_use(codes, config, ranks), **structured}, picture


@torch.no_grad()
def structure_scores(model: ALAM, triplets: Tensor, config: PretrainConfig, ranks: Ranks) -> dict[str, float]:
    """triplets (n, 3, s, s, 3) uint8 -> structure.structure of all processes' triplets, whatever pairs are trained."""
    model.eval()
    parts = []
    for part in triplets.split(config.batch // config.accumulate):
        with precision(config, ranks.device):
            parts.append([z.cpu() for z in model.transitions(to_frames(part.to(ranks.device)))])
    model.train()
    everywhere = chain(*gather(parts, ranks))
    z_ab, z_bc, z_ac, z_ba = (torch.cat(latents) for latents in zip(*everywhere, strict=True))
    return structure(z_ab, z_bc, z_ac, z_ba)


def summed_up(parts: list[dict[str, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """What ALAM gave for parts of a batch -> the means of its scalars over the batch, all codes."""
    codes = torch.cat([part["codes"] for part in parts])
    scalars = [{k: v for k, v in part.items() if v.dim() == 0} for part in parts]
    return over_parts(scalars, [len(part["codes"]) for part in parts]), codes


def code_use(codes: Tensor, config: PretrainConfig, ranks: Ranks) -> dict[str, float]:
    """Of all processes' codes; ranges as structure.codebook_use."""
    used, perplexity = codebook_use(torch.cat(gather(codes.cpu(), ranks)), config.model.codes)
    return {"codes_used": float(used), "code_perplexity": perplexity}


def held_out_triplets(config: PretrainConfig, corpus: Corpus, ranks: Ranks) -> Tensor:
    """-> (HELD_OUT / processes, 3, s, s, 3) uint8, the same ones in every run of the same split."""
    data, size = replace(config.data, workers=0, per_visit=1), config.model.image_size
    seed, place = data.seed_of_split(config.seed), (ranks.rank, ranks.world, 0)
    return next(iter(TripletLoader(data, "held_out", size, share(ranks), seed, *place, corpus))).frames


def share(ranks: Ranks) -> int:
    """-> triplets of HELD_OUT that are this process'."""
    return max(1, HELD_OUT // ranks.world)


def compile_blocks(model: nn.Module) -> None:
    """Each transformer block through torch.compile: all of a kind share one compilation."""
    for module in model.modules():
        if isinstance(module, Block):
            module.compile()


def identity_of(config: PretrainConfig, corpus: Corpus, ranks: Ranks) -> dict[str, Any]:
    """What a checkpoint must agree on: with the same of it, a run goes on to the bit (on one kind of machine)."""
    values = settings(config)
    return {**values, "data": {**values["data"], "fingerprint": corpus.fingerprint()}, "processes": ranks.world}


def card_of(config: PretrainConfig, model: ALAM, ranks: Ranks) -> dict[str, Any]:
    """-> what is known of an encoder before it is trained, for its card."""
    own = model.config
    return {
        **provenance(),
        "variant": config.variant,
        "sizes": {
            "frame_px": own.image_size,
            "latent": [own.queries, own.latent_width],
            "codes": own.codes,
            "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()},
        },
        "weights": f"moving average, decay {config.ema:g}" if config.ema else "those of the last step",
        "processes": {
            "count": ranks.world,
            "device": ranks.device.type,
            "parallel": config.parallel if ranks.world > 1 else "none",
        },
        "settings": settings(replace(config, model=own)),  # of the variant
    }
