"""Refusing by name: whatever the stand-in does not know ends in one sentence, never in a silently different launch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

HERE = "this repository's small `ros2`"
INSTALL = "https://docs.ros.org/en/jazzy/Installation.html"


class Refused(Exception):
    """What the user or a launch file asks for cannot be had; the message is the one sentence that says so."""


def listed(names: Iterable[str]) -> str:
    """Names -> "a, b, c", or "none"."""
    return ", ".join(sorted(names)) or "none"


def choices(texts: Sequence[str]) -> str:
    """Choices -> "a, b, 0-101": runs of numbers are shortened."""
    shown: list[list[str]] = []
    for text in texts:
        if shown and text.isdigit() and shown[-1][-1].isdigit() and int(text) == int(shown[-1][-1]) + 1:
            shown[-1] = [shown[-1][0], text]
        else:
            shown.append([text])
    return ", ".join("-".join(run) for run in shown)


def refuse(what: str, known: Iterable[str] = ()) -> Refused:
    """-> the refusal of something that the genuine launch may well have and the stand-in has not."""
    there = f" has only: {listed(known)}." if known else " has not."
    return Refused(f"{what}: {HERE}{there} Install ROS 2 for the rest ({INSTALL}).")


def module_getattr(namespace: dict[str, Any]) -> Callable[[str], Any]:
    """-> the `__getattr__` of an API module: it refuses every name that the module does not define."""

    def __getattr__(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise refuse(f"{namespace['__name__']}.{name}", namespace["__all__"])

    return __getattr__


class _Strict(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        known = [name for name in signature.parameters if name != "self"]
        for name in kwargs:
            if name not in known:
                raise refuse(f"{cls.__name__}({name}=...)", known)
        try:
            signature.bind(None, *args, **kwargs)
        except TypeError as error:
            raise Refused(f"{cls.__name__}(...): {error}.") from None
        return super().__call__(*args, **kwargs)


class Strict(metaclass=_Strict):
    """What a launch file gets into its hands: unknown keyword arguments and attributes are refused by name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise refuse(f"{type(self).__name__}.{name}", [known for known in dir(self) if not known.startswith("_")])
