"""What a launch description does when it is visited: it changes this context and adds processes to it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ros2_standin.refusal import Refused, Strict


class Substitution(Strict):
    """A text that is known only when the launch description is visited."""

    def perform(self, context: LaunchContext) -> str:
        """-> the text. Raises Refused when it cannot be had."""
        raise NotImplementedError


Text = str | Path | Substitution
SomeText = Text | Iterable[Text]


class Entity(Strict):
    """Anything that a launch description holds; with a condition that does not hold it does nothing."""

    def __init__(self, condition: Any = None) -> None:
        self._condition = condition

    def visit(self, context: LaunchContext) -> None:
        """Do it now, unless the condition says no."""
        if self._condition is None or self._condition.evaluate(context):
            self.execute(context)

    def execute(self, context: LaunchContext) -> None:
        """Do it now."""
        raise NotImplementedError

    def declare(self, context: LaunchContext, found: list[Argument], conditional: bool) -> None:
        """Add the arguments in here to `found` (for --show-args) without doing anything."""


@dataclass(frozen=True)
class Argument:
    """One launch argument, as --show-args tells it."""

    name: str
    description: str
    choices: tuple[str, ...]
    default: str | None
    conditional: bool


@dataclass(frozen=True)
class Process:
    """What to run: everything is text already. on_exit: (event, context) -> None, called at each end of it."""

    label: str  # the prefix of its output, unique in this launch
    command: tuple[str, ...]
    environment: dict[str, str]
    cwd: str | None = None
    respawn: bool = False
    respawn_delay: float = 0.0  # [s]
    on_exit: Callable[[ProcessExited, LaunchContext], None] | None = None


class ProcessExited(Strict):
    """The event that exit handlers get: who ended, and how (negative: by that signal)."""

    def __init__(self, process_name: str, pid: int, returncode: int) -> None:
        self.process_name = process_name
        self.pid = pid
        self.returncode = returncode


@dataclass
class Plan:
    """What the visited description wants: processes to start, handlers for their ends, and whether to stop."""

    processes: list[Process] = field(default_factory=list)
    on_any_exit: list[Callable[[ProcessExited, LaunchContext], None]] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)
    log: Callable[[str, str], None] = print
    shutdown_reason: str = ""


class LaunchContext(Strict):
    """Launch configurations, environment and place in the files while a description is visited."""

    def __init__(self, plan: Plan) -> None:
        self.launch_configurations: dict[str, str] = {}
        self.environment: dict[str, str] = dict(os.environ)
        self._plan = plan
        self._files: list[Path] = []
        self._count = 0
        self._temporary: Path | None = None

    @property
    def is_shutdown(self) -> bool:
        """True once the launch is on its way down."""
        return bool(self._plan.shutdown_reason)

    def perform_substitution(self, substitution: Substitution) -> str:
        """-> the text of one substitution."""
        return substitution.perform(self)

    def _text(self, value: SomeText) -> str:
        """A text, a substitution or a list of them -> one text. Raises Refused for anything else."""
        if isinstance(value, (str, Path)):
            return str(value)
        if isinstance(value, Substitution):
            return value.perform(self)
        if isinstance(value, (list, tuple)) and all(isinstance(part, (str, Path, Substitution)) for part in value):
            return "".join(self._text(part) for part in value)
        raise Refused(f"Wanted a text, a substitution or a flat list of them, got {value!r}.")

    def _label(self, name: str) -> str:
        self._count += 1
        return f"{name}-{self._count}"

    def _folder(self) -> Path:
        """-> a folder for parameter files, made when first asked for, gone after `_clean`."""
        self._temporary = self._temporary or Path(tempfile.mkdtemp(prefix="launch_params_"))
        return self._temporary

    def _clean(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        """Inside, configurations and environment change as they like; outside nothing has changed."""
        saved = dict(self.launch_configurations), dict(self.environment)
        yield
        self.launch_configurations, self.environment = saved

    @contextmanager
    def _inside(self, file: Path) -> Iterator[None]:
        """Inside, `file` is the current launch file. Raises Refused when a file includes itself."""
        if file in self._files:
            raise Refused(f"Launch file {file} includes itself.")
        self._files.append(file)
        yield
        self._files.pop()
