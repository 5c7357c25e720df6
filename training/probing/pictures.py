"""What composed transitions look like: decoded in their own clip, and on frames of another (paper, Fig. 6 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.corpus import Corpus
from training.data.lerobot import LeRobotDataset
from training.probing.clips import domain, fitting, stride_of
from training.probing.measures import Probed, scores
from training.probing.survey import read

REACH = 5  # [strides] from a to c, or as many as fit; b lies in the middle
AT_MOST = 4  # compositions, and transfers of either kind


@dataclass(frozen=True)
class Row:
    """A row of a panel."""

    label: str
    images: list[np.ndarray]
    """(h, w, 3) in [0, 1]: a, b, c and, of an encoder, the composition of both legs."""
    agreement_db: float | None = None
    """PSNR of the composition against the direct transition, of an encoder; high, too, where both are ignored."""
    filmed_db: float | None = None
    """PSNR of the direct transition against what was filmed, where c was filmed in this clip."""


@dataclass(frozen=True)
class Panel:
    """Rows of frames a, b, c."""

    title: str
    rows: list[Row]


Datasets = Mapping[int, LeRobotDataset]
Place = tuple[Corpus, int, Datasets]  # a clip of a corpus, and its corpus' robots


def compositions(encoders: Mapping[str, Probed], places: Sequence[Place]) -> list[Panel]:
    """A panel for each clip: what was filmed, and what each encoder's decoder makes of it from frame a alone."""
    panels = []
    for place in places:
        frames = moving(encoders, place)
        rows = [Row("filmed", _images(next(iter(frames.values()))[0]))]
        for name, e in encoders.items():
            rows.append(_row(name, e, frames[name][:, 0], _transitions(e, frames[name]), frames[name][:, 2]))
        panels.append(Panel(_name(place), rows))
    return panels


def transfers(encoders: Mapping[str, Probed], pairs: Sequence[tuple[Place, Place, str]]) -> list[Panel]:
    """(source clip, target clip, what to say of the pair) -> panels: transitions inferred from the source alone,
    decoded on a frame of the target, whose own later frames are not used."""
    panels = []
    for source, target, words in pairs:
        frames, others = moving(encoders, source), moving(encoders, target)
        rows = [Row("source, filmed", _images(next(iter(frames.values()))[0]))]
        rows += [_row(name, e, others[name][:, 0], _transitions(e, frames[name])) for name, e in encoders.items()]
        names = list(dict.fromkeys((_name(source), _name(target))))
        panels.append(Panel(f"{words}: {' → '.join(names)}", rows))
    return panels


def moving(encoders: Mapping[str, Probed], place: Place) -> dict[str, Tensor]:
    """-> {encoder: frames a, b, c (1, 3, 3, h, w)} from where most moves between a and c in a clip."""
    corpus, number, _ = place
    reach, stride = fitting(corpus, number, range(1, REACH + 1))[-1], stride_of(corpus, number)
    small = corpus.read(number, np.arange(0, int(corpus.frames[number]), stride), 32).astype(np.float32)
    first = stride * int(np.abs(small[reach:] - small[:-reach]).mean((1, 2, 3)).argmax())
    index = first + stride * np.array([[0, reach // 2 or reach, reach]])
    return read(corpus, number, index, encoders)


def pick(corpus: Corpus, numbers: np.ndarray, datasets: Datasets, seed: int) -> list[int]:
    """One clip of each domain, all of one view, in an order drawn by seed; at most AT_MOST."""
    drawn = np.random.default_rng([seed, 10]).permutation(numbers).tolist()
    view = corpus.clip(int(numbers[0])).view
    found: dict[str, int] = {}
    for number in drawn:
        if corpus.clip(number).view == view:
            found.setdefault(domain(corpus, number, datasets), number)
    return list(found.values())[:AT_MOST]


def sibling(corpus: Corpus, number: int, candidates: np.ndarray, datasets: Datasets) -> int | None:
    """-> a clip among candidates of the same domain and view and another episode, where there is one."""
    clip, wanted = corpus.clip(number), domain(corpus, number, datasets)
    for other in candidates.tolist():
        there = corpus.clip(other)
        if there.view == clip.view and (there.source, there.episode) != (clip.source, clip.episode):
            if domain(corpus, other, datasets) == wanted:
                return int(other)
    return None


@torch.no_grad()
def _transitions(encoder: Probed, frames: Tensor) -> list[Tensor]:
    """frames a, b, c (1, 3, ...) -> z_ab, z_ac and z_ab + z_bc, (1, ...) each."""
    ab, ac, bc = encoder.encode(frames, [(0, 1), (0, 2), (1, 2)]).unbind(1)
    return [ab, ac, ab + bc]


@torch.no_grad()
def _row(
    name: str, encoder: Probed, anchor: Tensor, transitions: Sequence[Tensor], filmed: Tensor | None = None
) -> Row:
    decoded = encoder.decode(anchor.expand(len(transitions), -1, -1, -1), torch.cat(list(transitions)))
    agreement = float(scores(decoded[2:], decoded[1:2])["psnr"][0])
    filmed_db = None if filmed is None else float(scores(decoded[1:2], filmed)["psnr"][0])
    return Row(name, _images(torch.cat([anchor, decoded])), agreement, filmed_db)


def _images(frames: Tensor) -> list[np.ndarray]:
    return list(frames.clamp(0, 1).movedim(1, -1).numpy())


def _name(place: Place) -> str:
    corpus, number, datasets = place
    clip, words = corpus.clip(number), domain(corpus, number, datasets)
    return f"{words}, {clip.view or clip.episode}".replace("_", " ")
