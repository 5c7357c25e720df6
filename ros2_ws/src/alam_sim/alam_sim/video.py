"""Film of an episode: both views side by side, h264, enlarged so that a person can see something."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MIN_HEIGHT = 256  # [px] of each view


class EpisodeVideo:
    """Writes one mp4; frames are added in order, `close` finishes the file under its final name."""

    def __init__(self, path: Path, fps: float) -> None:
        """Raises ValueError when the folder cannot be made."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = path.with_suffix(".partial.mp4")
            self._container = av.open(str(self._partial), "w")
        except OSError as error:  # av's errors are OSErrors too
            raise ValueError(f"video: wanted a folder {path.parent} to write into, got: {error}") from None
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"preset": "veryfast", "crf": "20"}
        self._sized = False

    def add(self, images: dict[str, np.ndarray]) -> None:
        """images {role: (h, w, 3) uint8} -> one frame, third person first."""
        picture = side_by_side([images[role] for role in sorted(images)])
        if not self._sized:
            self._stream.height, self._stream.width = picture.shape[:2]
            self._sized = True
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
            self._container.mux(packet)

    def close(self, path: Path | None) -> None:
        """Finish the file and give it its name; None throws it away."""
        for packet in self._stream.encode() if self._sized else ():
            self._container.mux(packet)
        self._container.close()
        if path is None or not self._sized:
            self._partial.unlink(missing_ok=True)
        else:
            self._partial.replace(path)


def side_by_side(views: list[np.ndarray]) -> np.ndarray:
    """views (h, w, 3) uint8 -> (H, W, 3) uint8, each enlarged by whole numbers to at least 256 px, H and W even."""
    factors = [-(-MIN_HEIGHT // view.shape[0]) for view in views]
    large = [view.repeat(factor, 0).repeat(factor, 1) for view, factor in zip(views, factors, strict=True)]
    height = max(view.shape[0] for view in large)
    height += height % 2
    padded = [np.pad(view, ((0, height - view.shape[0]), (0, view.shape[1] % 2), (0, 0))) for view in large]
    return np.concatenate(padded, axis=1)
