"""A table in front of the Piper, and on it what each task needs: MJCF, seeded placement, and the protocol's points.

Positions in the arm's base frame [m]; the table top is z = 0. Objects collide with everything; the arm's links collide
with objects and the table, not with each other."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

STILL_M_S = 0.02  # slower than this, and untouched by the fingers: released and stable
POINTS_EACH = 5  # for each insertion, cup and fold (paper, appendix D)

_SOLID = 'contype="2" conaffinity="3" solref=".006 1"'
_LOOK = 'contype="0" conaffinity="0" mass="0"'
TABLE = """
<light pos=".3 -.4 2" dir="0 .2 -1" directional="true" diffuse=".42 .42 .40" specular=".1 .1 .1"/>
<light pos="1.5 1 1.5" dir="-1 -.6 -1" directional="true" diffuse=".22 .23 .26" specular="0 0 0"/>
<geom name="floor" type="plane" size="3 3 .1" pos="0 0 -.75" material="floor" contype="0" conaffinity="0"/>
<geom name="table" type="box" size=".45 .6 .02" pos=".27 0 -.02" material="wood" contype="0" conaffinity="0"/>
<geom name="top" type="plane" size="1 1 .1" group="3" contype="2" conaffinity="3" solref=".006 1"/>
<geom type="box" size=".03 .03 .355" pos=".66 .54 -.395" rgba=".25 .26 .28 1" contype="0" conaffinity="0"/>
<geom type="box" size=".03 .03 .355" pos=".66 -.54 -.395" rgba=".25 .26 .28 1" contype="0" conaffinity="0"/>
<geom type="box" size=".03 .03 .355" pos="-.12 .54 -.395" rgba=".25 .26 .28 1" contype="0" conaffinity="0"/>
<geom type="box" size=".03 .03 .355" pos="-.12 -.54 -.395" rgba=".25 .26 .28 1" contype="0" conaffinity="0"/>
<camera name="third_person" pos="1.0 -.55 .58" xyaxes="0.5763 0.8173 -0 -0.3422 0.2413 0.9081" fovy="42"/>"""
ASSETS = """
<texture type="skybox" builtin="gradient" rgb1=".80 .84 .88" rgb2=".45 .50 .56" width="256" height="256"/>
<texture name="planks" type="2d" builtin="flat" rgb1=".78 .70 .58" rgb2=".74 .66 .54" mark="random"
  markrgb=".70 .61 .49" random=".06" width="256" height="256"/>
<material name="wood" texture="planks" texrepeat="2 2" specular=".1"/>
<texture name="tiles" type="2d" builtin="checker" rgb1=".52 .54 .57" rgb2=".48 .50 .53" width="128" height="128"/>
<material name="floor" texture="tiles" texrepeat="8 8" specular="0"/>"""


class Scene(Protocol):
    """What a task puts on the table."""

    world: str  # MJCF of bodies
    assets: str  # and of their meshes
    sections: str  # and what else of the model

    def place(self, random: np.random.Generator, model: Any, data: Any) -> None:
        """Put everything where this seed wants it."""
        ...

    def points(self, model: Any, data: Any) -> int:
        """-> the protocol's points for what stands there now, released and still."""
        ...


def ring(sides: int, low: tuple[float, float], high: tuple[float, float], thickness: float, more: str) -> str:
    """A wall of invisible boxes around z, low and high as (inner radius to the flats, z) [m], each with attributes
    `more`: what objects collide with."""
    (r0, z0), (r1, z1) = low, high
    tilt, length = math.atan2(r1 - r0, z1 - z0), math.hypot(r1 - r0, z1 - z0)
    middle, z = (r0 + r1) / 2 + thickness / 2 * math.cos(tilt), (z0 + z1) / 2 - thickness / 2 * math.sin(tilt)
    half = (middle + thickness / 2) * math.tan(math.pi / sides)
    boxes = []
    for index in range(sides):
        turn = 2 * math.pi * index / sides
        x, y = middle * math.cos(turn), middle * math.sin(turn)
        cos, sin = (
            (math.cos(turn / 2), math.sin(turn / 2)),
            (math.cos(tilt / 2), math.sin(tilt / 2)),
        )  # Rz(turn) Ry(tilt)
        quat = (cos[0] * sin[0], -cos[1] * sin[1], cos[0] * sin[1], cos[1] * sin[0])
        boxes.append(
            f'<geom type="box" size="{thickness / 2:.6g} {half:.6g} {length / 2:.6g}" pos="{x:.6g} {y:.6g} {z:.6g}" '
            f'quat="{quat[0]:.6g} {quat[1]:.6g} {quat[2]:.6g} {quat[3]:.6g}" group="3" {more}/>'
        )
    return "".join(boxes)


