"""launch.launch_description_sources: where an included description comes from."""

from __future__ import annotations

from pathlib import Path

from ros2_standin.context import LaunchContext, SomeText
from ros2_standin.refusal import Strict, module_getattr

__all__ = ["PythonLaunchDescriptionSource"]


class PythonLaunchDescriptionSource(Strict):
    """A Python launch file."""

    def __init__(self, launch_file_path: SomeText) -> None:
        self._location = launch_file_path

    def _path(self, context: LaunchContext) -> Path:
        return Path(context._text(self._location)).absolute()


__getattr__ = module_getattr(globals())
