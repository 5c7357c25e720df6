"""The joint policy from demonstrations: one loop, in one process or in as many as torchrun starts.

Every process draws for all of them and computes its own part: which steps, shifts, noise and times a training sees
does not depend on how many there are, as long as --batch times their number is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from alam_models.flow_policy import FlowPolicy
from alam_models.weights import load_encoder, save_weights
from training.adapt import check_start, plain_weights, start_policy, tokenizer_of
from training.checkpoint import resume, save_checkpoint
from training.data.demonstrations import Demonstrations
from training.data.samplers import generator_state, set_generator_state
from training.data.transitions import transitions_hash
from training.distributed import Ranks, collect, first_then_others, join, mean, spread
from training.optimiser import (
    averaged,
    check_finite,
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
from training.provenance import provenance, read_yaml, write_card
from training.settings import TransferConfig, settings

HELD_OUT = 256  # observations behind the held-out figures, all processes together


def transfer(config: TransferConfig) -> None:
    """The joint policy (paper, Sec. 3.3). -> out/policy.safetensors, policy.yaml, contract.yaml, card.yaml.

    Raises ValueError when data, options or a checkpoint in `out` do not fit, and when the training goes wrong."""
    check_start(config)
    with join() as ranks:
        encoder = load_encoder(config.encoder).to(ranks.device) if config.encoder else None
        chosen = (config.data, config.model.horizon, tokenizer_of(config), encoder, config.seed, config.accept)
        data = first_then_others(lambda: Demonstrations(*chosen), ranks)
        config = replace(config, model=data.sized(config.model))
        torch.manual_seed(config.seed)  # weights and chance: the same in every process
        generator = np.random.default_rng(config.seed)
        model, started_from = start_policy(config)
        replica = spread(model.to(ranks.device), config.parallel, ranks, also=("sample",))
        optimiser = make_optimiser(model, config)
        average = copy_of(model) if config.ema else None

        encoder_hash = transitions_hash(encoder) if encoder else None
        identity = {**settings(config), "data": data.dataset.fingerprint(), "encoder": encoder_hash}
        identity |= {"statistics": data.statistics.hash, "pi0": started_from, "processes": ranks.world}
        first, drawn = resume(config.out, model, optimiser, identity, average)
        if drawn is not None:
            set_generator_state(generator, drawn)
        if first >= config.steps:
            say(f"{config.out} is trained: {first} steps")
            return
        card = {
            **provenance(),
            "replan": config.replan,
            **data.dataset.sources(),
            "settings": settings(config),
            "processes": {
                "count": ranks.world,
                "device": ranks.device.type,
                "parallel": config.parallel if ranks.world > 1 else "none",
            },
            "data": data.dataset.description(),
            "pi0": started_from,
            "encoder": {"hash": encoder_hash, **read_yaml(config.encoder / "card.yaml")} if config.encoder else None,
        }
        writer = SummaryWriter(str(config.out / "logs"), purge_step=first + 1) if ranks.rank == 0 else None
        if ranks.rank == 0:
            data.contract.save(config.out / "contract.yaml")

        steps = range(first, config.steps)
        bar = tqdm(steps, initial=first, total=config.steps, unit="step", desc="transfer", disable=ranks.rank > 0)
        for step in bar:
            parts = batch(data, model, config, generator, ranks)
            found = gradients_in_parts(replica, parts, config, ranks.device)
            terms = mean(over_parts(found, [1] * len(found)), ranks)
            check_finite("loss", terms["total"], step, config.out)
            check_finite("the norm of the gradients", clip_gradients(model, config.clip), step, config.out)
            optimise(optimiser, learning_rate(config, step))
            if average is not None:
                update_average(average, model, config.ema, step)

            done = step + 1
            if done % config.log_every == 0:
                log(writer, "train", terms, done)
                bar.set_postfix(action=f"{terms['action']:.3f}", total=f"{terms['total']:.3f}")
            if done % config.save_every == 0 or done == config.steps:
                with averaged(model, average):
                    scores = score(model, data, config, ranks)
                weights = collect({**model.state_dict(), **(average or {})})
                log(writer, "held_out", scores, done)
                if ranks.rank == 0:
                    save_weights(config.out, "policy", plain_weights(weights, model), config.model)
                    bar.write(f"step {done}: {figures(scores)}")
                    write_card(config.out, {**card, "steps": done, "held_out": scores})
                save_checkpoint(config.out, done, model, optimiser, generator_state(generator), identity, average)
        say(f"policy at {config.out}; held-out: {figures(scores)}")


def batch(
    data: Demonstrations, model: FlowPolicy, config: TransferConfig, generator: np.random.Generator, ranks: Ranks
) -> Iterator[tuple[Any, ...]]:
    """Draws for all processes -> the arguments of FlowPolicy.loss for each of this one's parts."""
    count = config.batch * ranks.world
    start = generator.choice(data.starts, count)
    moves = generator.integers(-config.shift, config.shift + 1, (len(data.frames), 2, count))
    chance = model.chance(count, config.draws)
    for rows in own_parts(count, config.batch // config.accumulate, ranks):
        yield *data.batch(start[rows], moves[..., rows], config.model, ranks.device), chance.of(rows)


@torch.no_grad()
def score(model: FlowPolicy, data: Demonstrations, config: TransferConfig, ranks: Ranks) -> dict[str, float]:
    """-> means over the same held-out observations in every run of a seed: losses, and the absolute error of sampled
    actions (in standard deviations)."""
    model.eval()
    random = torch.Generator().manual_seed(config.seed)
    count = HELD_OUT - HELD_OUT % ranks.world
    start = np.random.default_rng(config.seed).choice(data.held_out_starts, count)
    chance, noise = model.chance(count, 1, random), model.noise(count, random)
    still = np.zeros((len(data.frames), 2, 1), np.int64)
    own = own_parts(count, 4 * config.batch // config.accumulate, ranks)  # nothing is kept for a backward pass
    found = []
    for rows in own:
        images, text, state, latents, actions = data.batch(start[rows], still, config.model, ranks.device)
        noise_latents, noise_actions = (part[rows].to(ranks.device) for part in noise)
        with precision(config, ranks.device):
            terms = model(images, text, state, latents, actions, chance.of(rows))
            _, sampled = model.sample(images, text, state, noise_latents, noise_actions)
        found.append({**terms, "action_error": (sampled - actions).abs().mean()})
    model.train()
    return mean(over_parts(found, [rows.stop - rows.start for rows in own]), ranks)


def own_parts(count: int, size: int, ranks: Ranks) -> list[slice]:
    """This process' share of `count` rows, in slices of at most `size`."""
    share = count // ranks.world
    begin, end = ranks.rank * share, (ranks.rank + 1) * share
    return [slice(row, min(row + size, end)) for row in range(begin, end, size)]
