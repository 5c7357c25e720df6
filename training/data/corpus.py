"""The clips of a mixture: which there are, which side of the split they are on, and their frames.

However large the corpus, no process holds it: the list of clips is a memory-mapped Arrow file that workers and ranks
share, and frames are decoded when asked for, or once, into memory-mapped files (`cache_frames`)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from training.data.clips import Clip, Skipped, Source, read_frames
from training.data.kept import WHOLE, locked, state_of
from training.data.mixture import SourceConfig, open_source
from training.data.samplers import split_episodes

SIDES = ("training", "held_out")
# One row a clip. `why` is null but for what cannot be used, whose `episode` is then its full name.
SCHEMA = pa.schema(
    [
        ("episode", pa.string()),
        ("view", pa.string()),
        ("file", pa.string()),
        ("start", pa.int64()),
        ("frames", pa.int32()),
        ("rate_hz", pa.float64()),
        ("why", pa.string()),
    ]
)
ROWS = 16_384  # of the list held in memory while it is written
RUN = 128  # frames asked for at once when a cache is made


class Corpus:
    """Usable clips, numbered from 0 over all sources.

    source (C,) number of each clip's source, frames (C,) its length; skipped: what was found unusable, and why."""

    def __init__(self, sources: tuple[SourceConfig, ...], cache: Path | None = None, keep_open: int = 8) -> None:
        """cache: folder where lists of clips and frames are kept and found again (kept.py); a temporary one when None.

        Raises ValueError when a source cannot be listed or has no usable clip."""
        self.sources, self.keep_open = sources, keep_open
        self._states: dict[int, str] = {}
        if cache is None:
            self._states = dict.fromkeys(range(len(sources)), "once")  # nothing in it is ever found again
            cache = Path(tempfile.mkdtemp(prefix="alam-clips-"))
            weakref.finalize(self, shutil.rmtree, cache, ignore_errors=True)
        self.cache = cache
        cache.mkdir(parents=True, exist_ok=True)
        self.fingerprints: list[str] = []
        self._lists: list[Path] = []
        for config in sources:
            source = open_source(config, keep_open)
            self.fingerprints.append(_hash(config.kind, config.views, source.fingerprint()))
            self._lists.append(self._list(source, len(self._lists)))
        self._open_lists()
        self.skipped: list[Skipped] = []
        parts = [self._usable(number) for number in range(len(sources))]
        self.source = np.concatenate([np.full(len(row), s, np.int16) for s, (row, _, _) in enumerate(parts)])
        self._row, self.frames, self._episode = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        self._stores: dict[int, Path] = {}

    def _path(self, number: int, what: str, state: str) -> Path:
        """state: WHOLE, or of the files that what lacks something was made of."""
        slug = re.sub(r"\W+", "-", self.sources[number].name)
        return self.cache / f"{what}_{slug}_{self.fingerprints[number]}_{state}.{'arrow' if what == 'clips' else 'npy'}"

    def _state(self, number: int) -> str:
        """Of the source's files before anything was made of them: what comes meanwhile is not missed the next time."""
        if number not in self._states:
            self._states[number] = state_of(self.sources[number].path, self.cache)
        return self._states[number]

    def _list(self, source: Source, number: int) -> Path:
        """-> the file that lists the clips of a source, made unless it is there."""
        whole = self._path(number, "clips", WHOLE)
        with locked(whole):
            if whole.exists():
                return whole
            lacking = self._path(number, "clips", self._state(number))
            if lacking.exists():
                return lacking
            temporary = whole.with_suffix(f".{os.getpid()}.part")
            try:
                complete = _write_list(source, self.sources[number].name, temporary)
                return temporary.rename(whole if complete else lacking)
            finally:
                temporary.unlink(missing_ok=True)

    def _open_lists(self) -> None:
        self._tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in self._lists]
        self._readers: dict[int, Source] = {}
        self._maps: dict[int, tuple[np.ndarray, np.ndarray, dict[int, str]]] = {}

    def _usable(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> rows, frames, episode numbers of a source's usable clips; notes the others in `skipped`."""
        config, table = self.sources[number], self._tables[number]
        frames, broken = table["frames"].to_numpy(), ~table["why"].is_null().to_numpy()
        shortest = 2 * config.stride + 1
        skipped = [
            Skipped(*row)
            for row in zip(*(table.filter(broken)[k].to_pylist() for k in ("episode", "why")), strict=True)
        ]
        for row in np.nonzero(~broken & (frames < shortest))[0].tolist():
            why = f"wanted {shortest} frames or more (two strides of {config.stride}), got {frames[row]}"
            skipped.append(Skipped(self._clip(number, row).name, why))
        self.skipped += skipped
        rows = np.nonzero(~broken & (frames >= shortest))[0]
        if not len(rows):
            said = f"; the first of {len(skipped)} skipped: {skipped[0].clip}: {skipped[0].why}" if skipped else ""
            raise ValueError(f"{config.name}: wanted a usable clip in {config.path}, got none{said}")
        episode = table["episode"].combine_chunks().dictionary_encode().indices.to_numpy()
        return rows, frames[rows], episode[rows]

    def _clip(self, number: int, row: int) -> Clip:
        (values,) = self._tables[number].slice(row, 1).to_pylist()
        values.pop("why")
        return Clip(source=self.sources[number].name, **values)

    def __len__(self) -> int:
        return len(self.frames)

    def clip(self, number: int) -> Clip:
        return self._clip(int(self.source[number]), int(self._row[number]))

    def split(self, side: str, seed: int, held_out: float = 0.05) -> np.ndarray:
        """-> numbers of the clips on one side, `training` or `held_out`: all views of an episode on the same one.

        Each source is split on its own, so that every one of two episodes or more is on both sides. Raises ValueError
        on another side, or when nothing is there."""
        if side not in SIDES:
            raise ValueError(f"split: wanted {' or '.join(SIDES)}, got {side!r}")
        numbers = []
        for number in range(len(self.sources)):
            members = np.nonzero(self.source == number)[0]
            episodes, of = np.unique(self._episode[members], return_inverse=True)
            chosen = np.zeros(len(episodes), bool)
            chosen[split_episodes(len(episodes), seed, held_out)[SIDES.index(side)]] = True
            numbers.append(members[chosen[of]])
        if not any(map(len, numbers)):
            raise ValueError("split: wanted a source of two episodes or more to hold one out, got one episode in each")
        return np.concatenate(numbers)

    def read(self, number: int, indices: np.ndarray, size: int) -> np.ndarray:
        """A clip's frames at indices (N,) -> (N, size, size, 3) uint8. Raises ValueError when they cannot be read."""
        source, row = int(self.source[number]), int(self._row[number])
        if source in self._stores:
            store, offset, bad = self._map(source)
            if row in bad:
                raise ValueError(bad[row])
            if store.shape[1] == size:
                return store[offset[row] + np.asarray(indices)]
        if source not in self._readers:
            self._readers[source] = open_source(self.sources[source], self.keep_open)
        return read_frames(self._readers[source], self.clip(number), indices, size)

    def cache_frames(self, size: int) -> None:
        """Decode every frame of the corpus once, (size, size, 3) uint8 each, into files that ranks and runs share.

        For corpora that fit the disk; a clip damaged anywhere is then unusable as a whole. Raises ValueError when the
        disk is too small."""
        for number in range(len(self.sources)):
            whole = self._path(number, f"frames{size}", WHOLE)
            with locked(whole):
                # Of a list that lacks clips the frames do too, and lie elsewhere in the file.
                listed_whole = self._lists[number] == self._path(number, "clips", WHOLE)
                if listed_whole and whole.exists():
                    self._stores[number] = whole
                    continue
                lacking = self._path(number, f"frames{size}", self._state(number))
                if not lacking.exists():
                    bad = self._decode(number, lacking, size)
                    if listed_whole and not bad:
                        lacking = lacking.rename(whole)
                self._stores[number] = lacking
        self._maps.clear()

    def _decode(self, number: int, path: Path, size: int) -> dict[int, str]:
        """-> rows that could not be decoded, and why; where there are some, a file beside `path` says so too."""
        config, frames = self.sources[number], self._tables[number]["frames"].to_numpy()
        shape = (int(frames.sum(dtype=np.int64)), size, size, 3)
        free = shutil.disk_usage(path.parent).free
        if np.prod(shape, dtype=np.int64) > 0.95 * free:
            need = np.prod(shape, dtype=np.int64) / 1e9
            raise ValueError(
                f"{config.name}: wanted {need:.1f} GB to cache frames in {path.parent}, got {free / 1e9:.1f}"
            )
        temporary = path.with_suffix(f".{os.getpid()}.part")
        array = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        offset = _offsets(frames)
        bad: dict[int, str] = {}
        local = threading.local()
        bar = tqdm(total=len(array), unit="frame", desc=f"decode {config.name}")

        def decode(row: int) -> None:
            if not hasattr(local, "source"):
                local.source = open_source(config, 1)
            clip = self._clip(number, row)
            try:
                for start in range(0, clip.frames, RUN):
                    indices = np.arange(start, min(start + RUN, clip.frames))
                    array[offset[row] + indices] = read_frames(local.source, clip, indices, size)
            except ValueError as error:
                bad[row] = str(error)
            bar.update(clip.frames)

        try:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoding releases the interpreter lock
                for _ in pool.map(decode, np.nonzero(frames)[0].tolist()):
                    pass
            array.flush()
            if bad:
                path.with_suffix(".json").write_text(json.dumps(bad))
            temporary.rename(path)  # last: who finds it finds all
            return bad
        finally:
            bar.close()
            temporary.unlink(missing_ok=True)

    def _map(self, number: int) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        """-> frames of a whole source, where each row's begin, and the rows that could not be decoded."""
        if number not in self._maps:
            path, beside = self._stores[number], self._stores[number].with_suffix(".json")
            bad = {int(row): why for row, why in json.loads(beside.read_text()).items()} if beside.exists() else {}
            offset = _offsets(self._tables[number]["frames"].to_numpy())
            self._maps[number] = (np.load(path, mmap_mode="r"), offset, bad)
        return self._maps[number]

    def fingerprint(self) -> str:
        """-> 12 hex digits over the sources' data, views, weights and strides; where they lie plays no part.

        Of data from which something is missing, or damaged, also over what that is."""
        parts = [(s.name, s.weight, s.stride, f) for s, f in zip(self.sources, self.fingerprints, strict=True)]
        broken = [table.filter(table["why"].is_valid())["episode"].to_pylist() for table in self._tables]
        return _hash(*parts, *([broken] if any(broken) else []))

    def description(self) -> dict[str, Any]:
        """-> what a card says of the data, as plain values."""
        sources = {}
        for number, config in enumerate(self.sources):
            members = self.source == number
            sources[config.name] = {
                "kind": config.kind,
                "weight": config.weight,
                "stride": config.stride,
                "views": list(config.views) or "all",
                "clips": int(members.sum()),
                "episodes": len(np.unique(self._episode[members])),
                "frames": int(self.frames[members].sum(dtype=np.int64)),
                "fingerprint": self.fingerprints[number],
            }
        return {"fingerprint": self.fingerprint(), "sources": sources}

    def __getstate__(self) -> dict[str, Any]:
        """For loader workers: what is open or mapped is opened again there."""
        state = {**vars(self), "skipped": []}
        for name in ("_tables", "_readers", "_maps"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_lists()


def _write_list(source: Source, name: str, path: Path) -> bool:
    """-> whether no clip was skipped."""
    complete = True
    with pa.ipc.new_file(str(path), SCHEMA) as writer:
        clips = iter(tqdm(source.clips(), f"list {name}", unit="clip", delay=2))
        while rows := [_row(clip) for clip in islice(clips, ROWS)]:
            complete &= not any(row.get("why") for row in rows)
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    return complete


def _row(clip: Clip | Skipped) -> dict[str, Any]:
    if isinstance(clip, Skipped):
        return {"episode": clip.clip, "view": "", "file": "", "start": 0, "frames": 0, "why": clip.why}
    return {name: getattr(clip, name) for name in SCHEMA.names if name != "why"}


def _offsets(frames: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(frames, dtype=np.int64)[:-1]])


def _hash(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


def summary(skipped: Iterable[Skipped], named: int = 10) -> str:
    """-> lines for a log: how many clips were skipped, and the first of them by name."""
    listed = list(skipped)
    lines = [f"{len(listed)} clips skipped"] + [f"  {s.clip}: {s.why}" for s in listed[:named]]
    return "\n".join(lines + ([f"  and {len(listed) - named} more"] if len(listed) > named else []))
