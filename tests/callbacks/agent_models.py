"""Small agents that model the others of a matching game, which they see as vectors or as pictures."""

import copy
import io

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.callbacks.agent_model_callback import AgentModelCallback
from crl.encoders import PixelEncoder
from crl.envs.agent_pool import OracleObservation
from crl.envs.episode_seeds import EpisodeSeeds
from crl.envs.monitor import ResumableMonitor
from crl.envs.wrappers import PixelStack
from crl.history import HistoryExtractor, HistorySpec, HistoryVecEnv, history_extractor
from crl.objectives.agent_model import AgentModel

from ..matching import Drawn, Matching


def make_env(way="embedding", n_envs=3, wrap=lambda env: env, length=20, **kwargs):
    def make(index):
        return lambda: ResumableMonitor(EpisodeSeeds(wrap(Matching(**kwargs)), 0, index))

    spec = HistorySpec(way, length, (0, 1, 2), embed_dim=4, width=8, layers=1, heads=2)
    return HistoryVecEnv(DummyVecEnv([make(index) for index in range(n_envs)]), spec)


def drawn(n_stack=1, oracle=False, **kwargs):
    env = PixelStack(Drawn(**kwargs), n_stack)
    return OracleObservation(env) if oracle else env


def make_image_env(n_envs=3, wrap=lambda env: env, length=20, n_stack=1, **kwargs):
    def make(index):
        return lambda: ResumableMonitor(EpisodeSeeds(wrap(drawn(n_stack, **kwargs)), 0, index))

    spec = HistorySpec(length=length, embed_dim=4, width=8, layers=1, heads=2, image_features=6, n_stack=n_stack)
    return HistoryVecEnv(DummyVecEnv([make(index) for index in range(n_envs)]), spec)


def make_model(algorithm=PPO, env=None, policy=None, seed=0, trained=False, modelled=True, **kwargs):
    env = env or make_env()
    extractor = dict(
        spec=env.spec, base_space=env.base_space, action_space=env.action_space, trained=trained, modelled=modelled
    )
    if env.spec.image_features:
        extractor |= dict(image_class=PixelEncoder, image_kwargs=dict(filters=4, layers=2))
    if algorithm is PPO:
        kwargs = {"batch_size": 24, "n_epochs": 2, **kwargs}
    return algorithm(
        policy or ("MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"),
        env,
        n_steps=kwargs.pop("n_steps", 16),
        policy_kwargs=dict(net_arch=[8], features_extractor_class=HistoryExtractor, features_extractor_kwargs=extractor),
        seed=seed,
        **kwargs,
    )


def make_callback(objective="clam", **kwargs):
    objective = AgentModel(min_crop=3, max_crop=9, projector=(8, 4)) if objective == "clam" else objective
    return AgentModelCallback(objective, **{"batch_size": 8, "interval": 24, "min_episodes": 4, "min_steps": 3, **kwargs})


class Watch(BaseCallback):
    """Notes what is acted on and what is learned from."""

    def __init__(self, other):
        super().__init__()
        self.other, self.encoders, self.log_prob_errors, self.n_updates = other, [], [], []

    def _on_rollout_start(self):
        self.encoders.append(weights(history_extractor(self.model).encoder))
        self.n_updates.append(self.other.n_updates)

    def _on_step(self):
        assert same(self.encoders[-1], weights(history_extractor(self.model).encoder)), "moved within a rollout"
        return True

    def _on_rollout_end(self):
        train = type(self.model).train

        def look_and_train():
            buffer = self.model.rollout_buffer
            self.encoders.append(weights(history_extractor(self.model).encoder))
            for t in range(buffer.buffer_size):
                # in batches of the size that was acted on: to the last bit
                raw = buffer.observations
                obs = {k: th.tensor(v[t]) for k, v in raw.items()} if isinstance(raw, dict) else th.tensor(raw[t])
                _, log_prob, _ = self.model.policy.evaluate_actions(obs, th.tensor(buffer.actions[t]).flatten())
                ratio = (log_prob.detach() - th.tensor(buffer.log_probs[t])).exp()
                # a step of float32 either way: kernels round by how memory is aligned
                self.log_prob_errors.append((ratio - 1).abs().max().item() > 1.2e-7)
            train(self.model)

        self.model.train = look_and_train


def same(a, b):
    return a.keys() == b.keys() and all(th.equal(a[key], b[key]) for key in a)


def weights(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


class SaveState(BaseCallback):
    """
    Keeps all that a run goes on from, as it is at the start of a rollout, and goes on from it.

    :param other: trains beside the agent
    :param envs: environments to what is kept of them
    :param at: step
    """

    def __init__(self, other, envs, at=144):
        super().__init__()
        self.other, self.envs_of, self.at = other, envs, at

    def _on_rollout_start(self):
        if self.model.num_timesteps == self.at:
            archive = io.BytesIO()
            self.model.save(archive)
            self.archive, self.callback = archive.getvalue(), copy.deepcopy(self.other.state_dict())
            self.torch, self.numpy = th.get_rng_state(), np.random.get_state()
            self.envs = self.envs_of(self.model.env)

    def _on_step(self):
        return True

    def go_on(self, env, callback, steps):
        """In environments that are as they were; the agent."""
        model = type(self.model).load(io.BytesIO(self.archive), env=env, force_reset=False)
        th.set_rng_state(self.torch)
        np.random.set_state(self.numpy)
        callback.load_state_dict(self.callback)
        return model.learn(steps, callback=callback, reset_num_timesteps=False)
