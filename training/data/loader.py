"""Batches of frame triplets from a mixture of video: decoded and resized in worker processes, exact to resume.

    config = DataConfig(mixture=Path("mixture.yaml"))
    loader = TripletLoader(config, "training", image_size=200, batch=32, seed=0, rank=rank, world=world, start=done)
    for batch in loader:            # without end
        ...                         # batch.frames (B, 3, size, size, 3) uint8
        checkpoint(batch.next)      # the `start` that goes on behind this batch

Same seed and same visit number give the same bits, whatever the number of workers."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from training.data.clips import Skipped
from training.data.corpus import Corpus, summary
from training.data.mixture import load_mixture
from training.data.triplets import Triplets

ATTEMPTS = 100  # clips in a row that may be unreadable before a visit gives up
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataConfig:
    """The video a pretraining learns from, and how it is read."""

    mixture: Annotated[Path, tyro.conf.arg(name="data")] = tyro.MISSING
    """YAML file of sources with weights and strides (training/data/mixture.py), or one folder of data: video files, a
    LeRobot dataset, CALVIN or RLDS."""
    stride: int = 5
    """Frame-skip where a source names none: frames between neighbours at the effective rate (paper: 5, CALVIN 10)."""
    max_gap: int = 16
    """Largest gap between two frames of a triplet, in strides (paper: 16)."""
    held_out: float = 0.05
    """Share of each source's episodes that training never sees (paper: 0.05)."""
    split_seed: int | None = None
    """Seed that decides which episodes are held out; none for that of the training. With one for all, trainings of many
    seeds hold out the same episodes, and one probe can compare them (paper: not given)."""
    per_visit: int = 1
    """Triplets per visit of a clip. More decode less, but make a batch's triplets alike (paper: 1)."""
    visits: int = 0
    """Clip visits in an epoch, shared out by the weights; 0 for as many as there are clips."""
    workers: int = 2
    """Processes per rank that decode; 0 decodes in the training process."""
    prefetch: int = 2
    """Batches that each worker prepares in advance."""
    keep_open: int = 8
    """Video files, or episodes of encoded images, that each worker keeps open in each source."""
    cache: Path | None = None
    """Folder for lists of clips and for decoded frames, shared by ranks and runs; without it, clips are listed anew.
    What lacks missing or damaged files is made anew when files have changed."""
    cache_frames: bool = False
    """Decode every frame once into `cache`, 3 * size^2 bytes each: for small models that would wait for decoding.
    Leaves out clips damaged anywhere, so with such data keep it as it is when a stopped training goes on."""

    def seed_of_split(self, seed: int) -> int:
        """-> split_seed, or the training's seed where there is none."""
        return seed if self.split_seed is None else self.split_seed


class TripletBatch(NamedTuple):
    """One batch of one rank: B triplets."""

    frames: Tensor
    """(B, 3, size, size, 3) uint8 RGB: a, b, c of each triplet."""
    clips: Tensor
    """(B,) int64 clip numbers in the corpus."""
    numbers: Tensor
    """(B, 3) int64 frame numbers a < b < c in the clip."""
    next: int
    """The `start` with which a loader goes on behind this batch, in visits of all ranks together."""
    skipped: tuple[Skipped, ...]
    """Clips that turned out unreadable and were replaced."""


def load_corpus(config: DataConfig, image_size: int) -> Corpus:
    """-> the clips of a mixture, listed (and decoded, where config says so). Loaders of both sides can share it.

    Raises ValueError, in one sentence, when the mixture or its data are not usable."""
    if config.cache_frames and config.cache is None:
        raise ValueError("cache_frames: wanted a folder to keep frames in, got no cache; set cache")
    if not 0 < config.held_out < 1:
        raise ValueError(f"held_out: wanted a share between 0 and 1, got {config.held_out}")
    corpus = Corpus(load_mixture(config.mixture, config.stride), config.cache, config.keep_open)
    if corpus.skipped:
        _log.warning(summary(corpus.skipped))
    if config.cache_frames:
        corpus.cache_frames(image_size)
    return corpus


