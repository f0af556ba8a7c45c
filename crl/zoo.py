"""
Hyperparameters with which rl_zoo3's own train command trains SB3 agents with crl, from pixels::

    pip install 'crl[zoo]'
    python -m rl_zoo3.train --algo sac --env toy/reach --gym-packages crl.zoo -conf crl.zoo
    python -m rl_zoo3.train --algo dqn --env toy/reach-discrete --gym-packages crl.zoo -conf crl.zoo
    python -m rl_zoo3.train --algo sac --env dmc/walker-walk --gym-packages crl.zoo -conf crl.zoo

``--gym-packages`` registers crl's environments with gymnasium, under the ids that ``crl.envs.make_env`` knows; ``-conf`` reads
:data:`hyperparams`, in which each environment says which ``--algo`` it is for, and ``default`` is SAC with CURL on any task of
DeepMind Control. Everything else of rl_zoo3 (``-params``, ``--eval-freq``, ``-optimize`` ...) works as usual. (Watching an
agent needs ``--no-render``: these environments draw no window.)

To add an objective to hyperparameters of your own, in Python or YAML::

    callback:
      - crl.zoo.auxiliary_loss: {objective: atc, objective_kwargs: {k: 1}}

Importing this module has the environments registered.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.encoders import PixelEncoder
from crl.envs import list_envs
from crl.objectives import OBJECTIVES


def auxiliary_loss(
    objective: str = "curl", objective_kwargs: dict[str, Any] | None = None, **kwargs: Any
) -> AuxiliaryLossCallback:
    """
    An :class:`crl.AuxiliaryLossCallback` by names and numbers alone, as rl_zoo3 makes and saves callbacks. Each trial of a
    hyperparameter search gets an objective of its own.

    :param objective: name in ``crl.objectives.OBJECTIVES``
    :param objective_kwargs: its arguments
    :param kwargs: of the callback
    :raises ValueError: for an unknown objective, or values that it does not take
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"no objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    return AuxiliaryLossCallback(OBJECTIVES[objective](**(objective_kwargs or {})), **kwargs)


def register_envs() -> None:
    """Make crl's environments known to gymnasium; those that are known already stay as they are."""
    for env_id in list_envs():
        if env_id.startswith(("toy/", "dmc/")) and env_id not in gym.registry:
            # the checker warns of channels-first images, which SB3 wants
            gym.register(env_id, entry_point="crl.envs:make_env", kwargs={"env_id": env_id}, disable_env_checker=True)


register_envs()

_REPLAY: dict[str, Any] = dict(
    # as text, which rl_zoo3 evaluates: its enjoy takes nothing else
    replay_buffer_class="__import__('crl').FrameReplayBuffer",
    replay_buffer_kwargs=dict(n_stack=3, augment=RandomShift(4)),
)
_SMALL_REPLAY: dict[str, Any] = {**_REPLAY, "replay_buffer_kwargs": dict(n_stack=3, augment=RandomShift(2))}

hyperparams: dict[str, dict[str, Any]] = {
    # --algo sac: CURL's SAC (Laskin et al. 2020), with batches for a few CPU cores (published: 512). 25k agent steps are 100k
    # environment steps at an action repeat of 4
    "default": dict(
        n_timesteps=25_000,
        policy="crl.PixelSACPolicy",
        policy_kwargs=dict(net_arch=[1024, 1024], features_extractor_class=PixelEncoder),
        buffer_size=100_000,
        learning_starts=1_000,
        batch_size=128,
        learning_rate=1e-3,
        tau=0.01,
        target_update_interval=2,
        ent_coef="auto_0.1",
        callback=[{"crl.zoo.auxiliary_loss": dict(objective="curl")}],
        **_REPLAY,
    ),
    # --algo sac: an episode has 50 steps
    "toy/reach": dict(
        n_timesteps=6_000,
        policy="crl.PixelSACPolicy",
        policy_kwargs=dict(net_arch=[256, 256], features_extractor_class=PixelEncoder),
        buffer_size=20_000,
        learning_starts=500,
        batch_size=128,
        learning_rate=1e-3,
        gamma=0.95,
        tau=0.01,
        ent_coef="auto_0.1",
        callback=[{"crl.zoo.auxiliary_loss": dict(objective="curl")}],
        **_SMALL_REPLAY,
    ),
    # --algo dqn
    "toy/reach-discrete": dict(
        n_timesteps=10_000,
        policy="CnnPolicy",
        policy_kwargs=dict(net_arch=[256], features_extractor_class=PixelEncoder),
        buffer_size=20_000,
        learning_starts=500,
        batch_size=64,
        learning_rate=1e-3,
        gamma=0.95,
        train_freq=1,
        target_update_interval=250,
        exploration_fraction=0.3,
        callback=[{"crl.zoo.auxiliary_loss": dict(objective="curl", mode="add_gradient", max_grad_norm=10.0)}],
        **_SMALL_REPLAY,
    ),
}
