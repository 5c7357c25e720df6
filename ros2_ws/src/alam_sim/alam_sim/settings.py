"""Parameters and topics of the nodes, and what they read beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alam_common.parameters import Parameter
from alam_common.topics import (
    ARM_STATUS,
    CAMERA_INFOS,
    CHUNK,
    CLOCK,
    COMMAND,
    CONTRACT,
    DIAGNOSTICS,
    IMAGES,
    JOINT_STATES,
    OPERATOR_STOP,
    STATE,
)
from alam_models.runtime.bundle import read_card

PARAMETERS = (
    Parameter(
        "mode",
        "lockstep",
        "does the world wait for the policy (deterministic) or run against the wall clock",
        choices=("lockstep", "realtime"),
    ),
    Parameter("task", "reach-v3", "task of a goal that names none", form="name of a MetaWorld task"),
    Parameter(
        "replan",
        0,
        "actions executed of each chunk in lockstep; 0: as card.yaml beside `contract` says",
        unit="1",
        low=0,
        high=1000,
    ),
    Parameter(
        "contract",
        "",
        "contract.yaml of the bundle that will drive; must agree with this robot",
        form="path, empty: any",
    ),
    Parameter(
        "video_dir",
        "",
        "where to write one mp4 an episode, 20 frames a second: every step in lockstep, life speed in realtime",
        form="path, empty: none",
    ),
    Parameter(
        "hold_after", 1.0, "wall time without a chunk after which lockstep reports a hold", unit="s", low=0.1, high=60.0
    ),
    Parameter(
        "policy_timeout",
        60.0,
        "wall time without a usable chunk after which an episode is given up",
        unit="s",
        low=1.0,
        high=3600.0,
    ),
)
PIPER_PARAMETERS = tuple(
    replace(parameter, default="insert-cylinder", form="name of a task of piper_tasks.py")
    if parameter.name == "task"
    else parameter
    for parameter in PARAMETERS
)
_OF_ARMS = (JOINT_STATES, COMMAND, ARM_STATUS)
PUBLISHED = (*IMAGES.values(), *CAMERA_INFOS.values(), STATE, CONTRACT, *_OF_ARMS, CLOCK, DIAGNOSTICS)
SUBSCRIBED = (CHUNK, OPERATOR_STOP)


def bundle_replan(contract: str) -> int:
    """Path of a bundle's contract.yaml ("": none) -> `replan` of the card beside it; 0 when there is no card.

    Raises ValueError for a card that is not a bundle's."""
    bundle = Path(contract).parent
    return int(read_card(bundle)["replan"]) if contract and (bundle / "card.yaml").is_file() else 0
