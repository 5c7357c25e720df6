"""Packages, launch files and executables of the ament index: AMENT_PREFIX_PATH, as the genuine tools look them up."""

from __future__ import annotations

import os
from pathlib import Path

from ros2_standin.refusal import Refused, listed

MARKERS = Path("share/ament_index/resource_index/packages")


def prefixes() -> list[Path]:
    """-> the existing folders of AMENT_PREFIX_PATH, in order. Raises Refused when there is none."""
    folders = [Path(text) for text in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if text]
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        raise Refused("AMENT_PREFIX_PATH names no folder: run `source tools/env.sh` (after `make setup`) first.")
    return folders


def prefix(package: str) -> Path:
    """-> the first prefix that has the package. Raises Refused, naming those that exist."""
    places = prefixes()
    for place in places:
        if package and (place / MARKERS / package).is_file():
            return place
    useful = {
        marker.name
        for place in places
        for marker in (place / MARKERS).glob("[!.]*")
        if (place / "lib" / marker.name).is_dir() or any((place / "share" / marker.name).glob("**/*.launch.py"))
    }
    raise Refused(f"Package {package!r} is not on AMENT_PREFIX_PATH; to launch or run there are: {listed(useful)}.")


def share(package: str) -> Path:
    """-> <prefix>/share/<package>. Raises Refused when the package is unknown."""
    return prefix(package) / "share" / package


def executable(package: str, name: str) -> Path:
    """-> <prefix>/lib/<package>/<name>. Raises Refused, naming the package's executables."""
    folder = prefix(package) / "lib" / package
    there = {path.name for path in folder.glob("*") if path.is_file() and os.access(path, os.X_OK)}
    if name not in there:
        raise Refused(f"Package {package} has no executable {name!r}; it has: {listed(there)}.")
    return folder / name


def launch_file(package: str, name: str) -> Path:
    """-> the file of that name anywhere in the package's share folder. Raises Refused, naming its launch files."""
    folder = share(package)
    found = sorted(path for path in folder.glob(f"**/{name}") if path.is_file()) if name == Path(name).name else []
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(f"Package {package} has {len(found)} files named {name!r}: {listed(map(str, found))}.")
    there = {path.name for path in folder.glob("**/*.launch.py")}
    raise Refused(f"Package {package} has no launch file {name!r}; it has: {listed(there)}.")
