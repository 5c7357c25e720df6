"""The Piper in MuJoCo: a model made from the numbers of arm.py, and its dynamics behind the drives' position control.

Primitive shapes only. Kinematics are the vendor's; masses are estimates that add up to the arm's weight; gains and
friction of the joints are those of public models of this arm, the gripper's are stiffer: it holds what it grips.
Like the real drives, an enabled joint carries the arm's own weight (gravity and Coriolis forces, but no payload): what
remains at rest is friction, at most 0.02 rad right after a motion and under 0.005 rad three seconds later."""

from __future__ import annotations

import math
import os

import numpy as np

from alam_piper import arm

# MuJoCo reads it once, at its first import, whoever renders later. Software rendering: the same pixels everywhere.
os.environ.setdefault("MUJOCO_GL", "osmesa")
import mujoco

KP = (80.0, 80.0, 80.0, 40.0, 10.0, 10.0)  # [N*m/rad]
KV = (5.0, 5.0, 5.0, 5.0, 1.5, 1.5)  # [N*m*s/rad]
FINGER_KP, FINGER_KV = 400.0, 20.0  # [N/m], [N*s/m]
FORCE = 100.0  # [N*m] of each drive
GRIPPER_FORCE = 20.0  # [N]
MASSES = (0.7, 1.2, 0.7, 0.4, 0.35, 0.1)  # [kg] of links 1 to 6
HAND_MASS, FINGER_MASS = 0.45, 0.03  # [kg]
FRICTION, ARMATURE = 0.3, 0.005  # [N*m], [kg*m^2]
SAG_DAMPING = 4.0  # [N*m*s/rad] of a joint without power whose brake circuit is closed (emergency stop)


def body_quat(index: int) -> str:
    """Joint index 0 to 5 -> rotation of its frame at angle 0 in its parent's, Rx(alpha) Rz(offset), as "w x y z"."""
    x, z = np.zeros(4), np.zeros(4)
    mujoco.mju_axisAngle2Quat(x, np.array([1.0, 0.0, 0.0]), arm.DH_ALPHA[index])
    mujoco.mju_axisAngle2Quat(z, np.array([0.0, 0.0, 1.0]), arm.DH_OFFSET[index])
    both = np.zeros(4)
    mujoco.mju_mulQuat(both, x, z)
    return " ".join(f"{value:.12g}" for value in both)


_SHAPES = {  # link -> what it looks like, in its own frame
    1: '<geom class="shell" type="cylinder" size=".045 .05" pos="0 0 -.02" mass="{m}"/>',
    2: '<geom class="shell" type="capsule" size=".038" fromto="0 0 0 {upper} 0 0" mass="{m}"/>',
    3: '<geom class="shell" type="capsule" size=".033" fromto="{back} 0 0 {back} {fore} 0" mass="{m}"/>',
    4: '<geom class="dark" type="cylinder" size=".034 .035" mass="{m}"/>',
    5: '<geom class="dark" type="capsule" size=".03" fromto="0 0 0 0 -.05 0" mass="{m}"/>',
    6: '<geom class="dark" type="cylinder" size=".032 .012" mass="{m}"/>',
}
_HAND = f"""
<geom class="shell" type="box" size=".03 .045 .027" pos="0 0 .049" mass="{HAND_MASS}"/>
<camera name="wrist" pos="-.075 0 .02" xyaxes="0 -1 0 -.955 0 .297" fovy="60"/>
<site name="fingertips" pos="0 0 {arm.FINGER_OFFSET_M}" size=".004" rgba="0 0 0 0"/>
<body name="finger_left" pos="0 0 {arm.FINGER_OFFSET_M}">
  <joint name="finger_left" type="slide" axis="0 1 0" range="0 {arm.FINGER_TRAVEL_M}" armature=".05" damping="2"/>
  <geom class="finger" type="box" size=".009 .004 .03" pos="0 .004 -.03" mass="{FINGER_MASS}"/>
</body>
<body name="finger_right" pos="0 0 {arm.FINGER_OFFSET_M}">
  <joint name="finger_right" type="slide" axis="0 -1 0" range="0 {arm.FINGER_TRAVEL_M}" armature=".05" damping="2"/>
  <geom class="finger" type="box" size=".009 .004 .03" pos="0 -.004 -.03" mass="{FINGER_MASS}"/>
</body>"""


def _links(index: int) -> str:
    """Link index + 1 and all that hangs on it."""
    if index == len(arm.JOINTS):
        return _HAND
    alpha, a, d = arm.DH_ALPHA[index], arm.DH_A[index], arm.DH_D[index]
    place = f"{a:.12g} {-math.sin(alpha) * d:.12g} {math.cos(alpha) * d:.12g}"
    shape = _SHAPES[index + 1].format(m=MASSES[index], upper=arm.DH_A[2], back=arm.DH_A[3], fore=-arm.DH_D[3])
    return f"""
<body name="link{index + 1}" pos="{place}" quat="{body_quat(index)}">
  <joint name="{arm.JOINTS[index]}" axis="0 0 1" range="{arm.LOW[index]} {arm.HIGH[index]}"
         armature="{ARMATURE}" frictionloss="{FRICTION}"/>
  {shape}{_links(index + 1)}
</body>"""


