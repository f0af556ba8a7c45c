"""
Groups of fields that the configurations of several families of agents have, and what is checked of them together. No torch in
here: a wrong value is answered before anything heavy is imported.
"""

# ruff: noqa: RUF009  (setting() returns a dataclass field)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from crl.agents.fields import FieldValueError, setting


@dataclass
class EnvFields:
    """Where the agent learns."""

    id: str = setting("", "environment id")
    kwargs: dict[str, Any] = setting({}, "options of the environment, as crl.envs.make_env takes them")


@dataclass
class EncoderFields:
    """The encoder, and the layers after it."""

    encoder: Literal["pixel", "nature", "rainbow", "impala"] = setting("pixel", "kind of conv body")
    filters: int | None = setting(32, "of every layer of the pixel encoder; none for the others", low=1)
    layers: int | None = setting(4, "convolutions of the pixel encoder; none for the others", low=1)
    features_dim: int = setting(50, "width of the encoder's output", low=1)
    head: Literal["layer_norm", "tanh", "linear", "relu", "flatten"] = setting("layer_norm", "what follows the conv body")
    pool_size: int | None = setting(None, "side of the grid that the conv body's output is pooled to; none: no pooling", low=1)
    init: Literal["delta_orthogonal", "orthogonal", "default"] | None = setting(None, "none: the encoder's published one")
    crop: int | None = setting(None, "side of the square that the encoder sees; none: the whole image", low=1)
    precision: Literal["fp32", "bf16", "auto"] = setting("fp32", "of the conv body")
    net_arch: list[int] = setting([1024, 1024], "hidden layers of actor and critic", low=1)
    mlp_init: Literal["orthogonal", "default"] = setting("orthogonal", "of the hidden layers")


@dataclass
class ReplayFields:
    """The replay buffer and its augmentation."""

    n_stack: int | None = setting(3, "frames in an observation; none: told by the channels", low=1)
    augment: Literal["random_crop", "random_shift", "none"] = setting(
        "random_crop", "of observations; random_crop: to policy.crop; none: the encoder's centre crop alone"
    )
    crop_inclusive: bool = setting(False, "random_crop may reach the last row and column (false: published off-by-one)")
    pad: int = setting(4, "largest shift of random_shift", low=0)
    folder: str | None = setting(None, "frames in files of this folder instead of memory")


@dataclass
class TrainFields:
    """The run around the agent; read by crl.runs, not by the agent."""

    env_steps: int = setting(100_000, "length in environment steps, action repeat counted", low=1)
    n_envs: int = setting(1, "parallel environments", low=1)
    threads: int | None = setting(None, "of torch; none: torch's choice", low=1)
    eval_every: int = setting(10_000, "environment steps between two evaluations", low=1)
    eval_episodes: int = setting(10, "episodes of one evaluation", low=1)
    final_episodes: int | None = setting(None, "episodes of the evaluation at the end; none: eval_episodes", low=1)
    eval_envs: int = setting(1, "parallel environments of an evaluation, each with a fixed share of its episodes", low=1)
    eval_deterministic: bool = setting(True, "evaluations take the likeliest action; false: one drawn from the policy")


#: fields that earlier configurations lack, and the values that say what those runs did. At these values they are no part of
#: a configuration's hash, so that what was measured before still counts as measured.
ADDED_FIELDS: dict[str, Any] = {
    "train.final_episodes": None,
    "train.eval_envs": 1,
    "train.eval_deterministic": True,
    "objective.temperature": None,
    "history.image_encoder": None,
    "history.image_features": 64,
    "history.image_filters": None,
    "history.image_layers": None,
    "algorithm.reward_scale": 1.0,
    "model.max_share": 1.0,
}


def check_images(env: EnvFields, policy: EncoderFields, replay: ReplayFields) -> None:
    """
    Sizes and stacks of images, and what makes views of them.

    :raises FieldValueError: says which fields are wrong together
    """
    size = env.kwargs.get("size")
    if replay.augment == "random_crop" and policy.crop is None:
        raise FieldValueError("replay.augment=random_crop needs policy.crop, the size to crop to")
    if size is not None and policy.crop is not None:
        largest = size - 1 if replay.augment == "random_crop" and not replay.crop_inclusive else size
        if policy.crop > largest:
            raise FieldValueError(f"policy.crop={policy.crop} is too large for images of {size}x{size}: at most {largest}")
    n_stack = env.kwargs.get("n_stack", replay.n_stack)
    if n_stack != replay.n_stack:
        raise FieldValueError(f"env.kwargs.n_stack={n_stack} and replay.n_stack={replay.n_stack}: set both alike")
    if policy.encoder != "pixel" and (policy.filters is not None or policy.layers is not None):
        raise FieldValueError(
            f"policy.encoder={policy.encoder} has a fixed body: set policy.filters=none and policy.layers=none"
        )


def check_buffer(batch_size: int, buffer_size: int) -> None:
    """
    :raises FieldValueError: when a batch is larger than the replay buffer
    """
    if batch_size > buffer_size:
        raise FieldValueError(f"algorithm.batch_size={batch_size} is larger than algorithm.buffer_size={buffer_size}")
