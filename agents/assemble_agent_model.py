"""From a configuration to an agent that models the others in its world."""

from __future__ import annotations

from dataclasses import asdict
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Literal

from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from crl.agents.agent_model_family import no_pool
from crl.agents.fields import ConfigError, FieldValueError
from crl.agents.scaled_rewards import ScaledRewards
from crl.callbacks.agent_model_callback import AgentModelCallback
from crl.encoders import ENCODERS
from crl.history import HistoryExtractor, HistorySpec, HistoryVecEnv
from crl.history.layout import is_image, kept_part
from crl.objectives.agent_model import AgentModel
from crl.objectives.history_objective import HistoryObjective
from crl.objectives.liam import LIAM
from crl.objectives.partner_id import PartnerId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stable_baselines3.common.vec_env import VecEnv

    from crl.agents.agent_model_family import AgentModelConfig, HistoryFields, ModelFields


def build_agent_model(
    config: AgentModelConfig, env: VecEnv, seed: int, device: str, tensorboard_log: str | None, verbose: int
) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """See :func:`crl.agents.recipes.build`."""
    kind = config.model.kind
    spec = history_spec(config, env)
    fields = asdict(config.algorithm)
    scale = fields.pop("reward_scale")
    seen = HistoryVecEnv(env if scale == 1.0 else ScaledRewards(env, scale), spec)
    extractor = dict(
        spec=spec,
        base_space=seen.base_space,
        action_space=seen.action_space,
        trained=kind == "rl",
        modelled=kind != "none",
        **_image_encoder(config.history),
    )
    name, net_arch = fields.pop("name"), fields.pop("net_arch")
    recurrent = name == "recurrent_ppo"
    policy = "MultiInput" if isinstance(seen.observation_space, spaces.Dict) else "Mlp"
    policy += "LstmPolicy" if recurrent else "Policy"
    model = _algorithm(name)(
        policy,
        seen,
        policy_kwargs=dict(net_arch=net_arch, features_extractor_class=HistoryExtractor, features_extractor_kwargs=extractor),
        seed=seed,
        device=device,
        tensorboard_log=tensorboard_log,
        verbose=verbose,
        **{key: value for key, value in fields.items() if value is not None},
    )
    names = ("batch_size", "interval", "min_episodes", "min_steps", "store_size", "learning_rate")
    callback = AgentModelCallback(objective(config.model), **{key: getattr(config.model, key) for key in names})
    return model, [callback]


def _image_encoder(fields: HistoryFields) -> dict[str, Any]:
    """Arguments of the extractor."""
    if fields.image_encoder is None:
        return {}
    own = {"filters": fields.image_filters, "layers": fields.image_layers}
    kwargs = {name: value for name, value in own.items() if value is not None}
    return {"image_class": ENCODERS[fields.image_encoder], "image_kwargs": kwargs}


def _algorithm(name: str) -> Any:
    if name != "recurrent_ppo":
        return {"ppo": PPO, "a2c": A2C}[name]
    try:
        from sb3_contrib import RecurrentPPO
    except ImportError as error:
        raise ConfigError("algorithm.name=recurrent_ppo needs sb3-contrib: pip install 'crl[contrib]'") from error
    return RecurrentPPO


def objective(fields: ModelFields) -> HistoryObjective | None:
    """What trains the encoder; None where nothing, or the agent itself, does."""
    made: HistoryObjective
    if fields.kind in ("clam", "label_positive"):
        made = AgentModel(
            fields.temperature,
            fields.min_crop,
            fields.max_crop,
            fields.mask_ratio,
            fields.masked_views,
            "partner" if fields.kind == "label_positive" else "episode",
            max_share=fields.max_share,
        )
    elif fields.kind in ("liam", "cbam"):
        made = LIAM() if fields.kind == "liam" else PartnerId()
    else:
        return None
    made.tau = made.tau if fields.tau is None else fields.tau
    return made


def history_spec(config: AgentModelConfig, env: VecEnv) -> HistorySpec:
    """
    :param config: of the agent
    :param env: with a pool of partners
    :return: with columns of this environment in place of names
    :raises ConfigError: for an environment without pool, and for images without an encoder of images or the reverse
    :raises FieldValueError: for names that its columns do not have
    """
    try:
        names: Sequence[str] = env.get_attr("columns")[0]
        env.get_attr("pool_size")
    except AttributeError as error:
        raise ConfigError(no_pool(config.env.id)) from error
    fields = config.history
    images = is_image(kept_part(env.observation_space)[1])
    if images != (fields.image_encoder is not None):
        raise ConfigError(
            f"history.image_encoder={fields.image_encoder}: {config.env.id} with these options shows {env.observation_space}; "
            + ("set history.image_encoder=nature, and no columns" if images else "set none, or env.kwargs.pixels=true")
        )
    way: Literal["embedding", "history"] = "history" if config.model.kind == "rl" else config.model.way
    unit = _unit_of_places(env)
    return HistorySpec(
        way,
        fields.length,
        tuple(_columns(names, fields)),
        fields.differences,
        tuple(_places(names, [] if fields.ego is None else [fields.ego], "history.ego")),
        tuple(_places(names, fields.others, "history.others")),
        tuple(_places(names, fields.things, "history.things")),
        gone=-1.0 if unit is None else 0.0,
        scale=fields.scale * (1.0 if unit is None else unit),
        relative=unit is not None,
        embed_dim=fields.embed_dim,
        width=fields.width,
        layers=fields.layers,
        heads=fields.heads,
        image_features=fields.image_features if images else 0,
        n_stack=config.env.kwargs.get("n_stack", 1) if images else 1,
    )


def _unit_of_places(env: VecEnv) -> float | None:
    """Where places are seen from the ego agent, what their columns have to be multiplied by to be as they are elsewhere."""
    try:
        unit: float | None = env.get_attr("relative_unit")[0]
    except AttributeError:
        return None
    return unit


def _columns(names: Sequence[str], fields: HistoryFields) -> list[int]:
    found = []
    for pattern in fields.columns:
        matching = [index for index, name in enumerate(names) if fnmatch(name, pattern)]
        if not matching:
            raise FieldValueError(f"history.columns={pattern}: the environment's columns are {', '.join(names)}")
        found += [index for index in matching if index not in found]
    return found


def _places(names: Sequence[str], patterns: Sequence[str], path: str) -> list[int]:
    """Row and column, or x and y, of all things whose names match, one pair after the other."""
    places = []
    for axes in (("row", "column"), ("x", "y")):
        things = [name.removesuffix(f"_{axes[0]}") for name in names if name.endswith(f"_{axes[0]}")]
        for thing in things:
            if any(fnmatch(thing, pattern) for pattern in patterns):
                places += [names.index(f"{thing}_{axis}") for axis in axes]
    if patterns and not places:
        raise FieldValueError(f"{path}={', '.join(patterns)}: the environment's columns are {', '.join(names)}")
    return places
