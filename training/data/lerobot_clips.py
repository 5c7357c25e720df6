"""The views of a local LeRobot dataset, v2.1 (one file an episode) or v3.0 (many episodes a file), for pretraining.

Reads meta/ and the images alone: no contract, state or action is asked for. Views are the features of dtype `video`
(mp4) and `image` (encoded in the parquet files)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.data.clips import Clip, Recent, Skipped, chosen, decode_image
from training.data.video import VideoFrames

VERSIONS = ("v2.1", "v3.0")
PREFIX = "observation.images."


class LeRobotClips:
    """views: feature names, whole or without `observation.images.`; all when none is given."""

    def __init__(self, name: str, path: Path, views: tuple[str, ...] = (), keep_open: int = 8) -> None:
        """Raises ValueError when the folder is no LeRobot dataset of a known version, or has no such view."""
        self.name, self.path = name, path
        try:
            info = json.loads((path / "meta" / "info.json").read_text())
            self.version, self.rate_hz = info["codebase_version"], float(info["fps"])
            kinds = {key: feature["dtype"] for key, feature in info["features"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{name}: wanted a LeRobot dataset at {path}, got no usable meta/info.json: {error}"
            ) from None
        if self.version not in VERSIONS:
            raise ValueError(f"{name}: {path}: wanted LeRobot {' or '.join(VERSIONS)}, got {self.version}")
        if not 0.001 <= self.rate_hz < math.inf:  # videos' rates are counted in thousandths
            raise ValueError(f"{name}: {path}: fps: wanted 0.001 or more frames per second, got {info['fps']!r}")
        self.info, self.kinds = info, kinds
        self.views = chosen([k for k in kinds if kinds[k] in ("video", "image")], views, f"{name}: {path}", PREFIX)
        if not self.views:
            raise ValueError(f"{name}: {path}: wanted features of dtype video or image, got {kinds}")
        self._videos = Recent(keep_open, lambda file, _: VideoFrames(path / file, self.rate_hz), VideoFrames.close)
        self._tables = Recent(keep_open, lambda file, _: pq.ParquetFile(path / file), pq.ParquetFile.close)

    def fingerprint(self) -> str:
        """Raises ValueError when the list of episodes is missing."""
        digest = hashlib.sha256((self.path / "meta" / "info.json").read_bytes())
        try:
            for path in self._episode_files():
                digest.update(path.read_bytes())
        except OSError as error:
            raise ValueError(f"{self.name}: {self.path}: wanted the list of episodes in meta/, got {error}") from None
        return digest.hexdigest()[:12]

    def clips(self) -> Iterator[Clip | Skipped]:
        firsts: dict[str, int] = {}  # data file -> number of its first row in the whole dataset
        for row in self._episodes():
            for view in self.views:
                name = f"{row['episode_index']:06d}"
                try:
                    file, start = self._place(row, view, firsts)
                except KeyError as error:
                    yield Skipped(f"{self.name}/{name}/{view}", f"wanted {error} in meta/, got no such entry")
                    continue
                except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
                    yield Skipped(
                        f"{self.name}/{name}/{view}", f"wanted its file in meta/, got unusable values: {error}"
                    )
                    continue
                if not (self.path / file).is_file():
                    yield Skipped(f"{self.name}/{name}/{view}", f"wanted a file at {self.path / file}, got none")
                    continue
                yield Clip(self.name, name, view.removeprefix(PREFIX), file, start, row["length"], self.rate_hz)

    def frames(self, clip: Clip, indices: np.ndarray) -> Iterator[np.ndarray]:
        key = clip.view if clip.view in self.kinds else PREFIX + clip.view
        if self.kinds[key] == "video":
            return self._videos(clip.file).frames(clip.start + indices)
        return self._images(clip, key, clip.start + indices)

    def _images(self, clip: Clip, key: str, rows: np.ndarray) -> Iterator[np.ndarray]:
        """rows (N,) ascending row numbers of the file -> decoded images, one row group held at a time."""
        path = self.path / clip.file
        try:
            file = self._tables(clip.file)
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            group, column = -1, None
            for row in rows.tolist():
                if (here := int(np.searchsorted(ends, row, "right"))) != group:
                    group, column = here, file.read_row_group(here, columns=[key]).column(0)
                assert column is not None
                yield decode_image(column[row - int(ends[group] - sizes[group])].as_py()["bytes"], f"{path} row {row}")
        except (OSError, pa.ArrowException, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{path}: wanted images in {key}, got an unreadable file: {error}") from None

    def _place(self, row: dict[str, Any], view: str, firsts: dict[str, int]) -> tuple[str, int]:
        """-> file and the first frame or row of an episode's view in it."""
        video = self.kinds[view] == "video"
        if self.version == "v2.1":
            where = {"episode_chunk": row["episode_index"] // self.info["chunks_size"]}
            where["episode_index"] = row["episode_index"]
            return self.info["video_path" if video else "data_path"].format(video_key=view, **where), 0
        key = f"videos/{view}" if video else "data"
        where = {"chunk_index": row[f"{key}/chunk_index"], "file_index": row[f"{key}/file_index"]}
        file = self.info["video_path" if video else "data_path"].format(video_key=view, **where)
        if video:
            return file, round(row[f"{key}/from_timestamp"] * self.rate_hz)
        return file, row["dataset_from_index"] - firsts.setdefault(file, row["dataset_from_index"])

    def _episode_files(self) -> list[Path]:
        if self.version == "v2.1":
            return [self.path / "meta" / "episodes.jsonl"]
        return sorted((self.path / "meta" / "episodes").glob("*/*.parquet"))

    def _episodes(self) -> Iterator[dict[str, Any]]:
        """The meta rows in order, some columns only (a v3 table also holds statistics of every episode).

        Raises ValueError when they cannot be read, or one is without its number or length."""
        for number, row in enumerate(self._rows()):
            for key in ("episode_index", "length"):
                value = row.get(key) if isinstance(row, dict) else None
                if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                    said = f"wanted {key}, 0 or more, in row {number} of the episodes in meta/, got {value!r}"
                    raise ValueError(f"{self.name}: {self.path}: {said}")
            yield row

    def _rows(self) -> Iterator[Any]:
        try:
            for path in self._episode_files():
                if path.suffix == ".jsonl":
                    with path.open() as lines:
                        yield from (json.loads(line) for line in lines if line.strip())
                    continue
                names = pq.read_schema(path).names
                wanted = [n for n in names if not n.startswith("stats/") and n != "tasks"]
                for batch in pq.ParquetFile(path).iter_batches(1024, columns=wanted):
                    yield from batch.to_pylist()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"{self.name}: {self.path}: wanted the list of episodes in meta/, got {error}") from None
