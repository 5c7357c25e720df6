"""launch_ros.actions: nodes and namespaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.actions import ExecuteProcess

from ros2_standin import ament
from ros2_standin.context import Entity, LaunchContext, SomeText
from ros2_standin.parameters import to_files
from ros2_standin.refusal import module_getattr

__all__ = ["Node", "PushRosNamespace"]


def _join(above: str, below: str) -> str:
    """Two namespaces -> one; an absolute one (with a leading slash) stands alone."""
    return below if below.startswith("/") or not above else f"{above.rstrip('/')}/{below}".rstrip("/")


class PushRosNamespace(Entity):
    """Nodes that follow in this scope are in this namespace."""

    def __init__(self, namespace: SomeText, *, condition: Any = None) -> None:
        super().__init__(condition)
        self._namespace = namespace

    def execute(self, context: LaunchContext) -> None:
        """Push it."""
        above = context.launch_configurations.get("ros_namespace", "")
        context.launch_configurations["ros_namespace"] = _join(above, context._text(self._namespace))


class Node(ExecuteProcess):
    """A process that holds a ROS node: its name, namespace, parameters and remappings become ROS arguments."""

    def __init__(
        self,
        *,
        executable: SomeText,
        package: SomeText | None = None,
        name: SomeText | None = None,
        namespace: SomeText | None = None,
        exec_name: SomeText | None = None,
        parameters: Sequence[Any] | None = None,
        remappings: Iterable[tuple[SomeText, SomeText]] | None = None,
        arguments: Iterable[SomeText] | None = None,
        cwd: SomeText | None = None,
        additional_env: Mapping[str, SomeText] | None = None,
        output: str = "log",
        respawn: bool = False,
        respawn_delay: float | None = None,
        on_exit: Any = None,
        condition: Any = None,
    ) -> None:
        super().__init__(
            cmd=[executable],
            name=exec_name,
            cwd=cwd,
            additional_env=additional_env,
            output=output,
            respawn=respawn,
            respawn_delay=respawn_delay,
            on_exit=on_exit,
            condition=condition,
        )
        self._package = package
        self._node_name = name
        self._namespace = namespace
        self._parameters = parameters or []
        self._remappings = list(remappings or [])
        self._arguments = list(arguments or [])

    def execute(self, context: LaunchContext) -> None:
        """Plan its process. Raises Refused for an unknown package, executable or parameter file."""
        program = context._text(self._command[0])
        if self._package is not None:
            program = str(ament.executable(context._text(self._package), program))
        ros = ["--ros-args"]
        above = context.launch_configurations.get("ros_namespace", "")
        namespace = _join(above, "" if self._namespace is None else context._text(self._namespace))
        namespace = f"/{namespace.strip('/')}" if above or self._namespace is not None else ""
        name = "" if self._node_name is None else context._text(self._node_name)
        if name:
            ros += ["-r", f"__node:={name}"]
        if namespace:
            ros += ["-r", f"__ns:={namespace}"]
        full_name = f"{namespace.rstrip('/')}/{name}" if name and namespace else "/**"
        for path in to_files(context, self._parameters, full_name, self._take_label(context, program)):
            ros += ["--params-file", str(path)]
        for old, new in self._remappings:
            ros += ["-r", f"{context._text(old)}:={context._text(new)}"]
        self._plan(context, [program, *(context._text(part) for part in self._arguments), *ros])


__getattr__ = module_getattr(globals())
