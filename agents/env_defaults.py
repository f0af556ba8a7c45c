"""What recipes change for an environment: readable tables from id to fields."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from crl.agents.fields import ConfigError

#: later rows win; patterns as in file names
ENV_DEFAULTS: list[tuple[str, dict[str, Any]]] = [
    # CURL renders 100x100 and learns on crops of 84x84; action repeats are crl.envs' (PlaNet's)
    ("dmc/*", {"env.kwargs.size": 100, "policy.crop": 84, "replay.augment": "random_crop"}),
    ("dmc/cheetah-run", {"algorithm.learning_rate": 2e-4}),
    ("gym/*", {"env.kwargs.size": 100, "policy.crop": 84, "replay.augment": "random_crop"}),
    (
        # 32x32, episodes of 50 steps, minutes on one core
        "toy/*",
        {
            "replay.augment": "random_shift",
            "replay.pad": 2,
            "policy.filters": 16,
            "policy.net_arch": [256, 256],
            "algorithm.batch_size": 128,
            "algorithm.learning_starts": 300,
            "algorithm.ent_coef_learning_rate": 1e-3,
            "algorithm.actor_period": 1,
            "train.env_steps": 4000,
            "train.eval_every": 1000,
            "train.eval_episodes": 20,
            "train.threads": 1,
        },
    ),
]
#: everywhere else: whole images, shifted
OTHER: dict[str, Any] = {"replay.augment": "random_shift", "replay.n_stack": None}

_DISCRETE = ("toy/reach-discrete", "toy/chain", "atari/*", "crafter/*", "lbf/*", "mpe/*")


def env_defaults(env_id: str) -> dict[str, Any]:
    """
    :param env_id: as ``crl.envs.make_env`` takes it; whether there is such an environment is for ``crl.envs`` to say
    :return: fields by dotted path
    :raises ConfigError: for an environment with discrete actions, which SAC has no use for
    """
    plain_id = env_id.lower().replace("_", "-")  # crl.envs takes either
    if any(fnmatch(plain_id, pattern) for pattern in _DISCRETE):
        raise ConfigError(f"{env_id} has discrete actions and SAC needs continuous ones: dmc/<domain>-<task> or toy/reach")
    rows = [fields for pattern, fields in ENV_DEFAULTS if fnmatch(plain_id, pattern)]
    merged: dict[str, Any] = {}
    for fields in rows or [OTHER]:
        merged |= fields
    return merged
