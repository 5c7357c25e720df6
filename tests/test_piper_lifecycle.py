"""How the Piper node begins and ends: whatever ends it lets the arm go."""

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("alam_msgs")
pytest.importorskip("mujoco")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from piper_live import AT_ONCE_S, PATIENCE_S, LiveArm, children, start_node
from std_srvs.srv import SetBool

from alam_piper.arm_client_io import ArmClient
from alam_piper.settings import PARAMETERS

pytestmark = [pytest.mark.ros, pytest.mark.sim]


def transition(live, number):
    request = ChangeState.Request(transition=Transition(id=number))
    future = live.service(ChangeState, "/piper/change_state").call_async(request)
    live.until(future.done, "the transition")
    assert future.result().success


def is_free(live):
    """The arm's process has ended, and another one may drive the arm."""
    assert children(live.process.pid) == []
    defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
    other = ArmClient(defaults | live.settings)
    try:
        return other.ask("open") == ""
    finally:
        assert other.end()


def test_shutdown_from_active_lets_the_arm_go():
    with LiveArm() as live:
        live.enable()
        transition(live, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert is_free(live)
        answer, took_s = live.call("enable", SetBool.Request(data=True))
        assert not answer.success and "not running" in answer.message and took_s < AT_ONCE_S


def test_cleanup_lets_the_arm_go_and_it_can_be_had_again():
    with LiveArm(autostart=False) as live:
        transition(live, Transition.TRANSITION_CONFIGURE)
        assert len(children(live.process.pid)) == 1
        answer, _ = live.call("enable", SetBool.Request(data=True))
        assert not answer.success and "not running" in answer.message
        transition(live, Transition.TRANSITION_CLEANUP)
        assert is_free(live)
        transition(live, Transition.TRANSITION_CONFIGURE)
        transition(live, Transition.TRANSITION_ACTIVATE)
        live.enable()
        transition(live, Transition.TRANSITION_DEACTIVATE)
        assert is_free(live)
        transition(live, Transition.TRANSITION_ACTIVATE)
        live.status.clear()
        live.enable()
        answer, _ = live.call("stop")
        assert answer.success, "and it still hears its stop"


def test_a_hardware_stop_that_is_not_there_ends_it_with_one_sentence(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        process = start_node(tmp_path / "log", hardware_stop=path)
        assert process.wait(PATIENCE_S) == 2
        said = (tmp_path / "log").read_text()
        assert "hardware_stop: wanted a file" in said and "Traceback" not in said
