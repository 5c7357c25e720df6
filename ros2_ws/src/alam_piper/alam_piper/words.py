"""What an arm answers to a person, and how it says how it is: the same whoever serves the robot interface. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alam_common.convert import fill_stamp
from alam_control.arm_gate import MOVING
from alam_piper import arm
from alam_piper.driver import DOWN
from alam_piper.snapshot import Snapshot

OPERATOR_STOP = "the operator's stop; call /robot/reset to go on"
SERVICE_STOP = "/robot/stop was called; call /robot/reset to go on"
STOPPING = "stopping; the arm keeps its power and its place"
DISABLED = "disabled: call /robot/enable"
ENABLED, AT_REST = "enabled", "at rest, without power"
WAS_RESET = "call /robot/enable to go on"
TASK_RUNS = "wanted no task to run, got one; cancel it first, or call /robot/stop"
NEAR_RAD = 1e-3  # of a position that the arm was sent to: it is there


def is_at(commanded: np.ndarray, position: np.ndarray) -> bool:
    """Each (7,) [rad], [m] -> whether the joints (never mind the gripper) were sent there."""
    return float(np.abs(commanded - position)[:6].max()) < NEAR_RAD


def home_answer(commanded: np.ndarray, reason: str) -> tuple[bool, str]:
    """commanded (7,): where /robot/home has ended; reason: why it does not move now -> success and its sentence."""
    return (True, "home") if is_at(commanded, arm.HOME) else (False, f"not home: {reason}")


def park_answer(commanded: np.ndarray, reason: str) -> tuple[bool, str]:
    """The same of /robot/enable with false, which moves the arm to rest."""
    if is_at(commanded, arm.REST):
        return True, AT_REST
    return False, f"could not move to rest: {reason}; the arm keeps its power"


def fill_arm_status(message: Any, said: Snapshot, now: float, time_ns: int) -> None:
    """What an arm says at `now` (of the clock of its stamps [s]), host time [ns] -> every field of an
    alam_msgs/ArmStatus. What is not known: ages infinite, lists empty."""
    heard = not math.isnan(said.feedback_stamp)
    follows = said.mode == MOVING and not math.isnan(said.observation_time)
    fill_stamp(message.header.stamp, time_ns)
    message.mode, message.reason, message.firmware = said.mode, said.reason, said.firmware
    message.connected = said.phase != DOWN
    message.enabled = bool(heard and said.powered)
    message.leader_mode, message.reset_sags = said.leader, said.reset_sags
    message.faults = list(said.faults)
    message.motor_temperature = list(said.motor_temperature) if heard else []
    message.driver_temperature = list(said.driver_temperature) if heard else []
    message.motor_voltage = list(said.voltage) if heard else []
    message.feedback_age = now - said.feedback_stamp if heard else math.inf
    message.chunk_age = now - said.observation_time if follows else math.inf
    message.following_error = said.following_error
