"""The executables, from the moment they are started."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).resolve().parents[1] / "ros2_ws/src"
SCRIPTS = sorted(
    script
    for setup in PACKAGES.glob("*/setup.py")
    for script in re.findall(r'"(\w+) = (alam_\w+\.\w+):(\w+)"', setup.read_text())
    if script[2] != "SocketBus"
)


@pytest.mark.parametrize(("name", "module", "attribute"), SCRIPTS)
def test_ctrl_c_while_it_loads_is_quiet(name, module, attribute, tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from {module} import {attribute}; {attribute}()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "") and process.returncode == 130
    finally:
        process.kill()


def test_every_package_with_executables_is_tried():
    assert len(SCRIPTS) >= 6
