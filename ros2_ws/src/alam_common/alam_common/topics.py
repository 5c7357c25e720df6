"""The one table of topics: names, types, rates and QoS. A QoS that is not the ROS default says why."""

from __future__ import annotations

from dataclasses import dataclass

from alam_models.contract import ROLES


@dataclass(frozen=True)
class Qos:
    """Quality of service; the defaults here are the ROS defaults. `reason` is required for anything else."""

    reliability: str = "reliable"  # or "best_effort"
    durability: str = "volatile"  # or "transient_local": the last message waits for late subscribers
    depth: int = 10  # messages kept for a slow subscriber
    reason: str = ""

    def __post_init__(self) -> None:
        if self.reliability not in ("reliable", "best_effort") or self.durability not in (
            "volatile",
            "transient_local",
        ):
            raise ValueError(f"QoS: unknown reliability {self.reliability!r} or durability {self.durability!r}")
        if (self.reliability, self.durability, self.depth) != ("reliable", "volatile", 10) and not self.reason:
            raise ValueError("QoS: a setting that is not the ROS default needs a reason")


@dataclass(frozen=True)
class Topic:
    """Name, message type ("package/msg/Name"), how often it is published, QoS, and what it is for."""

    name: str
    type: str
    rate: str
    note: str
    qos: Qos = Qos()


_FRESH = Qos(
    "best_effort", "volatile", 1, "only the newest frame is of use; a late one must not queue behind an older one"
)
_SMALL_FRESH = Qos("reliable", "volatile", 1, "only the newest one is of use, and it is small enough to be sent again")
_FRESH_STATE = Qos("best_effort", "volatile", 1, "at 200 Hz only the newest one is of use")
_LATCHED = Qos("reliable", "transient_local", 1, "said once; whoever comes later must still hear it")
_CLOCK = Qos("best_effort", "volatile", 1, "rclpy and rclcpp listen to simulator time with this profile")


def camera_topic(role: str) -> str:
    """-> the folder of a camera's topics. Raises ValueError for a role that no contract has."""
    if role not in ROLES:
        raise ValueError(f"camera role: wanted one of {ROLES}, got {role!r}")
    return f"/camera/{role}/color"


IMAGES = {
    role: Topic(
        f"{camera_topic(role)}/image_raw",
        "sensor_msgs/msg/Image",
        "each observation (lockstep) or about 30 Hz",
        f"the {role} view, rgb8, stamped at capture",
        _FRESH,
    )
    for role in ROLES
}
CAMERA_INFOS = {
    role: Topic(
        f"{camera_topic(role)}/camera_info",
        "sensor_msgs/msg/CameraInfo",
        "with each image",
        f"size and pinhole intrinsics of the {role} view",
        _FRESH,
    )
    for role in ROLES
}
STATE = Topic(
    "/robot/state",
    "alam_msgs/msg/StateVector",
    "with each observation",
    "proprioception in contract order, the instruction and the observation's id",
    _SMALL_FRESH,
)
CONTRACT = Topic(
    "/robot/contract", "std_msgs/msg/String", "once", "contract.yaml of the robot that is running", _LATCHED
)
CHUNK = Topic("/policy/chunk", "alam_msgs/msg/ActionChunk", "each answer", "the actions that a policy wants executed")
LATENTS = Topic(
    "/policy/latents", "alam_msgs/msg/LatentChunk", "each answer", "the co-generated latents: inspected, never executed"
)
JOINT_STATES = Topic(
    "/joint_states",
    "sensor_msgs/msg/JointState",
    "200 Hz",
    "measured position [rad], velocity [rad/s] and effort [N*m] of the joints; the gripper in [m], [m/s], [N*m]",
    _FRESH_STATE,
)
COMMAND = Topic(
    "/robot/command",
    "sensor_msgs/msg/JointState",
    "200 Hz while the arm is driven",
    "what the gate passed and the bus got: position [rad], velocity [rad/s]; the gripper in [m]; for logs and tests",
    _FRESH_STATE,
)
ARM_STATUS = Topic(
    "/robot/arm_status",
    "alam_msgs/msg/ArmStatus",
    "10 Hz and on a change",
    "mode, reason, faults in words, temperatures",
)
OPERATOR_STOP = Topic(
    "/robot/operator_stop", "std_msgs/msg/Bool", "at will", "true: stop now, latched, as /robot/stop; false: nothing"
)
DIAGNOSTICS = Topic(
    "/diagnostics",
    "diagnostic_msgs/msg/DiagnosticArray",
    "1 Hz and on a change of mode",
    "rates, ages, drops, mode and reason of every node",
)
CLOCK = Topic(
    "/clock",
    "rosgraph_msgs/msg/Clock",
    "each step (realtime) or observation (lockstep)",
    "robot time of a simulator; never goes backwards",
    _CLOCK,
)

TOPICS: tuple[Topic, ...] = (
    *IMAGES.values(),
    *CAMERA_INFOS.values(),
    STATE,
    CONTRACT,
    CHUNK,
    LATENTS,
    JOINT_STATES,
    COMMAND,
    ARM_STATUS,
    OPERATOR_STOP,
    DIAGNOSTICS,
    CLOCK,
)

SERVICES = {
    "/robot/enable": (
        "std_srvs/srv/SetBool",
        "true: motion allowed, an arm gets power; false: hold, an arm moves slowly to rest, then loses its power",
    ),
    "/robot/stop": ("std_srvs/srv/Trigger", "brake and hold now; latched until /robot/reset"),
    "/robot/reset": (
        "std_srvs/srv/Trigger",
        "clear a latched stop; refused while a task runs; an arm that reports an error of its own loses power and sags",
    ),
    "/robot/home": ("std_srvs/srv/Trigger", "arms: move slowly to the home position; refused while a task runs"),
}
RUN_TASK = ("/run_task", "alam_msgs/action/RunTask")


def topic_row(topic: Topic) -> str:
    """-> the Markdown row that a package README carries for a topic it uses."""
    qos = f"{topic.qos.reliability}, {topic.qos.durability}, depth {topic.qos.depth}"
    return f"| `{topic.name}` | `{topic.type}` | {topic.rate} | {qos} | {topic.note} |"