class TripletLoader:
    """Iterating gives TripletBatch after TripletBatch without end, each time anew from `start`.

    Rank r of R takes visits start + r, start + r + R, ...: no two ranks share one."""

    def __init__(
        self,
        config: DataConfig,
        side: str,
        image_size: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        corpus: Corpus | None = None,
    ) -> None:
        """side: `training` or `held_out`; batch: triplets per rank; seed: of sampling, and of the split where config
        has none for it.

        corpus: what load_corpus gave, to share one. Raises ValueError as load_corpus, or on numbers that do not fit."""
        if config.workers < 0 or config.prefetch < 1 or config.keep_open < 1:
            got = f"{config.workers}, {config.prefetch}, {config.keep_open}"
            raise ValueError(f"data: wanted workers >= 0, prefetch >= 1 and keep_open >= 1, got {got}")
        if min(seed, config.seed_of_split(seed)) < 0:
            raise ValueError(f"data: wanted seeds of 0 or more, got seed {seed}, split_seed {config.split_seed}")
        if not 0 <= rank < world or start < 0:
            got = f"rank {rank} of {world}, start {start}"
            raise ValueError(f"data: wanted 0 <= rank < world and start >= 0, got {got}")
        if batch < 1 or config.per_visit < 1 or batch % config.per_visit:
            got = f"batch {batch}"
            raise ValueError(f"data: wanted a batch of whole visits, {config.per_visit} triplets each, got {got}")
        corpus = corpus or load_corpus(config, image_size)
        self.config, self.corpus, self.side, self.seed = config, corpus, side, seed
        self.numbers = corpus.split(side, config.seed_of_split(seed), config.held_out)
        there = np.unique(corpus.source[self.numbers])  # a source of one episode has nothing to hold out
        self.triplets = Triplets(
            corpus.frames[self.numbers],
            corpus.source[self.numbers].astype(np.int64),
            np.array([source.weight if i in there else 0.0 for i, source in enumerate(corpus.sources)]),
            np.array([source.stride for source in corpus.sources]),
            config.max_gap,
            seed,
            config.per_visit,
            config.visits,
        )
        self.skipped: dict[str, Skipped] = {s.clip: s for s in corpus.skipped}
        """Every clip found unusable so far, when listed or when read."""
        self.unreadable: list[Skipped] = []
        """Those found when read."""
        visits = batch // config.per_visit
        workers: dict[str, Any] = {}
        if config.workers:
            # Not fork: torch, OpenCV and FFmpeg have threads by now, and a copy of a held lock is never released.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["training.data.loader"])
            workers = {
                "multiprocessing_context": context,
                "prefetch_factor": config.prefetch,
                "persistent_workers": True,
                "worker_init_fn": _one_thread,
            }
        self._loader = DataLoader(
            _Batches(corpus, self.numbers, self.triplets, image_size, visits, rank, world),
            batch_size=None,
            sampler=range(start, sys.maxsize, visits * world),
            num_workers=config.workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the training's random state must not depend on when a loader starts
            **workers,
        )

    def __iter__(self) -> Iterator[TripletBatch]:
        batches = iter(self._loader)
        while True:
            try:
                batch = next(batches)
            except ValueError as error:  # a worker's comes wrapped in its traceback
                self.close()
                raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from None
            for skipped in batch.skipped:
                self.note(skipped)
            yield batch

    def note(self, skipped: Skipped) -> None:
        """A clip found unusable, by this loader or another one: counted and named in the log, once."""
        if skipped.clip not in self.skipped:
            self.skipped[skipped.clip] = skipped
            self.unreadable.append(skipped)
            _log.warning(f"clip skipped: {skipped.clip}: {skipped.why}")

    def close(self) -> None:
        """Ends the workers now: left to the garbage collector, that can take seconds. Iterating again starts others."""
        batches, self._loader._iterator = self._loader._iterator, None
        if isinstance(batches, _MultiProcessingDataLoaderIter):
            batches._shutdown_workers()

    def description(self) -> dict[str, Any]:
        """-> for a card: data, split, seed, and what was skipped so far, as plain values."""
        reach, sources = self.triplets.reach, self.triplets.source_visits
        return {
            **self.corpus.description(),
            "side": self.side,
            "held_out_share": self.config.held_out,
            "seed": self.seed,
            "split_seed": self.config.seed_of_split(self.seed),
            "clips": len(self.numbers),
            # In the others the largest gaps do not fit, so theirs are shorter.
            "clips_with_room_for_all_gaps": int((reach >= 2 * self.config.max_gap).sum()),
            "visits_per_epoch": dict(zip((s.name for s in self.corpus.sources), sources.tolist(), strict=True)),
            "skipped": len(self.skipped),
            "skipped_clips": {s.clip: s.why for s in self.skipped.values()},
        }


class _Batches(Dataset[TripletBatch]):
    """The number of a batch's first visit, over all ranks -> this rank's batch. Runs in the workers."""

    def __init__(
        self,
        corpus: Corpus,
        numbers: np.ndarray,
        triplets: Triplets,
        image_size: int,
        visits: int,
        rank: int,
        world: int,
    ) -> None:
        """numbers (C,) of the clips on this side, in the order of `triplets`; visits of this rank in a batch."""
        self.corpus, self.numbers, self.triplets = corpus, numbers, triplets
        self.image_size, self.visits, self.rank, self.world = image_size, visits, rank, world

    def __getitem__(self, first: int) -> TripletBatch:
        following = first + self.visits * self.world
        skipped: list[Skipped] = []
        parts = [self._visit(visit, skipped) for visit in range(first + self.rank, following, self.world)]
        clips, indices, frames = zip(*parts, strict=True)
        return TripletBatch(
            torch.from_numpy(np.concatenate(frames)),
            torch.from_numpy(np.repeat(clips, self.triplets.per_visit)),
            torch.from_numpy(np.concatenate(indices)),
            following,
            tuple(skipped),
        )

    def _visit(self, visit: int, skipped: list[Skipped]) -> tuple[int, np.ndarray, np.ndarray]:
        """-> clip, frame numbers (per_visit, 3), frames (per_visit, 3, size, size, 3).

        In place of an unreadable clip comes that of the rank's next visit, with other frames; no other rank sees it."""
        for attempt in range(ATTEMPTS):
            replacement = visit + attempt * self.world
            number = int(self.numbers[self.triplets.clip(replacement)])
            index = self.triplets.draw(replacement, attempt)
            try:
                frames = self.corpus.read(number, index.ravel(), self.image_size)
                return number, index, frames.reshape(*index.shape, *frames.shape[1:])
            except ValueError as error:
                skipped.append(Skipped(self.corpus.clip(number).name, str(error)))
        last = f"{skipped[-1].clip}: {skipped[-1].why}"
        raise ValueError(f"data: wanted a readable clip, got {ATTEMPTS} in a row that are not, the last: {last}")


def _as_it_is(batch: Any) -> Any:
    return batch


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)  # one core a worker; torch sees to its own


def loading_rate(loader: TripletLoader, seconds: float = 5.0, warm_up: int = 4) -> float:
    """-> triplets per second that the loader gives when nothing is done with them [1/s], after `warm_up` batches."""
    batches = iter(loader)
    for _ in range(warm_up):
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        count += len(next(batches).frames)
    return count / (time.perf_counter() - began)
