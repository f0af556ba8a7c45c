"""Windows and views against a plain store of episodes."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from crl.augment import RandomShift
from crl.contract import DataRequest
from crl.replay import FrameReplayBuffer, ReplaySource, make_batch

from .scripts import Story, Teller, stories

ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


def tell(story, kind):
    arguments = (story.buffer_size, story.space, ACTIONS, "cpu", story.n_envs)
    buffer = FrameReplayBuffer(*arguments, n_stack=story.n_stack) if kind == "frames" else ReplayBuffer(*arguments)
    # the plain store: per environment a list of live transitions, each with whether the next one continues it
    plain = [[] for _ in range(story.n_envs)]
    for t, (obs, next_obs, action, reward, done, infos) in enumerate(Teller(story).steps()):
        buffer.add(obs, next_obs, action, reward, done, infos)
        for env in range(story.n_envs):
            if plain[env] and story.events[t][env] == 3:
                plain[env][-1]["continues"] = False
            timeout = infos[env]["TimeLimit.truncated"]
            plain[env].append(
                dict(
                    starts=not plain[env] or not plain[env][-1]["continues"],
                    obs=obs[env],
                    next_obs=next_obs[env],
                    action=action[env],
                    reward=reward[env],
                    terminated=bool(done[env] and not timeout),
                    truncated=bool(timeout),
                    continues=not done[env],
                )
            )
    live = story.buffer_size // story.n_envs
    return buffer, [transitions[-live:] for transitions in plain]


def jump_is_invisible(transitions, start, steps):
    """SB3's buffer keeps no note of a jump that leads to an observation equal to the one before it."""
    return any(
        not a["continues"] and not (a["terminated"] or a["truncated"]) and np.array_equal(a["next_obs"], b["obs"])
        for a, b in zip(transitions[start : start + steps], transitions[start + 1 : start + steps + 1], strict=False)
    )


@pytest.mark.parametrize("kind", ["frames", "sb3"])
@settings(max_examples=60, deadline=None)
@given(story=stories(), steps=st.integers(1, 6))
def test_windows_are_slices_of_one_episode(kind, story, steps):
    buffer, plain = tell(story, kind)
    source = ReplaySource(buffer)
    size = len(plain[0])
    start = np.repeat(np.arange(size), story.n_envs)
    env = np.tile(np.arange(story.n_envs), size)
    raw = source._windows(start, env, steps)
    assert raw.obs.shape == (len(start), steps + 1, *story.space.shape) and raw.obs.dtype == np.uint8
    assert raw.mask.shape == raw.rewards.shape == raw.terminated.shape == (len(start), steps)
    for row, (s, e) in enumerate(zip(start, env, strict=True)):
        if jump_is_invisible(plain[e], s, steps):
            continue
        expected = []
        for transition in plain[e][s : s + steps]:
            expected.append(transition)
            if not transition["continues"]:
                break
        assert_holds(raw, row, expected)


def assert_holds(raw, row, expected):
    """A row is these transitions, and padding after them."""
    n, steps = len(expected), raw.mask.shape[1]
    assert raw.mask[row].tolist() == [True] * n + [False] * (steps - n)
    assert (raw.obs[row, 0] == expected[0]["obs"]).all()
    for t, transition in enumerate(expected):
        assert (raw.obs[row, t + 1] == transition["next_obs"]).all()
        assert (raw.actions[row, t] == transition["action"]).all()
        assert raw.rewards[row, t] == transition["reward"]
        assert raw.terminated[row, t] == transition["terminated"]
        assert raw.truncated[row, t] == transition["truncated"]
    for t in range(n, steps):
        assert (raw.obs[row, t + 1] == expected[-1]["next_obs"]).all(), "padding repeats the last observation"
        assert raw.rewards[row, t] == 0 and not raw.terminated[row, t] and not raw.truncated[row, t]


def whole_episodes(transitions, full):
    """
    Those that begin with a reset and end with a done, oldest first. Of a ring that is full, what ends first counts as begun
    before the ring's oldest transition.
    """
    episodes, ends, running = [], 0, None
    for transition in transitions:
        if transition["starts"]:
            running = []
        if running is not None:
            running.append(transition)
        if transition["terminated"] or transition["truncated"]:
            ends += 1
            if running is not None and not (full and ends == 1):
                episodes.append(running)
            running = None
    return episodes


