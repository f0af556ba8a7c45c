"""Rewards as an agent learns from them."""

from __future__ import annotations

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class ScaledRewards(VecEnvWrapper):
    """
    Multiplies rewards by a constant. SB3's ``VecNormalize`` finds a factor as it goes, and so another one for each arm of a
    comparison, which it has to save. Returns in ``info["episode"]`` stay as they are.

    :param venv: any
    :param scale: the factor
    """

    def __init__(self, venv: VecEnv, scale: float) -> None:
        super().__init__(venv)
        self.scale = scale

    def reset(self) -> VecEnvObs:
        """See SB3."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """See SB3."""
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, rewards * self.scale, dones, infos
