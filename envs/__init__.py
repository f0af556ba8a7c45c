"""
Environments by name: ``make_env`` and ``make_vec_env``.

Ids: ``toy/reach``, ``toy/reach-discrete``, ``toy/chain``, ``crafter/reward``, ``crafter/noreward``,
``dmc/<domain>-<task>``, ``atari/<Game>``, ``lbf/<id>`` and ``mpe/<id>`` (worlds with scripted partners, see
:mod:`crl.envs.agent_pool`), ``gym/<gymnasium id>`` (any environment that renders, seen from pixels), and the plain id of any
environment with image observations that is registered with gymnasium.

The toys are registered with gymnasium, too: ``gymnasium.make("crl.envs:crl/toy-reach-v0")``.
"""

import gymnasium

from crl.envs.errors import EnvironmentOptionError, NotPixelsError, UnknownEnvironmentError
from crl.envs.make import check_env_id, list_envs, make_env, make_vec_env

__all__ = [
    "EnvironmentOptionError",
    "NotPixelsError",
    "UnknownEnvironmentError",
    "check_env_id",
    "list_envs",
    "make_env",
    "make_vec_env",
]

for _name, _discrete in (("crl/toy-reach-v0", False), ("crl/toy-reach-discrete-v0", True)):
    if _name not in gymnasium.registry:  # a module that is reloaded registers once
        gymnasium.register(_name, entry_point="crl.envs.toy:ToyReach", kwargs={"discrete": _discrete})
if "crl/toy-chain-v0" not in gymnasium.registry:
    gymnasium.register("crl/toy-chain-v0", entry_point="crl.envs.toy_chain:ToyChain")
