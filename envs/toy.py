"""
``toy/reach`` and ``toy/reach-discrete``: a dot with momentum is to be brought to a goal and held there, seen from pixels.

Made for testing representation learning in seconds, with numpy alone. What it is like, and why:

- 32x32 RGB, three frames stacked: the reward wants the dot close to the goal *and slow*, and speed shows only between frames.
- Goal and background are redrawn in each episode, and a second dot of about the same size wanders about: an encoder has to
  tell the controlled dot from the distractor, which random convolutions do poorly and supervised ones do well.
- There are two backgrounds. One that is unique to an episode would let a contrastive loss tell observations apart without
  ever looking at the dots; with shared ones it has to look at positions.

Measured with ``scripts/toy_ablation.py`` (ridge probe of position, velocity and goal on conv features, held-out episodes,
seeds 1 to 5): R^2 0.20 for a random encoder, 0.98 for a supervised one, and 0.54 where contrast alone moves the encoder, two
fifths of the way. Velocity stays hardest: no single frame shows it. SAC with shifts returns 37 of 50 after 6000 steps; on a
random encoder, 6.

The true state is in ``info["state"]``: position, velocity, goal, distractor (two numbers each, see :attr:`ToyReach.STATE`).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SIZE = 32
N_STACK = 3
LENGTH = 50

_DRAG = 0.8
_ACCELERATION = 0.06
#: the largest speed that full thrust reaches, per step; positions lie in -1..1
MAX_SPEED = _ACCELERATION / (1.0 - _DRAG)
_DISCRETE = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], dtype=np.float32)
# dim, so that the dots stand out
_PALETTE = np.array([(20, 20, 60), (40, 40, 40)], dtype=np.float32)
_DOT = np.array((250, 250, 250), dtype=np.float32)
_GOAL = np.array((60, 130, 60), dtype=np.float32)
_DISTRACTOR = np.array((230, 230, 120), dtype=np.float32)
_RADIUS = {"dot": 2.0, "goal": 2.6, "distractor": 2.0}
_REACH = 4  # half the window in which a disc is drawn, in pixels


class ToyReach(gym.Env[np.ndarray, Any]):
    """
    Observations: ``(9, 32, 32)`` uint8, three RGB frames, oldest first; a reset repeats the first frame.

    Reward per step: ``max(0, 1 - distance) * (1 - 0.7 * speed / MAX_SPEED)``, so at most 1, and 50 an episode. Episodes are
    truncated after 50 steps and never terminate.

    :param discrete: five actions (rest, and thrust along +x, -x, +y, -y) instead of a thrust in [-1, 1]^2
    :param distractors: dots that wander about and mean nothing, 0 to 8
    :param render_mode: ``"rgb_array"`` or None
    :raises ValueError: for a value out of range
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    #: names of the entries of ``info["state"]``; two more for each further distractor
    STATE = ("x", "y", "vx", "vy", "goal_x", "goal_y", "distractor_x", "distractor_y")

    def __init__(self, discrete: bool = False, distractors: int = 1, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r}: None or 'rgb_array'")
        if not 0 <= distractors <= 8:
            raise ValueError(f"distractors={distractors}: 0 to 8")
        self.discrete = discrete
        self.distractors = distractors
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (3 * N_STACK, SIZE, SIZE), np.uint8)
        self.action_space = spaces.Discrete(len(_DISCRETE)) if discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """A new goal, background, distractor path and start; see :class:`gymnasium.Env`."""
        super().reset(seed=seed)
        rng = self.np_random
        self._t = 0
        self._position = rng.uniform(-0.9, 0.9, 2)
        self._velocity = rng.uniform(-0.5, 0.5, 2) * MAX_SPEED
        self._goal = rng.uniform(-0.8, 0.8, 2)
        self._canvas = np.broadcast_to(_PALETTE[rng.integers(len(_PALETTE))], (SIZE, SIZE, 3)).copy()
        _disc(self._canvas, self._goal, _GOAL, _RADIUS["goal"])
        # distractors run along Lissajous figures: smooth, bounded, as fast as the dot
        self._rate = rng.uniform(0.06, 0.16, (self.distractors, 2))
        self._phase = rng.uniform(0.0, 2.0 * np.pi, (self.distractors, 2))
        self._frames = np.concatenate([self._frame()] * N_STACK)
        return self._frames.copy(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of the physics; see :class:`gymnasium.Env`."""
        thrust = _DISCRETE[int(action)] if self.discrete else np.clip(action, -1.0, 1.0)
        self._velocity = _DRAG * self._velocity + _ACCELERATION * thrust
        moved = self._position + self._velocity
        self._position = np.clip(moved, -1.0, 1.0)
        self._velocity = np.where(moved == self._position, self._velocity, 0.0)  # walls stop the dot
        self._t += 1
        self._frames = np.concatenate([self._frames[3:], self._frame()])
        distance = float(np.hypot(*(self._position - self._goal)))
        speed = float(np.hypot(*self._velocity))
        reward = max(0.0, 1.0 - distance) * (1.0 - 0.7 * min(1.0, speed / MAX_SPEED))
        return self._frames.copy(), reward, False, self._t >= LENGTH, self._info()

    def render(self) -> np.ndarray | None:
        """The newest frame, ``(32, 32, 3)`` uint8, in mode ``"rgb_array"``."""
        if self.render_mode is None:
            return None
        return np.ascontiguousarray(self._frames[-3:].transpose(1, 2, 0))

    def get_state(self) -> dict[str, Any]:
        """Everything that the future depends on; see :meth:`set_state`."""
        names = ("_t", "_position", "_velocity", "_goal", "_canvas", "_rate", "_phase", "_frames")
        state = {name: np.copy(getattr(self, name)) if name != "_t" else self._t for name in names}
        return {**state, "rng": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Go on exactly where :meth:`get_state` was called.

        :param state: from :meth:`get_state` of an environment of the same kind
        """
        for name, value in state.items():
            if name != "rng":
                setattr(self, name, np.copy(value) if name != "_t" else int(value))
        self.np_random.bit_generator.state = state["rng"]

    def _where_distractors_are(self) -> np.ndarray:
        return 0.9 * np.sin(self._rate * self._t + self._phase)

    def _frame(self) -> np.ndarray:
        canvas = self._canvas.copy()
        for place in self._where_distractors_are():
            _disc(canvas, place, _DISTRACTOR, _RADIUS["distractor"])
        _disc(canvas, self._position, _DOT, _RADIUS["dot"])
        return canvas.astype(np.uint8).transpose(2, 0, 1)

    def _info(self) -> dict[str, Any]:
        parts = (self._position, self._velocity / MAX_SPEED, self._goal, self._where_distractors_are().ravel())
        return {"state": np.concatenate(parts).astype(np.float32)}


def _disc(canvas: np.ndarray, centre: np.ndarray, colour: np.ndarray, radius: float) -> None:
    """Blend an anti-aliased disc into ``(SIZE, SIZE, 3)``; ``centre`` is (x, y) in -1..1, y upwards."""
    # centres stay 3 pixels off the border, so that a disc is never cut in half
    x = 3.0 + (centre[0] + 1.0) * 0.5 * (SIZE - 7)
    y = 3.0 + (1.0 - centre[1]) * 0.5 * (SIZE - 7)
    left, top = max(0, int(x) - _REACH), max(0, int(y) - _REACH)
    right, bottom = min(SIZE, int(x) + _REACH + 2), min(SIZE, int(y) + _REACH + 2)
    dx, dy = np.arange(left, right) - x, np.arange(top, bottom) - y
    distance = np.sqrt(dx[None, :] ** 2 + dy[:, None] ** 2)
    alpha = np.clip(radius + 0.5 - distance, 0.0, 1.0)[..., None]
    window = canvas[top:bottom, left:right]
    window += alpha * (colour - window)
