"""DeepMind Control (Tassa et al. 2018) as gymnasium environments that render: ``dmc/<domain>-<task>``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from crl.envs.errors import EnvironmentOptionError, check_positive
from crl.envs.opengl import choose_backend, no_opengl
from crl.envs.physics_snapshot import PhysicsSnapshot
from crl.envs.wrappers import ActionRepeat, PixelStack

#: simulator steps per action on the six PlaNet tasks (Hafner et al. 2019); CURL and DrQ use the same
PLANET_ACTION_REPEAT = {"cartpole": 8, "finger": 2, "walker": 2, "reacher": 4, "cheetah": 4, "ball_in_cup": 4}
#: everywhere else, as DrQ-v2
ACTION_REPEAT = 2

#: the suite's tasks, so that a wrong name is answered without loading the simulator
TASKS: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "three_poles", "two_poles"),
    "cheetah": ("run",),
    "dog": ("fetch", "run", "stand", "trot", "walk"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("swim", "upright"),
    "hopper": ("hop", "stand"),
    "humanoid": ("run", "run_pure_state", "stand", "walk"),
    "humanoid_CMU": ("run", "stand", "walk"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("escape", "fetch", "run", "walk"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer15", "swimmer6"),
    "walker": ("run", "stand", "walk"),
}


def task_ids() -> list[str]:
    """All ids, ``dmc/<domain>-<task>``."""
    return [f"dmc/{domain}-{task}" for domain, tasks in TASKS.items() for task in tasks]


def split_id(env_id: str) -> tuple[str, str]:
    """
    :param env_id: ``dmc/<domain>-<task>``; dashes may stand for underscores
    :return: domain and task
    :raises ValueError: when the suite has no such task
    """
    names = {known.lower().replace("_", "-"): known for known in task_ids()}
    known = names.get(env_id.lower().replace("_", "-"))
    if known is None:
        raise ValueError(f"the DeepMind Control suite has no task {env_id!r}")
    domain, task = known.removeprefix("dmc/").split("-")
    return domain, task


def default_action_repeat(domain: str) -> int:
    """Simulator steps per action, by domain."""
    return PLANET_ACTION_REPEAT.get(domain, ACTION_REPEAT)


def default_camera(domain: str) -> int:
    """The fixed camera that published results were seen through: 2 for the quadruped, else 0."""
    return 2 if domain == "quadruped" else 0


def from_pixels(
    env_id: str,
    *,
    size: int = 84,
    n_stack: int = 3,
    action_repeat: int | None = None,
    camera: int | None = None,
    shadow_size: int | None = None,
    time_limit: float | None = None,
) -> Callable[[], gym.Env[Any, Any]]:
    """
    :param env_id: ``dmc/<domain>-<task>``
    :param size: side of the frames, in pixels (84; CURL renders 100 and crops)
    :param n_stack: frames in an observation
    :param action_repeat: simulator steps per action, rewards summed; None takes :func:`default_action_repeat`
    :param camera: camera id; None takes :func:`default_camera`
    :param shadow_size: see :class:`DMControl`
    :param time_limit: of an episode, in seconds; None takes the task's
    :return: makes the environment; the simulator is loaded no sooner
    :raises ValueError: when the suite has no such task
    :raises EnvironmentOptionError: for a value out of range
    """
    domain, task = split_id(env_id)
    repeat = default_action_repeat(domain) if action_repeat is None else action_repeat
    check_positive(size=size, n_stack=n_stack, action_repeat=repeat)
    if shadow_size is not None:
        check_positive(shadow_size=shadow_size)
    if time_limit is not None and not time_limit > 0:
        raise EnvironmentOptionError(f"time_limit={time_limit!r}: seconds, more than 0")
    return partial(_make, domain, task, repeat, n_stack, size, camera, shadow_size, time_limit)


def _make(domain: str, task: str, repeat: int, n_stack: int, *options: Any) -> gym.Env[Any, Any]:
    # rendering comes outside of the repeat: only the last of the repeated steps is drawn
    return PixelStack(ActionRepeat(DMControl(domain, task, *options), repeat), n_stack)


class DMControl(gym.Env[np.ndarray, np.ndarray]):
    """
    One task of the suite. Observations are the flattened true state; pixels come from :meth:`render`.

    Actions are in [-1, 1] whatever the actuators' ranges. The suite's episodes end by their time limit alone, with discount 1:
    that is ``truncated``; ``terminated`` is only set where the discount falls to 0. ``reset(seed=...)`` reproduces an episode
    exactly.

    :param domain: of the suite
    :param task: of the domain
    :param size: side of the rendered square, in pixels
    :param camera: camera id; None takes the published one
    :param shadow_size: side of the shadow map; None leaves the model's (2048). 512 renders 2 to 4 times as fast on CPUs and
        changes pixels by about 0.01 of 255 on average.
    :param time_limit: of an episode, in seconds; None takes the task's
    :raises ImportError: without dm-control; names the extra
    :raises RuntimeError: when no OpenGL is to be had; says what to install
    :raises EnvironmentOptionError: for a camera that the task does not have
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        domain: str,
        task: str,
        size: int = 84,
        camera: int | None = None,
        shadow_size: int | None = None,
        time_limit: float | None = None,
    ) -> None:
        self.render_mode = "rgb_array"
        suite = _suite()
        task_kwargs: dict[str, Any] = {"random": np.random.RandomState(0)}
        if time_limit is not None:
            task_kwargs["time_limit"] = time_limit
        self._env = suite.load(domain, task, task_kwargs=task_kwargs)
        self._name = f"{domain}-{task}"
        self._snapshot = PhysicsSnapshot(self._env.physics)
        self.size = size
        self.camera = default_camera(domain) if camera is None else camera
        if not -1 <= self.camera < self._env.physics.model.ncam:
            raise EnvironmentOptionError(
                f"camera={camera}: {domain} has cameras 0 to {self._env.physics.model.ncam - 1}, and -1 (free)"
            )
        self._shadow_size = shadow_size
        self._has_rendered = False
        self._prepare_rendering()
        spec = self._env.action_spec()
        self._low, self._high = spec.minimum.astype(np.float64), spec.maximum.astype(np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, spec.shape, np.float32)
        n = int(sum(np.prod(item.shape, dtype=int) for item in self._env.observation_spec().values()))
        self.observation_space = spaces.Box(-np.inf, np.inf, (n,), np.float64)

    def _prepare_rendering(self) -> None:
        # The off-screen buffer (640x480 by default) costs time in proportion to its area; pixels of the frame are the same
        visual = self._env.physics.model.vis
        visual.global_.offwidth, visual.global_.offheight = self.size, self.size
        if self._shadow_size is not None:
            visual.quality.shadowsize = self._shadow_size

    def _flatten(self, observation: Any) -> np.ndarray:
        return np.concatenate([np.asarray(value, dtype=np.float64).ravel() for value in observation.values()])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed % 2**32)
        step = self._env.reset()
        return self._flatten(step.observation), {"physics": self._env.physics.get_state()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        share = (np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0) + 1.0) / 2.0
        step = self._env.step(self._low + share * (self._high - self._low))
        over = bool(step.last())
        terminated = over and step.discount == 0.0
        info = {"physics": self._env.physics.get_state(), "discount": float(step.discount)}
        return self._flatten(step.observation), float(step.reward or 0.0), terminated, over and not terminated, info

    def render(self) -> np.ndarray:
        """The scene, ``(size, size, 3)`` uint8."""
        if not self._has_rendered:
            try:
                _ = self._env.physics.contexts  # made now; in later frames, errors are what they say
            except Exception as error:  # whatever the backend raises: mujoco's, GLFW's, EGL's own
                raise no_opengl(error) from error
            self._has_rendered = True
        return np.asarray(self._env.physics.render(self.size, self.size, camera_id=self.camera))

    def close(self) -> None:
        """Free the OpenGL context (left to the interpreter's exit, OSMesa complains)."""
        self._env.close()

    def get_state(self) -> dict[str, Any]:
        """Everything that the future depends on: the simulation, the episode's clock and the task's random stream."""
        return {
            "task": self._name,
            "physics": self._snapshot.get(),
            "steps": self._env._step_count,
            "reset_next": self._env._reset_next_step,
            "random": self._env.task.random.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Go on exactly where :meth:`get_state` was called.

        :param state: from :meth:`get_state`
        :raises ValueError: when it is another task's
        """
        if state["task"] != self._name:
            raise ValueError(f"this is {self._name}, the state is of {state['task']}")
        if not state["reset_next"]:
            self._env.reset()  # some tasks keep values of their own that an episode's beginning sets
        self._snapshot.set(state["physics"])
        self._env._step_count, self._env._reset_next_step = state["steps"], state["reset_next"]
        self._env.task.random.set_state(state["random"])


def _suite() -> Any:
    """dm_control's suite, with an OpenGL backend chosen before it is imported (it cannot be changed afterwards)."""
    choose_backend()
    try:
        from dm_control import suite
    except ModuleNotFoundError as error:
        raise ImportError(f"DeepMind Control needs the extra 'dmc': pip install 'crl[dmc]' ({error})") from error
    except (AttributeError, ImportError, RuntimeError) as error:  # PyOpenGL without its library, EGL without a device
        raise no_opengl(error) from error
    return suite
