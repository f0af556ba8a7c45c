"""
Environments by name: ``make_env`` and ``make_vec_env``.

Ids: ``toy/reach``, ``toy/reach-discrete``, ``dmc/<domain>-<task>``, ``gym/<gymnasium id>`` (any environment that renders, seen
from pixels), and the plain id of any environment registered with gymnasium.
"""

from crl.envs.make import EnvironmentOptionError, UnknownEnvironmentError, check_env_id, list_envs, make_env, make_vec_env

__all__ = ["EnvironmentOptionError", "UnknownEnvironmentError", "check_env_id", "list_envs", "make_env", "make_vec_env"]
