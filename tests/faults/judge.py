"""Judges what the arm was sent: limits of position, velocity, acceleration and jerk of all seven channels, clearance,
where motion begins, and how soon it comes to rest. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bus_watch import Frame

from alam_control.joint_limits import JointLimits
from alam_control.kinematics import ArmGeometry, clearance
from alam_piper import can_frames as wire

PERIOD_S = 0.005
PAUSE_S = 0.1  # without commands: what comes after it is a new beginning
AT_RAD, AT_M = 0.05, 0.005  # of a joint and the gripper: this near to the measured ones a motion may begin
FRESH_S = 0.05  # feedback that the gate takes a beginning from is no older
REST_S = 0.2  # without a command that moves: the arm holds
MOVES_RAD = np.radians(0.0015)  # more than the bus' rounding
ROUNDING, GRAIN = 1e-5, 1e-11  # relative, and of a position: sums and differences of float64
CLOSER_M = 2e-4  # by which a stop may end closer to the table or to itself than it began
SLACK = 2e-5  # [rad], [m] beyond a position limit: rounding
Past = tuple[np.ndarray | None, np.ndarray | None]  # last step (7,) and last change of it; None: not known


def triplets(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray]:
    """-> times [s] (N,) and positions (N, 6) [rad] of the whole joint commands of position mode on the bus."""
    times, positions, row = [], [], np.full(6, np.nan)
    for frame in frames:
        if frame.number not in wire.JOINTS:
            continue
        first = 2 * wire.JOINTS.index(frame.number)
        if first == 0:
            row = np.full(6, np.nan)
        row[first : first + 2] = np.radians(np.array(wire.read_pair(frame.data)) / 1000.0)
        if first == 4 and np.isfinite(row).all():
            times.append(frame.at_s)
            positions.append(row.copy())
    return np.array(times), np.array(positions).reshape(-1, 6)


def powering(enables: Sequence[float]) -> list[tuple[float, float]]:
    """Times [s] of the frames that ask for power -> the spans [s] in which the arm was getting it."""
    spans: list[tuple[float, float]] = []
    for at in enables:
        if spans and at - PAUSE_S <= spans[-1][1]:
            spans[-1] = spans[-1][0], at + PAUSE_S
        else:
            spans.append((at - PAUSE_S, at + PAUSE_S))
    return spans


def apart(position: np.ndarray, measured: np.ndarray, at_s: float) -> np.ndarray | None:
    """position (7,) or (6,), measured (M, 1 + 7...) -> how far it is from the feedback of about that time; None when
    there is none. About: an arm that falls is elsewhere a period later, and the driver knows the last feedback."""
    if not len(measured):
        return None
    distance_s = np.abs(measured[:, 0] - at_s)
    near = measured[distance_s <= max(2 * PERIOD_S, distance_s.min())]
    gaps = np.abs(near[:, 1 : 1 + len(position)] - position)
    return gaps[gaps[:, :6].max(1).argmin()]


def away(position: np.ndarray, measured: np.ndarray, at_s: float) -> str:
    """-> how a motion that begins at a position (7,) does not begin where the arm is, in words; "" when it does."""
    gap = apart(position, measured, at_s)
    if gap is None:
        return "a motion begins where nothing was measured"
    if gap[:6].max() > AT_RAD:
        return f"a motion begins {gap[:6].max():.3f} rad from the measured joint {int(gap[:6].argmax()) + 1}"
    return f"a motion begins {gap[6] * 1e3:.1f} mm from the measured gripper" if gap[6] > AT_M else ""


def broken_limits(
    commands: np.ndarray,
    measured: np.ndarray,
    power: Sequence[tuple[float, float]],
    limits: JointLimits,
    geometry: ArmGeometry,
) -> list[str]:
    """commands (N, 15): time, position, velocity as the gate passed them; measured (M, 22); power: spans [s] in which
    the arm was getting power -> what they broke, in words, each kind once with its worst.

    From command to command one period passes, however late the loop woke. Motion may begin anew only after a pause or
    while power comes, and only where the arm is measured, or one step from rest there; everything else goes on from
    what was sent before."""
    worst: dict[str, float] = {}
    when: dict[str, float] = {}  # [s] after the first command
    began: list[str] = []
    positions = commands[:, 1:8]
    outside = np.maximum(limits.low - positions, positions - limits.high).clip(0.0)
    most = {"velocity": limits.velocity, "acceleration": limits.acceleration, "jerk": limits.jerk}
    clear = clearance(geometry, positions[:, :6]) if len(commands) else np.zeros(0)
    last: np.ndarray | None = None
    last_s, floor = -np.inf, 0.0
    may = np.zeros(7)  # [rad], [m] outside of its limits: an arm that fell may begin there, and only come back
    pasts: list[Past] = []  # what may have been before: a motion that goes on, or one that begins anew, from rest
    since = 0  # rows since a beginning: after three the pasts that are left are the same
    for row, position, distance, beyond in zip(commands, positions, clear, outside, strict=True):
        span = next((span for span in power if span[0] <= row[0] <= span[1]), None)
        # Just before the first frame that asks for power the arm may still be told to hold where it was.
        holds = span is not None and last is not None and row[0] < span[0] + PAUSE_S and (position == last).all()
        anew = (span is not None and not holds) or (last is not None and row[0] - last_s > PAUSE_S)
        if anew and (words := away(position, measured, row[0])):
            began.append(words)
        may = np.minimum(beyond, np.inf if anew else may)
        if (excess := float((beyond - may).max())) > SLACK:
            worst["position"] = max(excess, worst.get("position", 0.0))
            when.setdefault("position", row[0] - commands[0, 0])
        judged = [(_over(past, position, last, most), past) for past in pasts]
        good = [past for over, past in judged if not over]
        if judged and not good and not anew:
            for name, share in min((over for over, _ in judged), key=lambda over: max(over.values())).items():
                worst[name] = max(share, worst.get(name, 0.0))
                when.setdefault(name, row[0] - commands[0, 0])
            good = [judged[0][1]]
        if anew or last is None:
            floor = min(0.0, float(distance))
        elif distance < floor - CLOSER_M:
            worst["clearance"] = max(float(-distance), worst.get("clearance", 0.0))
            when.setdefault("clearance", row[0] - commands[0, 0])
        floor = min(0.0, max(floor, float(distance)))
        since = 0 if anew else since + 1
        pasts = [_next(past, position, last) for past in (good[:1] if since > 3 else good)]
        if anew:
            pasts = [*pasts[:1], (np.zeros(7), np.zeros(7)), *_first_steps(position, measured, row[0], limits.jerk)]
        elif last is None:
            pasts = [(None, None)]
        last, last_s = position, row[0]
    units = {"position": " rad beyond", "clearance": " m too close"}
    found = [
        f"{name}: {value:.3g}{units.get(name, ' times its limit')}, first {when.get(name, 0.0):.3f} s after the first"
        for name, value in worst.items()
    ]
    return found + list(dict.fromkeys(began))


def _first_steps(position: np.ndarray, measured: np.ndarray, at_s: float, jerk: np.ndarray) -> list[Past]:
    """-> the pasts of a first command (7,) that is already a step away from rest at a place measured just before."""
    near = measured[(measured[:, 0] <= at_s) & (measured[:, 0] >= at_s - FRESH_S)] if len(measured) else measured
    steps = position - near[:, 1:8]
    return [(step, step) for step in steps if (np.abs(step) <= jerk * PERIOD_S**3 * (1 + ROUNDING)).all()]


def _next(past: Past, position: np.ndarray, last: np.ndarray | None) -> Past:
    step = None if last is None else position - last
    return step, None if step is None or past[0] is None else step - past[0]


def _over(past: Past, position: np.ndarray, last: np.ndarray | None, most: dict[str, np.ndarray]) -> dict[str, float]:
    """-> what the next command breaks after this past, as shares of the limits above 1."""
    step, bend = _next(past, position, last)
    kick = None if bend is None or past[1] is None else bend - past[1]
    shares = {
        name: float(((np.abs(value) - GRAIN * 2**order) / PERIOD_S**order / most[name]).max())
        for order, (name, value) in enumerate(zip(most, (step, bend, kick), strict=True), 1)
        if value is not None
    }
    return {name: share for name, share in shares.items() if share > 1 + ROUNDING}


def jumps(times: np.ndarray, positions: np.ndarray, measured: np.ndarray) -> list[str]:
    """Joint commands as the bus got them, (N,) and (N, 6), and what was measured (M, 22) -> pauses after which the
    first command lies away from the measured joints, in words.

    A listener that was late shows a pause as well, but then what it has missed follows in one burst."""
    found = []
    for k in np.flatnonzero(np.diff(times) > PAUSE_S) + 1:
        burst = np.searchsorted(times, times[k] + 4 * PERIOD_S) - k
        pause_s = times[k] - times[k - 1]
        if burst > pause_s / PERIOD_S / 2:
            continue
        gap = apart(positions[k], measured, times[k])
        if gap is None or gap.max() > AT_RAD:
            far = "where nothing was measured" if gap is None else f"{gap.max():.3f} rad from the arm"
            found.append(f"after a pause of {pause_s:.2f} s the first command is {far}")
    return found


def moved_at(times: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """-> times [s] of the commands on the bus that moved any joint by more than its rounding."""
    if len(times) < 2:
        return np.zeros(0)
    return times[1:][np.abs(np.diff(positions, axis=0)).max(1) > MOVES_RAD]


def seconds_to_hold(times: np.ndarray, positions: np.ndarray, since_s: float, now_s: float) -> float | None:
    """-> seconds from a time to the first rest of at least REST_S; None when there has been none yet."""
    moved = np.concatenate([[since_s], moved_at(times, positions), [now_s]])
    rests = np.flatnonzero(np.diff(moved) >= REST_S)
    return float(moved[rests[0]] - since_s) if len(rests) else None
