"""robot:=piper: the arm and its two cameras behind the robot interface; emulate:=true: emulated ones.

piper.launch.py includes it and declares its arguments."""

from launch import LaunchDescription
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description():
    emulate, channel = LaunchConfiguration("emulate"), LaunchConfiguration("can")
    folder = PathJoinSubstitution([FindPackageShare("alam_bringup"), "config", "piper"])
    config = PathJoinSubstitution([folder, "robot.yaml"])
    devices = [folder, "/emulate_", emulate, ".yaml"]  # real or emulated bus and cameras
    contract = ParameterValue(PathJoinSubstitution([LaunchConfiguration("bundle"), "contract.yaml"]), value_type=str)
    cameras = [
        Node(
            package="alam_cameras",
            executable="camera_node",
            name=f"camera_{role}",
            parameters=[
                config,
                devices,
                {"role": role, "serial": ParameterValue(LaunchConfiguration(f"{role}_serial"), value_type=str)},
            ],
            output="screen",
            respawn=True,
            respawn_delay=1.0,
        )
        for role in ("third_person", "wrist")
    ]
    return LaunchDescription(
        [
            Node(
                package="alam_piper",
                executable="piper_emulator",
                arguments=["--channel", channel],
                output="screen",
                condition=IfCondition(emulate),
            ),
            Node(
                package="alam_piper",
                executable="piper_node",
                name="piper",
                parameters=[
                    config,
                    devices,
                    {"can_channel": ParameterValue(channel, value_type=str), "contract": contract},
                ],
                output="screen",
                respawn=True,
                respawn_delay=1.0,
            ),
            *cameras,
        ]
    )
