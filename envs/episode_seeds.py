"""Seeds that make every episode repeatable by itself."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from crl.envs.env_state import get_state, set_state
from crl.envs.errors import EnvironmentOptionError


def episode_seed(run_seed: int, env_index: int, episode: int, evaluation: bool = False) -> int:
    """
    :param run_seed: of the run
    :param env_index: of the environment among parallel ones
    :param episode: counted from 0
    :param evaluation: of a stream of its own, so that no episode is trained on and evaluated on
    :return: seed of that episode, 0..2**31 - 1; unrelated for different arguments
    """
    sequence = np.random.SeedSequence((run_seed, env_index, episode), spawn_key=(1,) if evaluation else ())
    return int(sequence.generate_state(1)[0] >> 1)


def check_seed(seed: int) -> None:
    """
    :raises EnvironmentOptionError: for a seed below 0
    """
    if seed < 0:
        raise EnvironmentOptionError(f"seed={seed}: at least 0")


class EpisodeSeeds(gym.Wrapper[Any, Any, Any, Any]):
    """
    Seeds every reset with a hash of run seed, environment and episode number: episode 7 is the same whatever happened in the
    six before it, so a run can be taken up at any episode, and agents can be compared on the same ones.

    :param env: environment
    :param seed: of the run; an explicit ``reset(seed=...)`` replaces it and starts counting anew
    :param env_index: of this environment among parallel ones
    :param evaluation: draw from the evaluation's stream instead of the training's
    :raises EnvironmentOptionError: for a negative seed
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int, env_index: int = 0, evaluation: bool = False) -> None:
        super().__init__(env)
        check_seed(seed)
        self.evaluation = evaluation
        self.run_seed = seed
        self.env_index = env_index
        #: number of the episode that the next reset begins
        self.episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        if seed is not None:
            check_seed(seed)
            self.run_seed, self.episode = seed, 0
        own = episode_seed(self.run_seed, self.env_index, self.episode, self.evaluation)
        self.episode += 1
        return self.env.reset(seed=own, options=options)

    def begin_at(self, seed: int, episode: int) -> None:
        """
        :param seed: of the run
        :param episode: number of the episode that the next reset begins
        """
        check_seed(seed)
        self.run_seed, self.episode = seed, episode

    def get_state(self) -> dict[str, Any]:
        """Counters and the wrapped environment's state."""
        return {"run_seed": self.run_seed, "episode": self.episode, "env": get_state(self.env)}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`
        """
        self.run_seed, self.episode = state["run_seed"], state["episode"]
        set_state(self.env, state["env"])
