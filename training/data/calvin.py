"""CALVIN: one npz file a frame, `ep_start_end_ids.npy` says which frames are an episode.

Layout (the dataset's README): FOLDER/training/episode_0000000.npz with `rgb_static` (200, 200, 3) and `rgb_gripper`
(84, 84, 3), both uint8; FOLDER/training/ep_start_end_ids.npy, (E, 2) first and last frame of each episode."""

from __future__ import annotations

import hashlib
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.data.clips import Clip, Skipped, chosen

VIEWS = ["rgb_static", "rgb_gripper"]
IDS = "ep_start_end_ids.npy"
# numpy reads an array's header through `ast`, which CPython 3.11 cannot do in two threads at once: SystemError.
_one_at_a_time = threading.Lock()


class Calvin:
    """path: the folder with the ids, or the one above its `training/` (CALVIN's own validation is left alone)."""

    def __init__(self, name: str, path: Path, views: tuple[str, ...] = (), keep_open: int = 8) -> None:
        """Raises ValueError when there are no ids, or a view is neither rgb_static nor rgb_gripper."""
        self.name = name
        self.path = path if (path / IDS).is_file() else path / "training"
        self.views = chosen(VIEWS, views, f"{name}: {path}", "rgb_")
        if not (self.path / IDS).is_file():
            raise ValueError(f"{name}: wanted CALVIN's {IDS} in {path} or {path / 'training'}, got no such file")

    def fingerprint(self) -> str:
        return hashlib.sha256((self.path / IDS).read_bytes()).hexdigest()[:12]

    def clips(self) -> Iterator[Clip | Skipped]:
        try:
            ids = np.load(self.path / IDS, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{self.path / IDS}: wanted an array of frame numbers, got {error}") from None
        if ids.ndim != 2 or ids.shape[1] != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{self.path / IDS}: wanted (E, 2) first and last frames, got {ids.dtype} {ids.shape}")
        for first, last in ids[np.argsort(ids[:, 0], kind="stable")].tolist():
            for view in self.views:
                if last < first:
                    yield Skipped(f"{self.name}/{first}/{view}", f"wanted first <= last frame, got {first} and {last}")
                else:
                    yield Clip(self.name, f"{first:07d}", view, "", first, last - first + 1)

    def frames(self, clip: Clip, indices: np.ndarray) -> Iterator[np.ndarray]:
        for index in indices.tolist():
            path = self.path / f"episode_{clip.start + index:07d}.npz"
            try:
                with _one_at_a_time, np.load(path, allow_pickle=False) as arrays:
                    image = arrays[clip.view]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"{path}: wanted {clip.view}, got an unreadable file: {error}") from None
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"{path}: wanted {clip.view} (h, w, 3) uint8, got {image.dtype} {image.shape}")
            yield image
