"""The few things that pip cannot install: found by looking, installed with apt where that needs no password."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from setup_run import SetupError, say

APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "a", "LC_ALL": "C"}


@dataclass(frozen=True)
class Piece:
    """Something that must be on the machine, the Debian package that has it, and how to see whether it is there."""

    what: str
    package: str
    present: Callable[[], bool]


def pieces(python: str) -> tuple[Piece, ...]:
    """What the set-up, the build and rendering need with this interpreter."""
    return (
        *(Piece(name, name, partial(_command, name)) for name in ("make", "cmake", "g++")),
        Piece("Python's venv module", "python3-venv", partial(_python_has, python, "import ensurepip, venv")),
        Piece("Python's headers", "python3-dev", partial(_python_has, python, _HEADERS)),
        Piece("the OSMesa library", "libosmesa6", partial(_library, "OSMesa")),
        Piece("the EGL library", "libegl1", partial(_library, "EGL")),
        Piece("the USB library", "libusb-1.0-0", partial(_library, "usb-1.0")),
        Piece("Mesa's drivers", "libgl1-mesa-dri", _mesa_drivers),
    )


_HEADERS = "import os, sysconfig as s; assert os.path.isfile(os.path.join(s.get_paths()['include'], 'Python.h'))"


def _command(name: str) -> bool:
    return shutil.which(name) is not None


def _library(name: str) -> bool:
    return ctypes.util.find_library(name) is not None


def _python_has(python: str, test: str) -> bool:
    return subprocess.run([python, "-I", "-c", test], capture_output=True).returncode == 0


def _mesa_drivers() -> bool:
    folders = (
        f"{lib}/dri" for lib in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/lib64")
    )
    return any(os.path.isdir(folder) and os.listdir(folder) for folder in folders)


def install_command(packages: Sequence[str], user: int, has_apt: bool, has_sudo: bool) -> tuple[str, ...] | None:
    """Packages, user id, what is on the machine -> the command that installs them unasked; None: a person has to."""
    if not has_apt or (user != 0 and not has_sudo):
        return None
    apt = ("apt-get", "-o", "DPkg::Lock::Timeout=300", "-y", "-qq", "--no-install-recommends", "install", *packages)
    variables = tuple(f"{name}={value}" for name, value in APT_ENVIRONMENT.items())
    return (*(("sudo", "-n") if user != 0 else ()), "env", *variables, *apt)


def advice(missing: Sequence[Piece], why: str = "") -> str:
    """The one line that says what to install."""
    packages = " ".join(piece.package for piece in missing)
    things = ", ".join(piece.what for piece in missing)
    return (
        f"missing on this machine: {things}{why}; install with `sudo apt-get install -y {packages}` and run this again"
    )


def ensure_system(python: str) -> None:
    """Install what is missing. Raises SetupError with the line that says what to install when that cannot be done."""
    missing = [piece for piece in pieces(python) if not piece.present()]
    if not missing:
        return
    has_sudo = shutil.which("sudo") is not None and _quiet(("sudo", "-n", "true")) == ""
    packages = [piece.package for piece in missing]
    command = install_command(packages, os.geteuid(), shutil.which("apt-get") is not None, has_sudo)
    if command is None:
        raise SetupError(advice(missing))
    say(f"installing with apt: {' '.join(packages)}")
    error = _quiet(command)
    if error:  # a bare machine has no lists, or old ones
        _quiet((*command[: command.index("apt-get")], "apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq", "update"))
        error = _quiet(command)
    left = [piece for piece in missing if not piece.present()]
    if left:
        why = f" (apt-get said: {error})" if error else f" for {python}, which is not the system's Python"
        raise SetupError(advice(left, why))


def _quiet(command: Sequence[str]) -> str:
    """Run; -> "" when it worked, else the last line it said."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError as error:
        return str(error)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return "" if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")
