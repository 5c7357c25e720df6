"""Make ROS 2 from PyPI wheels fit for building interfaces: the wheels carry paths of the machine that built them.

The CMake files under `<venv>/share/*/cmake` name the Python headers and the numpy headers of the wheel builder's image
(`/opt/python/cp3XX-cp3XX/...`). `fix_paths` points them at this interpreter; running it again changes nothing.

    python tools/ros_wheels.py           fix the environment of this interpreter
    python tools/ros_wheels.py --check   only say whether anything is left to fix (exit code 1 if so)
"""

from __future__ import annotations

import argparse
import re
import sys
import sysconfig
from pathlib import Path

BUILDER = r"/opt/python/cp3\d+-cp3\d+"
PYTHON_INCLUDE = re.compile(BUILDER + r"/include/python3\.\d+")
NUMPY_INCLUDE = re.compile(BUILDER + r"/lib/python3\.\d+/site-packages/numpy/_?core/include")
ANY_BUILDER_PATH = re.compile(BUILDER + r"[^\s;\"']*")


def fix_text(text: str, python_include: str, numpy_include: str) -> str:
    """CMake text -> the same text with the wheel builder's header folders replaced by the given ones."""
    text = NUMPY_INCLUDE.sub(lambda _: numpy_include, text)
    return PYTHON_INCLUDE.sub(lambda _: python_include, text)


def fix_paths(prefix: Path, python_include: str, numpy_include: str, write: bool = True) -> list[Path]:
    """Fix every CMake file under prefix/share/*/cmake; -> the files that needed it (none on a second run).

    Raises ValueError when a builder path of an unknown kind is left over: a new wheel release that needs a look.
    """
    changed = []
    for path in sorted((prefix / "share").glob("*/cmake/*.cmake")):
        before = path.read_text(encoding="utf-8")
        after = fix_text(before, python_include, numpy_include)
        left = ANY_BUILDER_PATH.search(after)
        if left:
            raise ValueError(
                f"{path} names {left.group()}, a folder of the wheel builder that {Path(__file__).name} does not know: "
                "wanted only its Python and numpy headers. Pin the ROS wheels to the versions in constraints.txt."
            )
        if after != before:
            changed.append(path)
            if write:
                path.write_text(after, encoding="utf-8")
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Fix (or with --check: look at) the environment of the running interpreter; -> exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when something is left to fix")
    options = parser.parse_args(arguments)
    try:
        import numpy
    except ImportError:
        print(f"ros_wheels: numpy is not installed in {sys.prefix}: run `make setup`.", file=sys.stderr)
        return 1
    include = sysconfig.get_path("include")
    if not (Path(include) / "Python.h").is_file():
        print(
            f"ros_wheels: no Python.h in {include}: install the headers of this Python (apt: python3-dev).",
            file=sys.stderr,
        )
        return 1
    try:
        changed = fix_paths(Path(sys.prefix), include, numpy.get_include(), write=not options.check)
    except ValueError as error:
        print(f"ros_wheels: {error}", file=sys.stderr)
        return 1
    verb = "to fix" if options.check else "fixed"
    print(f"ros_wheels: {len(changed)} file(s) {verb} under {Path(sys.prefix) / 'share'}")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
