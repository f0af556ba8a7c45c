"""Evaluating an agent without disturbing its training, and showing what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from crl.callbacks.acting_env import acting_env
from crl.envs import make_env, make_vec_env
from crl.history import seen_by
from crl.objectives.memory_extractor import memory_width
from crl.runs.state import capture_random, restore_random

#: evaluation episodes are the same for all agents and seeds, and none of them is trained on
EVALUATION_SEED = 1_000_003
#: states of an episode at which the critic's values are compared with what came of them
_COMPARED = 16


class EvaluationStopped(Exception):
    """Somebody does not want to wait for the end."""


@dataclass(frozen=True)
class Evaluation:
    """
    :param returns: undiscounted, of each episode
    :param lengths: agent steps of each episode
    :param frames: of the first episode, ``(height, width, 3)`` uint8 each, when asked for
    :param q_values: what the critic says of states of the first half of each episode, means; empty without critic
    :param mc_returns: what came of them: discounted returns, means over the same states. An episode that was cut off by its
        time limit ends with the critic's value of its last state, as in training. (The entropy that SAC's values count as
        reward is not in them.)
    :param partners: ``info["partner_id"]`` of each episode, where the world is shared with others; else empty
    """

    returns: list[float]
    lengths: list[int]
    frames: list[np.ndarray]
    q_values: list[float] = field(default_factory=list)
    mc_returns: list[float] = field(default_factory=list)
    partners: list[int] = field(default_factory=list)

    @property
    def return_by_partner(self) -> dict[int, float]:
        """Mean return with each partner that was met."""
        met = sorted(set(self.partners))
        pairs = list(zip(self.partners, self.returns, strict=True)) if met else []
        return {partner: float(np.mean([r for p, r in pairs if p == partner])) for partner in met}

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over episodes."""
        return float(np.std(self.returns))

    @property
    def q_mean(self) -> float | None:
        """Mean value that the critic gives; far above :attr:`mc_return` it overestimates."""
        return float(np.mean(self.q_values)) if self.q_values else None

    @property
    def mc_return(self) -> float | None:
        """Mean Monte-Carlo return of the same states and actions."""
        return float(np.mean(self.mc_returns)) if self.mc_returns else None


