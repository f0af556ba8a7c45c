"""Lengths of runs and sizes of what they see, without loading what runs need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def action_repeat(config: Mapping[str, Any]) -> int:
    """Environment steps in one agent step; Atari's are frames."""
    from crl.envs.dmc import default_action_repeat, split_id

    repeat = config["env"]["kwargs"].get("action_repeat")
    if repeat is not None:
        return int(repeat)
    env_id = config["env"]["id"]
    if env_id.startswith("atari/"):
        from crl.envs.atari import ACTION_REPEAT

        return ACTION_REPEAT
    return default_action_repeat(split_id(env_id)[0]) if env_id.startswith("dmc/") else 1


def agent_steps(config: Mapping[str, Any]) -> int:
    """Agent steps of a whole run, at least one."""
    return max(1, config["train"]["env_steps"] // action_repeat(config))


def final_episodes(config: Mapping[str, Any]) -> int:
    """Episodes of the evaluation at the end of a run."""
    fields = config["train"]
    told = fields.get("final_episodes")
    return int(fields["eval_episodes"] if told is None else told)


def never_learns(config: Mapping[str, Any], steps: int, longer: str = "--env-steps") -> str:
    """
    :param config: resolved
    :param steps: agent steps of the run
    :param longer: what makes the run longer, for the sentence
    :return: what is wrong where a run ends before its first update, and what to do; empty where it does not
    """
    first = config.get("algorithm", {}).get("learning_starts", 0)
    if steps > first:
        return ""
    return (
        f"{config['agent']} on {config['env']['id']} never learns: it updates after algorithm.learning_starts={first} agent "
        f"steps, and the run has {steps}. Lower the one (--set algorithm.learning_starts={max(1, steps // 50)}), or raise the "
        f"other ({longer})"
    )


def image_channels(config: Mapping[str, Any]) -> int:
    """Of one frame: Atari's are grey."""
    return 1 if config["env"]["id"].startswith("atari/") else 3


def image_size(config: Mapping[str, Any]) -> int:
    """Side of the images that the environment gives, in pixels: as told, else each kind's own."""
    own = {"toy/": 32, "crafter/": 64, "lbf/": 64, "mpe/": 64}
    usual = next((size for prefix, size in own.items() if config["env"]["id"].startswith(prefix)), 84)
    return int(config["env"]["kwargs"].get("size", usual))
