"""SB3's Monitor, whose running episode can be saved and taken up again."""

from __future__ import annotations

import copy
from typing import Any

from stable_baselines3.common.monitor import Monitor

from crl.envs.env_state import get_state, saves_state, set_state

_FIELDS = (
    "rewards",
    "needs_reset",
    "episode_returns",
    "episode_lengths",
    "episode_times",
    "total_steps",
    "current_reset_info",
)


class ResumableMonitor(Monitor):
    """Monitor with a state: the rewards of the episode that is going on, and the wrapped environment's own state."""

    def saves_state(self) -> bool:
        """
        Whether :meth:`get_state` can answer. Ask this first of environments in processes of their own: an exception there ends
        the process.
        """
        return saves_state(self.env)

    def get_state(self) -> dict[str, Any]:
        """
        :raises AttributeError: when the environment has no state that can be saved
        """
        own = {name: copy.deepcopy(getattr(self, name)) for name in _FIELDS}
        return {"monitor": own, "env": get_state(self.env)}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`get_state`
        """
        for name, value in state["monitor"].items():
            setattr(self, name, copy.deepcopy(value))
        set_state(self.env, state["env"])
