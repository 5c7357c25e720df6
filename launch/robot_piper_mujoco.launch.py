"""robot:=piper_mujoco: the arm's twin at a table in MuJoCo, behind the robot interface.

piper.launch.py includes it and declares its arguments."""

from launch import LaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description():
    config = PathJoinSubstitution([FindPackageShare("alam_bringup"), "config", "piper_mujoco", "robot.yaml"])
    contract = ParameterValue(PathJoinSubstitution([LaunchConfiguration("bundle"), "contract.yaml"]), value_type=str)
    names = ("task", "mode", "video_dir")
    texts = {name: ParameterValue(LaunchConfiguration(name), value_type=str) for name in names}
    return LaunchDescription(
        [
            Node(
                package="alam_sim",
                executable="piper_mujoco_node",
                name="piper_mujoco",
                parameters=[config, {"contract": contract, **texts}],
                output="screen",
            )
        ]
    )
