"""Where weights come from: commit and versions, for every card."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml


def provenance() -> dict[str, Any]:
    """-> {"commit", "python", "packages"}; the commit carries "-dirty" when files differ from it."""
    return {"commit": _commit(), "python": platform.python_version(), "packages": _versions()}


def read_yaml(path: Path) -> dict[str, Any]:
    """A card or record -> its fields; empty when there is no such file."""
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def _commit() -> str:
    root = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "numpy", "mujoco", "metaworld", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
