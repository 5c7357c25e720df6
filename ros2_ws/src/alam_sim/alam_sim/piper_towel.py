"""A towel on the table, to be folded in half twice: points joined by threads (springs), and a corded seam at two edges.

Flat pads at the points and the capsules of the seams touch the table, the fingers and other layers; parallel fingers
can grip a seam, not the sheet. A flex is what one sees of the sheet. A column of points runs along the seams, which are
the first and the last one. A fold is about a column: each column collides with all others but its neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alam_sim.piper_scene import POINTS_EACH, STILL_M_S

_MODEL = """
<option impratio="50"/>
<deformable>
  <flex name="towel" dim="2" body="{bodies}" element="{triangles}" texcoord="{texture}" radius="{radius}"
    material="towel"><contact {nothing}/></flex>
  <flex name="threads" dim="1" body="{bodies}" element="{threads}" radius=".0005" group="3">
    <edge stiffness="{stiffness}" damping="{damping}"/><contact {nothing}/>
  </flex>
</deformable>"""
_NOTHING = 'contype="1073741824" conaffinity="0" selfcollide="none" internal="false"'  # 0 and 0 crash MuJoCo 3.3.0
_ARM, _TABLE = 1, 2  # collision bits, as in piper_scene; the columns have the ones above


class TowelScene:
    """A flat towel of 24 by 15 cm. Without impratio the seams creep out of the fingers; without the rolling friction
    of a seam on a finger, two of them side by side roll out of the grip."""

    COLUMNS, ROWS = 13, 7
    STEP_Y, STEP_X = 0.020, 0.025  # between columns, along them [m]
    PAD, SEAM_PAD, THICK = 0.009, 0.0065, 0.001  # radius of a pad, of one beside a seam, half the thickness [m]
    SEAM = 0.005  # radius [m]
    MASS, SEAM_MASS = 0.050, 0.015  # of the sheet, of each seam [kg]
    STIFFNESS, DAMPING = 20.0, 0.02  # of a thread [N/m], [N*s/m]
    BEND, BEND_DAMPING = 0.04, 0.001  # of a seam from capsule to capsule [N*m/rad], [N*m*s/rad]
    AIR, SEAM_AIR = 0.004, 0.0005  # damping of a point, of a seam's middle [N*s/m] and [N*m*s/rad]
    FRICTION, SEAM_FRICTION, ROLL_M = 0.6, 1.0, 0.004
    NEAR_M = 0.03  # ends of columns that are no farther apart lie on each other
    COVERED = (0.60, 0.36)  # of the flat towel's area, at most, once and twice folded

    def __init__(self) -> None:
        columns, rows = self.COLUMNS, self.ROWS
        self.flat = np.empty((columns, rows, 3))  # where the points of a flat towel are [m]
        self.flat[..., 0] = (np.arange(rows) - (rows - 1) / 2) * self.STEP_X
        self.flat[..., 1] = (np.arange(columns) - (columns - 1) / 2)[:, None] * self.STEP_Y
        self.flat[..., 2] = self.THICK
        self.flat[[0, -1], :, 2] = self.SEAM
        self._flat_area = covered_area(self.flat)
        number = np.arange(columns * rows).reshape(columns, rows)
        corners = [number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]]
        triangles = [[c[0], c[3], c[1], c[0], c[2], c[3]] for c in zip(*(k.flat for k in corners), strict=True)]
        sides = ((number[1:], number[:-1]), (number[:, 1:], number[:, :-1]), (corners[0], corners[3]), corners[1:3])
        self.sections = _MODEL.format(
            bodies=" ".join(f"towel{index}" for index in number.flat),
            triangles=_text(triangles),
            texture=_text([c / (columns - 1), r / (rows - 1)] for c in range(columns) for r in range(rows)),
            threads=_text(pair for one, other in sides for pair in zip(one.flat, other.flat, strict=True)),
            radius=self.THICK,
            stiffness=self.STIFFNESS,
            damping=self.DAMPING,
            nothing=_NOTHING,
        )
        self.assets = """
<texture name="terry" type="2d" builtin="flat" rgb1=".30 .52 .70" mark="edge" markrgb=".95 .95 .92"
  width="24" height="16"/>
