"""Trains the latent action model and the policy.

    python training/train.py pretrain --config mini --data data/metaworld-mini --out runs/alam
    python training/train.py transfer --config mini --data data/metaworld-mini --encoder runs/alam --out runs/policy
    torchrun --nproc-per-node 8 training/train.py pretrain --config paper --data mixture.yaml --out runs/paper

Every field of training/settings.py is an option; `pretrain --help` and `transfer --help` list them. Both stages log
to TensorBoard under --out and go on where they were stopped. The loop of pretrain is in training/pretrain.py."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import tyro
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from alam_models.contract import Latent, encode_instruction, policy_contract, standardise
from alam_models.flow_policy import FlowPolicy
from alam_models.weights import load_encoder, save_weights
from training.adapt import check_start, check_tokens, plain_weights, start_policy, tokenizer_of
from training.checkpoint import newest, resume, save_checkpoint
from training.configs import PRETRAIN, TRANSFER
from training.data.frames import frame_cache, to_frames
from training.data.lerobot import LeRobotDataset
from training.data.samplers import chunk_starts, generator_state, set_generator_state, split_episodes
from training.data.statistics import measure
from training.data.transitions import transition_cache, transitions_hash
from training.optimiser import (
    averaged,
    check_finite,
    clip_gradients,
    copy_of,
    learning_rate,
    make_optimiser,
    optimise,
    update_average,
)
from training.pretrain import log, pretrain
from training.provenance import provenance, read_yaml, write_card
from training.settings import TransferConfig, settings


def transfer(config: TransferConfig) -> None:
    """The joint policy (paper, Sec. 3.3). -> out/policy.safetensors, policy.yaml, contract.yaml, card.yaml."""
    check_start(config)
    dataset = LeRobotDataset(config.data)
    training, held_out = split_episodes(len(dataset.episodes), config.seed)
    horizon = config.model.horizon
    starts = chunk_starts(dataset, training, horizon)
    held_out_starts = chunk_starts(dataset, held_out or training, horizon)

    encoder = load_encoder(config.encoder) if config.encoder else None
    roles = dataset.contract.roles
    frames = {role: frame_cache(dataset, role) for role in roles}
    latents = {role: transition_cache(dataset, role, frames[role], encoder) for role in roles} if encoder else {}
    normalisation = measure(dataset, training, latents, config.accept)
    tokenizer = tokenizer_of(config)
    latent = Latent(encoder.config.queries, encoder.config.latent_width) if encoder else None
    contract = policy_contract(dataset.contract, horizon, latent, tokenizer, normalisation)
    model_config = replace(
        config.model,
        roles=roles,
        image_sizes=tuple(camera.width for camera in contract.cameras),
        state_width=len(contract.state),
        action_width=len(contract.action),
        latent_width=latent.queries * latent.width if latent else config.model.latent_width,
    )
    config = replace(config, model=model_config)

    state = standardise(dataset.state, normalisation.state_mean, normalisation.state_std)
    action = standardise(dataset.action, normalisation.action_mean, normalisation.action_std)
    latent_mean, latent_std = normalisation.latent_mean, normalisation.latent_std
    views = [standardise(latents[r], latent_mean[r], latent_std[r]) for r in latents]
    targets = np.stack(views, 1) if views else np.zeros((len(action), 0, model_config.latent_width), np.float32)
    tokens = np.stack([encode_instruction(dataset.instruction(i), tokenizer) for i in range(len(dataset.episodes))])
    check_tokens(tokens, config)
    episode_of = np.repeat(np.arange(len(dataset.episodes)), [row["length"] for row in dataset.episodes])

    torch.manual_seed(config.seed)
    generator = np.random.default_rng(config.seed)
    model, started_from = start_policy(config)
    optimiser = make_optimiser(model, config)
    average = copy_of(model) if config.ema else None
    encoder_hash = transitions_hash(encoder) if encoder else None
    identity = {**settings(config), "data": dataset.fingerprint(), "encoder": encoder_hash}
    identity["pi0"] = started_from
    first, drawn = resume(config.out, model, optimiser, identity, average)
    if drawn is not None:
        set_generator_state(generator, drawn)
    if first >= config.steps:
        print(f"{config.out} is trained: {first} steps")
        return
    config.out.mkdir(parents=True, exist_ok=True)
    contract.save(config.out / "contract.yaml")
    card = {
        **provenance(),
        "replan": config.replan,
        **dataset.sources(),
        "settings": settings(config),
        "data": dataset.description(),
        "pi0": started_from,
        "encoder": {"hash": encoder_hash, **read_yaml(config.encoder / "card.yaml")} if config.encoder else None,
    }
    writer = SummaryWriter(str(config.out / "logs"))

    def batch(start: np.ndarray, shift: int) -> dict[str, Any]:
        """Steps (B,) -> the arguments of FlowPolicy.loss."""
        chunk = start[:, None] + np.arange(horizon)
        images = {role: shifted(frames[role][start], shift, generator) for role in roles}
        return {
            "images": {role: to_frames(torch.from_numpy(image)) for role, image in images.items()},
            "text": torch.from_numpy(tokens[episode_of[start]]),
            "state": torch.from_numpy(state[start]),
            "latents": torch.from_numpy(targets[chunk]),
            "actions": torch.from_numpy(action[chunk]),
        }

    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, unit="step", desc="transfer")
    for step in bar:
        terms = model.loss(**batch(generator.choice(starts, config.batch), config.shift), draws=config.draws)
        terms["total"].backward()
        check_finite("loss", terms["total"].item(), step, config.out)
        check_finite("the norm of the gradients", clip_gradients(model, config.clip), step, config.out)
        optimise(optimiser, learning_rate(config, step))
        if average is not None:
            update_average(average, model, config.ema, step)

        done = step + 1
        if done % config.log_every == 0:
            figures = {name: value.item() for name, value in terms.items()}
            log(writer, "train", figures, done)
            bar.set_postfix(action=f"{figures['action']:.3f}", total=f"{figures['total']:.3f}")
        if done % config.save_every == 0 or done == config.steps:
            starts_now = np.random.default_rng(config.seed).choice(held_out_starts, 256)
            with averaged(model, average):
                scores = score(model, batch(starts_now, 0), config.seed)
                save_weights(config.out, "policy", plain_weights(model), config.model)
            log(writer, "held_out", scores, done)
            bar.write(f"step {done}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
            write_card(config.out, {**card, "steps": done, "held_out": scores})
            save_checkpoint(config.out, done, model, optimiser, generator_state(generator), identity, average)
    print(f"policy at {config.out}; held-out: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))


@torch.no_grad()
def score(model: FlowPolicy, batch: dict[str, Any], seed: int) -> dict[str, float]:
    """Losses of a policy, and the mean absolute error of sampled actions (in standard deviations)."""
    model.eval()
    random = torch.Generator().manual_seed(seed)
    terms = {k: v.item() for k, v in model.loss(**batch, generator=random).items()}
    noise = model.noise(len(batch["state"]), random)
    _, actions = model.sample(batch["images"], batch["text"], batch["state"], *noise)
    model.train()
    return {**terms, "action_error": (actions - batch["actions"]).abs().mean().item()}


def shifted(images: np.ndarray, largest: int, generator: np.random.Generator) -> np.ndarray:
    """(B, h, w, 3) -> the same, each moved by up to `largest` px in both directions, edges repeated."""
    if largest == 0:
        return images
    batch, height, width = images.shape[:3]
    dy, dx = generator.integers(-largest, largest + 1, (2, batch, 1))
    rows = np.clip(np.arange(height) + dy, 0, height - 1)
    columns = np.clip(np.arange(width) + dx, 0, width - 1)
    return images[np.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def main() -> None:
    stages: dict[str, tuple[dict[str, Any], Any]] = {"pretrain": (PRETRAIN, pretrain), "transfer": (TRANSFER, transfer)}
    if len(sys.argv) < 2 or sys.argv[1] not in stages:
        print(__doc__)
        sys.exit(0 if sys.argv[1:2] in (["--help"], ["-h"]) else f"train: wanted one of {list(stages)}")
    configs, run = stages[sys.argv[1]]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", choices=sorted(configs), default="mini")
    chosen, rest = parser.parse_known_args(sys.argv[2:])
    default = configs[chosen.config]
    for number in (signal.SIGINT, signal.SIGTERM):  # the second is how torchrun and schedulers say Ctrl-C
        signal.signal(number, stop)
    process = f" process {os.environ['RANK']}:" if os.environ.get("RANK", "0") != "0" else ""
    config = None
    try:
        config = tyro.cli(
            type(default),
            default=default,
            args=rest,
            prog=f"train.py {sys.argv[1]} --config {chosen.config}",
            description=f"{type(default).__doc__} --config picks the named settings that options start from: "
            f"{', '.join(configs)}.",
        )
        run(config)
    except (ValueError, OSError) as error:
        sys.exit(f"train:{process} {error}")
    except KeyboardInterrupt:
        found = newest(config.out) if config else None
        left = f"the same command goes on from {found}, steps since then are lost" if found else "nothing was saved yet"
        sys.exit(f"train:{process} stopped; {left}")


def stop(*_: Any) -> None:
    """Ends the program; workers of the loader that the same signal ends are no failure."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
