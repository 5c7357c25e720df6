"""The door: the robot that robot:= names, and the policy that drives it; --show-args lists the arguments."""

from launch import LaunchDescription, actions
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution, ThisLaunchFileDir
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("alam_bringup")
CHECKPOINTS = EnvironmentVariable("ALAM_CHECKPOINTS", default_value=PathJoinSubstitution([SHARE, "checkpoints"]))
DOMAIN = EnvironmentVariable("ROS_DOMAIN_ID", default_value="0")
DOMAINS = [str(domain) for domain in (*range(102), *range(215, 233))]  # those whose ports are free on Linux
RANGE = EnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", default_value="LOCALHOST")
PROFILE = EnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", default_value=[SHARE, "/config/fastdds.xml"])
ROBOT = LaunchConfiguration("robot")
OF_ROBOTS = {"metaworld_task": "reach-v3", "piper_mujoco_task": "insert-cylinder", "metaworld_bundle": "metaworld-mini"}
TASK = LaunchConfiguration([ROBOT, "_task"], default="")  # the real arm has none: a person names it
BUNDLE = LaunchConfiguration([ROBOT, "_bundle"], default="piper-practice")
TIMEOUTS = {"sigterm_timeout": "2", "sigkill_timeout": "2"}  # [s] Ctrl-C ends everything in under 5 s
COME_BACK = ("policy_node", "camera_node", "piper_node")
HAVE_RUN = set()


def argument(name, default, description, choices=None):
    return actions.DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)


def when_one_ends(event, context):
    """Every process is needed. Exit code 2 says: these settings cannot work. Of one of COME_BACK that has run before it
    says that a device is away; it is tried again. A driver that comes back is disabled until a person enables it."""
    if event.returncode != 2:
        HAVE_RUN.add(event.process_name)
    if context.is_shutdown or (event.process_name in HAVE_RUN and event.process_name.startswith(COME_BACK)):
        return None
    if event.returncode != 0:  # an exception is what makes the exit code of `ros2 launch` 1
        raise RuntimeError(f"{event.process_name} ended with exit code {event.returncode}")
    return actions.Shutdown(reason=f"{event.process_name} has finished")


def generate_launch_description():
    texts = {n: ParameterValue(LaunchConfiguration(n), value_type=str) for n in ("bundle", "runtime", "provider")}
    policy = PathJoinSubstitution([SHARE, "config", ROBOT, "policy.yaml"])
    robot = PythonLaunchDescriptionSource([ThisLaunchFileDir(), "/robot_", ROBOT, ".launch.py"])
    return LaunchDescription(
        [
            argument("robot", "metaworld", "who serves the robot interface", ["metaworld", "piper", "piper_mujoco"]),
            *(actions.SetLaunchConfiguration(*pair) for pair in (OF_ROBOTS | TIMEOUTS).items()),
            argument("task", TASK, "simulators: task that /run_task does when its goal names none"),
            argument("bundle", [CHECKPOINTS, "/", BUNDLE], "folder of the exported policy"),
            argument("mode", "lockstep", "does the world wait for the policy", ["lockstep", "realtime"]),
            argument("runtime", "onnxruntime", "library that runs the policy", ["onnxruntime", "tensorrt"]),
            argument("provider", "cpu", "where ONNX Runtime computes", ["cpu", "cuda", "tensorrt"]),
            argument("delay", "0.0", "seconds that the policy's answers are held back", ["0.0", "0.1", "0.2", "0.5"]),
            argument("emulate", "false", "robot:=piper without hardware: emulated arm and cameras", ["true", "false"]),
            argument("can", "can0", "robot:=piper: CAN channel, or the path of the emulator's socket"),
            argument("third_person_serial", "", "robot:=piper: serial number of that RealSense"),
            argument("wrist_serial", "", "robot:=piper: serial number of that RealSense"),
            argument("video_dir", "", "folder for one mp4 an episode; empty: none"),
            argument("domain_id", DOMAIN, "ROS domain of every node", DOMAINS),
            argument("discovery", RANGE, "how far nodes look for others", ["LOCALHOST", "SUBNET", "OFF"]),
            actions.SetEnvironmentVariable("ROS_DOMAIN_ID", LaunchConfiguration("domain_id")),
            actions.SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", LaunchConfiguration("discovery")),
            actions.SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", PROFILE),
            actions.RegisterEventHandler(OnProcessExit(on_exit=when_one_ends)),
            actions.IncludeLaunchDescription(robot),
            Node(
                package="alam_policy",
                executable="policy_node",
                name="policy",
                parameters=[policy, texts, {"delay": ParameterValue(LaunchConfiguration("delay"), value_type=float)}],
                output="screen",
                respawn=True,
                respawn_delay=1.0,
            ),
        ]
    )
