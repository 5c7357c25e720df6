"""Scripted experts of the table's tasks, from privileged state: they show that a task can be solved, and how.

An expert is a generator of actions (7,); whoever drives it calls `env.step` with each before asking for the next. The
hand leans forward all the time: joint 5 does not let it point straight down much above the table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import mujoco
import numpy as np

from alam_piper import arm
from alam_piper.twin import FRICTION, KP, KV
from alam_sim.piper_env import PiperEnv
from alam_sim.piper_scene import CupsScene, InsertScene
from alam_sim.piper_towel import TowelScene

SPEED_M_S, TURN_RAD_S = 0.30, 1.5
TRIM_GAIN, TRIM_MOST_RAD = 0.05, 0.06  # what friction in the joints leaves undone, per step and at most
OPEN_M = 0.07
LEAN_RAD = 0.6  # of the hand, from pointing down, towards where it is heading
LAG_S, STICTION_RAD = np.array(KV) / np.array(KP), FRICTION / np.array(KP)  # of the drives
DAMPING = 1e-4  # of the least squares
TOWEL_LEAN_RAD, TOWEL_OPEN_M, TOWEL_SHORT_M = 0.1, 0.036, 0.004

Actions = Iterator[np.ndarray]


class Hand:
    """The fingertips above the table: they move on straight lines, and the hand turns about the vertical."""

    def __init__(self, env: PiperEnv, lean_rad: float = LEAN_RAD) -> None:
        """lean_rad: of the hand, from pointing down, towards where it is heading."""
        self._env, self._model, self._lean = env, env.dynamics.model, lean_rad
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site("fingertips").id
        self.opening = OPEN_M
        self._joints = env.state()[:6]
        self._trim = np.zeros(6)
        self._data.qpos[:6] = self._joints
        mujoco.mj_kinematics(self._model, self._data)
        self.position = self._data.site_xpos[self._site].copy()
        x = self._data.site_xmat[self._site].reshape(3, 3)[:, 0]
        self.heading = math.atan2(-x[1], -x[0])

    def move(
        self, position: Sequence[float] | np.ndarray, heading: float | None = None, speed_m_s: float = SPEED_M_S
    ) -> Actions:
        """To a position (3,) [m] and heading [rad], with a smooth start and end, then until it is really there."""
        begin, way = self.position.copy(), np.asarray(position, float) - self.position
        first, turn = self.heading, 0.0 if heading is None else heading - self.heading
        seconds = max(float(np.linalg.norm(way)) / speed_m_s, abs(turn) / TURN_RAD_S, 0.15) * 1.9
        steps = math.ceil(seconds * arm.CONTROL_RATE_HZ)
        for step in range(1, steps + 1):
            part = step / steps
            part = part**3 * (10 - 15 * part + 6 * part**2)  # minimum jerk
            self.position, self.heading = begin + part * way, first + part * turn
            yield self._action()
        yield from self.settle()

    def settle(self, most_steps: int = 45, within_rad: float = 0.002) -> Actions:
        """Stay, trimming the command until the joints are within a tolerance of what is wanted."""
        for _ in range(most_steps):
            error = self._joints - self._env.state()[:6]
            if np.abs(error).max() < within_rad and np.abs(self._env.joints()[1][:6]).max() < 0.01:
                return
            self._trim = np.clip(self._trim + TRIM_GAIN * error, -TRIM_MOST_RAD, TRIM_MOST_RAD)
            yield self._action()

    def grip(self, opening_m: float, steps: int = 15) -> Actions:
        """Open or close the fingers and wait for them."""
        self.opening = opening_m
        for _ in range(steps):
            yield self._action()

    def _action(self) -> np.ndarray:
        """-> the command that brings the joints to where the hand is to be, drives' damping and friction included."""
        before = self._joints
        self._joints = self._inverse(self.position, self.heading, before)
        velocity = (self._joints - before) * arm.CONTROL_RATE_HZ
        ahead = LAG_S * velocity + STICTION_RAD * np.tanh(velocity / 0.1)
        return np.append(self._joints + ahead + self._trim, self.opening)

    def _inverse(self, position: np.ndarray, heading: float, start: np.ndarray) -> np.ndarray:
        """-> joints (6,) with the fingertips at a position, the hand leaning: damped least squares from `start`."""
        data, q = self._data, start.copy()
        (c, s), (cl, sl) = (math.cos(heading), math.sin(heading)), (math.cos(self._lean), math.sin(self._lean))
        wanted = np.array([[-cl * c, -s, sl * c], [-cl * s, c, sl * s], [-sl, 0.0, -cl]])
        at, turning = np.zeros((3, self._model.nv)), np.zeros((3, self._model.nv))
        for _ in range(60):
            data.qpos[:6] = q
            mujoco.mj_kinematics(self._model, data)
            mujoco.mj_comPos(self._model, data)
            mujoco.mj_jacSite(self._model, data, at, turning, self._site)
            now = data.site_xmat[self._site].reshape(3, 3)
            twist = 0.5 * sum(np.cross(now[:, k], wanted[:, k]) for k in range(3))
            error = np.concatenate([position - data.site_xpos[self._site], twist])
            if np.abs(error).max() < 1e-5:
                break
            jacobian = np.vstack([at[:, :6], turning[:, :6]])
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING * np.eye(6), error)
            q = np.clip(q + np.clip(step, -0.2, 0.2), arm.LOW[:6], arm.HIGH[:6])
        return q


