"""The state of a dm_control simulation, complete enough to go on from it bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np

#: meshes and textures: megabytes that the renderer copies once and no task of the suite touches
_STATIC = ("mesh_", "tex_", "skin_", "bvh_", "oct_")


class PhysicsSnapshot:
    """
    Takes and restores snapshots of one simulation: MuJoCo's integration state (with the solver's warm start, which is not in
    ``physics.get_state()`` and changes the last bits of what follows) and those parts of the *model* that differ from what was
    loaded. The suite draws some tasks by changing the model at each episode: a reacher's target, a swimmer's light,
    the gears of ``point_mass-hard``, the terrain of ``quadruped-escape``.

    :param physics: ``dm_control.mujoco.Physics``, before its first episode
    """

    def __init__(self, physics: Any) -> None:
        self._physics = physics
        self._loaded = {name: array.copy() for name, array in _arrays(physics.model.ptr).items()}

    def get(self) -> dict[str, Any]:
        """``integration``, float64 vector, and ``model``, the changed arrays by name."""
        import mujoco

        arrays = _arrays(self._physics.model.ptr)
        changed = {name: array.copy() for name, array in arrays.items() if not np.array_equal(array, self._loaded[name])}
        return {"integration": self._physics.get_state(sig=mujoco.mjtState.mjSTATE_INTEGRATION.value), "model": changed}

    def set(self, snapshot: dict[str, Any]) -> None:
        """
        :param snapshot: from :meth:`get`, of the same task
        :raises ValueError: when it is of another model
        """
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        model, data = self._physics.model.ptr, self._physics.data.ptr
        wanted, size = np.shape(snapshot["integration"]), mujoco.mj_stateSize(model, kind)
        if wanted != (size,):
            raise ValueError(f"the snapshot's state has shape {wanted}, this simulation's ({size},): is it of another task?")
        for name, array in _arrays(model).items():
            array[...] = snapshot["model"].get(name, self._loaded[name])
        mujoco.mj_setState(model, data, snapshot["integration"], kind)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, snapshot["integration"], kind)  # forward moved the warm start
        self._upload_terrain()

    def _upload_terrain(self) -> None:
        """The renderer has its own copy of height fields."""
        import mujoco

        model = self._physics.model.ptr
        if model.nhfield == 0:
            return
        contexts = self._physics.contexts
        with contexts.gl.make_current() as context:
            for field in range(model.nhfield):
                context.call(mujoco.mjr_uploadHField, model, contexts.mujoco.ptr, field)


def _arrays(model: Any) -> dict[str, np.ndarray]:
    """Views of the model's arrays by name."""
    names = (name for name in dir(model) if not name.startswith(("_", *_STATIC)))
    return {name: value for name in names if isinstance(value := getattr(model, name), np.ndarray) and value.size}
