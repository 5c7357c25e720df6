"""launch.conditions: when an action is done at all."""

from __future__ import annotations

from ros2_standin.context import LaunchContext, SomeText
from ros2_standin.refusal import Refused, Strict, module_getattr

__all__ = ["IfCondition", "UnlessCondition"]


class IfCondition(Strict):
    """Holds when the text is true or 1."""

    def __init__(self, predicate_expression: SomeText) -> None:
        self._expression = predicate_expression

    def evaluate(self, context: LaunchContext) -> bool:
        """-> does it hold. Raises Refused for a text that is neither true, 1, false nor 0 (in any case)."""
        text = context._text(self._expression).strip().lower()
        if text not in ("true", "1", "false", "0"):
            raise Refused(f"Condition: wanted true, 1, false or 0, got {text!r}.")
        return text in ("true", "1")


class UnlessCondition(IfCondition):
    """Holds when the text is false or 0."""

    def evaluate(self, context: LaunchContext) -> bool:
        """-> does it hold. Raises Refused as IfCondition does."""
        return not super().evaluate(context)


__getattr__ = module_getattr(globals())
