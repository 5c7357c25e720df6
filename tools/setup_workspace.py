"""Build the ROS packages of ros2_ws that changed since they were built, with colcon, each from a clean folder.

Packages are installed as copies (`--symlink-install` depends on a `setup.py develop` that new releases of setuptools no
longer have). An edit of a Python node needs no build all the same: tools/env.sh puts the source folders in front.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from setup_run import content_key, is_stamped, run_logged, write_stamp

BRINGUP = "alam_bringup"  # installs folders from outside of ros2_ws
LAUNCH, BUNDLES = "launch", "checkpoints"  # of the large bundles only the names count: they are links
IGNORED = ("__pycache__", ".pyc", ".egg-info")


def package_keys(root: Path, environment_key: str) -> dict[str, str]:
    """Package -> key of everything that goes into its build."""
    keys = {}
    for manifest in sorted((root / "ros2_ws" / "src").glob("*/package.xml")):
        package = manifest.parent
        bringup = package.name == BRINGUP
        names = [str(path) for path in sorted((root / BUNDLES).rglob("*")) if bringup and _counts(path)]
        found = [*package.rglob("*"), *((root / LAUNCH).rglob("*") if bringup else ())]
        files = [path for path in found if path.is_file() and _counts(path)]
        keys[package.name] = content_key(files, environment_key, *names)
    return keys


def _counts(path: Path) -> bool:
    return not any(part.endswith(IGNORED) for part in path.parts)


def stale_packages(root: Path, keys: Mapping[str, str]) -> list[str]:
    """The packages whose build is missing or older than their sources."""
    return [name for name, key in keys.items() if not is_stamped(_stamp(root, name), key)]


def gone_packages(root: Path, keys: Mapping[str, str]) -> list[str]:
    """Packages that are still installed though their sources are gone."""
    installed = (
        path.parent.parent.parent.name for path in (root / "ros2_ws" / "install").glob("*/share/*/package.xml")
    )
    return sorted(set(installed) - set(keys))


def _stamp(root: Path, package: str) -> Path:
    return root / "ros2_ws" / "install" / package / ".built"


def build(root: Path, keys: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Build what is stale and remove what is gone. Raises SetupError when colcon fails."""
    stale = stale_packages(root, keys)
    workspace = root / "ros2_ws"
    for name in stale + gone_packages(root, keys):
        shutil.rmtree(workspace / "build" / name, ignore_errors=True)
        shutil.rmtree(workspace / "install" / name, ignore_errors=True)
    if not stale:
        return
    colcon = (
        'colcon --log-base log build --base-paths src --packages-select "$@" '
        '--cmake-args -DBUILD_TESTING=OFF -DPython3_EXECUTABLE="$VIRTUAL_ENV/bin/python" --no-warn-unused-cli'
    )
    script = f'source "$0/tools/env.sh" && cd "$0/ros2_ws" && {colcon}'
    run_logged(
        f"building {', '.join(stale)}",
        ("bash", "-c", script, str(root), *stale),
        workspace / "log" / "setup.log",
        environ,
    )
    for name in stale:
        write_stamp(_stamp(root, name), keys[name])