def evaluate(
    model: BaseAlgorithm,
    config: dict[str, Any],
    episodes: int,
    film: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """
    Environments of its own, no stopping at the best. Actions are the likeliest ones, or, where ``train.eval_deterministic`` is
    false, drawn from the policy, the same way in each evaluation.

    With ``train.eval_envs`` environments side by side each has a fixed share of the episodes: the first ones to end would be
    the short ones. Which episodes they are depends on the number of environments, and on nothing else.

    :param model: any agent
    :param config: of the run; ``env`` is read, ``train.eval_envs`` and ``train.eval_deterministic``
    :param episodes: number of episodes
    :param film: keep the frames of the first one
    :param stop: asked at every step whether to give up
    :raises EvaluationStopped: when it says so
    """
    n_envs = min(episodes, config["train"].get("eval_envs", 1))
    quota = [episodes // n_envs + (index < episodes % n_envs) for index in range(n_envs)]
    deterministic = config["train"].get("eval_deterministic", True)
    random_state = capture_random(model)
    env = _environments(model, config, n_envs)
    has_critic = hasattr(model, "critic")
    running = [_Episode() for _ in range(n_envs)]
    ended: list[list[_Episode]] = [[] for _ in range(n_envs)]
    frames: list[np.ndarray] = []
    try:
        if not deterministic:
            th.manual_seed(EVALUATION_SEED)
        obs, state, begins = env.reset(), None, np.ones(n_envs, dtype=bool)
        while any(len(done) < share for done, share in zip(ended, quota, strict=True)):
            if stop():
                raise EvaluationStopped
            if film and not ended[0]:
                frames.append(_frame(env, _one(obs, 0)))
            told: Any = dict(state=state, episode_start=begins, deterministic=deterministic)
            actions, state = model.predict(obs, **told)  # type: ignore[arg-type]
            next_obs, rewards, begins, infos = env.step(actions)
            for index, episode in enumerate(running):
                if len(ended[index]) == quota[index]:
                    continue
                episode.rewards.append(float(rewards[index]))
                if has_critic:
                    episode.observations.append(_one(obs, index))
                    episode.actions.append(actions[index])
                if begins[index]:
                    if has_critic:
                        _value(episode, model, infos[index], deterministic)
                    episode.partner = infos[index].get("partner_id")
                    ended[index].append(episode)
                    running[index] = _Episode()
            obs = next_obs
    finally:
        env.close()
        restore_random(model, random_state)
    all_episodes = [episode for of_one in ended for episode in of_one]
    return Evaluation(
        [sum(episode.rewards) for episode in all_episodes],
        [len(episode.rewards) for episode in all_episodes],
        frames,
        [episode.q_value for episode in all_episodes if episode.q_value is not None],
        [episode.mc_return for episode in all_episodes if episode.mc_return is not None],
        [episode.partner for episode in all_episodes if episode.partner is not None],
    )


@dataclass
class _Episode:
    """One that is under way, or has ended and left its observations behind."""

    rewards: list[float] = field(default_factory=list)
    observations: list[Any] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    q_value: float | None = None
    mc_return: float | None = None
    partner: int | None = None


def _value(episode: _Episode, model: BaseAlgorithm, info: dict[str, Any], deterministic: bool) -> None:
    """What the critic said of an episode that has ended, and what came of it."""
    last = info["terminal_observation"]
    observations = [*episode.observations, last]
    actions = [*episode.actions, model.predict(last, deterministic=deterministic)[0]]
    terminated = not info["TimeLimit.truncated"]
    episode.q_value, episode.mc_return = _compare(model, observations, actions, episode.rewards, terminated)
    episode.observations, episode.actions = [], []


def _environments(model: BaseAlgorithm, config: dict[str, Any], n_envs: int) -> VecEnv:
    """Each with episodes of its own from the evaluation's stream."""
    env_id, kwargs = config["env"]["id"], config["env"]["kwargs"]
    if n_envs > 1 and not memory_width(model.observation_space):
        parallel = make_vec_env(env_id, seed=EVALUATION_SEED, n_envs=n_envs, evaluation=True, **kwargs)
        seen: VecEnv = seen_by(model, parallel)
        return seen

    def make(index: int) -> gym.Env[Any, Any]:
        return acting_env(model, make_env(env_id, seed=EVALUATION_SEED, evaluation=True, env_index=index, **kwargs))

    return DummyVecEnv([partial(make, index) for index in range(n_envs)])


def _one(obs: Any, index: int) -> Any:
    """The observation of one environment out of all of them."""
    return {key: part[index] for key, part in obs.items()} if isinstance(obs, dict) else obs[index]


@th.no_grad()
def _compare(
    model: Any, observations: list[Any], actions: list[np.ndarray], rewards: list[float], terminated: bool
) -> tuple[float, float]:
    """
    Of an agent with a critic of states and actions.

    :param observations: of an episode, one more than rewards
    :param actions: as many
    :param rewards: of each step
    :param terminated: nothing follows the last observation
    :return: mean Q value, and mean discounted return, of the same states
    """
    steps = len(rewards)
    # of the first half: what follows later ones is more and more the critic's own word
    chosen = np.unique(np.linspace(0, (steps - 1) // 2, _COMPARED, dtype=int)).tolist()
    asked = [*chosen, steps]
    first = observations[0]
    if isinstance(first, dict):
        batch: Any = {key: np.stack([observations[i][key] for i in asked]) for key in first}
    else:
        batch = np.stack([observations[i] for i in asked])
    taken = np.stack([actions[i] for i in asked])
    if isinstance(model.action_space, spaces.Box):
        taken = model.policy.scale_action(taken)
    model.policy.set_training_mode(False)
    seen, _ = model.policy.obs_to_tensor(batch)
    values = th.stack(model.critic(seen, th.as_tensor(taken, dtype=th.float32, device=model.device))).mean(dim=0)
    *q, last = values.flatten().tolist()
    came, following = np.zeros(steps), 0.0 if terminated else last
    for step in reversed(range(steps)):
        following = rewards[step] + model.gamma * following
        came[step] = following
    return float(np.mean(q)), float(came[chosen].mean())


def _frame(env: VecEnv, obs: Any) -> np.ndarray:
    """The newest frame that the first environment shows in its observation, or that it renders where that is a vector."""
    parts = obs.values() if isinstance(obs, dict) else (obs,)
    return _picture(obs) if any(part.ndim == 3 for part in parts) else np.asarray(env.env_method("render", indices=0)[0])


def _picture(obs: Any) -> np.ndarray:
    """The newest frame of an observation, ``(height, width, 3)`` uint8."""
    if isinstance(obs, dict):
        obs = next(part for part in obs.values() if part.ndim == 3)
    # channels are fewer than rows, wherever they stand
    image = obs.transpose(1, 2, 0) if obs.shape[0] < obs.shape[2] else obs
    image = image[..., -3:] if image.shape[2] % 3 == 0 else np.repeat(image[..., -1:], 3, axis=2)
    return np.ascontiguousarray(image)


def write_video(frames: list[np.ndarray], path: Path, fps: int = 15) -> Path:
    """
    :param frames: ``(height, width, 3)`` uint8 each
    :param path: ``.mp4`` file to write
    :param fps: frames per second
    :raises ImportError: without imageio; names the extra
    """
    try:
        import imageio.v2 as imageio
    except ImportError as error:
        raise ImportError("writing videos needs imageio: pip install 'crl[dmc]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = max(1, 256 // frames[0].shape[0])
    larger: list[Any] = [np.repeat(np.repeat(frame, scale, axis=0), scale, axis=1) for frame in frames]
    imageio.mimwrite(path, larger, fps=fps, macro_block_size=1)
    return path


def write_curve(rows: list[dict[str, str]], path: Path, title: str) -> Path:
    """
    :param rows: of ``eval.csv``
    :param path: ``.png`` file to write
    :param title: of the figure
    :raises ImportError: without matplotlib; names the extra
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("drawing curves needs matplotlib: pip install 'crl[dmc]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    steps = [float(row["env_steps"]) for row in rows]
    axes.errorbar(steps, [float(row["mean"]) for row in rows], [float(row["std"]) for row in rows], marker="o", capsize=3)
    axes.set(xlabel="environment steps", ylabel="return (mean and std over episodes)", title=title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
