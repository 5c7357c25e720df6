"""constraints.txt pins everything that pyproject.toml asks for, and everything that those ask for."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import setup_pins

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text()))


@pytest.mark.parametrize("line", setup_pins.requirements(PROJECT))
def test_every_requirement_has_a_pin_that_it_allows(line):
    wanted = Requirement(line)
    name = canonicalize_name(wanted.name)
    assert name in PINS, f"run `make pins`: no pin of {name}"
    assert wanted.specifier.contains(PINS[name]), f"run `make pins`: {line} does not allow {PINS[name]}"


def test_every_line_is_a_pin_and_they_are_sorted():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == [f"{name}=={version}" for name, version in sorted(PINS.items())]
    assert [setup_pins.canonical(name) for name in PINS] == list(PINS)


def test_what_is_installed_through_the_extras_is_pinned_transitively():
    """Walks from the requirements along the metadata of what is installed here; what is not installed ends the walk."""
    waiting = [Requirement(line) for line in setup_pins.requirements(PROJECT)]
    seen: set[tuple[str, str]] = set()
    unpinned = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needs = importlib.metadata.distribution(name).requires or []
            except importlib.metadata.PackageNotFoundError:
                continue
            unpinned |= {name} - PINS.keys()
            there = [Requirement(need) for need in needs]
            waiting += [need for need in there if not need.marker or need.marker.evaluate({"extra": extra})]
    assert not unpinned, f"run `make pins`: no pin of {sorted(unpinned)}"


def test_a_report_becomes_pins():
    items = [("Zed_a.B", "1.0+cpu"), ("abc", "2")]
    report = {"install": [{"metadata": {"name": name, "version": version}} for name, version in items]}
    assert setup_pins.pin_lines(report) == ["abc==2", "zed-a-b==1.0"]


def test_requirements_are_those_of_all_extras_without_the_project_itself():
    project = {
        "name": "me",
        "dependencies": ["b"],
        "optional-dependencies": {"x": ["a", "me[y]"], "y": ["c<2", "a"]},
    }
    assert setup_pins.requirements(project) == ["a", "b", "c<2", "pip"]
