"""What recipes know of environments by their ids, before one is made: who can learn there. No torch in here."""

from __future__ import annotations

from typing import Literal, NamedTuple

from crl.agents.env_defaults import matches
from crl.agents.fields import ConfigError


class Kind(NamedTuple):
    """
    :param actions: which ones it has; None: its own business
    :param sees: what its observations are, unless asked for otherwise
    :param pool: it is shared with partners that are drawn from a pool
    """

    actions: Literal["continuous", "discrete"] | None
    sees: Literal["images", "vectors"] = "images"
    pool: bool = False


#: by pattern, the first one that fits
KINDS: dict[str, Kind] = {
    "dmc/*": Kind("continuous"),
    "toy/reach": Kind("continuous"),
    "toy/*": Kind("discrete"),
    "atari/*": Kind("discrete"),
    "crafter/*": Kind("discrete"),
    "lbf/*": Kind("discrete", "vectors", pool=True),
    "mpe/simple-tag": Kind("discrete", "vectors", pool=True),
    "mpe/simple-spread": Kind("discrete", "vectors", pool=True),
    "mpe/*": Kind("discrete", "vectors"),
    "gym/*": Kind(None),
}
#: what to say to somebody who took the wrong kind
_CHOICES = {
    "continuous": "dmc/<domain>-<task> or toy/reach",
    "discrete": "atari/<Game> (atari/Pong), crafter/reward, toy/reach-discrete, toy/chain, or an environment of yours; for "
    "DeepMind Control take curl-sac or drqv2, for partners in a shared world ppo-clam or ppo-nam",
}


def kind_of(env_id: str) -> Kind | None:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :return: None for those of which nothing is known: the agent asks them when it is built
    """
    return next((kind for pattern, kind in KINDS.items() if matches(env_id, pattern)), None)


def require(
    env_id: str, who: str, actions: Literal["continuous", "discrete"], sees: Literal["images", "vectors"] | None = None
) -> None:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :param who: in the message
    :param actions: that the agent takes
    :param sees: observations that it learns from; None: any
    :raises ConfigError: for an environment that is known to be of another kind
    """
    kind = kind_of(env_id)
    if kind is None:
        return
    if kind.actions not in (actions, None):
        raise ConfigError(f"{env_id} has {kind.actions} actions and {who} needs {actions} ones: {_CHOICES[actions]}")
    if sees not in (kind.sees, None):
        raise ConfigError(f"{env_id} shows {kind.sees} and {who} learns from {sees}: {_CHOICES[actions]}")
