"""The Fast DDS profile that launch sets: camera images arrive, every one, where the default setting loses most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launch_files.harness import ROOT

CAMERA_PAIR = Path(__file__).parent / "launch_files" / "camera_pair.py"
PROFILE = ROOT / "ros2_ws/src/alam_bringup/config/fastdds.xml"


@pytest.mark.ros
def test_no_image_is_lost_between_two_processes():
    """A pair is sent when the last one was answered: a busy machine makes it slower but must lose nothing."""
    pytest.importorskip("rclpy")
    env = {
        **os.environ,
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILE),
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
    }
    reader = subprocess.Popen([sys.executable, str(CAMERA_PAIR), "read"], env=env)
    try:
        command = [sys.executable, str(CAMERA_PAIR), "send", "40"]
        told = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, timeout=100, check=True).stdout
    finally:
        reader.kill()
        reader.wait()
    result = json.loads(told.splitlines()[-1])
    assert result["arrived"] == result["sent"] == 40, result
