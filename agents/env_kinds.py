"""What recipes know of crl's own environments before one is made: who can learn there. No torch in here."""

from __future__ import annotations

from typing import Literal, NamedTuple

from crl.agents.env_defaults import matches
from crl.agents.fields import ConfigError


class Kind(NamedTuple):
    """
    :param actions: which ones it has
    :param sees: what its observations are, unless asked for otherwise
    :param pool: it is shared with partners that are drawn from a pool
    """

    actions: Literal["continuous", "discrete"]
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
}
_DISCRETE_IMAGES = "atari/<Game> (atari/Pong), crafter/reward, toy/reach-discrete, toy/chain, or an environment of yours"


def kind_of(env_id: str) -> Kind | None:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :return: None for those that are not crl's own: the agent asks them when it is built
    """
    return next((kind for pattern, kind in KINDS.items() if matches(env_id, pattern)), None)


def require_continuous(env_id: str, who: str) -> None:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :param who: in the message
    :raises ConfigError: for an environment of crl's with discrete actions
    """
    kind = kind_of(env_id)
    if kind is not None and kind.actions == "discrete":
        raise ConfigError(f"{env_id} has discrete actions and {who} needs continuous ones: dmc/<domain>-<task> or toy/reach")


def require_discrete(env_id: str, who: str) -> None:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :param who: in the message
    :raises ConfigError: for an environment of crl's with continuous actions
    """
    kind = kind_of(env_id)
    if kind is not None and kind.actions == "continuous":
        raise ConfigError(
            f"{env_id} has continuous actions and {who} needs discrete ones: {_DISCRETE_IMAGES}; for DeepMind Control take "
            "curl-sac or drqv2"
        )


def require_images(env_id: str, who: str) -> None:
    """
    :param env_id: as ``crl.envs.make_env`` takes it
    :param who: in the message
    :raises ConfigError: for an environment of crl's that shows vectors
    """
    kind = kind_of(env_id)
    if kind is not None and kind.sees == "vectors":
        raise ConfigError(
            f"{env_id} shows vectors and {who} learns from images: {_DISCRETE_IMAGES}; for partners in a shared world take "
            "ppo-clam or ppo-nam"
        )
