"""Action repeat and frame stacking for pixel control."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from crl.envs.env_state import get_state, set_state
from crl.envs.errors import NotPixelsError, check_positive


class ActionRepeat(gym.Wrapper[Any, Any, Any, Any]):
    """
    Repeats each action and sums the rewards; stops at the end of the episode. Sub-goals of all of its steps are kept.
    (gymnasium's ``MaxAndSkipObservation`` takes the maximum of frames, as Atari needs it.)

    :param env: environment
    :param repeat: simulator steps per action, at least 1
    :raises EnvironmentOptionError: for less than 1
    """

    def __init__(self, env: gym.Env[Any, Any], repeat: int) -> None:
        check_positive(action_repeat=repeat)
        super().__init__(env)
        self.repeat = repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        total, reached = 0.0, None
        for _ in range(self.repeat):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if "subgoals" in info:
                now = np.asarray(info["subgoals"], dtype=bool)
                reached = now if reached is None else reached | now
            if terminated or truncated:
                break
        if reached is not None:
            info = {**info, "subgoals": reached}
        return obs, total, terminated, truncated, info

    def get_state(self) -> Any:
        """Of the wrapped environment."""
        return get_state(self.env)

    def set_state(self, state: Any) -> None:
        """Of the wrapped environment."""
        set_state(self.env, state)


class PixelStack(gym.Wrapper[Any, Any, Any, Any]):
    """
    Observes the last rendered frames, concatenated along the channels: ``(n_stack * 3, height, width)`` uint8, oldest first. A
    reset repeats the first frame. The wrapped environment's own observation moves to ``info["state"]``.

    :param env: environment with ``render_mode="rgb_array"``
    :param n_stack: frames in an observation
    :param size: side of the square frames, in pixels; other sizes are resized (bilinear). None keeps what is rendered.
    :raises NotPixelsError: when the environment renders no RGB arrays
    :raises EnvironmentOptionError: for less than one frame
    """

    def __init__(self, env: gym.Env[Any, Any], n_stack: int = 3, size: int | None = None) -> None:
        check_positive(n_stack=n_stack)
        if size is not None:
            check_positive(size=size)
        if env.render_mode != "rgb_array":
            raise NotPixelsError(
                f"pixels need an environment made with render_mode='rgb_array', this one has {env.render_mode!r}"
            )
        super().__init__(env)
        self.n_stack = n_stack
        self.size = size
        self._frames: deque[np.ndarray] = deque(maxlen=n_stack)
        height, width = (size, size) if size is not None else self._rendered_size()
        self.observation_space = spaces.Box(0, 255, (3 * n_stack, height, width), np.uint8)

    def _rendered_size(self) -> tuple[int, int]:
        self.env.reset()
        height, width = self._render().shape[1:]
        return height, width

    def _render(self) -> np.ndarray:
        """The present frame, ``(3, height, width)``."""
        image = np.asarray(self.env.render())
        if self.size is not None and image.shape[:2] != (self.size, self.size):
            from PIL import Image

            image = np.asarray(Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def _observe(self) -> np.ndarray:
        return np.concatenate(list(self._frames))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        state, info = self.env.reset(seed=seed, options=options)
        frame = self._render()
        self._frames.extend([frame] * self.n_stack)
        return self._observe(), {**info, "state": _flat(state)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        state, reward, terminated, truncated, info = self.env.step(action)
        self._frames.append(self._render())
        return self._observe(), reward, terminated, truncated, {**info, "state": _flat(state)}

    def get_state(self) -> dict[str, Any]:
        """Frames, and the wrapped environment's state."""
        return {"frames": np.stack(list(self._frames)), "env": get_state(self.env)}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`
        """
        self._frames.extend(state["frames"])
        set_state(self.env, state["env"])


def _flat(state: Any) -> np.ndarray:
    """Vectors of any nesting as one float32 vector."""
    if isinstance(state, dict):
        return np.concatenate([_flat(value) for value in state.values()]) if state else np.zeros(0, np.float32)
    return np.asarray(state, dtype=np.float32).ravel()
