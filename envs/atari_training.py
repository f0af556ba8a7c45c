"""What Atari agents are trained on and not evaluated on: lives as episodes, and clipped rewards."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from crl.envs.env_state import get_state, set_state


class AtariTraining(gym.Wrapper[Any, Any, Any, Any]):
    """
    A lost life is reported as ``terminated``, and rewards by their sign. The game goes on: the next reset gives the
    observation that the lost life ended with (as Dopamine does it; CURL's code lets one frame pass). It is a new game only
    after the last life, at the limit of frames, or when a seed is given.

    It belongs outside of SB3's ``Monitor``, which so counts whole games and true rewards: ``rollout/ep_rew_mean`` is the mean
    score of games.

    :param env: gives ``info["lives"]``
    :param terminal_on_life_loss: report lost lives
    :param clip_reward: rewards are -1, 0 or 1
    """

    def __init__(self, env: gym.Env[Any, Any], terminal_on_life_loss: bool = True, clip_reward: bool = True) -> None:
        super().__init__(env)
        self.terminal_on_life_loss = terminal_on_life_loss
        self.clip_reward = clip_reward
        self._lives = 0
        #: what the last step gave, if it cost a life and the game goes on
        self._between: tuple[Any, dict[str, Any]] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The next life, or a new game; see :class:`gymnasium.Env`."""
        if self._between is not None and seed is None:
            obs, info = self._between
        else:
            obs, info = self.env.reset(seed=seed, options=options)
        self._between = None
        self._lives = info["lives"]
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        lost = 0 < info["lives"] < self._lives
        self._lives = info["lives"]
        if self.terminal_on_life_loss and lost and not (terminated or truncated):
            self._between = obs, dict(info)  # vector environments write into what they get
            terminated = True
        return obs, float(np.sign(float(reward))) if self.clip_reward else float(reward), terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """Lives, and the wrapped environment's state."""
        return {"lives": self._lives, "between": self._between, "env": get_state(self.env)}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`
        """
        self._lives, self._between = state["lives"], state["between"]
        set_state(self.env, state["env"])
