"""Evaluating an agent without disturbing its training, and showing what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from crl.envs import make_env
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
    """

    returns: list[float]
    lengths: list[int]
    frames: list[np.ndarray]
    q_values: list[float] = field(default_factory=list)
    mc_returns: list[float] = field(default_factory=list)

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
    Deterministic actions, an environment of its own, no stopping at the best.

    :param model: any agent
    :param config: of the run; ``env`` is read
    :param episodes: number of episodes
    :param film: keep the frames of the first one
    :param stop: asked at every step whether to give up
    :raises EvaluationStopped: when it says so
    """
    random_state = capture_random(model)
    env = make_env(config["env"]["id"], seed=EVALUATION_SEED, evaluation=True, **config["env"]["kwargs"])
    returns, lengths, frames = [], [], []
    q_values: list[float] = []
    mc_returns: list[float] = []
    try:
        for episode in range(episodes):
            obs, _ = env.reset()
            observations, actions, rewards, over = [obs], [], [], False
            while not over:
                if stop():
                    raise EvaluationStopped
                if film and episode == 0:
                    frames.append(_picture(obs))
                action, _ = model.predict(obs, deterministic=True)
                obs, reward, terminated, truncated, _ = env.step(action)
                observations.append(obs)
                actions.append(action)
                rewards.append(float(reward))
                over = terminated or truncated
            returns.append(sum(rewards))
            lengths.append(len(rewards))
            if hasattr(model, "critic"):
                actions.append(model.predict(obs, deterministic=True)[0])
                q, came = _compare(model, observations, actions, rewards, terminated)
                q_values.append(q)
                mc_returns.append(came)
    finally:
        env.close()
        restore_random(model, random_state)
    return Evaluation(returns, lengths, frames, q_values, mc_returns)


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
