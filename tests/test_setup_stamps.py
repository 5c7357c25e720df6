"""Steps are skipped while what went into them is the same, and a failing one ends in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import setup_env
import setup_workspace
from setup_run import SetupError, cause, content_key, is_stamped, run_logged, write_stamp

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tree(tmp_path):
    """A small workspace: two Python packages, the one that installs launch/, and a launch file."""
    for name in ("one", "two", "alam_bringup"):
        package = tmp_path / "ros2_ws" / "src" / name
        (package / name).mkdir(parents=True)
        (package / "package.xml").write_text(f"<name>{name}</name>")
        (package / name / "logic.py").write_text("x = 1\n")
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "a.launch.py").write_text("a")
    return tmp_path


def changed(tree: Path, before: dict[str, str]) -> set[str]:
    after = setup_workspace.package_keys(tree, "e")
    return {name for name in before | after if before.get(name) != after.get(name)}


def test_a_key_changes_with_names_bytes_and_words(tmp_path):
    one = tmp_path / "one"
    one.write_bytes(b"1")
    key = content_key([one], "word")
    assert key == content_key([one], "word")
    assert key != content_key([one], "other") and key != content_key([])
    one.write_bytes(b"2")
    assert key != content_key([one], "word")


def test_an_edit_makes_its_own_package_stale(tree):
    before = setup_workspace.package_keys(tree, "e")
    assert changed(tree, before) == set()
    (tree / "ros2_ws/src/one/one/logic.py").write_text("x = 2\n")
    assert changed(tree, before) == {"one"}


def test_caches_do_not_count(tree):
    before = setup_workspace.package_keys(tree, "e")
    cache = tree / "ros2_ws/src/one/one/__pycache__"
    cache.mkdir()
    (cache / "logic.cpython-311.pyc").write_bytes(b"1")
    assert changed(tree, before) == set()


def test_an_edited_launch_file_is_installed_anew(tree):
    before = setup_workspace.package_keys(tree, "e")
    (tree / "launch/a.launch.py").write_text("edited")
    assert changed(tree, before) == {"alam_bringup"}


def test_another_environment_makes_everything_stale(tree):
    assert not set(setup_workspace.package_keys(tree, "e").values()) & set(
        setup_workspace.package_keys(tree, "f").values()
    )


def test_what_is_built_is_not_stale_and_what_is_gone_is_seen(tree):
    keys = setup_workspace.package_keys(tree, "e")
    assert setup_workspace.stale_packages(tree, keys) == ["alam_bringup", "one", "two"]
    for name in keys:
        share = tree / "ros2_ws/install" / name / "share" / name
        share.mkdir(parents=True)
        (share / "package.xml").touch()
        write_stamp(tree / "ros2_ws/install" / name / ".built", keys[name])
    assert setup_workspace.stale_packages(tree, keys) == []
    del keys["two"]
    assert setup_workspace.gone_packages(tree, keys) == ["two"]
    setup_workspace.build(tree, keys, {})
    assert not (tree / "ros2_ws/install/two").exists() and (tree / "ros2_ws/install/one").exists()


def test_a_stamp_holds_for_its_key_only(tmp_path):
    stamp = tmp_path / "folder" / "stamp"
    assert not is_stamped(stamp, "a")
    write_stamp(stamp, "a")
    assert is_stamped(stamp, "a") and not is_stamped(stamp, "b")


def test_a_command_that_fails_is_reported_with_its_own_error_and_its_log(tmp_path, capsys):
    log = tmp_path / "log"
    script = "print('a'); print('ERROR: the index is on fire'); print('b'); raise SystemExit(3)"
    with pytest.raises(SetupError, match=r"exit code 3 \(ERROR: the index is on fire\)") as error:
        run_logged("installing", [sys.executable, "-c", script], log, os.environ)
    assert str(log) in str(error.value) and "\n" not in str(error.value)
    assert "the index is on fire" in log.read_text()
    run_logged("working", [sys.executable, "-c", "print('fine')"], log, os.environ)
    assert "working: done in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (["WARNING: Retrying after connection broken by X", "ERROR: Cannot install"], "check the network"),
        (["ERROR: [Errno 28] No space left on device"], "the disk is full"),
        (["x", "a.cpp:3:1: error: expected ;", "ERROR: later"], "expected ;"),
        (["nothing to see"], ""),
    ],
)
def test_a_failure_is_traced_to_its_cause(lines, wanted):
    assert cause(lines).endswith(wanted) and (wanted or cause(lines) == "")


def test_pins_are_read_by_name():
    assert setup_env.pinned("a-b==1.2\na==3\n", "a") == "3"
    with pytest.raises(ValueError, match="pin of c"):
        setup_env.pinned("a==1\n", "c")


def test_a_refusal_is_one_sentence_without_a_traceback(tmp_path):
    ros2 = tmp_path / "ros2"
    ros2.write_text("#!/bin/sh\n")
    ros2.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ROS_DISTRO": "humble"}
    command = [sys.executable, "-S", str(ROOT / "tools" / "setup_env.py")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("setup: ROS humble is sourced") and done.stderr.count("\n") == 1