def lathe(name: str, sides: int, profile: list[tuple[float, float]]) -> str:
    """A mesh asset to look at: a closed profile of (radius to the flats, z) [m], counter-clockwise, turned around z."""
    stretch, count = 1 / math.cos(math.pi / sides), len(profile)
    vertices, faces = [], []
    for index in range(sides):
        turn = 2 * math.pi * (index + 0.5) / sides
        vertices += [(r * stretch * math.cos(turn), r * stretch * math.sin(turn), z) for r, z in profile]
        here, there = index * count, (index + 1) % sides * count
        for i in range(count):
            j = (i + 1) % count
            faces += [(here + i, there + i, there + j), (here + i, there + j, here + j)]
    points = " ".join(f"{value:.6g}" for vertex in vertices for value in vertex)
    corners = " ".join(str(corner) for face in faces for corner in face)
    return f'<mesh name="{name}" inertia="shell" vertex="{points}" face="{corners}"/>'


class InsertScene:
    """One object and its socket, a ring on the table, on opposite sides. The rim is widened by a chamfer."""

    sections = ""
    CLEARANCE, DEPTH, CHAMFER = 0.0015, 0.021, 0.005

    def __init__(self, shape: str) -> None:
        """shape: "cylinder" or "cube"."""
        self.cube = shape == "cube"
        self.radius = 0.020 if self.cube else 0.015  # to the flats
        self.half_height = 0.020 if self.cube else 0.035
        sides = 4 if self.cube else 24
        hole, rim = self.radius + self.CLEARANCE, self.DEPTH
        outer = hole + self.CHAMFER + 0.012
        kind = "box" if self.cube else "cylinder"
        item = f"{self.radius} {self.radius} {self.half_height}" if self.cube else f"{self.radius} {self.half_height}"
        slick = f'{_SOLID} priority="1" friction=".2 .005 .0001"'
        base, colour = (".16 .38 .70 1", ".95 .72 .10 1") if self.cube else (".93 .93 .91 1", ".84 .16 .14 1")
        self.rim = top = rim + self.CHAMFER
        profile = [(outer, 0.0), (outer, top), (hole + self.CHAMFER, top), (hole, rim), (hole, 0.0)]
        self.assets = lathe("socket", sides if self.cube else 64, profile)
        self.world = f"""
<body name="socket">
  <geom type="mesh" mesh="socket" rgba="{base}" {_LOOK}/>
  {ring(sides, (hole, 0.0), (hole, rim), outer - hole, slick)}
  {ring(sides, (hole, rim - 0.001), (hole + self.CHAMFER, top), 0.012, slick)}
</body>
<body name="object"><freejoint/>
  <geom type="{kind}" size="{item}" mass=".06" rgba="{colour}" {_SOLID} friction="1 .01 .001" condim="4"/>
</body>"""

    def place(self, random: np.random.Generator, model: Any, data: Any) -> None:
        """Object on one side, socket on the other; the cube and its socket turned by up to 23 degrees from facing the
        arm."""
        side = 1.0 if random.random() < 0.5 else -1.0
        socket, item = model.body("socket").id, model.joint(model.body("object").jntadr[0])
        model.body_pos[socket], model.body_quat[socket] = self._spot(random, (0.30, 0.38), (0.07, 0.15), side, 0.0)
        at, turned = self._spot(random, (0.28, 0.40), (0.06, 0.16), -side, self.half_height)
        data.qpos[item.qposadr[0] : item.qposadr[0] + 7] = (*at, *turned)

    def points(self, model: Any, data: Any) -> int:
        """-> 5 when the object sits upright in the socket, on the table, let go and still."""
        body = data.body("object")
        offset = body.xpos - data.body("socket").xpos - (0, 0, self.half_height)
        upright = np.abs(body.xmat.reshape(3, 3)[2]) if self.cube else np.abs(body.xmat.reshape(3, 3)[2, 2:])
        seated = math.hypot(offset[0], offset[1]) < 2 * self.CLEARANCE and abs(offset[2]) < 0.003
        return POINTS_EACH if seated and upright.max() > math.cos(0.1) and is_free(model, data, "object") else 0

    def _spot(
        self, random: np.random.Generator, x: tuple[float, float], y: tuple[float, float], side: float, z: float
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """-> position (3,) [m] and quaternion (4,)."""
        at = float(random.uniform(*x)), side * float(random.uniform(*y)), z
        return at, _about_z(math.atan2(at[1], at[0]) + float(random.uniform(-0.4, 0.4)))


class CupsScene:
    """Three cups upside down in a row; nested, each stands NEST above the one below."""

    sections = ""
    HEIGHT, RIM, TOP, WALL, NEST = 0.080, 0.035, 0.023, 0.002, 0.026  # outer radii to the flats [m]
    NAMES, COLOURS = ("left", "center", "right"), (".10 .55 .50 1", ".95 .50 .12 1", ".56 .30 .68 1")

    def __init__(self) -> None:
        wall, height, stop = self.WALL, self.HEIGHT, self.NEST / 2  # stop: inside, what the cup below meets
        inside = (self.TOP - 2 * wall) / math.sqrt(2)
        bodies = []
        for name, colour in zip(self.NAMES, self.COLOURS, strict=True):
            solid = f'{_SOLID} friction=".8 .01 .001"'
            walls = ring(16, (self.RIM - wall, 0.0), (self.TOP - wall, height), wall, f'mass="{0.03 / 16}" {solid}')
            bodies.append(f"""
<body name="{name}"><freejoint/>{walls}
  <geom type="mesh" mesh="cup" rgba="{colour}" {_LOOK}/>
  <geom type="box" size="{inside} {inside} {stop}" pos="0 0 {height - stop}" mass=".02" group="3" {solid}/>
</body>""")
        self.world = "".join(bodies)
        profile = [(self.RIM, 0.0), (self.TOP, height), (0.0, height), (0.0, height - wall)]
        self.assets = lathe("cup", 48, [*profile, (self.TOP - wall, height - wall), (self.RIM - wall, 0.0)])

    def place(self, random: np.random.Generator, model: Any, data: Any) -> None:
        """A row across the table, each cup up to 2 cm off its place and turned at random."""
        for name, y in zip(self.NAMES, (0.15, 0.0, -0.15), strict=True):
            joint = model.joint(model.body(name).jntadr[0])
            at = 0.33 + random.uniform(-0.02, 0.02), y + random.uniform(-0.02, 0.02), 0.0
            turned = _about_z(random.uniform(-math.pi, math.pi))
            data.qpos[joint.qposadr[0] : joint.qposadr[0] + 7] = (*at, *turned)

    def points(self, model: Any, data: Any) -> int:
        """-> 5 for each cup that is nested on the center one, or on one that is, let go and still."""
        center = data.body("center").xpos
        if data.body("center").xmat[8] < math.cos(0.15):
            return 0
        levels = set()
        for name in ("left", "right"):
            body = data.body(name)
            offset = body.xpos - center
            level = round(offset[2] / self.NEST)
            nested = math.hypot(offset[0], offset[1]) < 0.008 and abs(offset[2] - level * self.NEST) < 0.005
            if nested and level in (1, 2) and body.xmat[8] > math.cos(0.15) and is_free(model, data, name):
                levels.add(level)
        return POINTS_EACH * len(levels) if 1 in levels else 0


def is_free(model: Any, data: Any, name: str) -> bool:
    """Whether a body is still and no finger touches it."""
    body, fingers = model.body(name).id, (model.body("finger_left").id, model.body("finger_right").id)
    start = model.body_dofadr[body]
    if np.abs(data.qvel[start : start + 3]).max() > STILL_M_S:
        return False
    pairs = model.geom_bodyid[data.contact.geom] if data.ncon else np.zeros((0, 2), int)
    return not (np.isin(pairs, fingers).any(1) & (pairs == body).any(1)).any()


def _about_z(angle: float) -> tuple[float, float, float, float]:
    return math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)
