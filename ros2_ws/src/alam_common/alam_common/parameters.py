"""ROS parameters as data: each has a type, a unit, a bound and a description, and its row in the package README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """One ROS parameter. Numbers have `low`, `high` and a `unit` ("1": a count or a ratio); text has `choices` or
    `form` (what it must look like)."""

    name: str
    default: bool | int | float | str
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    form: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.description:
            raise ValueError(f"parameter {self.name}: wanted a description")
        if isinstance(self.default, str):
            if not (self.choices or self.form):
                raise ValueError(f"parameter {self.name}: wanted choices or a form")
        elif not isinstance(self.default, bool) and (self.low is None or self.high is None or not self.unit):
            raise ValueError(f"parameter {self.name}: wanted a low and a high bound and a unit")
        self.check(self.default)

    @property
    def type(self) -> str:
        return type(self.default).__name__

    @property
    def bound(self) -> str:
        """-> what values are allowed, in words."""
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            return ", ".join(f"`{choice}`" for choice in self.choices) or self.form
        return f"{self.low:.10g} to {self.high:.10g}"

    def check(self, value: object) -> None:
        """Raises ValueError, naming what was wanted and what was got, when the value does not fit."""
        fits = type(value) is type(self.default) or (isinstance(self.default, float) and type(value) is int)
        if fits and self.low is not None and self.high is not None and isinstance(value, (int, float)):
            fits = self.low <= value <= self.high  # false for NaN too
        if fits and self.choices:
            fits = value in self.choices
        if not fits:
            raise ValueError(f"parameter {self.name}: wanted {self.type}, {self.bound}; got {value!r}")

    def row(self) -> str:
        """-> the Markdown row of this parameter, below HEADER."""
        default = f"`{str(self.default).lower() if isinstance(self.default, bool) else self.default}`"
        default = default if self.default != "" else "empty"
        return f"| `{self.name}` | {self.type} | {default} | {self.unit or '-'} | {self.bound} | {self.description} |"


HEADER = "| parameter | type | default | unit | bound | what |\n|---|---|---|---|---|---|"


def parameter_table(parameters: Sequence[Parameter]) -> str:
    """-> a Markdown table, one row a parameter."""
    return "\n".join([HEADER, *(parameter.row() for parameter in parameters)])