def mjcf(timestep_s: float = 0.0025, world: str = "", assets: str = "", sections: str = "") -> str:
    """-> the model as MJCF text; `world`: more bodies of the world, `assets`: more assets, `sections`: more sections of
    the model (what is made of these bodies), all as MJCF."""
    drives = "".join(
        f'<position name="{name}" joint="{name}" kp="{kp}" kv="{kv}" forcerange="-{FORCE} {FORCE}"/>\n'
        for name, kp, kv in zip(arm.JOINTS, KP, KV, strict=True)
    )
    fingers = "".join(
        f'<position name="{name}" joint="{name}" kp="{FINGER_KP}" kv="{FINGER_KV}" '
        f'forcerange="-{GRIPPER_FORCE} {GRIPPER_FORCE}"/>\n'
        for name in ("finger_left", "finger_right")
    )
    return f"""
<mujoco model="piper">
  <compiler angle="radian" eulerseq="XYZ"/>
  <option timestep="{timestep_s}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <global offwidth="640" offheight="480"/>
    <headlight ambient=".38 .38 .38" diffuse=".25 .25 .25" specular="0 0 0"/>
  </visual>
  <default>
    <default class="shell"><geom rgba=".82 .84 .87 1" contype="1" conaffinity="2"/></default>
    <default class="dark"><geom rgba=".2 .22 .26 1" contype="1" conaffinity="2"/></default>
    <default class="finger"><geom rgba=".12 .12 .14 1" contype="1" conaffinity="2" friction="2 .05 .001" condim="4"
      solref=".004 1"/></default>
  </default>
  <asset>{assets}</asset>
  <worldbody>
    <body name="base"><geom class="dark" type="cylinder" size=".06 .03" pos="0 0 .03" mass="1"/>{_links(0)}</body>
    {world}
  </worldbody>
  {sections}
  <equality><joint joint1="finger_left" joint2="finger_right" polycoef="0 1 0 0 0"/></equality>
  <actuator>{drives}{fingers}</actuator>
</mujoco>"""


class TwinDynamics:
    """The arm moved by its drives, alone or in a world. Positions (7,): six joints [rad], the gripper's opening [m]."""

    def __init__(self, timestep_s: float = 0.0025, world: str = "", assets: str = "", sections: str = "") -> None:
        """timestep_s: of the physics [s]; world, assets and sections: as in `mjcf`. `model` and `data` are MuJoCo's."""
        self.model = mujoco.MjModel.from_xml_string(mjcf(timestep_s, world, assets, sections))
        self.data = mujoco.MjData(self.model)
        self._gain, self._bias = self.model.actuator_gainprm.copy(), self.model.actuator_biasprm.copy()
        self._applied = np.zeros(6)
        self.reset(arm.REST)

    def reset(self, position: np.ndarray) -> None:
        """The arm rests at a position (7,), everything else is where the model has it."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:8] = self.data.ctrl[:] = [*position[:6], position[6] / 2, position[6] / 2]
        mujoco.mj_forward(self.model, self.data)

    def step(
        self,
        target: np.ndarray,
        enabled: np.ndarray,
        dt_s: float,
        damped: bool = True,
        torque: np.ndarray | None = None,
        gains: tuple[np.ndarray, np.ndarray] | None = None,
        grip_n: float = GRIPPER_FORCE,
    ) -> None:
        """target (7,), enabled (7,) bool: joints without power sag, damped or freely. torque (6,) [N*m] and gains
        (kp, kd) (6,) take the place of the drives' own (MIT mode). grip_n: the most that each finger exerts [N]."""
        data, model = self.data, self.model
        kp, kd = gains if gains is not None else (np.array(KP), np.array(KV))
        power = enabled[:6].astype(float)
        model.actuator_gainprm[:6, 0] = kp * power
        model.actuator_biasprm[:6, 1], model.actuator_biasprm[:6, 2] = -kp * power, -kd * power
        hand = float(enabled[6])
        model.actuator_gainprm[6:, 0] = self._gain[6:, 0] * hand
        model.actuator_biasprm[6:] = self._bias[6:] * hand
        model.actuator_forcerange[6:] = np.array([-1.0, 1.0]) * min(grip_n, GRIPPER_FORCE)
        data.ctrl[:6], data.ctrl[6:] = target[:6], target[6] / 2
        extra = np.zeros(6) if torque is None else torque
        for _ in range(max(1, round(dt_s / model.opt.timestep))):
            sag = -SAG_DAMPING * data.qvel[:6] if damped else 0.0
            self._applied = np.where(enabled[:6], data.qfrc_bias[:6] + extra, sag)
            data.qfrc_applied[:6] = self._applied
            mujoco.mj_step(model, data)

    @property
    def position(self) -> np.ndarray:
        """-> (7,) [rad], [m]."""
        return np.append(self.data.qpos[:6], self.data.qpos[6] + self.data.qpos[7])

    @property
    def velocity(self) -> np.ndarray:
        """-> (7,) [rad/s], [m/s]."""
        return np.append(self.data.qvel[:6], self.data.qvel[6] + self.data.qvel[7])

    @property
    def effort(self) -> np.ndarray:
        """-> (7,) what the drives exert [N*m], the gripper [N]."""
        return np.append(self.data.actuator_force[:6] + self._applied, self.data.actuator_force[6])

    def link_pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """-> position (3,) [m] and rotation (3, 3) of a body, by name, in the base frame."""
        body = self.data.body(name)
        return body.xpos.copy(), body.xmat.reshape(3, 3).copy()
