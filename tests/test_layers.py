"""Who may import whom: the arrows between the rooms, read from the source text. There are no exceptions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "ros2_ws" / "src"
ROS_PACKAGES = sorted(path.parent.name for path in PACKAGES.glob("*/package.xml"))

ROS = {
    *("rclpy", "launch", "launch_ros", "ament_index_python", "rosidl_runtime_py", "rosbag2_py", "tf2_ros", "cv_bridge"),
    *("message_filters", "diagnostic_updater", "rpyutils", "rcl_interfaces", "builtin_interfaces", "rosgraph_msgs"),
    *(f"{kind}_msgs" for kind in ("action", "alam", "diagnostic", "geometry", "lifecycle", "nav", "sensor", "std")),
    *("std_srvs", "tf2_msgs", "trajectory_msgs", "unique_identifier_msgs", "visualization_msgs"),
}
SIMULATORS = {"mujoco", "metaworld", "gymnasium", "robosuite", "libero", "dm_control"}
TORCH = {"torch", "torchvision", "lpips", "timm", "transformers", "accelerate", "peft"}
CLOCKS = {"time", "datetime", "sched"}
# Modules of alam_models that import no torch: what the pure and the node modules of ROS packages may use.
LIGHT = {"alam_models", "alam_models.contract", "alam_models.runtime"}


def python_files(folder: Path) -> list[Path]:
    """Every Python file below a folder."""
    return [path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts]


def imports(tree: ast.AST, everywhere: bool) -> Iterator[str]:
    """Dotted names that a module imports; without `everywhere` only those that run when it is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; name the package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not everywhere:
            yield from (name for child in node.orelse for name in imports(child, everywhere))
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, everywhere)


def names(path: Path, everywhere: bool = True) -> set[str]:
    """Dotted names that a file imports."""
    return set(imports(ast.parse(path.read_text(encoding="utf-8"), str(path)), everywhere))


def tops(found: set[str]) -> set[str]:
    """Dotted names -> their first words."""
    return {name.split(".")[0] for name in found}


def is_within(name: str, modules: set[str]) -> bool:
    """Whether a dotted name is one of the modules, or inside one (a name imported from a package counts for it)."""
    return any(name == module or name.startswith(module + ".") for module in modules)


def is_node(path: Path) -> bool:
    """Whether a file of a ROS package is a node, by its name."""
    return path.stem.endswith("_node")


def is_io(path: Path) -> bool:
    """Whether a file of a ROS package touches a device, a thread or the clock, by its name; it knows no ROS either."""
    return path.stem.endswith("_io")


def pure_files() -> list[Path]:
    """Every module of a ROS package that is no node."""
    return [
        path for package in ROS_PACKAGES for path in python_files(PACKAGES / package / package) if not is_node(path)
    ]


def node_files() -> list[Path]:
    """Every node module."""
    return [path for package in ROS_PACKAGES for path in python_files(PACKAGES / package / package) if is_node(path)]


def relative(path: Path) -> str:
    """A file as the reader of a failure knows it."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", python_files(ROOT / "alam_models"), ids=relative)
def test_models_know_neither_ros_nor_a_simulator(path):
    assert not tops(names(path)) & (ROS | SIMULATORS | {"training"} | set(ROS_PACKAGES))


@pytest.mark.parametrize("path", python_files(ROOT / "training"), ids=relative)
def test_training_knows_models_and_the_pure_modules_of_two_packages(path):
    found = names(path)
    assert not tops(found) & (ROS | (set(ROS_PACKAGES) - {"alam_sim", "alam_common"}))
    assert not [name for name in found if name.startswith(("alam_sim.", "alam_common.")) and "_node" in name]


@pytest.mark.parametrize(
    "path",
    [ROOT / "alam_models/__init__.py", ROOT / "alam_models/contract.py", *python_files(ROOT / "alam_models/runtime")],
    ids=relative,
)  # fmt: skip
def test_contract_and_runtime_import_no_torch(path):
    found = names(path, everywhere=False)
    assert not tops(found) & TORCH
    heavy = [name for name in found if name.split(".")[0] == "alam_models" and not is_light(name)]
    assert not heavy, f"{heavy} may import torch"


def is_light(name: str) -> bool:
    """Whether an import from alam_models stays within its torch-free part."""
    return name == "alam_models" or is_within(name, LIGHT - {"alam_models"})


@pytest.mark.parametrize("path", pure_files(), ids=relative)
def test_pure_modules_know_neither_ros_nor_the_clock(path):
    assert not tops(names(path)) & (ROS if is_io(path) else ROS | CLOCKS)
    nodes = [name for name in names(path) if any(part.endswith("_node") for part in name.split("."))]
    assert not nodes, f"{nodes}: pure logic knows no node"


@pytest.mark.parametrize("path", pure_files() + node_files(), ids=relative)
def test_ros_packages_reach_torch_through_the_runtime_only(path):
    found = names(path)
    assert not tops(found) & (TORCH | {"training"})
    assert not [name for name in found if name.split(".")[0] == "alam_models" and not is_light(name)]


@pytest.mark.parametrize("path", python_files(ROOT / "launch"), ids=relative)
def test_launch_files_know_the_launch_api_only(path):
    assert tops(names(path)) <= {"__future__", "os", "pathlib", "typing", "launch", "launch_ros", "ament_index_python"}


def test_every_executable_is_a_node_module():
    for package in ROS_PACKAGES:
        setup, start = PACKAGES / package / "setup.py", PACKAGES / package / package / "start.py"
        if not setup.is_file():
            continue
        strings = (node.value for node in ast.walk(ast.parse(setup.read_text())) if isinstance(node, ast.Constant))
        for entry in (word for word in strings if isinstance(word, str) and "=" in word):
            executable, target = (part.strip() for part in entry.split("="))
            if target.partition(":")[0].endswith("_io"):  # a class that a library finds by name
                continue
            assert target == f"{package}.start:{executable}"
            started = re.search(rf'^{executable} = partial\(start, "{package}.(\w+_node)"\)$', start.read_text(), re.M)
            assert started and (start.parent / f"{started[1]}.py").is_file()


def test_the_reader_sees_what_runs_at_import_and_what_does_not(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport a.b\nif TYPE_CHECKING:\n    import c\n"
        "try:\n    import d\nexcept ImportError:\n    pass\ndef f():\n    from e import g\nclass H:\n    import i\n"
    )
    assert names(path, everywhere=False) == {"typing.TYPE_CHECKING", "a.b", "d", "i"}
    assert names(path) == {"typing.TYPE_CHECKING", "a.b", "c", "d", "e.g", "i"}
