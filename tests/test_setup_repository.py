"""The repository keeps itself in order: versions, manifests, targets, and nothing of one machine in a file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MANIFESTS = sorted((ROOT / "ros2_ws" / "src").glob("*/package.xml"))
PYTHON_PACKAGES = [path.parent for path in MANIFESTS if (path.parent / "setup.py").is_file()]
NOT_ROS = {"alam_models", "cv2", "numpy", "yaml", "mujoco", "metaworld", "av", "PIL", "imageio", "gymnasium", "tqdm"}
NOT_ROS |= {"can", "piper_sdk", "pyrealsense2", "ruckig", "scipy"}


def own_files() -> list[Path]:
    """Every file that git has or would take. Skips where this is no git checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for path in (ROOT / name for name in listed.split("\0") if name) if path.is_file()]


def name(path: Path) -> str:
    return path.name if path.is_dir() else path.parent.name


def test_every_package_has_the_version_and_licence_of_the_project():
    for manifest in MANIFESTS:
        root = xml.parse(manifest).getroot()
        got = (root.findtext("name"), root.findtext("version"), root.findtext("license"))
        assert got == (manifest.parent.name, PYPROJECT["project"]["version"], "Apache-2.0")


@pytest.mark.parametrize("package", PYTHON_PACKAGES, ids=name)
def test_a_python_package_can_be_installed(package):
    assert (package / "resource" / package.name).is_file()
    assert f"lib/{package.name}" in (package / "setup.cfg").read_text()
    assert f'version="{PYPROJECT["project"]["version"]}"' in (package / "setup.py").read_text()


@pytest.mark.parametrize("package", PYTHON_PACKAGES, ids=name)
def test_a_manifest_names_every_ros_package_that_is_imported(package):
    manifest = xml.parse(package / "package.xml").getroot()
    declared = {node.text for tag in ("depend", "exec_depend") for node in manifest.iter(tag)}
    imported = set()
    for path in (package / package.name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    missing = imported - declared - NOT_ROS - {package.name} - set(sys.stdlib_module_names)
    assert not missing, f"{package.name}/package.xml lacks {sorted(missing)}"


def test_the_project_installs_every_python_package():
    find = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    for package in PYTHON_PACKAGES:
        assert package.relative_to(ROOT).as_posix() in find["where"] and f"{package.name}*" in find["include"]


def test_every_target_of_the_makefile_is_explained():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?m)^([a-z]+):", text))
    assert targets == set(re.search(r"(?m)^\.PHONY: (.*)$", text)[1].split())
    helped = subprocess.run(["make", "-C", str(ROOT), "-s", "help"], capture_output=True, text=True, check=True).stdout
    assert targets == set(re.findall(r"(?m)^make ([a-z]+) +\S", helped))


def test_no_file_names_a_folder_of_one_machine():
    private = re.compile(rb"(?<![\w.$}/])/(?:root|home|work|Users)/\w")
    found = [
        f"{path.relative_to(ROOT)}: {hit.group().decode()}"
        for path in own_files()
        if path.stat().st_size < 1_000_000 and (hit := private.search(path.read_bytes()))
    ]
    assert not [line for line in found if not line.startswith("docker/")], found


def test_no_file_is_large():
    large = [str(path.relative_to(ROOT)) for path in own_files() if path.stat().st_size > 20_000_000]
    assert not large, f"wanted at most 20 MB a file: {large}"