def expert(env: PiperEnv) -> Actions:
    """-> the actions that solve the task of an environment that was just reset."""
    if isinstance(env.scene, CupsScene):
        return _stack(env, env.scene)
    if isinstance(env.scene, TowelScene):
        return _fold(env, env.scene)
    assert isinstance(env.scene, InsertScene)
    return _insert(env, env.scene)


def solve(env: PiperEnv, seed: int) -> bool:
    """One episode by the expert -> whether it made all points."""
    env.reset(seed)
    return any(env.step(action) for action in expert(env))


def _insert(env: PiperEnv, scene: InsertScene) -> Actions:
    data, hand = env.dynamics.data, Hand(env)
    item, socket = data.body("object"), data.body("socket")
    grasp = _over(item.xpos, 0.008 if scene.cube else 0.012)
    yield from hand.move([*grasp[:2], 0.16], _nearest(_yaw(item.xmat), _azimuth(grasp), scene))
    yield from hand.move(grasp)
    yield from hand.grip(0.0)
    yield from hand.move([*grasp[:2], 0.16])
    heading = hand.heading + _yaw(socket.xmat) - _yaw(item.xmat)
    yield from hand.move([*socket.xpos[:2], 0.16], _nearest(heading, _azimuth(socket.xpos), scene))
    for over in (0.06, *[scene.rim + 0.004] * 4, 0.001):  # of the object's lower end
        way = [*(socket.xpos - item.xpos)[:2], scene.half_height + over - item.xpos[2]]
        if over == scene.rim + 0.004 and math.hypot(*way[:2]) < 0.0008 and abs(way[2]) < 0.004:
            continue
        yield from hand.move(hand.position + way, speed_m_s=0.15 if over == 0.06 else 0.04)
    yield from hand.grip(OPEN_M)
    yield from hand.move(_over(hand.position, 0.08))
    yield from hand.grip(OPEN_M, 30)


def _stack(env: PiperEnv, scene: CupsScene) -> Actions:
    data, hand = env.dynamics.data, Hand(env)
    center = data.body("center")
    for level, name in enumerate(("left", "right"), 1):
        cup = data.body(name)
        grasp = _over(cup.xpos, scene.HEIGHT - 0.022)
        yield from hand.move([*grasp[:2], 0.17], _azimuth(grasp))
        yield from hand.move(grasp)
        yield from hand.grip(0.0)
        yield from hand.move([*grasp[:2], 0.22])
        yield from hand.move([*center.xpos[:2], 0.22], _azimuth(center.xpos))
        for _ in range(2):
            yield from hand.move(hand.position + (center.xpos - cup.xpos) * (1, 1, 0))
        down = cup.xpos[2] - center.xpos[2] - level * scene.NEST - 0.002
        yield from hand.move(_over(hand.position, -down), speed_m_s=0.15)
        yield from hand.grip(OPEN_M)
        yield from hand.move(_over(hand.position, 0.08))
    yield from hand.grip(OPEN_M, 30)


def _fold(env: PiperEnv, scene: TowelScene) -> Actions:
    """Seam onto seam, then both seams onto the fold. They are laid down beyond the row of points beside them: the sheet
    between the two resists being pressed together, and a seam let go above that row hops off to either side."""
    data, hand = env.dynamics.data, Hand(env, TOWEL_LEAN_RAD)
    hand.opening = TOWEL_OPEN_M
    for onto, low_m in ((-1, 0.0135), (scene.COLUMNS // 2, 0.016)):
        seams = scene.grid(data)[[0, 0] if onto == -1 else [0, -1]]
        begin = seams.mean((0, 1)) * (1, 1, 0)
        way = (scene.grid(data)[onto].mean(0) - begin) * (1, 1, 0)
        length = float(np.linalg.norm(way))
        yield from hand.move(_over(begin, 0.08), math.atan(-way[0] / way[1]))
        yield from hand.move(_over(begin, 0.003), speed_m_s=0.1)
        yield from hand.grip(0.0)
        top = min(0.4 * length, 0.085)
        for part, height in ((0.1, 0.22 * length), (0.35, top), (0.7, top), (0.85, max(0.2 * length, 0.045))):
            yield from hand.move(_over(begin + part * way, height), speed_m_s=0.2)
        end = scene.grid(data)[onto].mean(0) * (1, 1, 0) - TOWEL_SHORT_M / length * way
        for over_m in (0.03, 0.0):
            yield from hand.move(_over(end, low_m + over_m), speed_m_s=0.1)
        yield from hand.grip(TOWEL_OPEN_M)
        yield from hand.move(_over(hand.position, 0.08))
    yield from hand.grip(TOWEL_OPEN_M, 30)


def _over(position: np.ndarray, height_m: float) -> np.ndarray:
    """-> the point that much above another."""
    return position + np.array([0.0, 0.0, height_m])


def _azimuth(position: np.ndarray) -> float:
    """-> the direction of a point as seen from the base [rad]."""
    return math.atan2(position[1], position[0])


def _yaw(matrix: np.ndarray) -> float:
    """Rotation (9,) of a body that stands upright -> its angle about the vertical [rad]."""
    return math.atan2(matrix[3], matrix[0])


def _nearest(angle: float, wanted: float, scene: InsertScene) -> float:
    """-> of the angles at which the object looks the same [rad], the one nearest to a wanted one."""
    return angle + round((wanted - angle) / (math.pi / 2)) * math.pi / 2 if scene.cube else wanted