@pytest.mark.parametrize("kind", ["frames", "sb3"])
@settings(max_examples=60, deadline=None)
@given(story=stories(), limit=st.integers(0, 5))
def test_whole_episodes_are_those_of_a_plain_store(kind, story, limit):
    buffer, plain = tell(story, kind)
    source = ReplaySource(buffer)
    first, last, env = source._whole_episodes()
    expected = [episode for transitions in plain for episode in whole_episodes(transitions, buffer.full)]
    assert len(env) == len(expected)
    request = DataRequest("episodes", steps=limit)
    assert source.ready(request, len(expected)) and not source.ready(request, len(expected) + 1)
    if not expected or any(jump_is_invisible(transitions, 0, len(transitions)) for transitions in plain):
        return
    raw = source._episodes(first, last, env, limit)
    longest = max(len(episode) for episode in expected)
    assert raw.mask.shape == (len(expected), min(longest, limit or longest))
    for row, episode in enumerate(expected):
        assert_holds(raw, row, episode[: limit or None])
    drawn = source.draw(request, 50, np.random.default_rng(0))
    known = {episode[0]["obs"].tobytes() for episode in expected}
    assert {obs.tobytes() for obs in drawn.obs[:, 0]} <= known
    assert len(known) > 6 or {obs.tobytes() for obs in drawn.obs[:, 0]} == known


def test_episodes_of_dict_observations():
    """SB3's DictReplayBuffer, windows and episodes of its image."""
    image = spaces.Box(0, 255, (2, 16, 17), np.uint8)
    space = spaces.Dict(image=image, speed=spaces.Box(-1, 1, (2,)))
    buffer = DictReplayBuffer(30, space, ACTIONS, "cpu", 1)
    story = Story(2, 1, 1, 30, "repeat", tuple((1,) if t % 4 == 3 else (0,) for t in range(14)), all_different=True)
    plain = tell(story, "sb3")[1][0]
    for obs, next_obs, *rest in Teller(story).steps():
        buffer.add(*(dict(image=images, speed=np.zeros((1, 2))) for images in (obs, next_obs)), *rest)
    source = ReplaySource(buffer, key="image")
    raw = source._episodes(*source._whole_episodes(), limit=0)
    episodes = whole_episodes(plain, full=False)
    assert len(raw.mask) == len(episodes) == 3
    for row, episode in enumerate(episodes):
        assert_holds(raw, row, episode)


@pytest.mark.parametrize("kind", ["frames", "sb3"])
def test_draws_are_uniform_over_what_is_live(kind):
    story = Story(2, 1, 2, 20, "repeat", ((0, 0), (1, 0), (0, 2)) * 9, all_different=True)
    buffer, plain = tell(story, kind)
    source, rng = ReplaySource(buffer), np.random.default_rng(0)
    raw = source.draw(DataRequest("views"), 4000, rng)
    live = {t["obs"].tobytes(): 0 for transitions in plain for t in transitions}
    for image in raw.obs:
        live[image.tobytes()] += 1  # a KeyError would be an observation that is not live
    assert len(live) == 20 and min(live.values()) > 130 and max(live.values()) < 280
    starts = source.draw(DataRequest("sequence", steps=3), 4000, rng).obs[:, 0]
    assert {image.tobytes() for image in starts} == set(live)


def test_draws_do_not_touch_global_streams_and_repeat():
    buffer, _ = tell(Story(2, 1, 1, 20, "repeat", ((0,),) * 30), "frames")
    state = np.random.get_state()[1].copy()
    a = ReplaySource(buffer).draw(DataRequest("sequence", steps=2), 8, np.random.default_rng(5))
    b = ReplaySource(buffer).draw(DataRequest("sequence", steps=2), 8, np.random.default_rng(5))
    assert (state == np.random.get_state()[1]).all()
    assert (a.obs == b.obs).all()


