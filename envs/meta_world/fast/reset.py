"""Bring the hand to its start: 250 substeps that depend on the goal alone, so they are made once per goal.

metaworld resets twice: `reset_model`, then `mj_resetData`, then `reset_model` again, each time with 250 substeps that
move the hand. Of the first pass only what it writes into the model and into Python fields outlives `mj_resetData`: the
positions that the goal gives, which the second pass finds there, and heights of objects, which the second pass writes
anew. So the first goes without substeps. One trace of them is lost: until the first step, the marker of the goal of
push and push-back stands at another height; nobody reads it before that step moves it.

The second begins at `mj_resetData`'s state, and the substeps of MuJoCo are a function of the model and of the
integration state. Kept is the state before the *last* substep. It is taken again at every reset, because it also
computes the derived positions that `reset_model` reads, and these lag one substep behind the state.
"""

import hashlib

import mujoco
import numpy as np

_WHOLE = mujoco.mjtState.mjSTATE_INTEGRATION
# What a substep changes of it; the rest (control, mocap, applied forces, ...) is set again or part of the key.
_MOVING = mujoco.mjtState.mjSTATE_FULLPHYSICS | mujoco.mjtState.mjSTATE_WARMSTART
_MOST = 200  # starts to remember: more than the goals of a task; the oldest is forgotten


class HandMemory:
    """Remember where a hand reset has led, half a kilobyte for each start: 25 kB per task with 50 goals.

    A start is known by the bytes of all that the substeps depend on and that may differ between two of them: the
    integration state, and the positions of bodies, the only part of the model with weight that metaworld writes.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, np.ndarray] = {}

    def settle(self, model: mujoco.MjModel, data: mujoco.MjData, substeps: int) -> None:
        """Take so many substeps with the controls as they are."""
        key = self._key(model, data, substeps)
        before_last = self._known.get(key)
        if before_last is None:
            mujoco.mj_step(model, data, nstep=substeps - 1)
            before_last = np.empty(mujoco.mj_stateSize(model, _MOVING))
            mujoco.mj_getState(model, data, before_last, _MOVING)
            if len(self._known) == _MOST:
                del self._known[next(iter(self._known))]
            self._known[key] = before_last
        else:
            mujoco.mj_setState(model, data, before_last, _MOVING)
        mujoco.mj_step(model, data)

    @staticmethod
    def _key(model: mujoco.MjModel, data: mujoco.MjData, substeps: int) -> bytes:
        state = np.empty(mujoco.mj_stateSize(model, _WHOLE))
        mujoco.mj_getState(model, data, state, _WHOLE)
        digest = hashlib.blake2b(state.tobytes(), digest_size=16)
        digest.update(model.body_pos.tobytes())
        digest.update(substeps.to_bytes(8, "little"))
        return digest.digest()
