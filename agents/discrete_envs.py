"""Which environments agents with discrete actions learn on. No torch in here."""

from __future__ import annotations

from crl.agents.env_defaults import matches
from crl.agents.fields import ConfigError

#: of crl's own
ALLOWED = ("atari/*", "toy/reach-discrete")
_OTHERS = ("dmc/*", "toy/*", "crafter/*", "lbf/*", "mpe/*")


def require_discrete(env_id: str, who: str) -> None:
    """
    :param env_id: as ``crl.envs.make_env`` takes it; of environments that are not crl's, the agent asks when it is built
    :param who: in the message
    :raises ConfigError: for an environment of crl's without discrete actions, or of another kind
    """
    if any(matches(env_id, pattern) for pattern in ALLOWED):
        return
    if any(matches(env_id, pattern) for pattern in _OTHERS):
        raise ConfigError(
            f"{who} learns games with discrete actions from pixels, and {env_id} is none: choose atari/<Game> (atari/Pong), "
            "toy/reach-discrete, or an environment of yours"
        )
