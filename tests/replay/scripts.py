"""Random stories of environments, to be told to several buffers at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st


@dataclass(frozen=True)
class Story:
    """How the transitions come about; ``events[t][env]``: 0 go on, 1 terminal, 2 time limit, 3 jump (reset without a done)."""

    n_stack: int
    channels: int
    n_envs: int
    buffer_size: int
    padding: str
    events: tuple[tuple[int, ...], ...]
    seed: int = 0
    all_different: bool = False

    @property
    def space(self):
        return spaces.Box(0, 255, (self.n_stack * self.channels, 16, 17), np.uint8)


@st.composite
def stories(draw, jumps=True, max_steps=40):
    n_envs = draw(st.integers(1, 3))
    kinds = [0, 0, 0, 1, 2, 3] if jumps else [0, 0, 0, 1, 2]
    steps = draw(st.integers(1, max_steps))
    events = draw(st.lists(st.tuples(*[st.sampled_from(kinds)] * n_envs), min_size=steps, max_size=steps))
    return Story(
        n_stack=draw(st.integers(1, 4)),
        channels=draw(st.integers(1, 4)),
        n_envs=n_envs,
        buffer_size=draw(st.integers(1, 14)) * n_envs,
        padding=draw(st.sampled_from(["zeros", "repeat", "none"])),
        events=tuple(events),
        seed=draw(st.integers(0, 2**16)),
    )


class Teller:
    """Turns a story into the arguments of ``add``."""

    def __init__(self, story: Story):
        self.story = story
        self.rng = np.random.default_rng(story.seed)
        self.stacks = [self._first() for _ in range(story.n_envs)]

    def _frame(self):
        # frames of all zeros and repeated ones occur: padding must not be taken for them, nor they for padding
        if self.rng.random() < 0.15 and not self.story.all_different:
            return np.zeros((self.story.channels, 16, 17), np.uint8)
        return self.rng.integers(0, 4, (self.story.channels, 16, 17), dtype=np.uint8)

    def _first(self):
        k, frame = self.story.n_stack, self._frame()
        if self.story.padding == "zeros":
            return [np.zeros_like(frame)] * (k - 1) + [frame]
        if self.story.padding == "repeat":
            return [frame] * k
        return [self._frame() for _ in range(k)]

    def steps(self):
        for events in self.story.events:
            obs, next_obs, dones, infos = [], [], [], []
            for env, event in enumerate(events):
                if event == 3:
                    self.stacks[env] = self._first()
                stack = self.stacks[env]
                following = [*stack[1:], self._frame()]
                obs.append(np.concatenate(stack))
                next_obs.append(np.concatenate(following))
                dones.append(event in (1, 2))
                infos.append({"TimeLimit.truncated": event == 2})
                self.stacks[env] = self._first() if event in (1, 2) else following
            n = self.story.n_envs
            action = self.rng.uniform(-1, 1, (n, 2)).astype(np.float32)
            reward = self.rng.normal(size=n).astype(np.float32)
            yield np.array(obs), np.array(next_obs), action, reward, np.array(dones), infos
