"""Where weights come from: commit and versions, for every card."""

from __future__ import annotations

import os
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


def write_card(out: Path, card: dict[str, Any]) -> None:
    """out/card.yaml: what made these weights. Written aside and renamed: a card that is there is whole."""
    temporary = out / f"card.{os.getpid()}.part"
    try:
        temporary.write_text(yaml.safe_dump(plain(card), sort_keys=False))
        temporary.rename(out / "card.yaml")
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Tuples -> lists, for YAML and JSON."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return value


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
