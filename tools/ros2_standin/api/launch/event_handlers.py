"""launch.event_handlers: what is done when something happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ros2_standin.context import Entity, LaunchContext, ProcessExited
from ros2_standin.refusal import Refused, Strict, module_getattr

__all__ = ["OnProcessExit"]

Handler = Callable[[ProcessExited, LaunchContext], None]


def handler(on_exit: Any) -> Handler:
    """An action, a list of them, or a function (event, context) that gives one of these or None -> what to call."""

    def handle(event: ProcessExited, context: LaunchContext) -> None:
        answer = on_exit(event, context) if callable(on_exit) and not isinstance(on_exit, Entity) else on_exit
        if answer is None:
            return
        for entity in answer if isinstance(answer, (list, tuple)) else [answer]:
            if not isinstance(entity, Entity):
                raise Refused(f"on_exit of {event.process_name}: wanted actions or None, got {entity!r}.")
            entity.visit(context)

    return handle


class OnProcessExit(Strict):
    """At each end of a process: of the given one, or of any."""

    def __init__(self, *, target_action: Any = None, on_exit: Any) -> None:
        self._target = target_action
        self._handle = handler(on_exit)

    def _register(self, context: LaunchContext) -> None:
        def handle(event: ProcessExited, context: LaunchContext) -> None:
            if self._target is None or event.process_name == self._target._label:
                self._handle(event, context)

        context._plan.on_any_exit.append(handle)


__getattr__ = module_getattr(globals())
