"""What a corpus is made of: clips, the sources that read them, and the one way from a frame to the model's size.

A clip is one view of one episode. A source is a folder of one format; it lists its clips and reads frames of one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import cv2
import numpy as np


@dataclass(frozen=True)
class Clip:
    """One view of one episode: what a source needs to read it, and nothing that has to be looked up elsewhere."""

    source: str
    """Name of the source in the mixture."""
    episode: str
    """Unique in its source; the views of one episode share it."""
    view: str
    """Camera; "" where the source has one view only."""
    file: str
    """Relative to the source's folder."""
    start: int
    """Where the episode begins in the file: a frame number, or a byte where a file holds records."""
    frames: int
    """How many there are."""
    rate_hz: float | None = None
    """Frames per second, where the source says so."""

    @property
    def name(self) -> str:
        return "/".join(part for part in (self.source, self.episode, self.view) if part)


@dataclass(frozen=True)
class Skipped:
    """A clip (or a file that should have held some) that cannot be used, and why, in one sentence."""

    clip: str
    why: str


class Source(Protocol):
    """A folder of one format. Making one is cheap: it scans nothing and keeps only what was opened last."""

    def fingerprint(self) -> str:
        """-> hex digits that change when the data do; from names and sizes, no frame is read."""
        ...

    def clips(self) -> Iterator[Clip | Skipped]:
        """Every clip, always in the same order, or why one cannot be used.

        An iterator, so that no list of a corpus' size is ever held."""
        ...

    def frames(self, clip: Clip, indices: np.ndarray) -> Iterator[np.ndarray]:
        """indices (N,) ascending, 0 <= i < clip.frames -> N frames (h, w, 3) uint8 RGB, one at a time.

        What comes depends on the arguments alone, never on what was read before. Raises ValueError when the clip cannot
        be read."""
        ...


def resize_frame(image: np.ndarray, size: int) -> np.ndarray:
    """image (h, w, 3) uint8 -> (size, size, 3) uint8: the whole frame, averaged over areas (no aliasing).

    The one function for training and for evaluation; interpolates as alam_models.contract.prepare_frame."""
    if image.shape[:2] == (size, size):
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def decode_image(encoded: bytes, what: str) -> np.ndarray:
    """A JPEG or PNG -> (h, w, 3) uint8 RGB. Raises ValueError naming `what` when it is neither, or damaged."""
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    except cv2.error:  # a header that claims more pixels than OpenCV takes
        image = None
    if image is None:
        raise ValueError(f"{what}: wanted a JPEG or PNG image, got {len(encoded)} bytes that are none")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_frames(source: Source, clip: Clip, indices: np.ndarray, size: int) -> np.ndarray:
    """indices (N,) in any order, repeats allowed -> (N, size, size, 3) uint8. Raises ValueError as `Source.frames`."""
    wanted, where = np.unique(indices, return_inverse=True)
    if len(wanted) and (wanted[0] < 0 or wanted[-1] >= clip.frames):
        raise ValueError(f"{clip.name}: wanted frames in 0..{clip.frames - 1}, got {wanted[0]}..{wanted[-1]}")
    out = np.empty((len(wanted), size, size, 3), np.uint8)
    for place, image in zip(out, source.frames(clip, wanted), strict=True):
        place[:] = resize_frame(image, size)
    return out[where]


Opened = TypeVar("Opened")


class Recent(Generic[Opened]):
    """The things opened last, at most `size` of them: memory and files in use stay bounded."""

    def __init__(
        self, size: int, make: Callable[[str, int], Opened], close: Callable[[Opened], None] | None = None
    ) -> None:
        self.size, self.make, self.close = size, make, close
        self._things: OrderedDict[tuple[str, int], Opened] = OrderedDict()

    def __call__(self, file: str, start: int = 0) -> Opened:
        """-> what `make(file, start)` gave; what was used longest ago is closed first."""
        key = (file, start)
        if key not in self._things:
            while len(self._things) >= self.size:
                _, oldest = self._things.popitem(last=False)
                if self.close:
                    self.close(oldest)
            self._things[key] = self.make(file, start)
        self._things.move_to_end(key)
        return self._things[key]


def chosen(have: list[str], wanted: tuple[str, ...], what: str, prefix: str = "") -> list[str]:
    """The views of `have` that were asked for, by whole name or without `prefix`; all of them when none was.

    Raises ValueError naming a view that is not there, and those that are."""
    if not wanted:
        return have
    for view in wanted:
        if view not in have and prefix + view not in have:
            raise ValueError(f"{what}: wanted views {list(wanted)}, got no {view!r}; there are {have}")
    return [name for name in have if name in wanted or name.removeprefix(prefix) in wanted]
