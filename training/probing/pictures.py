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
    same_codes: bool = False
    """Whether the codebook took both for the same: then nothing is left to compare."""
    filmed_db: float | None = None
    """PSNR of the direct transition against the frame c that was filmed where it leads, where there is one."""


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


def references(encoders: Mapping[str, Probed], pairs: Sequence[tuple[Place, Place]]) -> list[Panel]:
    """(source clip, target clip of another domain) -> panels: a transfer beside what was filmed in the target.

    The paper's Fig. 6 takes "ground-truth target-domain frames as the rendering reference, which gives an upper bound
    on visual fidelity that depends only on the decoder": read here as the target's own frames, filmed and as decoded
    from the target's own transitions; then the source's transitions, decoded on the same frame a."""
    panels = []
    for source, target in pairs:
        at = most_moving(source)
        there, alike = moved_alike(source, at, target)
        frames, others = read(*source[:2], at, encoders), read(*target[:2], there, encoders)
        rows = [
            Row("source, filmed", _images(next(iter(frames.values()))[0])),
            Row("target, filmed", _images(next(iter(others.values()))[0])),
        ]
        for name, e in encoders.items():
            anchor, filmed = others[name][:, 0], others[name][:, 2]
            rows.append(_row(f"{name},\ntarget's own", e, anchor, _transitions(e, others[name]), filmed))
            wanted = filmed if alike else None
            rows.append(_row(f"{name},\ntransferred", e, anchor, _transitions(e, frames[name]), wanted))
        panels.append(Panel(f"{_name(source)} → {_name(target)}", rows))
    return panels


def moving(encoders: Mapping[str, Probed], place: Place) -> dict[str, Tensor]:
    """-> {encoder: frames a, b, c (1, 3, 3, h, w)} from where most moves between a and c in a clip."""
    return read(*place[:2], most_moving(place), encoders)


def most_moving(place: Place) -> np.ndarray:
    """-> numbers (1, 3) of the frames a, b, c between which the picture of a clip changes most."""
    corpus, number, _ = place
    reach, stride = fitting(corpus, number, range(1, REACH + 1))[-1], stride_of(corpus, number)
    small = corpus.read(number, np.arange(0, int(corpus.frames[number]), stride), 32).astype(np.float32)
    first = stride * int(np.abs(small[reach:] - small[:-reach]).mean((1, 2, 3)).argmax())
    return first + stride * np.array([[0, reach // 2 or reach, reach]])


def moved_alike(source: Place, index: np.ndarray, target: Place) -> tuple[np.ndarray, bool]:
    """Frame numbers (1, 3) of a, b, c in the source -> those in the target during which its robot's state changes most
    like the source's, and True; where the data tell of no such robot in both, where most moves there, and False."""
    (corpus, number, robots), (own, clip, others) = source, target
    here, there = robots.get(int(corpus.source[number])), others.get(int(own.source[clip]))
    if here is None or there is None or here.contract.state != there.contract.state:
        return most_moving(target), False
    steps = (index - index[0, 0]) // stride_of(corpus, number) * stride_of(own, clip)
    starts = np.arange(int(own.frames[clip]) - int(steps[0, -1]))
    if not len(starts):
        return most_moving(target), False
    moved = _state_change(here, corpus.clip(number).episode, index)
    candidates = _state_change(there, own.clip(clip).episode, starts[:, None] + steps)
    spread = candidates.std((0, 1))
    apart = (candidates - moved) / np.where(spread > 0, spread, np.inf)  # a channel that never moves tells nothing
    return starts[np.square(apart).sum((1, 2)).argmin()] + steps, True


def _state_change(dataset: LeRobotDataset, episode: str, index: np.ndarray) -> np.ndarray:
    """Frame numbers (n, 3) of a, b, c in an episode -> (n, 2, S): the state at b and c less that at a."""
    state = dataset.state[dataset.episodes[int(episode)]["dataset_from_index"] + index]
    return state[:, 1:] - state[:, :1]


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
    same_codes = torch.equal(encoder.codes(transitions[1]), encoder.codes(transitions[2]))
    filmed_db = None if filmed is None else float(scores(decoded[1:2], filmed)["psnr"][0])
    return Row(name, _images(torch.cat([anchor, decoded])), agreement, same_codes, filmed_db)


def _images(frames: Tensor) -> list[np.ndarray]:
    return list(frames.clamp(0, 1).movedim(1, -1).numpy())


def _name(place: Place) -> str:
    corpus, number, datasets = place
    clip, words = corpus.clip(number), domain(corpus, number, datasets)
    return f"{words}, {clip.view or clip.episode}".replace("_", " ")
