"""Is a trained latent space additive and reversible? One report on clips that no encoder has seen (paper, Sec. 4.1).

    python training/probe.py --encoder lam=runs/lam --encoder alam=runs/alam --data data/metaworld --out runs/probe

The first encoder is the baseline of all ratios. For horizons t, in strides k of the data (the paper's k is 5 frames):
Add(t) = E |z_a^tk - Z_t| with Z_t the sum of t one-stride transitions, Rev(t) = E |z_a^tk + z_tk^a|, both relative to
E |z_a^tk| too, so that shrinking earns nothing; PSNR, SSIM and LPIPS of frames decoded from z_a^tk and from Z_t, beside
what copying frame a and decoding z = 0 score; effective rank, codebook use, and R2 of a linear map to the robot's
motion where the data tell it. The paper's LAM/ALAM: Add 46x and Rev 25x at t = 5k, Rev 85x at t = k.

Into --out go index.html with its pictures (figure.png is the paper's Fig. 4 A) and probe.json; the main figures also go
under `probe` into each encoder's card.yaml."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from tqdm import tqdm

from alam_models.latent_action import ALAM
from alam_models.lpips import PerceptualDistance
from alam_models.structure import codebook_use, effective_rank
from alam_models.weights import load_alam
from training.data.corpus import Corpus
from training.data.mixture import load_mixture
from training.data.transitions import transitions_hash
from training.probing.clips import choose, open_corpus, robots, split_clips, split_seed, unseen_clips
from training.probing.figures import grid_figure, reconstruction_figure, save_both, structure_figure
from training.probing.linear import linear_probes
from training.probing.measures import probed
from training.probing.pictures import Panel, Place, compositions, pick, references, sibling, transfers
from training.probing.report import page, summary
from training.probing.survey import estimates, survey
from training.provenance import provenance, write_card

CARD = (
    "add",
    "rev",
    "norm",
    "relative_add",
    "relative_rev",
    "psnr_direct",
    "psnr_cumulative",
    "ssim_direct",
    "ssim_cumulative",
    "psnr_copy",
    "ssim_copy",
)


def parse_encoders(words: Sequence[str]) -> dict[str, Path]:
    """["lam=runs/lam", "runs/alam"] -> {"lam": ..., "alam": ...}. Raises ValueError when two have one name."""
    encoders: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        folder = Path(path if equals else word)
        name = name if equals else folder.resolve().name
        if not name or name in encoders:
            raise ValueError(f"--encoder: wanted names that differ, got {name!r} twice; write NAME=FOLDER")
        encoders[name] = folder
    return encoders


def read_card(folder: Path) -> dict[str, Any]:
    """Raises ValueError when a folder has no readable card."""
    path = folder / "card.yaml"
    if not path.is_file():
        raise ValueError(f"wanted a folder that `train.py pretrain` wrote, got no {path}")
    try:
        card = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: wanted YAML, got a damaged file ({error})") from None
    if not isinstance(card, dict):
        raise ValueError(f"{path}: wanted the fields of a card, got {type(card).__name__}")
    return card


def longest_trained(name: str, model: ALAM, card: dict[str, Any]) -> int:
    """-> strides between the furthest frames that training ever paired. Raises ValueError when a card does not tell."""
    try:
        gap = int(card["settings"]["data"]["max_gap"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name}: card.yaml: wanted the largest gap (settings: data: max_gap), got none") from None
    return gap * (2 if model.config.pairs == "triplet" else 1)


def probe(options: argparse.Namespace) -> dict[str, Any]:
    """Everything measured and written; -> what probe.json holds. Raises ValueError on input that cannot be probed."""
    folders = parse_encoders(options.encoder)
    horizons = sorted({1, *options.horizons})
    if horizons[0] < 1 or min(options.clips, options.anchors, options.fit_clips) < 1:
        raise ValueError("wanted --horizons, --clips, --anchors and --fit-clips of at least 1")
    cards = {name: read_card(folder) for name, folder in folders.items()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {name: load_alam(folder).to(device) for name, folder in folders.items()}
    encoders = {name: probed(model) for name, model in models.items()}
    reach = max(longest_trained(name, models[name], cards[name]) for name in models)
    corpus = open_corpus(options.data, cards, options.cache)
    training, held_out = split_clips(corpus, cards)
    chosen = choose(corpus, held_out, options.clips, options.seed)
    perceptual, lpips_missing = load_perceptual(options.backbone, device)

    found = survey(encoders, corpus, chosen.tolist(), horizons, options.anchors, options.seed, perceptual)
    datasets, r2_missing = robots(corpus)
    fit = choose(corpus, training, options.fit_clips, options.seed)
    r2 = linear_probes(encoders, corpus, datasets, fit.tolist(), chosen.tolist(), 2 * options.anchors, options.seed)

    baseline = next(iter(models))
    there = ~np.isnan(found.values[baseline]["norm"])
    result: dict[str, Any] = {
        "made": provenance(),
        "settings": {
            "horizons": horizons,
            "clips": options.clips,
            "anchors": options.anchors,
            "fit_clips": options.fit_clips,
            "seed": options.seed,
        },
        "data": {**corpus.description(), "split": {n: _split(card) for n, card in cards.items()}},
        "horizons": horizons,
        "pairs": there.sum(0).tolist(),
        "episodes": len(np.unique(found.groups)),
        "held_out_clips": len(held_out),
        "clips": found.clips,
        "skipped": found.skipped,
        "metrics": ["psnr", "ssim"] + ["lpips"] * (perceptual is not None),
        "lpips_backbone": options.backbone if perceptual is not None else None,
        "lpips_missing": lpips_missing,
        "r2_missing": r2_missing,
        "longest_trained": reach,
        "encoders": {},
    }
    for name, model in models.items():
        latents = found.latents[name]
        codes = torch.cat([model.quantizer(z.to(device))[1].cpu().flatten() for z in latents.values()])
        used, perplexity = codebook_use(codes, model.config.codes)
        result["encoders"][name] = {
            "hash": transitions_hash(model.encoder.cpu()),
            "steps": cards[name].get("steps"),
            "model": asdict(model.config),
            "features": model.config.queries * model.config.latent_width,
            "effective_rank": {str(span): _finite(effective_rank(z)) for span, z in latents.items()},
            "codebook": {"size": model.config.codes, "used": used, "perplexity": perplexity},
            "linear_r2": r2[name],
            "measures": estimates(found, name, baseline, options.seed),
        }
        model.to(device)
    write_report(options.out, result, draw(options, corpus, cards, encoders, held_out, training, datasets))
    for name, folder in folders.items():
        write_card(folder, read_card(folder) | {"probe": card_figures(result, name)})
    return result


def _split(card: dict[str, Any]) -> dict[str, Any]:
    return {"seed": split_seed(card["data"]), "held_out_share": card["data"]["held_out_share"]}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def load_perceptual(backbone: str, device: str) -> tuple[Any, str | None]:
    """-> LPIPS, or None and why there is none: its backbone is a download."""
    try:
        return PerceptualDistance(backbone).to(device), None
    except ValueError as error:
        return None, re.sub(r"at \S*/", "of the name ", str(error).partition("; ")[0])


def draw(
    options: argparse.Namespace,
    corpus: Corpus,
    cards: dict[str, dict[str, Any]],
    encoders: Any,
    held_out: np.ndarray,
    training: np.ndarray,
    datasets: Any,
) -> dict[str, list[Panel]]:
    """-> {"composition", "transfer" (within a domain and between two), "transfer_ground_truth": panels}."""
    places: list[Place] = [(corpus, n, datasets) for n in pick(corpus, held_out, datasets, options.seed)]
    pairs: list[tuple[Place, Place, str]] = []
    for place in places[:2]:
        for clips, words in ((held_out, "within"), (training, "within, onto a training clip")):
            if (other := sibling(corpus, place[1], clips, datasets)) is not None:
                pairs.append((place, (corpus, other, datasets), words))
                break
    targets = places[1:] + places[:1]
    if options.transfer_data is not None:
        second = Corpus(load_mixture(options.transfer_data, corpus.sources[0].stride), options.cache)
        robots_there, _ = robots(second)
        picked = pick(second, unseen_clips(second, cards), robots_there, options.seed)
        targets = [(second, n, robots_there) for n in picked]
    between = [(a, b) for a, b in zip(places, targets, strict=False) if a != b][:2]
    pairs += [(a, b, "between") for a, b in between]
    made = {
        "composition": lambda: compositions(encoders, places),
        "transfer": lambda: transfers(encoders, pairs),
        "transfer_ground_truth": lambda: references(encoders, between),
    }
    return {name: make() for name, make in tqdm(made.items(), unit="figure", desc="pictures")}


def write_report(out: Path, result: dict[str, Any], panels: dict[str, list[Panel]]) -> None:
    """-> out/index.html, its pictures, and probe.json."""
    out.mkdir(parents=True, exist_ok=True)

    def grid(name: str) -> Callable[[bool], Figure]:
        return lambda dark: grid_figure(panels[name], ("a", "b", "c", "c of z_ab + z_bc", "difference x 4"), dark)

    figures = [
        (
            "figure.png",
            "Additivity and reversibility",
            lambda dark: structure_figure(result, dark),
            "Upper row as in the paper's Fig. 4 A, log scale; lower row relative to the transitions themselves, which "
            "scaling the latents does not change. Bands: 95 % intervals over episodes. Grey: longer than trained.",
        ),
        (
            "reconstruction.png",
            "Reconstruction over the horizon",
            lambda dark: reconstruction_figure(result, dark),
            "Difference of each decoder to its own one-step score, same anchors (Fig. 4 B). Left from the transition "
            "to the target, right from the sum of one-step transitions; all pass the codebook, as in training. The "
            "tables say what doing nothing scores: copying frame a, and the decoder on z = 0.",
        ),
        (
            "composition.png",
            "Composition in the same clip",
            grid("composition"),
            "c lies up to five strides behind a, b in the middle, where most moves in a held-out clip drawn by seed. "
            "Every frame is decoded from a alone; if transitions add up, the last two frames are equal. Below their "
            "difference: PSNR of one against the other, or that the codebook took both for the same.",
        ),
        (
            "transfer_ground_truth.png",
            "Transitions of one domain in another, beside what was filmed there",
            grid("transfer_ground_truth"),
            "As in Fig. 6. The target's own transitions, decoded on its frame a, bound what can be shown; below "
            "each, the source's transitions on the same frame. The target's frames are those during which its robot "
            "moves most like the source's, where the data tell (else those where most moves).",
        ),
        (
            "transfer.png",
            "Transitions of one clip on a frame of another",
            grid("transfer"),
            "Transitions inferred from the upper row alone, decoded on a frame of another clip of the same domain, "
            "and of another domain (Fig. 7).",
        ),
    ]
    figures = [figure for figure in figures if panels.get(figure[0].removesuffix(".png"), True)]
    (out / "probe.json").write_text(
        json.dumps(result, indent=1, allow_nan=False) + "\n"
    )  # first: pictures can be drawn again
    for file, _, make, _ in tqdm(figures, unit="figure", desc="draw"):
        save_both(make, out / file)
    (out / "index.html").write_text(page(result, [(file, heading, caption) for file, heading, _, caption in figures]))


def card_figures(result: dict[str, Any], name: str) -> dict[str, Any]:
    """-> what a card says of a probe: values over the horizons, and where they were measured."""
    encoder = result["encoders"][name]
    measures = {m: encoder["measures"][m]["value"] for m in CARD}
    if "lpips" in result["metrics"]:
        measures |= {m: encoder["measures"][m]["value"] for m in ("lpips_direct", "lpips_cumulative")}
    kept = {key: encoder[key] for key in ("effective_rank", "codebook", "linear_r2")}
    size = {"held_out_clips": len(result["clips"]), "episodes": result["episodes"], "pairs": result["pairs"]}
    return {
        "data": result["data"]["fingerprint"],
        "seed": result["settings"]["seed"],
        **size,
        "horizons": result["horizons"],
        **measures,
        **kept,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--encoder",
        action="append",
        required=True,
        metavar="[NAME=]FOLDER",
        help="what `train.py pretrain` wrote; give it again for each further one; the first is the baseline",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="the data they were trained on, or part of it: folder or mixture file; only held-out clips are measured",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument(
        "--horizons",
        type=int,
        nargs="+",
        default=[1, 2, 3, 4, 5, 8, 12, 16],
        metavar="T",
        help="in strides; the paper's are 1 to 5; longer ones where clips allow (default: 1 2 3 4 5 8 12 16)",
    )
    parser.add_argument("--clips", type=int, default=200, help="held-out clips at most (default: %(default)s)")
    parser.add_argument("--anchors", type=int, default=8, help="frames a in each clip (default: %(default)s)")
    parser.add_argument(
        "--fit-clips",
        type=int,
        default=400,
        help="training clips that linear probes are fitted on (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of clips, anchors and intervals (default: %(default)s)")
    parser.add_argument(
        "--transfer-data",
        type=Path,
        help="other data whose frames take over transitions (default: other tasks or sources)",
    )
    parser.add_argument(
        "--backbone",
        choices=("vgg", "alex", "squeeze"),
        default="vgg",
        help="of LPIPS, where it is on this machine (default: %(default)s)",
    )
    parser.add_argument(
        "--cache", type=Path, help="folder for lists of clips, shared with the training (default: listed anew)"
    )
    options = parser.parse_args()
    try:
        result = probe(options)
    except (ValueError, OSError) as error:
        sys.exit(f"probe: {' '.join(str(error).split())}")  # a YAML error has many lines
    except KeyboardInterrupt:
        sys.exit("probe: stopped")
    print(summary(result))
    print(
        f"\nreport at {options.out / 'index.html'}, figures in {options.out / 'probe.json'} and the encoders' card.yaml"
    )


if __name__ == "__main__":
    main()
