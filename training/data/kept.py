"""Files made of a source's data and kept for later: found again while they are right, made by one process at a time.

What was made of every file of a source is whole, and right as long as the source's fingerprint is the same. What lacks
something (a video that was missing, a clip that could not be decoded) is right only until the files change: they may
have been copied to the end, or repaired, which no fingerprint of names and meta data shows."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WHOLE = "whole"


def state_of(folder: Path, without: Path) -> str:
    """-> 12 hex digits that change with the names, sizes or times of the files below a folder; none is read.

    Links are followed; what is below `without` plays no part. No list of the files is held: a corpus has millions."""
    total, ahead, seen = 0, [str(folder)], {os.path.realpath(without)}
    while ahead:
        here = ahead.pop()
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        inside = os.path.relpath(here, folder)
        with os.scandir(here) as entries:
            for entry in entries:
                try:
                    if entry.is_dir():
                        ahead.append(entry.path)
                        continue
                    stat = entry.stat()
                except OSError:  # a link to nothing, or gone by now
                    continue
                line = f"{inside}/{entry.name} {stat.st_size} {stat.st_mtime_ns}"
                # A sum, since a folder names its files in any order.
                total += int.from_bytes(hashlib.sha256(os.fsencode(line)).digest(), "big")
    return hashlib.sha256(str(total).encode()).hexdigest()[:12]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time makes `path`; the others wait and find it."""
    with path.with_name(path.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
