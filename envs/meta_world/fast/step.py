"""Meta-World's environments with a lean step: the same physics, observations, rewards and infos, bit for bit.

Two thirds of metaworld's step are Python: looking up bodies by name, converting a matrix to a quaternion through scipy,
`np.linalg.norm` and `tolerance` of a handful of numbers. `fast_class` derives from a task's class one that shares its
MuJoCo calls and its reward code, with cheaper helpers around them. What may be left out, and why:

* `mj_rnePostConstraint` after the substeps: it fills `cacc`, `cfrc_int` and `cfrc_ext`, which neither metaworld nor
  the next substep reads.
* Moving the goal's site before `mj_forward`: that recomputes every site's position from the model.

What must stay although it looks redundant: `mj_forward` after the substeps, for tasks that read no contacts, too. It
overwrites the warm start of the next substep's constraint solver.
"""

import types
import weakref
from collections.abc import Callable
from functools import cache
from math import sqrt
from typing import Any

import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from envs.meta_world.fast.math import DROP_INS
from envs.meta_world.fast.model import load_model
from envs.meta_world.fast.rebind import rebind, rebound_methods
from envs.meta_world.fast.reset import HandMemory

_clip = np._core.umath.clip  # type: ignore[attr-defined]  # what np.clip arrives at
_UPRIGHT = np.array([1.0, 0.0, 1.0, 0.0])


class _Handle:
    """One named body, site, geom or joint: the fields of mujoco's accessor, each fetched once.

    Arrays are views into the data and stay live: the simulator's buffers do not move. Assigning goes through mujoco and
    so into the views. The accessor itself is not kept: it keeps the data alive, and the data would keep it.
    """

    def __init__(self, lookup: Callable[[], Any]) -> None:
        object.__setattr__(self, "_lookup", lookup)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._lookup(), name)
        object.__setattr__(self, name, value)  # from now on an ordinary attribute
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._lookup(), name, value)


class _Handles(dict[str, _Handle]):
    """Handles by name, made when first asked for."""

    def __init__(self, data: mujoco.MjData, kind: str) -> None:
        super().__init__()
        self._data, self._kind = weakref.ref(data), kind

    def __missing__(self, name: str) -> _Handle:
        data, lookup = self._data, getattr(mujoco.MjData, self._kind)
        lookup(data(), name)  # says which names there are, if there is none such
        handle = self[name] = _Handle(lambda: lookup(data(), name))
        return handle


class FastData(mujoco.MjData):
    """`mujoco.MjData` with `body(name)`, `site(name)`, `geom(name)` and `joint(name)` served from a table."""

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model)
        for kind in ("body", "site", "geom", "joint"):
            setattr(self, kind, _Handles(self, kind).__getitem__)


