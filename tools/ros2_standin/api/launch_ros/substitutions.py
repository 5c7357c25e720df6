"""launch_ros.substitutions: places of ROS packages."""

from __future__ import annotations

from ros2_standin import ament
from ros2_standin.context import LaunchContext, SomeText, Substitution
from ros2_standin.refusal import module_getattr

__all__ = ["FindPackageShare"]


class FindPackageShare(Substitution):
    """The share folder of a package."""

    def __init__(self, package: SomeText) -> None:
        self._package = package

    def perform(self, context: LaunchContext) -> str:
        """-> the folder. Raises Refused for an unknown package."""
        return str(ament.share(context._text(self._package)))


__getattr__ = module_getattr(globals())
