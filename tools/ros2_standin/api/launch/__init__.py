"""The stand-in's `launch`: the part of the public API of ROS 2 Jazzy that this repository's launch files use."""

from __future__ import annotations

from collections.abc import Iterable

from ros2_standin.context import Argument, Entity, LaunchContext
from ros2_standin.refusal import Refused, module_getattr

from . import actions, conditions, event_handlers, launch_description_sources, substitutions

__all__ = [
    "LaunchContext",
    "LaunchDescription",
    "actions",
    "conditions",
    "event_handlers",
    "launch_description_sources",
    "substitutions",
]


class LaunchDescription(Entity):
    """Entities that are visited in order."""

    def __init__(self, initial_entities: Iterable[Entity] | None = None) -> None:
        super().__init__()
        self._entities: list[Entity] = []
        for entity in initial_entities or []:
            self.add_action(entity)

    def add_action(self, action: Entity) -> None:
        """Append an entity. Raises Refused for anything else."""
        if not isinstance(action, Entity):
            raise Refused(f"LaunchDescription: wanted actions, got {action!r}.")
        self._entities.append(action)

    def execute(self, context: LaunchContext) -> None:
        """Visit every entity in order."""
        for entity in self._entities:
            entity.visit(context)

    def declare(self, context: LaunchContext, found: list[Argument], conditional: bool) -> None:
        """Add the arguments of every entity."""
        for entity in self._entities:
            entity.declare(context, found, conditional or entity._condition is not None)


__getattr__ = module_getattr(globals())