def test_batches_on_the_device():
    buffer, _ = tell(Story(2, 3, 1, 20, "repeat", ((0,),) * 30), "frames")
    source, rng = ReplaySource(buffer), np.random.default_rng(0)
    assert source.ready(DataRequest("views"), 20) and not source.ready(DataRequest("views"), 21)
    request = DataRequest("views", views=3)
    batch = make_batch(source.draw(request, 8, rng), request, th.device("cpu"), RandomShift(2), th.Generator())
    assert len(batch.views) == 3 and len(batch) == 8 and batch.views[0].dtype == th.uint8
    assert not th.equal(batch.views[0], batch.views[1]), "views are drawn independently"
    request = DataRequest("sequence", steps=4)
    raw = source.draw(request, 8, rng)
    batch = make_batch(raw, request, th.device("cpu"), RandomShift(2), th.Generator())
    assert (batch.obs.numpy() == raw.obs).all() and batch.steps == 4 and batch.actions.dtype == th.float32
    assert not th.equal(batch.view(0), batch.view(0)) and batch.mask.dtype == th.bool
    plain = make_batch(raw, request, th.device("cpu"), None, None)
    assert th.equal(plain.view(2), plain.obs[:, 2])


@pytest.mark.parametrize("kind", ["frames", "sb3"])
@settings(max_examples=40, deadline=None)
@given(story=stories())
def test_windows_tell_where_they_are_from(kind, story):
    """Episode numbers agree with a plain store. No buffer sees a jump to an equal observation, and SB3's see none at all."""
    buffer, plain = tell(story, kind)
    numbers = []
    for env, transitions in enumerate(plain):
        number = 0
        for time, transition in enumerate(transitions):
            numbers.append((env, number, time, transition["obs"].tobytes()))
            ended = transition["terminated"] or transition["truncated"]
            seen = not transition["continues"] and not jump_is_invisible(transitions, time, 1)
            number += ended if kind == "sb3" else seen and time < len(transitions) - 1
    raw = ReplaySource(buffer).draw(DataRequest("sequence", steps=2, origin=True), 30, np.random.default_rng(0))
    assert raw.episode.shape == raw.time.shape == (30,) and raw.episode.dtype == np.int64
    named = {}
    for episode, time, obs in zip(raw.episode, raw.time, raw.obs[:, 0], strict=True):
        fits = {(env, number) for env, number, t, image in numbers if t == time and image == obs.tobytes()}
        assert fits, "the window does not begin where it says"
        named[int(episode)] = named.get(int(episode), fits) & fits
    assert all(named.values()), "one number for two episodes"
    if all(len(fits) == 1 for fits in named.values()):
        assert len({min(fits) for fits in named.values()}) == len(named), "two numbers for one episode"


def test_origins_reach_the_batch():
    buffer, _ = tell(Story(2, 1, 1, 20, "repeat", ((0,), (0,), (1,)) * 5), "frames")
    source, rng = ReplaySource(buffer), np.random.default_rng(0)
    for origin in (False, True):
        request = DataRequest("sequence", steps=2, origin=origin)
        batch = make_batch(source.draw(request, 8, rng), request, th.device("cpu"), None, None)
        assert batch.weights is None
        if not origin:
            assert batch.episode is None and batch.time is None
    assert batch.episode.dtype == batch.time.dtype == th.int64 and (batch.time // 3 == batch.episode).all()
    request = DataRequest("episodes", origin=True)
    raw = source.draw(request, 8, rng)
    same = raw.episode[:, None] == raw.episode
    assert (same == (raw.obs[:, None, 0] == raw.obs[None, :, 0]).all((2, 3, 4))).all() and not raw.time.any()


def test_sequences_need_terminal_observations():
    story = Story(2, 1, 1, 20, "repeat", ((0,),) * 30)
    arguments = (20, story.space, ACTIONS, "cpu", 1)
    source = ReplaySource(ReplayBuffer(*arguments, optimize_memory_usage=True, handle_timeout_termination=False))
    for step in Teller(story).steps():
        source.buffer.add(*step)
    assert source.ready(DataRequest("views"), 8)
    assert source.draw(DataRequest("views"), 8, np.random.default_rng(0)).obs.shape == (8, *story.space.shape)
    with pytest.raises(ValueError, match="use FrameReplayBuffer"):
        source.ready(DataRequest("sequence", steps=2), 8)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(kind="pairs"),
        dict(views=0),
        dict(kind="sequence"),
        dict(kind="sequence", steps=0),
        dict(kind="episodes", steps=-1),
        dict(kind="views", origin=True),
    ],
)
def test_wrong_requests(kwargs):
    with pytest.raises(ValueError, match="DataRequest"):
        DataRequest(**kwargs)
