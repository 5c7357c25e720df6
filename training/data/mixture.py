"""Which video a pretraining learns from: named sources with weights and strides, and the paper's own (Table 7).

A mixture is a YAML file, one source a line; a name of Table 7 brings its weight and stride along:

    BridgeData-V2: {path: /data/oxe/bridge}
    CALVIN: {path: /data/calvin/task_ABC_D}
    kitchen: {path: /data/kitchen-videos, weight: 20, stride: 2, views: [top, wrist]}

A single folder of data is a mixture of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from training.data.calvin import IDS, Calvin
from training.data.clips import Source
from training.data.lerobot_clips import LeRobotClips
from training.data.rlds import Rlds
from training.data.video_folder import VideoFolder, video_files

KINDS: dict[str, Callable[..., Source]] = {
    "video": VideoFolder,
    "lerobot": LeRobotClips,
    "calvin": Calvin,
    "rlds": Rlds,
}

# Paper, Table 7: (weight, stride). All but CALVIN are RLDS datasets of Open X-Embodiment.
TABLE_7 = {
    "fractal20220817": (150.0, 5),  # RT-1
    "BridgeData-V2": (50.0, 5),
    "TACO-Play": (5.0, 5),
    "JaCo-Play": (20.0, 5),
    "Berkeley Cable Routing": (20.0, 5),
    "RoboTurk": (10.0, 5),
    "NYU Door-Opening": (5.0, 5),
    "VIOLA": (3.0, 5),
    "Berkeley AutoLab UR5": (5.0, 5),
    "TOTO": (5.0, 5),
    "CALVIN": (200.0, 10),  # task_ABC_D
}


@dataclass(frozen=True)
class SourceConfig:
    """One source of a mixture."""

    name: str
    path: Path
    weight: float = 1.0
    """Share of clip visits, relative to the other sources' weights; 0 leaves the source out."""
    stride: int = 5
    """Frame-skip: frames between two neighbours of the effective rate."""
    kind: str = ""
    """video, lerobot, calvin or rlds; recognised from the folder when empty."""
    views: tuple[str, ...] = ()
    """Cameras by name: features (rlds, lerobot, calvin) or endings of file names (video). All when empty."""


def load_mixture(path: Path, stride: int = 5) -> tuple[SourceConfig, ...]:
    """A YAML file of sources, or one folder of data, which then has `stride`.

    Raises ValueError naming what is wrong, where and what would be right."""
    if path.is_dir():
        return validate((SourceConfig(path.resolve().name, path, stride=stride),))
    if not path.is_file():
        raise ValueError(f"mixture: wanted a YAML file of sources or a folder of data, got no such path: {path}")
    try:
        listed = yaml.load(path.read_text(), _UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{path}: wanted a YAML file of sources, got {line}{error.problem}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: wanted a YAML file of sources, got {' '.join(str(error).split())}") from None
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{path}: wanted at least one source, `NAME: {{path: FOLDER, weight: 1}}`, got {listed!r}")
    return validate(tuple(_source(path, str(name), entry, stride) for name, entry in listed.items()))


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that a mapping has twice: PyYAML would keep the last, and a source would vanish unsaid."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if (found := (key.tag, str(key.value))) in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} twice", problem_mark=key.start_mark)
            seen.add(found)
        return node


def _source(path: Path, name: str, entry: Any, stride: int) -> SourceConfig:
    known = {field.name for field in fields(SourceConfig)} - {"name"}
    if not isinstance(entry, dict) or not entry.get("path") or not entry.keys() <= known:
        raise ValueError(f"{path}: {name}: wanted a path and some of {sorted(known)}, got {entry!r}")
    if name not in TABLE_7 and "weight" not in entry:
        choices = ", ".join(TABLE_7)
        raise ValueError(f"{path}: {name}: wanted a weight, or a name of Table 7 ({choices}), got neither")
    weight, table_stride = TABLE_7.get(name, (1.0, stride))
    values = {"weight": weight, "stride": table_stride, **entry}
    views = values.get("views") or []
    if not isinstance(views, list) or not all(isinstance(view, str) for view in views):
        raise ValueError(f"{path}: {name}: views: wanted a list of names, got {views!r}")
    if not isinstance(values["path"], str):
        raise ValueError(f"{path}: {name}: path: wanted a folder of data, got {values['path']!r}")
    try:
        folder = Path(values["path"]).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {name}: path: wanted a folder of data, got {values['path']!r}: {error}") from None
    values |= {"path": folder if folder.is_absolute() else path.parent / folder, "views": tuple(views)}
    return SourceConfig(name, **values)


def validate(sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
    """-> sources that have a weight, each with its kind. Raises ValueError naming the first thing that is wrong."""
    if not sources:
        raise ValueError("mixture: wanted at least one source, got none; name a folder of data or list sources in YAML")
    for source in sources:
        number = isinstance(source.weight, (int, float)) and not isinstance(source.weight, bool)
        if not number or not math.isfinite(source.weight) or source.weight < 0:
            raise ValueError(f"{source.name}: weight: wanted 0 or more, got {source.weight!r}")
        if not isinstance(source.stride, int) or isinstance(source.stride, bool) or source.stride < 1:
            raise ValueError(f"{source.name}: stride: wanted a whole number from 1 on, got {source.stride!r}")
        if source.kind not in ("", *KINDS):
            raise ValueError(f"{source.name}: kind: wanted one of {', '.join(KINDS)}, got {source.kind!r}")
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"mixture: wanted names that differ, got {names}")
    used = tuple(source for source in sources if source.weight > 0)
    if not used:
        raise ValueError(f"mixture: wanted weights whose sum is above 0, got only zeros for {', '.join(names)}")
    for source in used:
        if not source.path.is_dir():
            raise ValueError(f"{source.name}: wanted a folder of data at {source.path}, got no such folder")
    return tuple(_with_kind(source) for source in used)


def _with_kind(source: SourceConfig) -> SourceConfig:
    return SourceConfig(**{**vars(source), "kind": source.kind or kind_of(source.path, source.name)})


def kind_of(path: Path, name: str) -> str:
    """-> the kind of data in a folder. Raises ValueError when there is none of any kind."""
    if (path / "meta" / "info.json").is_file():
        return "lerobot"
    if (path / IDS).is_file() or (path / "training" / IDS).is_file():
        return "calvin"
    if next(path.rglob("*.tfrecord*"), None):
        return "rlds"
    if next(video_files(path), None):
        return "video"
    raise ValueError(
        f"{name}: wanted data below {path}, got none that is known: video files, a LeRobot dataset (meta/info.json), "
        f"CALVIN ({IDS}) or RLDS (*.tfrecord*)"
    )


def open_source(config: SourceConfig, keep_open: int = 8) -> Source:
    """-> its reader, with at most `keep_open` files or episodes open. Raises ValueError when it has no such data."""
    return KINDS[config.kind](config.name, config.path, config.views, keep_open)
