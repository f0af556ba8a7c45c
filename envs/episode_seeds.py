"""Seeds that make every episode repeatable by itself."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


def episode_seed(run_seed: int, env_index: int, episode: int) -> int:
    """
    :param run_seed: of the run
    :param env_index: of the environment among parallel ones
    :param episode: counted from 0
    :return: seed of that episode, 0..2**31 - 1; unrelated for different arguments
    """
    return int(np.random.SeedSequence((run_seed, env_index, episode)).generate_state(1)[0] >> 1)


class EpisodeSeeds(gym.Wrapper[Any, Any, Any, Any]):
    """
    Seeds every reset with a hash of run seed, environment and episode number: episode 7 is the same whatever happened in the
    six before it, so a run can be taken up at any episode, and agents can be compared on the same ones.

    :param env: environment
    :param seed: of the run; an explicit ``reset(seed=...)`` replaces it and starts counting anew
    :param env_index: of this environment among parallel ones
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int, env_index: int = 0) -> None:
        super().__init__(env)
        self.run_seed = seed
        self.env_index = env_index
        #: number of the episode that the next reset begins
        self.episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        if seed is not None:
            self.run_seed, self.episode = seed, 0
        own = episode_seed(self.run_seed, self.env_index, self.episode)
        self.episode += 1
        return self.env.reset(seed=own, options=options)

    def get_state(self) -> dict[str, Any]:
        """Counters and the wrapped environment's state."""
        return {"run_seed": self.run_seed, "episode": self.episode, "env": self.env.get_wrapper_attr("get_state")()}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`
        """
        self.run_seed, self.episode = state["run_seed"], state["episode"]
        self.env.get_wrapper_attr("set_state")(state["env"])
