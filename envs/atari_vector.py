"""Several Atari games in ale-py's own vector environment (C++ threads), as one of SB3's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from crl.envs.atari import AtariSettings, load_ale
from crl.envs.episode_seeds import check_seed, episode_seed
from crl.envs.errors import check_positive


class AtariVecEnv(VecEnv):
    """
    What :class:`crl.envs.atari.AtariGame` gives in ``n_envs`` copies, in parallel: seeds of episodes, no-ops, observations,
    rewards, ends, lives and ``info["episode"]`` are the same, bit by bit (tested with the Linux wheels of ale-py 0.12, whose
    no-ops are drawn as GCC's library draws them; elsewhere no-ops may differ).

    What differs:

    - The newest frame of ``info["terminal_observation"]`` at the end of a game: C++ leaves out what was drawn last, where the
      game ended or the limit of frames was reached. (After a lost life it is the same.)
    - ``info`` has no labels; :meth:`render` has no picture.
    - There is no ``get_state``: a run that is taken up begins a new game in each environment.

    :param settings: from :func:`crl.envs.atari.settings`
    :param n_envs: copies
    :param seed: of the run; game j of environment i has the seed hash(seed, i, j)
    :param evaluation: games of the evaluation's stream, whole and with true rewards
    :param threads: of C++; None takes one a core
    :raises ImportError: without ale-py; names the extra
    """

    def __init__(
        self,
        settings: AtariSettings,
        n_envs: int,
        seed: int = 0,
        evaluation: bool = False,
        threads: int | None = None,
    ) -> None:
        check_positive(n_envs=n_envs)
        check_seed(seed)
        load_ale()
        self.settings = settings
        self.evaluation = evaluation
        #: of each environment, as :class:`crl.envs.episode_seeds.EpisodeSeeds` has them
        self.run_seeds, self.episodes = [seed] * n_envs, [0] * n_envs
        self.render_mode = None
        self._training = not evaluation
        self._ale: Any = gym.make_vec(
            f"ALE/{settings.game}-v5",
            num_envs=n_envs,
            vectorization_mode="vector_entry_point",
            num_threads=threads or 0,
            max_num_frames_per_episode=settings.max_frames,
            repeat_action_probability=settings.repeat_action_probability,
            full_action_space=settings.full_action_space,
            img_height=settings.size,
            img_width=settings.size,
            stack_num=settings.n_stack,
            frameskip=settings.action_repeat,
            noop_max=settings.noop_max,
            use_fire_reset=False,
            # the same as in AtariTraining, which needs the true values too
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
        )
        shape = (settings.n_stack, settings.size, settings.size)
        actions: Any = self._ale.single_action_space
        super().__init__(n_envs, spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(int(actions.n)))
        self._lives = np.zeros(n_envs, dtype=np.int64)
        self._score = np.zeros(n_envs)
        self._length = np.zeros(n_envs, dtype=np.int64)
        self._began = time.time()
        self._chosen = np.zeros(n_envs, dtype=np.int64)

    def _new_games(self, mask: np.ndarray) -> np.ndarray:
        """Begin games, each with its seed; observations of all environments."""
        indices = np.flatnonzero(mask)
        seeds = [episode_seed(self.run_seeds[i], int(i), self.episodes[i], self.evaluation) for i in indices]
        for i in indices:
            self.episodes[i] += 1
        obs, info = self._ale.reset(seed=np.array(seeds), options={"reset_mask": mask})
        self._lives[indices] = info["lives"][indices]
        self._score[indices], self._length[indices] = 0.0, 0
        return obs

    def reset(self) -> VecEnvObs:
        """New games everywhere. Seeds from :meth:`seed` replace the run's, once."""
        for index, seed in enumerate(self._seeds):
            if seed is not None:
                self.begin_at(seed, 0, index)
        self._reset_seeds()
        self._reset_options()
        obs = self._new_games(np.ones(self.num_envs, dtype=bool))
        self.reset_infos = [{"lives": int(lives)} for lives in self._lives]
        return obs

    def begin_at(self, seed: int, episode: int, index: int) -> None:
        """
        :param seed: of the run
        :param episode: number of the game that the next reset begins
        :param index: of the environment
        """
        check_seed(seed)
        self.run_seeds[index], self.episodes[index] = seed, episode

    def step_async(self, actions: np.ndarray) -> None:
        """See SB3."""
        self._chosen = np.asarray(actions, dtype=np.int64).reshape(self.num_envs)
        self._ale.send(self._chosen)

    def step_wait(self) -> VecEnvStepReturn:
        """See SB3. Where a life is lost, the observation is the one that the life ended with."""
        obs, rewards, terminated, truncated, info = self._ale.recv()
        self._score += rewards
        self._length += 1
        over = terminated | truncated
        lives = info["lives"].astype(np.int64)
        lost = (lives > 0) & (lives < self._lives) & ~over
        self._lives = lives
        training, settings = self._training, self.settings
        dones = over | lost if training and settings.terminal_on_life_loss else over
        rewards = np.sign(rewards) if training and settings.clip_reward else rewards
        infos: list[dict[str, Any]] = []
        for i in range(self.num_envs):
            infos.append({"lives": int(lives[i]), "TimeLimit.truncated": bool(truncated[i] and not terminated[i])})
            if dones[i]:
                infos[i]["terminal_observation"] = obs[i].copy()
            if over[i]:
                seconds = round(time.time() - self._began, 6)
                infos[i]["episode"] = {"r": round(float(self._score[i]), 6), "l": int(self._length[i]), "t": seconds}
        if over.any():
            obs = np.where(over[:, None, None, None], self._new_games(over), obs)
        for i in map(int, np.flatnonzero(dones)):
            self.reset_infos[i] = {"lives": int(self._lives[i])}
        return obs, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """End the threads."""
        self._ale.close()

    # ---- what environments in a list can do

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """``run_seed`` and ``episode`` of each environment, else an attribute of this one."""
        chosen = list(self._get_indices(indices))
        if attr_name in ("run_seed", "episode"):
            return [getattr(self, f"{attr_name}s")[i] for i in chosen]
        return [getattr(self, attr_name)] * len(chosen)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        :raises NotImplementedError: always: the environments are not apart
        """
        raise NotImplementedError(f"AtariVecEnv cannot set {attr_name} of single environments")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """
        ``begin_at(seed, episode)`` of environments.

        :raises AttributeError: for anything else, such as states that there are not
        """
        if method_name != "begin_at":
            raise AttributeError(f"AtariVecEnv has no {method_name} of single environments")
        for i in self._get_indices(indices):
            self.begin_at(*args, **{**kwargs, "index": i})
        return [None] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whole games and true rewards are in ``info["episode"]``, as under a Monitor."""
        from stable_baselines3.common.monitor import Monitor

        return [issubclass(Monitor, wrapper_class)] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """There are none."""
        return [None] * self.num_envs