class FastSawyer(SawyerXYZEnv):
    """What the tasks inherit, lean. It stands between a task's class and metaworld's base class."""

    _gripper_caging_reward = rebind(SawyerXYZEnv._gripper_caging_reward, DROP_INS)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = load_model(self.fullpath)
        vis = model.vis.global_  # at least the size of the pictures, as gymnasium has it
        vis.offwidth, vis.offheight = max(vis.offwidth, self.width), max(vis.offheight, self.height)
        data = FastData(model)
        self._right, self._left = data.site("rightEndEffector").xpos, data.site("leftEndEffector").xpos
        self._hand = data.body("hand").xpos
        self._claws = data.body("rightclaw").xpos, data.body("leftclaw").xpos
        self._pads = data.geom("leftpad_geom").id, data.geom("rightpad_geom").id
        self._mocap_pos, self._mocap_quat, self._ctrl = data.mocap_pos[0], data.mocap_quat[0], data.ctrl
        self._memory, self._first_pass = HandMemory(), False
        return model, data

    def get_endeff_pos(self) -> np.ndarray:
        """Position of the hand: a live view, as metaworld's."""
        return self._hand

    @property
    def tcp_center(self) -> np.ndarray:
        """Midpoint of the fingers."""
        return (self._right + self._left) / 2.0

    def get_body_com(self, body_name: str) -> np.ndarray:
        """Position of a body: a live view, as metaworld's."""
        return self.data.body(body_name).xpos

    def set_xyz_action(self, action: np.ndarray) -> None:
        """Move the mocap body; the product is of the action's own type, float32 as a rule, as in metaworld."""
        _clip(
            self._mocap_pos + _clip(action, -1, 1) * self.action_scale, self.mocap_low, self.mocap_high, self._mocap_pos
        )
        self._mocap_quat[:] = _UPRIGHT

    def touching_object(self, object_geom_id: int) -> bool:
        """Say whether both pads press on the object; the forces are summed in metaworld's order, that of contacts."""
        data = self.data
        if not data.ncon:
            return False
        contact = data.contact
        pairs = contact.geom.tolist()
        force: list[Any] = [0, 0]
        for side, pad in enumerate(self._pads):
            for k, pair in enumerate(pairs):
                if pad in pair and object_geom_id in pair:
                    force[side] += data.efc_force[contact.efc_address[k]]
        return force[0] > 0 and force[1] > 0

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        objects = len(positions) // 3
        if len(positions) != 3 * objects or len(quaternions) != 4 * objects:
            return super()._get_curr_obs_combined_no_goal()  # which knows what to do
        right, left = self._claws
        between = right - left
        opening = sqrt(between.dot(between)) / 0.1
        observation = np.zeros(18)
        observation[:3] = self._hand
        observation[3] = 1.0 if opening > 1.0 else opening
        for i in range(objects):
            at = 4 + 7 * i
            observation[at : at + 3] = positions[3 * i : 3 * i + 3]
            observation[at + 3 : at + 7] = quaternions[4 * i : 4 * i + 4]
        return observation

    def _get_obs(self) -> np.ndarray:
        goal = self._get_pos_goal()
        if self._partially_observable:
            goal = np.zeros_like(goal)
        current = self._get_curr_obs_combined_no_goal()
        observation = np.concatenate((current, self._prev_obs, goal))
        self._prev_obs = current
        return observation

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Step as metaworld does."""
        if not self._set_task_called or len(action) != 4 or self._did_see_sim_exception:
            return super().step(action)  # which knows what to say
        self.set_xyz_action(action[:3])
        if self.curr_path_length >= self.max_path_length:
            raise ValueError("You must reset the env manually once truncate==True")
        grip = action[-1]
        self._ctrl[0], self._ctrl[1] = grip, -grip
        mujoco.mj_step(self.model, self.data, nstep=self.frame_skip)
        self.curr_path_length += 1
        mujoco.mj_forward(self.model, self.data)
        space = self.sawyer_observation_space
        observation = self._last_stable_obs = _clip(self._get_obs(), space.low, space.high)
        reward, info = self.evaluate_state(observation, action)
        return observation.copy(), reward, False, self.curr_path_length == self.max_path_length, info

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset as metaworld does, in two passes; see `envs.meta_world.fast.reset`."""
        self.curr_path_length = 0
        self._first_pass = True
        self.reset_model()
        self._first_pass = False
        observation, info = super(SawyerXYZEnv, self).reset()  # the second pass
        self._prev_obs = observation[:18].copy()
        observation[18:36] = self._prev_obs
        return observation.astype(np.float64), info

    def _reset_hand(self, steps: int = 50) -> None:
        if not self._first_pass:
            self._mocap_pos[:] = self.hand_init_pos
            self._mocap_quat[:] = _UPRIGHT
            self._ctrl[:] = -1, 1
            self._memory.settle(self.model, self.data, steps * self.frame_skip)
        self.init_tcp = self.tcp_center


@cache
def fast_class(cls: type[SawyerXYZEnv]) -> type[SawyerXYZEnv]:
    """Derive from a task's class one that is equal to the bit and steps faster."""
    replacements: dict[str, Any] = dict(DROP_INS)
    namespace: dict[str, Any] = {"__module__": cls.__module__, "__doc__": cls.__doc__}
    fast = types.new_class(cls.__name__, (cls, FastSawyer))
    replacements[cls.__name__] = fast  # by which it calls its own static methods
    for name, member in {**namespace, **rebound_methods(cls, replacements)}.items():
        setattr(fast, name, member)
    return fast
