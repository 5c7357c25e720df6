"""RLDS episodes in TFRecord files, as TensorFlow Datasets writes them (Open X-Embodiment). No TensorFlow.

One record is one episode: a `tf.train.Example` whose `steps/observation/<camera>` holds one encoded JPEG or PNG a step.
The message comes from the package `tfrecord` (extra `rlds`), checksums from its `crc32c`. Its own reader gives neither
random access without an index file nor a check of the checksums, so records are found and checked here."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from training.data.clips import Clip, Recent, Skipped, decode_image

PREFIX = "steps/observation/"
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class Rlds:
    """views: feature names, whole or without `steps/observation/`. When none is given: every feature below
    `steps/observation/` whose first value is a JPEG or PNG, but those that say `depth`.

    Of files that name a split, those of `train` are read: a dataset's own test episodes stay unseen."""

    def __init__(self, name: str, path: Path, views: tuple[str, ...] = (), keep_open: int = 8) -> None:
        """Raises ValueError when the package or the files are missing."""
        self.name, self.path, self.views = name, path, views
        self._parse, self._checksum = _library(name)
        files = sorted(p for p in path.rglob("*.tfrecord*") if p.is_file())
        self.files = [p for p in files if "-train.tfrecord" in p.name] or files
        if not self.files:
            raise ValueError(f"{name}: wanted *.tfrecord* files below {path}, got none")
        self._episodes = Recent(keep_open, lambda file, start: self._images(self._record(path / file, start)))

    def fingerprint(self) -> str:
        lines = (f"{p.relative_to(self.path)} {p.stat().st_size}\n" for p in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]

    def clips(self) -> Iterator[Clip | Skipped]:
        for path in self.files:
            file = str(path.relative_to(self.path))
            start, size = 0, path.stat().st_size
            while start < size:
                name = f"{file}@{start}"
                try:
                    following = start + 16 + self._length(path, start)
                except ValueError as error:  # without its length the next record cannot be found
                    yield Skipped(f"{self.name}/{name}", f"{error}; the rest of the file is left out")
                    break
                try:
                    images = self._images(self._record(path, start))
                    for view in self._views(images, path):
                        short = view.removeprefix(PREFIX)
                        if all(images[view]):
                            yield Clip(self.name, name, short, file, start, len(images[view]))
                        else:
                            yield Skipped(f"{self.name}/{name}/{short}", "wanted an image a step, got an empty one")
                except ValueError as error:
                    yield Skipped(f"{self.name}/{name}", str(error))
                start = following

    def frames(self, clip: Clip, indices: np.ndarray) -> Iterator[np.ndarray]:
        images = self._episodes(clip.file, clip.start)
        encoded = images.get(PREFIX + clip.view, images.get(clip.view))
        if encoded is None or len(encoded) != clip.frames:
            raise ValueError(f"{self.path / clip.file}: wanted {clip.frames} images {clip.view}, the file has changed")
        for index in indices.tolist():
            yield decode_image(encoded[index], f"{self.path / clip.file}@{clip.start} {clip.view} step {index}")

    def _views(self, images: dict[str, Any], path: Path) -> list[str]:
        if not self.views:
            found = [k for k, v in images.items() if k.startswith(PREFIX) and v[0].startswith((_JPEG, _PNG))]
            found = sorted(k for k in found if "depth" not in k)
        else:
            found = [next((k for k in (PREFIX + v, v) if k in images), v) for v in self.views]
        missing = [view for view in found if view not in images]
        if missing or not found:
            wanted = missing or f"JPEG or PNG images below {PREFIX}"
            raise ValueError(f"{path}: wanted {wanted}, got the byte features {sorted(images)}")
        return found

    def _images(self, record: bytes) -> dict[str, Any]:
        """A record -> {feature: its list of bytes}, for features of bytes only."""
        features = self._parse(record).features.feature
        lists = {key: feature.bytes_list.value for key, feature in features.items()}
        return {key: list(values) for key, values in lists.items() if len(values) and self._may_be_view(key)}

    def _may_be_view(self, key: str) -> bool:
        return not self.views or key in self.views or key.removeprefix(PREFIX) in self.views

    def _length(self, path: Path, start: int) -> int:
        """-> bytes of the record that begins there. Raises ValueError when its checksum is wrong."""
        with path.open("rb") as file:
            file.seek(start)
            head = file.read(12)
        if len(head) < 12 or not self._holds(head[:8], head[8:]):
            raise ValueError(f"{path}: wanted a record at byte {start}, got a damaged or truncated one")
        return int(struct.unpack("<Q", head[:8])[0])

    def _record(self, path: Path, start: int) -> bytes:
        """-> the record that begins there. Raises ValueError when it is damaged or the file ends within it."""
        try:
            length = self._length(path, start)
            with path.open("rb") as file:
                file.seek(start + 12)
                data = file.read(min(length + 4, path.stat().st_size))
        except OSError as error:
            raise ValueError(f"{path}: wanted a record at byte {start}, got {error}") from None
        if len(data) < length + 4 or not self._holds(data[:-4], data[-4:]):
            raise ValueError(f"{path}: wanted a record at byte {start}, got a damaged or truncated one")
        return data[:-4]

    def _holds(self, data: bytes, stored: bytes) -> bool:
        """Whether data has the masked CRC-32C that is stored with it."""
        crc = self._checksum(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF) == stored


def _library(name: str) -> tuple[Any, Any]:
    """-> parser of a tf.train.Example, CRC-32C; both from the extra `rlds`."""
    try:
        import crc32c
        from google.protobuf.message import DecodeError
        from tfrecord import example_pb2
    except ImportError as error:
        said = f"{name}: wanted the packages of the extra `rlds` to read TFRecord files, got {error}: "
        raise ValueError(said + "pip install 'alam-robot[rlds]'") from None

    def parse(record: bytes) -> Any:
        try:
            return example_pb2.Example.FromString(record)
        except DecodeError as error:
            raise ValueError(f"wanted a tf.train.Example, got {error}") from None

    return parse, crc32c.crc32c
