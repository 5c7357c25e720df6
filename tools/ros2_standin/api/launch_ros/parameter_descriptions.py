"""launch_ros.parameter_descriptions: a parameter with its type said."""

from ros2_standin.parameters import ParameterValue
from ros2_standin.refusal import module_getattr

__all__ = ["ParameterValue"]

__getattr__ = module_getattr(globals())
