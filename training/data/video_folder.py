"""A folder of video files (any depth): each file is an episode, or with `views` one view of an episode."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.data.clips import Clip, Recent, Skipped
from training.data.video import VideoFrames

ENDINGS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v")


class VideoFolder:
    """views ("wrist", ...): NAME.wrist.mp4 is view `wrist` of episode NAME, files of other names are left out.

    Without views every file is an episode of its own, and the split may part two cameras of one scene."""

    def __init__(self, name: str, path: Path, views: tuple[str, ...] = (), keep_open: int = 8) -> None:
        self.name, self.path, self.views = name, path, views
        self._open = Recent(keep_open, lambda file, _: VideoFrames(path / file), VideoFrames.close)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in video_files(self.path):
            digest.update(f"{file} {(self.path / file).stat().st_size}\n".encode())
        return digest.hexdigest()[:12]

    def clips(self) -> Iterator[Clip | Skipped]:
        for file in video_files(self.path):
            episode, view = os.path.splitext(file)[0], ""
            if self.views:
                episode, _, view = episode.rpartition(".")
                if view not in self.views:
                    continue
            try:
                video = VideoFrames(self.path / file)
            except ValueError as error:
                yield Skipped(f"{self.name}/{file}", str(error))
                continue
            yield Clip(self.name, episode, view, file, 0, video.count, video.rate_hz)
            video.close()

    def frames(self, clip: Clip, indices: np.ndarray) -> Iterator[np.ndarray]:
        return self._open(clip.file).frames(indices)


def video_files(path: Path) -> Iterator[str]:
    """-> names of the video files below a folder, relative to it, sorted within each folder; hidden ones left out."""
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if file.lower().endswith(ENDINGS) and not file.startswith(".") and ".part." not in file:
                yield os.path.relpath(os.path.join(folder, file), path)
