"""What the steps of the set-up share: one-sentence errors, quiet commands with a log, and keys of content."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


class SetupError(Exception):
    """One sentence for the user: what was wanted, what was got, what to do."""


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", flush=True)


def content_key(files: Iterable[Path], *words: str) -> str:
    """A key that changes when a file's name or bytes, or one of the words, change."""
    digest = hashlib.sha256()
    for part in words:
        digest.update(part.encode() + b"\0")
    for path in sorted(files):
        digest.update(str(path).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def is_stamped(stamp: Path, key: str) -> bool:
    """Whether the step that writes this stamp was finished with this key."""
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == key


def write_stamp(stamp: Path, key: str) -> None:
    """Say that the step is finished."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key, encoding="utf-8")


def run_logged(title: str, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
    """Run a command with its output in a log; on a terminal its latest line is shown while it runs.

    Raises SetupError naming the log and the command's own last error line.
    """
    say(f"{title} ...")
    started = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    live = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns - 1
    lines = []
    with log.open("w", encoding="utf-8") as file:
        file.write(" ".join(command) + "\n")
        with subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            text=True,
            errors="replace",
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                file.write(line)
                lines.append(line.strip())
                if live and line.strip():
                    print(f"\r\033[K  {line.strip()}"[:width], end="", flush=True)
    if live:
        print("\r\033[K", end="")
    if child.returncode != 0:
        found = cause(lines)
        what = f" ({found})" if found else ""
        raise SetupError(f"{title} failed with exit code {child.returncode}{what}; everything it said is in {log}")
    say(f"{title}: done in {time.monotonic() - started:.0f} s")


KNOWN_CAUSES = {
    "No space left on device": "the disk is full",
    "connection broken by": "the package index did not answer: check the network",
    "Temporary failure in name resolution": "the package index was not found: check the network",
}
ERROR_STARTS = ("ERROR:", "E:", "CMake Error", "error:", "colcon build:", "ros_wheels:")


def cause(lines: Sequence[str]) -> str:
    """What a failed pip, apt, cmake or compiler said -> the likely cause, else its first error line, else ""."""
    for sign, meaning in KNOWN_CAUSES.items():
        if any(sign in line for line in lines):
            return meaning
    return next((line for line in lines if line.startswith(ERROR_STARTS) or " error: " in line), "")
