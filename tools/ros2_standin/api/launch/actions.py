"""launch.actions: what a launch description does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ros2_standin import launch_file
from ros2_standin.context import Argument, Entity, LaunchContext, Process, SomeText
from ros2_standin.refusal import Refused, module_getattr, refuse
from ros2_standin.refusal import choices as one_of

from .event_handlers import OnProcessExit, handler
from .launch_description_sources import PythonLaunchDescriptionSource

__all__ = [
    "DeclareLaunchArgument",
    "ExecuteProcess",
    "GroupAction",
    "IncludeLaunchDescription",
    "LogInfo",
    "RegisterEventHandler",
    "SetEnvironmentVariable",
    "SetLaunchConfiguration",
    "Shutdown",
]


class DeclareLaunchArgument(Entity):
    """An argument of this launch file, with its default, its choices and what it is for."""

    def __init__(
        self,
        name: str,
        *,
        default_value: SomeText | None = None,
        description: str | None = None,
        choices: Iterable[str] | None = None,
        condition: Any = None,
    ) -> None:
        super().__init__(condition)
        self._name = name
        self._default = default_value
        self._description = description or "no description given"
        self._choices = tuple(choices or ())

    def execute(self, context: LaunchContext) -> None:
        """Take the given value, else the default. Raises Refused for no value and for none of the choices."""
        context._plan.declared.add(self._name)
        if self._name not in context.launch_configurations:
            if self._default is None:
                raise Refused(f"Launch argument {self._name} has no default: give {self._name}:=VALUE.")
            context.launch_configurations[self._name] = context._text(self._default)
        self._check(context)

    def _check(self, context: LaunchContext) -> None:
        value = context.launch_configurations.get(self._name)
        if self._choices and value is not None and value not in self._choices:
            raise Refused(f"Launch argument {self._name}: wanted one of {one_of(self._choices)}; got {value!r}.")

    def declare(self, context: LaunchContext, found: list[Argument], conditional: bool) -> None:
        """Add this argument."""
        default = None
        if self._default is not None:
            try:
                default = context._text(self._default)
                context.launch_configurations.setdefault(self._name, default)
            except Refused:
                default = "follows from other arguments"
        self._check(context)
        found.append(Argument(self._name, self._description, self._choices, default, conditional))


class SetLaunchConfiguration(Entity):
    """Set a launch configuration from here on, in this scope."""

    def __init__(self, name: SomeText, value: SomeText, *, condition: Any = None) -> None:
        super().__init__(condition)
        self._name, self._value = name, value

    def execute(self, context: LaunchContext) -> None:
        """Set it."""
        context.launch_configurations[context._text(self._name)] = context._text(self._value)


class SetEnvironmentVariable(Entity):
    """Set an environment variable for the processes that follow in this scope."""

    def __init__(self, name: SomeText, value: SomeText, *, condition: Any = None) -> None:
        super().__init__(condition)
        self._name, self._value = name, value

    def execute(self, context: LaunchContext) -> None:
        """Set it."""
        context.environment[context._text(self._name)] = context._text(self._value)


class LogInfo(Entity):
    """Say something on the screen."""

    def __init__(self, *, msg: SomeText, condition: Any = None) -> None:
        super().__init__(condition)
        self._message = msg

    def execute(self, context: LaunchContext) -> None:
        """Say it."""
        context._plan.log("INFO", context._text(self._message))


class GroupAction(Entity):
    """Actions that belong together; what they set stays inside unless scoped is False."""

    def __init__(
        self,
        actions: Iterable[Entity],
        *,
        scoped: bool = True,
        launch_configurations: Mapping[str, SomeText] | None = None,
        condition: Any = None,
    ) -> None:
        super().__init__(condition)
        settings = [SetLaunchConfiguration(name, value) for name, value in (launch_configurations or {}).items()]
        self._actions = [*settings, *actions]
        self._scoped = scoped

    def execute(self, context: LaunchContext) -> None:
        """Visit each, in a scope of their own."""
        if not self._scoped:
            for action in self._actions:
                action.visit(context)
            return
        with context._scope():
            for action in self._actions:
                action.visit(context)

    def declare(self, context: LaunchContext, found: list[Argument], conditional: bool) -> None:
        """Add the arguments of each."""
        for action in self._actions:
            action.declare(context, found, conditional or action._condition is not None)


class IncludeLaunchDescription(Entity):
    """Another launch file, with these arguments; as in the genuine launch, what it sets stays set after it."""

    def __init__(
        self,
        launch_description_source: PythonLaunchDescriptionSource | SomeText,
        *,
        launch_arguments: Iterable[tuple[SomeText, SomeText]] = (),
        condition: Any = None,
    ) -> None:
        super().__init__(condition)
        if not isinstance(launch_description_source, PythonLaunchDescriptionSource):
            launch_description_source = PythonLaunchDescriptionSource(launch_description_source)
        self._source = launch_description_source
        self._arguments = list(launch_arguments)

    def _set(self, context: LaunchContext) -> Path:
        for name, value in self._arguments:
            context.launch_configurations[context._text(name)] = context._text(value)
        return self._source._path(context)

    def execute(self, context: LaunchContext) -> None:
        """Read the file and visit what it describes."""
        path = self._set(context)
        with context._inside(path):
            launch_file.load(path).visit(context)

    def declare(self, context: LaunchContext, found: list[Argument], conditional: bool) -> None:
        """Add the arguments of the included file, if its place is known without the arguments that are not given."""
        try:
            path = self._set(context)
        except Refused:
            return
        with context._inside(path):
            launch_file.load(path).declare(context, found, conditional)


class ExecuteProcess(Entity):
    """A process: any command, with a label, a folder and more environment."""

    def __init__(
        self,
        *,
        cmd: Iterable[SomeText],
        name: SomeText | None = None,
        cwd: SomeText | None = None,
        additional_env: Mapping[str, SomeText] | None = None,
        output: str = "log",
        respawn: bool = False,
        respawn_delay: float | None = None,
        on_exit: Any = None,
        condition: Any = None,
    ) -> None:
        super().__init__(condition)
        if output not in ("screen", "both", "log"):
            raise refuse(f"output={output!r}", ["screen", "both", "log"])
        if not isinstance(respawn, bool):
            raise refuse(f"respawn={respawn!r}", ["True", "False"])
        self._command = list(cmd)
        self._name = name
        self._cwd = cwd
        self._environment = dict(additional_env or {})
        self._respawn = respawn
        self._respawn_delay = respawn_delay or 0.0
        self._on_exit = on_exit
        self._label = ""
        self._planned = False

    def execute(self, context: LaunchContext) -> None:
        """Plan it: processes start when the whole description has been visited without a refusal."""
        self._plan(context, [context._text(part) for part in self._command])

    def _plan(self, context: LaunchContext, command: list[str]) -> None:
        if self._planned:
            raise Refused(f"{self._label} is in the launch description more than once.")
        self._planned = True
        extra = {name: context._text(value) for name, value in self._environment.items()}
        context._plan.processes.append(
            Process(
                label=self._take_label(context, command[0]),
                command=tuple(command),
                environment={**context.environment, **extra},
                cwd=None if self._cwd is None else context._text(self._cwd),
                respawn=self._respawn,
                respawn_delay=self._respawn_delay,
                on_exit=None if self._on_exit is None else handler(self._on_exit),
            )
        )

    def _take_label(self, context: LaunchContext, program: str) -> str:
        if not self._label:
            self._label = context._label(Path(program).name if self._name is None else context._text(self._name))
        return self._label


class RegisterEventHandler(Entity):
    """From here on, this handler listens."""

    def __init__(self, event_handler: OnProcessExit, *, condition: Any = None) -> None:
        super().__init__(condition)
        if not isinstance(event_handler, OnProcessExit):
            raise refuse(f"RegisterEventHandler({type(event_handler).__name__})", ["OnProcessExit"])
        self._handler = event_handler

    def execute(self, context: LaunchContext) -> None:
        """Register it."""
        self._handler._register(context)


class Shutdown(Entity):
    """Bring the whole launch down."""

    def __init__(self, *, reason: str = "reason not given", condition: Any = None) -> None:
        super().__init__(condition)
        self._reason = reason

    def execute(self, context: LaunchContext) -> None:
        """Ask for it; the first reason stays."""
        context._plan.shutdown_reason = context._plan.shutdown_reason or self._reason


__getattr__ = module_getattr(globals())
