"""Which clips a probe looks at, and where in them: held out for every encoder, the same frames for each.

A card written by `train.py pretrain` says under `data` which sources were split, with which seed and share. Only where
the data are found to be the same is the split the same, so everything else is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from training.data.corpus import SIDES, Corpus
from training.data.lerobot import LeRobotDataset
from training.data.mixture import load_mixture

# What must agree between a source and what a card says of it, for the split to be the same.
SAME = ("kind", "stride", "views", "clips", "episodes", "fingerprint")


def open_corpus(path: Path, cards: Mapping[str, dict[str, Any]], cache: Path | None = None) -> Corpus:
    """cards {encoder: its card} -> the clips at `path`, at the strides the encoders were trained with.

    Part of a mixture will do: each source is split by itself. Raises ValueError when a card tells no split, or a source
    is not, to the byte, what an encoder was trained on."""
    recorded = _splits(cards)
    first = next(iter(recorded))
    known = recorded[first]["sources"]
    sources = load_mixture(path)
    alone = len(sources) == len(known) == 1  # then names do not matter: a folder may have been moved
    entries = [next(iter(known.values())) if alone else known.get(source.name) for source in sources]
    for source, entry in zip(sources, entries, strict=True):
        if entry is None:
            raise ValueError(f"{path}: wanted sources that {first} was trained on ({_few(known)}), got {source.name!r}")
    corpus = Corpus(
        tuple(replace(s, stride=int(e["stride"])) for s, e in zip(sources, entries, strict=True) if e), cache
    )
    here = corpus.description()["sources"]
    for name, data in recorded.items():
        for source, found in here.items():
            entry = next(iter(data["sources"].values())) if alone else data["sources"].get(source, {})
            for key in SAME:
                if entry.get(key) != found[key]:
                    raise ValueError(
                        f"{path}: {source}: {key}: wanted {entry.get(key)!r} as {name} was trained with, got "
                        f"{found[key]!r}; its split into training and held-out clips cannot be repeated on other data"
                    )
    return corpus


def split_clips(corpus: Corpus, cards: Mapping[str, dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """-> numbers of the clips that every encoder was trained on, and of those that none has seen.

    Raises ValueError when no clip was held out from all of them."""
    sides = []
    for side in SIDES:
        parts = [corpus.split(side, split_seed(d), d["held_out_share"]) for d in _splits(cards).values()]
        sides.append(reduce(np.intersect1d, parts))
    training, held_out = sides
    if not len(held_out):
        said = ", ".join(f"{name}: seed {split_seed(d)}" for name, d in _splits(cards).items())
        raise ValueError(
            f"wanted clips held out from every encoder, got none in common ({said}); train with one --split-seed"
        )
    return training, held_out


def split_seed(data: Mapping[str, Any]) -> int:
    """A card's `data` -> the seed of its split: that of the training, in cards from before there were two."""
    return int(data.get("split_seed", data["seed"]))


def unseen_clips(corpus: Corpus, cards: Mapping[str, dict[str, Any]]) -> np.ndarray:
    """-> numbers of the clips of a second corpus that no encoder was trained on: all, where none of its sources is
    among theirs. Raises ValueError when only some are (their split may differ), or nothing is held out."""
    trained = {entry["fingerprint"] for name, c in cards.items() for entry in _recorded(name, c)["sources"].values()}
    overlap = trained & set(corpus.fingerprints)
    if not overlap:
        return np.arange(len(corpus))
    if overlap != set(corpus.fingerprints):
        names = [s.name for s, f in zip(corpus.sources, corpus.fingerprints, strict=True) if f in overlap]
        raise ValueError(f"wanted data that is all in the training mixture or all outside, got {_few(names)} inside")
    return split_clips(corpus, cards)[1]


def _splits(cards: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: _recorded(name, card) for name, card in cards.items()}


def _recorded(name: str, card: dict[str, Any]) -> dict[str, Any]:
    """-> a card's `data`. Raises ValueError when it does not tell the split."""
    data = card.get("data")
    if not isinstance(data, dict) or not all(key in data for key in ("sources", "seed", "held_out_share")):
        raise ValueError(
            f"{name}: card.yaml: wanted the split of its data (data: sources, seed, held_out_share), got none; "
            "without it nothing is known to be held out: train the encoder with `train.py pretrain`"
        )
    return data


def choose(corpus: Corpus, numbers: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` of the clips `numbers` (C,), drawn by seed, as evenly over the sources as they allow."""
    drawn = np.random.default_rng([seed, 7]).permutation(numbers)
    source = corpus.source[drawn]
    turn = np.zeros(len(drawn), np.int64)  # which of its source's clips this is
    for s in np.unique(source):
        turn[source == s] = np.arange((source == s).sum())
    return np.sort(drawn[np.argsort(turn, kind="stable")[:most]])


def fitting(corpus: Corpus, number: int, horizons: Sequence[int]) -> list[int]:
    """-> those horizons [strides] that fit into a clip."""
    return [t for t in horizons if t * stride_of(corpus, number) < corpus.frames[number]]


def anchors(corpus: Corpus, number: int, reach: int, count: int, seed: int) -> np.ndarray:
    """-> ascending frame numbers, `count` or as many as there are, from which `reach` strides stay inside the clip."""
    free = int(corpus.frames[number]) - reach * stride_of(corpus, number)
    random = np.random.default_rng([seed, 8, int(number)])
    return np.sort(random.choice(free, min(count, free), replace=False))


def stride_of(corpus: Corpus, number: int) -> int:
    return corpus.sources[int(corpus.source[number])].stride


def robots(corpus: Corpus) -> tuple[dict[int, LeRobotDataset], dict[str, str]]:
    """-> {source number: its dataset with states and actions}, {name: why a source has none}.

    All that are given have the state and action channels of the first."""
    found: dict[int, LeRobotDataset] = {}
    without: dict[str, str] = {}
    for number, source in enumerate(corpus.sources):
        if source.kind != "lerobot":
            without[source.name] = f"{source.kind} data: frames only"
            continue
        try:
            dataset = LeRobotDataset(source.path)
        except (ValueError, KeyError, OSError) as error:
            without[source.name] = str(error)
            continue
        first = next(iter(found.values()), dataset).contract
        if (dataset.contract.state, dataset.contract.action) != (first.state, first.action):
            without[source.name] = "another robot's state or action channels than the first source's"
            continue
        found[number] = dataset
    return found, without


def domain(corpus: Corpus, number: int, datasets: Mapping[int, LeRobotDataset]) -> str:
    """What a clip shows, as far as the data say: its source in a mixture, its task in a dataset of its own."""
    source = int(corpus.source[number])
    if len(corpus.sources) == 1 and source in datasets:
        return datasets[source].instruction(int(corpus.clip(number).episode))
    return corpus.sources[source].name


def _few(names: Sequence[str] | Mapping[str, Any], shown: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:shown]) + (f" and {len(listed) - shown} more" if len(listed) > shown else "")
