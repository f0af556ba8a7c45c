"""Evaluating an agent without disturbing its training, and showing what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from crl.envs import make_env
from crl.runs.state import capture_random, restore_random

#: evaluation episodes are the same for all agents and seeds, and none of them is trained on
EVALUATION_SEED = 1_000_003


@dataclass(frozen=True)
class Evaluation:
    """
    :param returns: undiscounted, of each episode
    :param lengths: agent steps of each episode
    :param frames: of the first episode, ``(height, width, 3)`` uint8 each, when asked for
    """

    returns: list[float]
    lengths: list[int]
    frames: list[np.ndarray]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over episodes."""
        return float(np.std(self.returns))


def evaluate(model: BaseAlgorithm, config: dict[str, Any], episodes: int, film: bool = False) -> Evaluation:
    """
    Deterministic actions, an environment of its own, no stopping at the best.

    :param model: any agent
    :param config: of the run; ``env`` is read
    :param episodes: number of episodes
    :param film: keep the frames of the first one
    """
    random_state = capture_random(model)
    env = make_env(config["env"]["id"], seed=EVALUATION_SEED, **config["env"]["kwargs"])
    returns, lengths, frames = [], [], []
    try:
        for episode in range(episodes):
            obs, _ = env.reset()
            total, length, over = 0.0, 0, False
            while not over:
                if film and episode == 0:
                    frames.append(np.ascontiguousarray(obs[-3:].transpose(1, 2, 0)))
                action, _ = model.predict(obs, deterministic=True)
                obs, reward, terminated, truncated, _ = env.step(action)
                total, length, over = total + float(reward), length + 1, terminated or truncated
            returns.append(total)
            lengths.append(length)
    finally:
        env.close()
        restore_random(model, random_state)
    return Evaluation(returns, lengths, frames)


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
