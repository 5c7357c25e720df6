"""Set up the image of a robot computer: .venv with the named extras of pyproject.toml only, and the built workspace.

    python3 docker/setup_robot.py robot            # what a robot computer needs: no torch, no simulator

The same steps with the same pins as `make setup` (tools/setup_env.py), which installs every extra and looks for system
packages as well; here those are the Dockerfile's.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import setup_env  # noqa: E402
import setup_workspace  # noqa: E402
from setup_ros import Ros, ask_installation, check_wheels_fit, choose_ros, constraints_for, interpreter_of  # noqa: E402
from setup_run import SetupError, content_key  # noqa: E402


@dataclass(frozen=True)
class RosWith(Ros):
    """The ROS 2 in use, and the extras to install beside what builds the workspace."""

    chosen: tuple[str, ...] = ()

    @property
    def extras(self) -> tuple[str, ...]:
        return (super().extras[0], *self.chosen)


def set_up(root: Path, chosen: Sequence[str], environ: Mapping[str, str]) -> None:
    """A new .venv, its packages and the workspace. Raises SetupError with one sentence when a step cannot be done."""
    found, _ = choose_ros(environ, root)
    ros = RosWith(found.distro, found.ros2, tuple(chosen))
    python, numpy = sys.executable, None
    if ros.ros2 is None:
        check_wheels_fit(sys.version_info[:2], platform.system(), platform.machine())
    else:
        python = interpreter_of(ros.ros2, environ.get("PATH", ""))
        numpy = ask_installation(ros, python, environ)
    constraints = constraints_for((root / "constraints.txt").read_text(encoding="utf-8"), numpy)
    setup_env.make_venv(root, python, ros)
    setup_env.install_packages(root, ros, constraints, environ)
    keys = setup_workspace.package_keys(root, content_key([], constraints, ros.distro, *ros.extras))
    setup_workspace.build(root, keys, environ)


def main() -> int:
    """-> exit code."""
    known = sorted(set(Ros("").extras[1:]))
    wrong = [name for name in sys.argv[1:] if name not in known]
    if wrong or not sys.argv[1:]:
        print(
            f"setup_robot: wanted extras out of {', '.join(known)}, got {' '.join(wrong) or 'none'}.", file=sys.stderr
        )
        return 2
    try:
        set_up(ROOT, sys.argv[1:], os.environ)
    except SetupError as error:
        print(f"setup_robot: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
