"""Write constraints.txt anew from a real resolve of every extra of pyproject.toml, against the package index alone.

    python tools/setup_pins.py [--upgrade]       needs the network; installs nothing

What is pinned stays pinned unless a requirement rules it out, or --upgrade is given. Wheels at hand on this machine are
left out of account, so that a machine with a CPU build of torch writes the pins of the CUDA build's packages too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
ALWAYS = ("pip",)  # what the set-up installs besides the requirements


def requirements(project: dict[str, Any]) -> list[str]:
    """The [project] table -> the requirements of the project and of all its extras, but not itself."""
    lists = [project["dependencies"], *project["optional-dependencies"].values(), ALWAYS]
    return sorted({line for lines in lists for line in lines if not line.startswith(project["name"])})


def canonical(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pin_lines(report: dict[str, Any]) -> list[str]:
    """pip's installation report -> sorted `name==version` lines, without local versions (torch 2.13.0+cpu)."""
    found = ((canonical(item["metadata"]["name"]), item["metadata"]["version"]) for item in report["install"])
    return [f"{name}=={version.split('+')[0]}" for name, version in sorted(found)]


def resolve(lines: Iterable[str], constraints: Path | None) -> dict[str, Any]:
    """Ask pip what it would install into an empty environment. Raises CalledProcessError when nothing fits."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text("\n".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", f"{folder}/report.json", "-r", str(wanted)]
        command += ["-c", str(constraints)] if constraints else []
        local = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT")
        environ = {name: value for name, value in os.environ.items() if name not in local}
        subprocess.run(command, check=True, env=environ | {"PIP_CONFIG_FILE": os.devnull})
        return json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))


def main() -> int:
    """Rewrite constraints.txt, its heading kept; -> exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="start from nothing instead of from the present pins")
    options = parser.parse_args()
    heading = [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    try:
        report = resolve(requirements(project), None if options.upgrade else CONSTRAINTS)
    except subprocess.CalledProcessError as error:
        print(f"setup_pins: pip found no set of versions that fits (its words are above): {error}", file=sys.stderr)
        return 1
    pins = pin_lines(report)
    CONSTRAINTS.write_text("\n".join([*heading, *pins]) + "\n", encoding="utf-8")
    print(f"setup_pins: {len(pins)} packages pinned in {CONSTRAINTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
