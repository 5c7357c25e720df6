"""The stand-in's `launch_ros`: the part of the public API of ROS 2 Jazzy that this repository's launch files use."""

from ros2_standin.refusal import module_getattr

from . import actions, parameter_descriptions, substitutions

__all__ = ["actions", "parameter_descriptions", "substitutions"]

__getattr__ = module_getattr(globals())
