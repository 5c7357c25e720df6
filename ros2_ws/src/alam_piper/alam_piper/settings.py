"""Parameters and topics of the Piper node."""

from __future__ import annotations

from alam_common.parameters import Parameter
from alam_common.topics import (
    ARM_STATUS,
    CAMERA_INFOS,
    CHUNK,
    COMMAND,
    CONTRACT,
    DIAGNOSTICS,
    JOINT_STATES,
    OPERATOR_STOP,
    STATE,
)

PARAMETERS = (
    Parameter("can_interface", "socketcan", "python-can's name of the bus", choices=("socketcan", "alam_socket")),
    Parameter("can_channel", "can0", "CAN channel, or the path of the emulator's socket", form="name or path"),
    Parameter(
        "contract", "", "contract.yaml of the bundle that will drive; must agree with this arm", form="path, empty: any"
    ),
    Parameter(
        "mode", "joint", "how the joints are commanded: the arm's position mode, or MIT mode", choices=("joint", "mit")
    ),
    Parameter("speed", 1.0, "share of the arm's limits of motion that a policy may use", unit="1", low=0.05, high=1.0),
    Parameter("speed_percent", 100, "cap of the arm's own drives in position mode", unit="%", low=1, high=100),
    Parameter(
        "park_speed", 0.2, "share of the limits at which the arm moves home and to rest", unit="1", low=0.02, high=0.5
    ),
    Parameter("mit_kp", 40.0, "MIT mode: stiffness of each joint", unit="N*m/rad", low=0.0, high=60.0),
    Parameter("mit_kd", 2.0, "MIT mode: damping of each joint", unit="N*m*s/rad", low=0.0, high=4.0),
    Parameter("enable_timeout", 10.0, "time that the motors may take to get power", unit="s", low=1.0, high=60.0),
    Parameter(
        "max_chunk_age", 1.0, "hold when the observation behind the actions is older", unit="s", low=0.05, high=10.0
    ),
    Parameter("max_camera_age", 0.25, "hold when the last image of a camera is older", unit="s", low=0.04, high=5.0),
    Parameter("max_feedback_age", 0.05, "hold when the last joint feedback is older", unit="s", low=0.01, high=0.5),
    Parameter(
        "following_error", 0.25, "stop when a joint stays this far from its command", unit="rad", low=0.02, high=1.0
    ),
    Parameter("gripper_effort", 1.0, "the most effort that the gripper's drive may use", unit="N*m", low=0.0, high=5.0),
    Parameter("table_clearance", 0.0, "height above the base plane that the hand keeps", unit="m", low=-0.2, high=0.5),
    Parameter("link_margin", 0.01, "distance that links keep from each other", unit="m", low=0.0, high=0.1),
    Parameter(
        "hardware_stop", "", "file (a GPIO value) that reads 1 while motion is allowed", form="path, empty: none"
    ),
    Parameter("priority", 80, "SCHED_FIFO priority of the control loop; 0: none", unit="1", low=0, high=98),
    Parameter(
        "cpu",
        -1,
        "core that the control loop keeps to; -1: the last of more than two, else any",
        unit="1",
        low=-1,
        high=1023,
    ),
    Parameter("autostart", True, "configure and activate at start; false: wait for lifecycle commands"),
)
PUBLISHED = (JOINT_STATES, COMMAND, STATE, CONTRACT, ARM_STATUS, DIAGNOSTICS)
SUBSCRIBED = (CHUNK, *CAMERA_INFOS.values(), OPERATOR_STOP)
