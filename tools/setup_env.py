"""Set everything up: system packages, .venv with pinned requirements, ROS 2, the built workspace. Quick when done.

    python3 tools/setup_env.py       what `make setup` calls, and every other target of the Makefile first

Every step leaves a stamp with a key of what went into it, and is skipped while that key stays the same. Only the
standard library is used here: this runs with the machine's own Python.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (the machine's Python may be any)
    sys.exit(
        f"setup: wanted Python 3.11 or later, got {sys.version.split()[0]} ({sys.executable}): "
        "name another one with `make PYTHON=python3.12 ...`."
    )

import setup_workspace
from setup_ros import Ros, ask_installation, check_wheels_fit, choose_ros, constraints_for, interpreter_of
from setup_run import SetupError, content_key, is_stamped, run_logged, say, write_stamp
from setup_system import ensure_system

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Do what is left to do; -> exit code."""
    try:
        with _lock():
            set_up(ROOT, os.environ)
    except SetupError as error:
        print(f"setup: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


def set_up(root: Path, environ: Mapping[str, str]) -> None:
    """Every step in order. Raises SetupError with one sentence when a step cannot be done."""
    ros, remark = choose_ros(environ, root)
    numpy = None
    python = sys.executable
    if ros.sourced:
        assert ros.ros2 is not None
        path = ":".join(folder for folder in environ.get("PATH", "").split(":") if not folder.startswith(str(root)))
        python = interpreter_of(ros.ros2, path)
        numpy = ask_installation(ros, python, environ)
    else:
        check_wheels_fit(sys.version_info[:2], platform.system(), platform.machine())

    stamps = root / ".venv" / ".setup"
    constraints = constraints_for((root / "constraints.txt").read_text(encoding="utf-8"), numpy)
    sources = [root / "pyproject.toml", root / "tools" / "ros_wheels.py"]
    venv_key = content_key([], str(root), ros.distro, os.path.realpath(python))
    packages_key = content_key(sources, venv_key, constraints, *ros.extras)

    venv_done = is_stamped(stamps / "venv", venv_key) and (root / ".venv" / "bin" / "python").exists()
    packages_done = venv_done and is_stamped(stamps / "packages", packages_key)
    built_with = re.findall(r"(?m)^(?:ros-|numpy|setuptools|colcon|empy).*$", constraints)
    keys = setup_workspace.package_keys(root, content_key([], venv_key, *built_with))
    workspace_done = packages_done and not setup_workspace.stale_packages(root, keys)
    workspace_done = workspace_done and not setup_workspace.gone_packages(root, keys)
    if workspace_done:
        return

    if remark:
        say(remark)
    ensure_system(python)
    if not venv_done:
        make_venv(root, python, ros)
        write_stamp(stamps / "venv", venv_key)
    if not packages_done:
        install_packages(root, ros, constraints, environ)
        write_stamp(stamps / "packages", packages_key)
    setup_workspace.build(root, keys, environ)


def make_venv(root: Path, python: str, ros: Ros) -> None:
    """A fresh .venv and no build made with another one."""
    venv = root / ".venv"
    for folder in (venv, root / "ros2_ws" / "build", root / "ros2_ws" / "install"):
        if folder.exists():
            say(f"removing {folder} (unfinished, or made with another Python or for another ROS)")
            shutil.rmtree(folder)
    say(f"making {venv} with {python} for " + (f"ROS {ros.distro}" if ros.sourced else "the ROS 2 wheels from PyPI"))
    made = subprocess.run([python, "-I", "-m", "venv", str(venv)], capture_output=True, text=True)
    if made.returncode != 0:
        shutil.rmtree(venv, ignore_errors=True)
        said = (made.stdout + made.stderr).strip().splitlines()
        raise SetupError(f"{python} -m venv failed" + (f": {said[-1]}" if said else ""))


def install_packages(root: Path, ros: Ros, constraints: str, environ: Mapping[str, str]) -> None:
    """This project, editable, with its requirements at their pinned versions; then the fix-ups of the ROS wheels."""
    stamps = root / ".venv" / ".setup"
    stamps.mkdir(parents=True, exist_ok=True)
    pins = stamps / "constraints.txt"
    pins.write_text(constraints, encoding="utf-8")
    python = str(root / ".venv" / "bin" / "python")
    # The wheels' hook would restart every Python; what the user's PYTHONPATH holds must not count as installed.
    quiet = dict(environ) | {"_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    pip = (python, "-I", "-m", "pip", "install", "--no-input", "--progress-bar", "off", "-c", str(pins))
    tools = [f"{name}=={pinned(constraints, name)}" for name in ("pip", "setuptools")]
    run_logged("installing pip and setuptools", (*pip, *tools), stamps / "pip-tools.log", quiet)
    run_logged(
        "installing the Python packages (gigabytes and minutes, once)",
        (*pip, "--no-build-isolation", "-e", f"{root}[{','.join(ros.extras)}]"),
        stamps / "pip.log",
        quiet,
    )
    if not ros.sourced:
        fix = (python, "-I", str(root / "tools" / "ros_wheels.py"))
        run_logged("fitting the ROS 2 wheels to this machine", fix, stamps / "ros_wheels.log", quiet)


def pinned(constraints: str, name: str) -> str:
    """The version that constraints.txt pins a package to. Raises ValueError when it pins none."""
    found = re.search(rf"(?m)^{re.escape(name)}==(\S+)", constraints)
    if not found:
        raise ValueError(f"constraints.txt: wanted a pin of {name}, got none")
    return found.group(1)


class _lock:
    """Two set-ups of one checkout take turns."""

    def __enter__(self) -> None:
        self.folder = os.open(ROOT, os.O_RDONLY)
        try:
            fcntl.flock(self.folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this checkout is running: waiting for it")
            fcntl.flock(self.folder, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self.folder)


if __name__ == "__main__":
    sys.exit(main())
