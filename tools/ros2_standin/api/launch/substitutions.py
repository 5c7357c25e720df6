"""launch.substitutions: texts that are known when the description is visited."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ros2_standin.context import LaunchContext, SomeText, Substitution, Text
from ros2_standin.refusal import Refused, listed, module_getattr

__all__ = [
    "EnvironmentVariable",
    "EqualsSubstitution",
    "LaunchConfiguration",
    "NotEqualsSubstitution",
    "PathJoinSubstitution",
    "TextSubstitution",
    "ThisLaunchFileDir",
]


class TextSubstitution(Substitution):
    """A text as it is."""

    def __init__(self, *, text: str) -> None:
        self._value = text

    def perform(self, context: LaunchContext) -> str:
        """-> the text."""
        return self._value


class LaunchConfiguration(Substitution):
    """The value of a launch argument or configuration."""

    def __init__(self, variable_name: SomeText, *, default: SomeText | None = None) -> None:
        self._name = variable_name
        self._default = default

    def perform(self, context: LaunchContext) -> str:
        """-> its value, else the default. Raises Refused when there is neither."""
        name = context._text(self._name)
        if name in context.launch_configurations:
            return context.launch_configurations[name]
        if self._default is None:
            raise Refused(f"Launch configuration {name!r} is not set; set: {listed(context.launch_configurations)}.")
        return context._text(self._default)


class EnvironmentVariable(Substitution):
    """A variable of the launch's environment."""

    def __init__(self, name: SomeText, *, default_value: SomeText | None = None) -> None:
        self._name = name
        self._default = default_value

    def perform(self, context: LaunchContext) -> str:
        """-> its value, else the default. Raises Refused when there is neither."""
        name = context._text(self._name)
        if name in context.environment:
            return context.environment[name]
        if self._default is None:
            raise Refused(f"Environment variable {name} is not set.")
        return context._text(self._default)


class PathJoinSubstitution(Substitution):
    """Parts of a path, joined."""

    def __init__(self, substitutions: Iterable[Text]) -> None:
        self._parts = list(substitutions)

    def perform(self, context: LaunchContext) -> str:
        """-> the path. Raises Refused for a list among the parts, which Jazzy's launch does not take either."""
        for part in self._parts:
            if isinstance(part, (list, tuple)):
                raise Refused(f"PathJoinSubstitution: wanted texts and substitutions, got the list {part!r}.")
        return os.path.join(*(context._text(part) for part in self._parts))


class ThisLaunchFileDir(Substitution):
    """The folder of the launch file that is being visited."""

    def perform(self, context: LaunchContext) -> str:
        """-> the folder."""
        return str(context._files[-1].parent)


class EqualsSubstitution(Substitution):
    """ "true" when both texts are the same, else "false"."""

    def __init__(self, left: SomeText, right: SomeText) -> None:
        self._left, self._right = left, right

    def perform(self, context: LaunchContext) -> str:
        """-> "true" or "false"."""
        return str(context._text(self._left) == context._text(self._right)).lower()


class NotEqualsSubstitution(EqualsSubstitution):
    """ "false" when both texts are the same, else "true"."""

    def perform(self, context: LaunchContext) -> str:
        """-> "true" or "false"."""
        return str(context._text(self._left) != context._text(self._right)).lower()


__getattr__ = module_getattr(globals())