<material name="towel" texture="terry" specular="0"/>"""
        pads = [self._pad(column, row) for row in range(rows) for column in range(1, columns - 1)]
        self.world = "".join([self._seam(0), self._seam(columns - 1), *pads])  # this order: few fill-ins in the solver

    def place(self, random: np.random.Generator, model: Any, data: Any) -> None:
        """Flat before the arm, up to 3 cm off its place and turned by up to 14 degrees."""
        at = np.array([random.uniform(0.31, 0.37), random.uniform(-0.03, 0.03), 0.0])
        turn = float(random.uniform(-0.25, 0.25))
        cos, sin = math.cos(turn), math.sin(turn)
        self.lay(model, data, at + self.flat @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]), turn)

    def lay(self, model: Any, data: Any, points: np.ndarray, turn: float) -> None:
        """Put the towel's points (COLUMNS, ROWS, 3) [m] there; straight seams, turned by an angle [rad]."""
        for index, spot in enumerate(points.reshape(-1, 3)):
            body = model.body(f"towel{index}").id
            address = model.jnt_qposadr[model.body_jntadr[body]]
            if 0 < index // self.ROWS < self.COLUMNS - 1:
                data.qpos[address : address + 3] = spot - model.body_pos[body]
            elif index % self.ROWS == self.ROWS // 2:  # the seam's middle carries the rest
                data.qpos[address : address + 7] = (*spot, math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2))

    def points(self, model: Any, data: Any) -> int:
        """-> 5 when the seams lie on each other and half of the area is covered, 10 when both also lie on the first
        fold and it is a quarter; let go and still."""
        grid = self.grid(data)
        if self._apart(grid[0], grid[-1]) or self._moves(data) or self._held(model, data):
            return 0
        covered = covered_area(grid) / self._flat_area
        fold = grid[self.COLUMNS // 2]
        if covered < self.COVERED[1] and not self._apart(grid[0], fold) and not self._apart(grid[-1], fold):
            return 2 * POINTS_EACH
        return POINTS_EACH if covered < self.COVERED[0] else 0

    def grid(self, data: Any) -> np.ndarray:
        """-> (COLUMNS, ROWS, 3): where the towel's points are [m]."""
        grid: np.ndarray = data.flexvert_xpos[: self.COLUMNS * self.ROWS].reshape(self.COLUMNS, self.ROWS, 3)
        return grid

    def _apart(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Whether an end of a column (ROWS, 3) does not lie on that of another."""
        return bool(np.hypot(*(one - other)[[0, -1], :2].T).max() > self.NEAR_M)

    def _moves(self, data: Any) -> bool:
        """Whether a point of the sheet or the middle of a seam does."""
        seam = 6 + 3 * (self.ROWS - 1)
        speed = data.qvel[-(2 * seam + 3 * (self.COLUMNS - 2) * self.ROWS) :]
        return bool(np.abs([*speed[:3], *speed[seam : seam + 3], *speed[2 * seam :]]).max() > STILL_M_S)

    def _held(self, model: Any, data: Any) -> bool:
        """Whether a finger touches the towel."""
        pairs = model.geom_bodyid[data.contact.geom] if data.ncon else np.zeros((0, 2), int)
        fingers = np.isin(pairs, (model.body("finger_left").id, model.body("finger_right").id))
        return bool((fingers.any(1) & (pairs >= model.body(f"towel{self.ROWS // 2}").id).any(1)).any())

    def _bits(self, column: int, others: int) -> str:
        far = sum(4 << c for c in range(self.COLUMNS) if abs(c - column) > 1)
        return f'contype="{4 << column}" conaffinity="{far + others}" group="3" solref=".006 1"'

    def _pad(self, column: int, row: int) -> str:
        """Slides in three directions, and does not turn."""
        radius = self.SEAM_PAD if column in (1, self.COLUMNS - 2) else self.PAD
        mass = self.MASS / (self.COLUMNS - 2) / self.ROWS
        slides = "".join(f'<joint type="slide" axis="{a}" damping="{self.AIR}"/>' for a in ("1 0 0", "0 1 0", "0 0 1"))
        return f"""
<body name="towel{column * self.ROWS + row}" pos="{_text([self.flat[column, row]])}">{slides}
  <geom type="ellipsoid" size="{radius} {radius} {self.THICK}" mass="{mass}" friction="{self.FRICTION} .005 .0001"
    {self._bits(column, _ARM + _TABLE)}/>
</body>"""

    def _seam(self, column: int) -> str:
        """A chain of capsules: the one in the middle is free, the others hang on it. Fingers, layers and the table
        each meet a shape of their own with as many directions of friction as that contact needs."""
        half, middle = self.STEP_X / 2, self.ROWS // 2

        def link(row: int, joint: str, side: int, rest: str) -> str:
            low, high = (0.0 if row == 0 else -half), (0.0 if row == self.ROWS - 1 else half)
            capsule = f'<geom type="capsule" size="{self.SEAM}" fromto="{low} 0 0 {high} 0 0"'
            pos = f"{side * 2 * half} 0 0" if side else _text([self.flat[column, row]])
            return f"""
<body name="towel{column * self.ROWS + row}" pos="{pos}">{joint}
  {capsule} rgba=".27 .47 .64 1" mass="{self.SEAM_MASS / self.ROWS}" contype="0" conaffinity="{_ARM}" solref=".006 1"
    condim="6" friction="1 .005 {self.ROLL_M}"/>
  {capsule} mass="0" friction="{self.SEAM_FRICTION} .005 .0001" {self._bits(column, 0)}/>
  <geom size="{self.SEAM}" mass="0" contype="0" conaffinity="{_TABLE}" group="3" solref=".006 1"
    friction="{self.FRICTION} .005 .0001"/>{rest}
</body>"""

        def rest(row: int, side: int) -> str:
            if not 0 <= row < self.ROWS:
                return ""
            joint = (
                f'<joint type="ball" pos="{-side * half} 0 0" stiffness="{self.BEND}" damping="{self.BEND_DAMPING}"/>'
            )
            return link(row, joint, side, rest(row + side, side))

        free = f'<joint type="free" damping="{self.SEAM_AIR}"/>'
        return link(middle, free, 0, rest(middle - 1, -1) + rest(middle + 1, 1))


def covered_area(grid: np.ndarray, cell_m: float = 0.005, parts: int = 8) -> float:
    """(C, R, 3) points of a sheet [m] -> how much of the table it covers [m^2]: all square cells that it touches."""
    part = np.linspace(0, 1, parts + 1)[:, None]
    along = grid[:, :-1, None, :2] * (1 - part) + grid[:, 1:, None, :2] * part
    part = part[:, None, None]
    fine = along[:-1, None] * (1 - part) + along[1:, None] * part
    cells = np.floor(fine.reshape(-1, 2) / cell_m).astype(np.int64)
    return len(np.unique(cells[:, 0] * 100_003 + cells[:, 1])) * cell_m**2


def _text(rows: Any) -> str:
    return " ".join(f"{value:.6g}" for row in rows for value in row)
