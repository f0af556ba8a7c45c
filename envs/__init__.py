"""
Environments by name: ``make_env`` and ``make_vec_env``.

Ids: ``toy/reach``, ``toy/reach-discrete``, and any gymnasium id whose observations are images.
"""

from crl.envs.make import UnknownEnvironmentError, list_envs, make_env, make_vec_env

__all__ = ["UnknownEnvironmentError", "list_envs", "make_env", "make_vec_env"]
