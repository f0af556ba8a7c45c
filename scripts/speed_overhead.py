"""What each objective costs an agent that has it by callback: rows of ``scripts/speed.py``, parts of their own."""

from __future__ import annotations

from functools import partial
from typing import Any

from speed_rows import Made, dqn, dqn_block, learning, row, sac

#: those that any agent takes; CURLRainbow is Rainbow's
OBJECTIVES = ("curl", "atc", "cpc", "stdim", "spr", "taco", "self-prediction")


def callback(name: str | None) -> Any:
    """The objective with its published defaults, or None."""
    from crl import AuxiliaryLossCallback, RandomShift
    from crl.objectives import OBJECTIVES as BY_NAME

    if name is None:
        return None
    augment = dict(augment=RandomShift(4)) if BY_NAME[name].needs_augmentation else {}
    return AuxiliaryLossCallback(BY_NAME[name](**augment))


def on_sac(name: str | None, options: dict[str, Any]) -> Made:
    """SB3's SAC on PixelSACPolicy, 9x84x84."""
    from crl import PixelSACPolicy

    facts = {} if name is None else {"without": "overhead-sac"}
    return learning(sac(options, PixelSACPolicy, accelerated=True), callback(name)), facts


def on_dqn(name: str | None, options: dict[str, Any]) -> Made:
    """SB3's DQN with NatureCNN, 4x84x84, batch 32."""
    from crl import FrameReplayBuffer

    replay = dict(replay_buffer_class=FrameReplayBuffer, replay_buffer_kwargs=dict(n_stack=4))
    block, facts = dqn_block(dqn(options, accelerated=True, **replay), callback(name))
    return block, facts if name is None else {**facts, "without": "overhead-dqn"}


for agent, make in (("sac", on_sac), ("dqn", on_dqn)):
    row(f"overhead-{agent}", f"SB3's {agent.upper()}, accelerated, no objective", part=f"overhead-{agent}")(
        partial(make, None)
    )
    for objective in OBJECTIVES:
        row(f"overhead-{agent}-{objective}", f"the same with {objective}", part=f"overhead-{agent}")(partial(make, objective))
