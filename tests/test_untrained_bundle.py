"""tools/untrained_bundle.py: a bundle that is served, says what it is, and asks nothing of the arm that it refuses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("scipy")

from scipy.interpolate import CubicSpline

from alam_models.contract import disagreements
from alam_models.runtime import Observation, load_policy
from alam_models.runtime.bundle import read_card
from alam_piper import arm
from alam_piper.geometry import piper_limits
from untrained_bundle import ARM_HORIZON, make_bundle

TOOL = Path(__file__).resolve().parent.parent / "tools/untrained_bundle.py"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("untrained") / "bundle", "piper")


def chunk(policy, number):
    images = {role: np.full((480, 640, 3), number % 256, np.uint8) for role in policy.contract.roles}
    return policy.infer(Observation(images, arm.HOME.copy(), "stand still", number), 0)


def test_it_fits_the_arm_and_says_that_it_is_untrained(bundle):
    policy = load_policy(bundle, threads=1)
    assert disagreements(wanted=policy.contract, got=arm.piper_contract()) == []
    assert "random weights" in read_card(bundle)["training"]["untrained"]
    first, again, other = (chunk(policy, number).actions for number in (1, 1, 2))
    assert first.shape == (ARM_HORIZON, 7) and (first == again).all() and (first != other).any()
    assert np.abs(first - arm.HOME)[:, :6].max() < 1e-4 and (first > arm.LOW).all() and (first < arm.HIGH).all()


def test_its_actions_ask_for_nothing_beyond_half_of_the_arms_limits(bundle):
    """As the driver reads them: a natural cubic spline through the rows."""
    policy, limits = load_policy(bundle, threads=1), piper_limits(0.5)
    times = np.arange(ARM_HORIZON) / arm.CONTROL_RATE_HZ
    between = np.linspace(times[0], times[-1], 500)
    for number in range(10):
        spline = CubicSpline(times, chunk(policy, number).actions.astype(float), bc_type="natural")
        for order, limit in enumerate((limits.velocity, limits.acceleration, limits.jerk), 1):
            assert (np.abs(spline(between, order)) <= limit).all(), f"derivative {order} of chunk {number}"


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    command = [sys.executable, str(TOOL), "--robot", "piper", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert "untrained_bundle: --out: wanted a new folder or a bundle to replace" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
