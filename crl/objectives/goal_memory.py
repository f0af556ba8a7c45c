"""
The goal memory of achievement distillation (Moon et al. 2023, arXiv:2307.03486): beside the image, the policy is shown the
representation of the sub-goal that was reached last, zeros before the first one of an episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecTransposeImage

from crl.encoders import ModelEncoder, check_image_space
from crl.objectives.achievement import goal_representation
from crl.objectives.memory_extractor import IMAGE, MEMORY, memory_space

Observation = dict[str, np.ndarray]


def reached_goals(infos: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """
    :param infos: of one step, one for each parallel environment
    :return: ``(n_envs,)`` bool, where a sub-goal was reached in this step for the first time in its episode
    :raises KeyError: when an environment does not say so
    """
    for index, info in enumerate(infos):
        if "subgoals" not in info:
            raise KeyError(
                f"environment {index} puts no 'subgoals' into its infos: choose crafter/reward or toy/chain, or report them "
                "as crl.envs.subgoals says"
            )
    return np.array([bool(np.any(info["subgoals"])) for info in infos])


class _Goals:
    """
    Goals as the acting encoder sees them.

    :param space: image space
    :param width: of the encoder's output
    """

    def __init__(self, space: spaces.Box, width: int) -> None:
        self.space = space
        self.width = width
        self.encoder: ModelEncoder | None = None

    def __call__(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """
        :param before: ``(n, channels, height, width)`` frames before the sub-goals
        :param after: as many, after
        :return: ``(n, width)`` float32
        :raises RuntimeError: without encoder, or for one of another width
        """
        encoder = self.encoder
        if encoder is None:
            raise RuntimeError("GoalMemory has no encoder to look with: bind(encoder) it once the model is made")
        if encoder.features_dim != self.width:
            raise RuntimeError(f"GoalMemory was made for features_dim={self.width}, the encoder gives {encoder.features_dim}")
        device = next(iter(encoder.parameters())).device
        with th.no_grad():
            latents = encoder(th.as_tensor(np.concatenate([before, after]), device=device))
            return goal_representation(*latents.chunk(2)).float().cpu().numpy()


class GoalMemory(VecEnvWrapper):
    """
    Observations become ``{"image": ..., "memory": ...}``. It has to be the outermost wrapper, and to be given the model's
    encoder with :meth:`bind` (:class:`crl.callbacks.AchievementPhases` and the recipes do)::

        env = GoalMemory(make_vec_env("toy/chain"), features_dim=256)
        extractor = dict(encoder_class=ImpalaEncoder, encoder_kwargs=dict(features_dim=256))
        policy_kwargs = dict(
            features_extractor_class=MemoryExtractor, features_extractor_kwargs=extractor, net_arch=[], ortho_init=False
        )
        model = PPO("MultiInputPolicy", env, policy_kwargs=policy_kwargs)

    ``env_method("get_state")`` and ``"set_state"`` take the memory along, so that a run goes on with it.

    :param venv: images alone, from environments that report sub-goals (``crl.envs.subgoals``)
    :param features_dim: width of the encoder's output
    :raises ValueError: for observations that are no images
    """

    def __init__(self, venv: VecEnv, features_dim: int) -> None:
        space = venv.observation_space
        if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
            venv = VecTransposeImage(venv)
            space = venv.observation_space
        image = check_image_space(space, who="GoalMemory")
        super().__init__(venv, observation_space=memory_space(image, features_dim))
        self.goals = _Goals(image, features_dim)
        self.images = np.zeros((self.num_envs, *image.shape), dtype=image.dtype)
        self.memory = np.zeros((self.num_envs, features_dim), dtype=np.float32)

    def bind(self, encoder: ModelEncoder) -> None:
        """
        :param encoder: the acting one, of the model that is trained on this environment
        """
        self.goals.encoder = encoder

    def _observe(self, images: np.ndarray) -> Observation:
        self.images = images.copy()
        return {IMAGE: images, MEMORY: self.memory.copy()}

    def reset(self) -> Observation:
        """See SB3's ``VecEnv``."""
        images = self.venv.reset()
        self.memory[:] = 0.0
        assert isinstance(images, np.ndarray)
        return self._observe(images)

    def step_wait(self) -> Any:
        """See SB3's ``VecEnv``."""
        images, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(images, np.ndarray)
        after = images.copy()
        for index in np.flatnonzero(dones):
            after[index] = infos[index]["terminal_observation"]
        reached = reached_goals(infos)
        if reached.any():
            self.memory[reached] = self.goals(self.images[reached], after[reached])
        for index in np.flatnonzero(dones):
            # what the episode ended with, where a value function may look; the next one begins without a memory
            infos[index]["terminal_observation"] = {IMAGE: after[index], MEMORY: self.memory[index].copy()}
            self.memory[index] = 0.0
        return self._observe(images), rewards, dones, infos

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """See SB3's ``VecEnv``; states of environments hold their memory and last image."""
        chosen = list(self._get_indices(indices))
        if method_name == "set_state":
            state = args[0]
            for index in chosen:
                self.memory[index], self.images[index] = state["memory"], state["image"]
            return self.venv.env_method("set_state", state["env"], indices=indices)
        found = self.venv.env_method(method_name, *args, indices=indices, **kwargs)
        if method_name != "get_state":
            return found
        return [
            {"env": state, "memory": self.memory[index].copy(), "image": self.images[index].copy()}
            for index, state in zip(chosen, found, strict=True)
        ]

    def _reset_seeds(self) -> None:
        self.venv._reset_seeds()


class SingleGoalMemory(gym.Wrapper[Any, Any, Any, Any]):
    """
    :class:`GoalMemory` around one environment, to evaluate and film an agent in.

    :param env: shows images, reports sub-goals
    :param encoder: the agent's
    """

    def __init__(self, env: gym.Env[np.ndarray, Any], encoder: ModelEncoder) -> None:
        space = env.observation_space
        self._transposes = False
        if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
            self._transposes = True
            space = VecTransposeImage.transpose_space(space)
        super().__init__(env)
        image = check_image_space(space, who="SingleGoalMemory")
        self.observation_space = memory_space(image, encoder.features_dim)
        self.goals = _Goals(image, encoder.features_dim)
        self.goals.encoder = encoder
        self._image = np.zeros(image.shape, dtype=image.dtype)
        self._memory = np.zeros(encoder.features_dim, dtype=np.float32)

    def _seen(self, image: np.ndarray) -> np.ndarray:
        # a copy: environments may draw into the same array again
        return np.array(np.transpose(image, (2, 0, 1)) if self._transposes else image)

    def _observe(self, image: np.ndarray) -> Observation:
        self._image = image
        return {IMAGE: image, MEMORY: self._memory.copy()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        image, info = self.env.reset(seed=seed, options=options)
        self._memory[:] = 0.0
        return self._observe(self._seen(image)), info

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        image, reward, terminated, truncated, info = self.env.step(action)
        image = self._seen(image)
        if reached_goals([info])[0]:
            self._memory[:] = self.goals(self._image[None], image[None])[0]
        return self._observe(image), reward, terminated, truncated, info
