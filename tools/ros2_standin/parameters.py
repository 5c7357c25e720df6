"""ROS parameters of a node -> `--params-file` arguments, with the YAML rules of the genuine launch_ros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ros2_standin.context import LaunchContext, Substitution
from ros2_standin.refusal import Refused, Strict

SCALARS = (bool, int, float, str)


class ParameterValue(Strict):
    """A parameter whose type is said, so that the text of a substitution is not read by YAML rules."""

    def __init__(self, value: Any, *, value_type: type | None = None) -> None:
        self._value = value
        self._type = value_type

    def _evaluate(self, context: LaunchContext) -> Any:
        if not _is_text(self._value) or self._type is None:
            return evaluate(context, self._value)
        text = context._text(self._value)
        if self._type is str:
            return text
        value = yaml.safe_load(text)
        if self._type is float and type(value) is int:
            return float(value)
        if self._type not in SCALARS or type(value) is not self._type:
            raise Refused(f"wanted {getattr(self._type, '__name__', self._type)}, got {text!r}")
        return value


def _is_text(value: Any) -> bool:
    """Is it a substitution, or a list with one in it: something whose text comes later?"""
    parts = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(part, Substitution) for part in parts)


def evaluate(context: LaunchContext, value: Any) -> Any:
    """A value of a parameter dictionary -> bool, int, float, str or a list of one of them. Raises Refused otherwise."""
    if isinstance(value, ParameterValue):
        return value._evaluate(context)
    if _is_text(value):
        text = context._text(value)
        read = yaml.safe_load(text)
        value = read if isinstance(read, (*SCALARS, list)) else text
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, (list, tuple)) and any({type(item) for item in value} == {scalar} for scalar in SCALARS):
        return list(value)
    raise Refused(f"wanted bool, int, float, text or a list of one of these, got {value!r}")


def _flat(context: LaunchContext, values: Mapping[Any, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = above + context._text(key)
        if isinstance(value, Mapping):
            flat.update(_flat(context, value, f"{name}."))
            continue
        try:
            flat[name] = evaluate(context, value)
        except Refused as refusal:
            raise Refused(f"Parameter {name}: {refusal}") from None
    return flat


def to_files(context: LaunchContext, parameters: Sequence[Any], node: str, label: str) -> list[Path]:
    """Dictionaries and YAML files, in order -> files for `--params-file`.

    node: the full name ("/ns/name") that the values of a dictionary are for, or "/**". Raises Refused for a file that
    is not there and for a value that no ROS parameter can have.
    """
    if not isinstance(parameters, (list, tuple)):
        raise Refused(f"Node(parameters=...): wanted a list of dictionaries and files, got {parameters!r}.")
    files = []
    for index, item in enumerate(parameters):
        if isinstance(item, Mapping):
            path = context._folder() / f"{label}-{index}.yaml"
            path.write_text(yaml.safe_dump({node: {"ros__parameters": _flat(context, item)}}), encoding="utf-8")
        else:
            path = Path(context._text(item))
            if not path.is_file():
                raise Refused(f"Parameter file {path} (of {label}) does not exist.")
        files.append(path)
    return files
