"""FrameReplayBuffer returns what SB3's buffers return: values, dtypes, random draws."""

import pickle
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from crl.augment import ColorJitter, RandomCrop, RandomShift
from crl.replay import FrameReplayBuffer
from crl.replay.frame_store import FrameStore

from ..fakes import FakeImages
from .scripts import Story, Teller, stories

ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


def pair(story, reference=ReplayBuffer, own=None, **kwargs):
    arguments = (story.buffer_size, story.space, ACTIONS, "cpu", story.n_envs)
    mine = FrameReplayBuffer(*arguments, n_stack=story.n_stack, **{**kwargs, **(own or {})})
    return mine, reference(*arguments, **kwargs)


def assert_same_sample(mine, theirs, batch_size=32, seed=7, env=None):
    results = []
    for buffer in (mine, theirs):
        np.random.seed(seed)
        samples = [buffer.sample(batch_size, env=env) for _ in range(2)]
        results.append((samples, np.random.get_state()))
    (a, state_a), (b, state_b) = results
    assert (state_a[1] == state_b[1]).all() and state_a[2:] == state_b[2:]
    for mine_, theirs_ in zip(a, b, strict=True):
        for name in theirs_._fields:
            x, y = getattr(mine_, name), getattr(theirs_, name)
            if isinstance(y, dict):
                assert x.keys() == y.keys()
                for key in y:
                    assert x[key].dtype == y[key].dtype and th.equal(x[key], y[key]), (name, key)
            elif y is None:
                assert x is None, name
            else:
                assert x.dtype == y.dtype and x.shape == y.shape and th.equal(x, y), name


@settings(max_examples=120, deadline=None)
@given(stories(), st.booleans())
def test_equals_sb3(story, timeouts):
    mine, theirs = pair(story, handle_timeout_termination=timeouts)
    for step in Teller(story).steps():
        for buffer in (mine, theirs):
            buffer.add(*step)
        assert (mine.pos, mine.full) == (theirs.pos, theirs.full)
    assert_same_sample(mine, theirs)


@settings(max_examples=120, deadline=None)
@given(stories(jumps=False), st.integers(2, 5), st.booleans())
def test_n_steps_equal_sb3(story, n_steps, timeouts):
    mine, theirs = pair(story, NStepReplayBuffer, n_steps=n_steps, gamma=0.9, handle_timeout_termination=timeouts)
    for step in Teller(story).steps():
        for buffer in (mine, theirs):
            buffer.add(*step)
    assert_same_sample(mine, theirs)


@settings(max_examples=40, deadline=None)
@given(stories())
def test_every_transition_after_every_add(story):
    """Not only at the end: all live transitions, the oldest slot included, while the ring turns."""
    mine, theirs = pair(story)
    for step in Teller(story).steps():
        for buffer in (mine, theirs):
            buffer.add(*step)
        inds = np.repeat(np.arange(theirs.size()), story.n_envs)
        envs = np.tile(np.arange(story.n_envs), theirs.size())
        obs, next_obs = mine._both(inds, envs)
        assert (obs == theirs.observations[inds, envs]).all()
        assert (next_obs == theirs.next_observations[inds, envs]).all()


@settings(max_examples=30, deadline=None)
@given(stories())
def test_pickle_goes_on_identically(story):
    mine, theirs = pair(story)
    steps = list(Teller(story).steps())
    half = len(steps) // 2
    for step in steps[:half]:
        mine.add(*step)
        theirs.add(*step)
    mine = pickle.loads(pickle.dumps(mine))
    if half:
        assert_same_sample(mine, theirs)
    for step in steps[half:]:
        mine.add(*step)
        theirs.add(*step)
    assert_same_sample(mine, theirs)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_dict_observations(n_steps):
    space = spaces.Dict(
        image=spaces.Box(0, 255, (6, 16, 17), np.uint8), speed=spaces.Box(-1, 1, (2,)), gear=spaces.Discrete(3)
    )
    arguments = (20, space, ACTIONS, "cpu", 2)
    if n_steps > 1:
        with pytest.raises(ValueError, match="Dict observations"):
            FrameReplayBuffer(*arguments, n_stack=2, n_steps=n_steps)
        return
    mine, theirs = FrameReplayBuffer(*arguments, n_stack=2), DictReplayBuffer(*arguments)
    story = Story(2, 3, 2, 20, "repeat", tuple((0, 0) if t % 5 else (1, 2) for t in range(33)))
    rng = np.random.default_rng(0)
    for obs, next_obs, action, reward, done, infos in Teller(story).steps():
        extra = [dict(speed=rng.normal(size=(2, 2)).astype(np.float32), gear=rng.integers(0, 3, 2)) for _ in range(2)]
        for buffer in (mine, theirs):
            both = [
                dict(image=image, **{k: v.copy() for k, v in e.items()})
                for image, e in zip((obs, next_obs), extra, strict=True)
            ]
            buffer.add(*both, action, reward, done, infos)
    assert_same_sample(mine, theirs)


@pytest.mark.parametrize(
    "action_space", [spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.Box(-2, 2, (3,), np.float64)]
)
def test_action_spaces(action_space):
    story = Story(3, 1, 2, 12, "zeros", ((0, 0),) * 20)
    arguments = (12, story.space, action_space, "cpu", 2)
    mine, theirs = FrameReplayBuffer(*arguments, n_stack=3), ReplayBuffer(*arguments)
    for obs, next_obs, _, reward, done, infos in Teller(story).steps():
        action = np.array([action_space.sample() for _ in range(2)])
        for buffer in (mine, theirs):
            buffer.add(obs, next_obs, action, reward, done, infos)
    assert_same_sample(mine, theirs)


@pytest.mark.parametrize("norm_obs", [False, True])
def test_vec_normalize(norm_obs):
    env = VecNormalize(DummyVecEnv([lambda: FakeImages(ACTIONS, shape=(6, 16, 17))]), norm_obs=norm_obs)
    env.reset()
    for _ in range(20):
        env.step(np.zeros((1, 2)))
    story = Story(2, 3, 1, 12, "repeat", ((0,),) * 20)
    for n_steps in (1, 3):
        kwargs = dict(n_steps=3) if n_steps > 1 else {}
        mine, theirs = pair(story, NStepReplayBuffer if n_steps > 1 else ReplayBuffer, **kwargs)
        for step in Teller(story).steps():
            mine.add(*step)
            theirs.add(*step)
        assert_same_sample(mine, theirs, env=env)


def test_with_sb3s_own_frame_stack_and_terminal_observations():
    """Behind VecFrameStack and VecTransposeImage, as SB3 users stack Atari frames."""

    class Grey(FakeImages):
        def __init__(self):
            super().__init__(ACTIONS, shape=(1, 12, 12), channels=1, length=5)
            self.observation_space = spaces.Box(0, 255, (12, 12, 1), np.uint8)

        def _observe(self):
            return super()._observe().transpose(1, 2, 0)

    env = VecTransposeImage(VecFrameStack(DummyVecEnv([Grey, Grey]), 4))
    arguments = (30, env.observation_space, ACTIONS, "cpu", 2)
    mine, theirs = FrameReplayBuffer(*arguments, n_stack=4), ReplayBuffer(*arguments)
    obs = env.reset()
    for _ in range(40):
        new_obs, rewards, dones, infos = env.step(np.zeros((2, 2)))
        next_obs = new_obs.copy()
        for i, done in enumerate(dones):
            if done:
                next_obs[i] = infos[i]["terminal_observation"]
        for buffer in (mine, theirs):
            buffer.add(obs, next_obs, np.zeros((2, 2)), rewards, dones, infos)
        obs = new_obs
    assert_same_sample(mine, theirs)


def filled(n=40, **kwargs):
    story = Story(3, 3, 1, 30, "repeat", tuple((1,) if t % 7 == 6 else (0,) for t in range(n)))
    buffer = FrameReplayBuffer(30, story.space, ACTIONS, "cpu", n_stack=3, **kwargs)
    for step in Teller(story).steps():
        buffer.add(*step)
    return buffer


def test_jump_ends_n_step_returns():
    """SB3 would sum rewards of two episodes here."""
    story = Story(2, 1, 1, 20, "repeat", ((0,), (0,), (3,), (0,), (0,)))
    buffer = FrameReplayBuffer(20, story.space, ACTIONS, "cpu", n_stack=2, n_steps=3, gamma=0.5)
    for obs, next_obs, action, _, done, infos in Teller(story).steps():
        buffer.add(obs, next_obs, action, np.ones(1), done, infos)
    sample = buffer._n_step_samples(np.arange(5), np.zeros(5, int), None)
    assert sample.rewards.flatten().tolist() == [1.5, 1.0, 1.75, 1.5, 1.0]
    assert sample.discounts.flatten().tolist() == [0.25, 0.5, 0.125, 0.25, 0.5]


def test_augmentation_draws_apart_and_leaves_global_streams_alone():
    buffer, plain = filled(augment=RandomShift(1)), filled()
    np.random.seed(0)
    th.manual_seed(0)
    torch_state = th.get_rng_state()
    augmented = buffer.sample(64)
    numpy_state = np.random.get_state()
    np.random.seed(0)
    raw = plain.sample(64)
    assert (numpy_state[1] == np.random.get_state()[1]).all() and th.equal(torch_state, th.get_rng_state())
    assert th.equal(augmented.actions, raw.actions) and augmented.observations.dtype == th.uint8
    pairs = ((augmented.observations, raw.observations), (augmented.next_observations, raw.next_observations))
    moved = [[not th.equal(a, b) for a, b in zip(x, y, strict=True)] for x, y in pairs]
    assert 0 < sum(moved[0]) < 64 and moved[0] != moved[1]
    shifts = [{"offsets": th.tensor([[dy, dx]])} for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for got, stored in zip(augmented.observations, raw.observations, strict=True):
        assert any(th.equal(got, RandomShift(1).apply(stored[None], shift)[0]) for shift in shifts)


def test_augmentation_repeats_under_a_numpy_seed():
    samples = []
    for _ in range(2):
        np.random.seed(3)
        samples.append(filled(augment=RandomShift(2)).sample(16).observations)
    assert th.equal(*samples)


def test_generator_survives_pickling():
    buffer = filled(augment=RandomShift(2))
    buffer.sample(4)
    copy = pickle.loads(pickle.dumps(buffer))
    np.random.seed(1)
    a = buffer.sample(16)
    np.random.seed(1)
    assert th.equal(a.observations, copy.sample(16).observations)


def test_one_generator_whatever_its_device_calls_itself():
    """A generator for "cuda" names itself "cuda:0", one for "cpu:0" just "cpu": made anew, it would draw the same again."""
    buffer = filled(augment=RandomShift(2))
    buffer.device = th.device("cpu:0")
    assert buffer.generator is buffer.generator


def test_a_buffer_saved_on_another_device_loads():
    buffer = filled(augment=RandomShift(2))
    state = buffer.generator.get_state()
    buffer.device = th.device("cuda")  # as pickled by a machine with a GPU
    copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(buffer))))
    copy.device = th.device("cpu")  # as SB3's load_replay_buffer does
    assert th.equal(copy.generator.get_state(), state)
    copy = pickle.loads(pickle.dumps(buffer))
    copy.device, copy._generator_state = th.device("cpu"), th.zeros(16, dtype=th.uint8)  # of a GPU's generator
    assert len(copy.sample(8).observations) == 8


def test_folder(tmp_path):
    in_memory, on_disk = filled(), filled(folder=tmp_path / "frames")
    files = list((tmp_path / "frames").rglob("*.uint8"))
    assert files
    assert_same_sample(on_disk, in_memory)
    copy = pickle.loads(pickle.dumps(on_disk))
    assert_same_sample(copy, in_memory)
    del on_disk, copy
    assert not list((tmp_path / "frames").rglob("*.uint8")), "scratch files go with their buffer"


def test_nothing_is_allocated_before_the_first_add():
    buffer = FrameReplayBuffer(10**6, spaces.Box(0, 255, (9, 84, 84), np.uint8), ACTIONS, "cpu")
    assert buffer.frames is None and not hasattr(buffer, "rewards")
    assert len(pickle.dumps(buffer)) < 400_000, "low and high of the space, no frames"


def test_memory_of_a_published_buffer():
    """100k transitions of 9x84x84 in episodes of 125 steps: under 2.3 GB, where SB3 takes 12.7."""
    buffer = FrameReplayBuffer(100_000, spaces.Box(0, 255, (9, 84, 84), np.uint8), ACTIONS, "cpu")
    assert buffer.forecast()["total"] < 2.3e9
    # the book-keeping at a size that a test can fill: 1/100 of the transitions, episodes of 125
    small = FrameReplayBuffer(1000, spaces.Box(0, 255, (9, 84, 84), np.uint8), ACTIONS, "cpu")
    frames = np.zeros((3, 84, 84), np.uint8)
    stack = [frames + 1] * 3
    for t in range(2500):
        following = [*stack[1:], np.full_like(frames, t % 251)]
        done = t % 125 == 124
        small.add(
            np.concatenate(stack)[None], np.concatenate(following)[None], np.zeros((1, 2)), np.zeros(1), np.array([done]), [{}]
        )
        stack = [frames + 1] * 3 if done else following
    assert len(small.frames._pools) == 1, "the first pool is enough"
    per_transition = small.frames.nbytes / 1000
    assert per_transition < 1.15 * 3 * 84 * 84


def test_more_frames_than_expected_get_another_pool():
    story = Story(4, 1, 2, 400, "none", ((1, 1),) * 900)
    mine, theirs = pair(story)
    for step in Teller(story).steps():
        mine.add(*step)
        theirs.add(*step)
    assert len(mine.frames._pools) > 1
    assert_same_sample(mine, theirs, 400)


def test_too_large_for_memory():
    buffer = FrameReplayBuffer(10**9, spaces.Box(0, 255, (9, 84, 84), np.uint8), ACTIONS, "cpu")
    zeros = np.zeros((1, 9, 84, 84), np.uint8)
    with pytest.raises(MemoryError, match="lower buffer_size to .* or keep frames on disk"):
        buffer.add(zeros, zeros, np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])


def test_a_folder_takes_the_frames_out_of_the_forecast(tmp_path, monkeypatch):
    """Little memory: refused, unless frames lie on a disk that has room."""
    need = filled().forecast()
    room = SimpleNamespace(available=need["rest"] + need["frames"] // 2, free=need["frames"])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: room)
    monkeypatch.setattr(psutil, "disk_usage", lambda path: room)
    with pytest.raises(MemoryError, match="keep frames on disk"):
        filled()
    assert filled(folder=tmp_path).full
    room.free -= 1
    with pytest.raises(MemoryError, match="GB are free there"):
        filled(folder=tmp_path)


IMAGE = spaces.Box(0, 255, (9, 12, 12), np.uint8)


@pytest.mark.parametrize(
    "space, kwargs, message",
    [
        (IMAGE, dict(optimize_memory_usage=True), "not needed"),
        (spaces.Box(0, 255, (4, 8, 8), np.uint8), {}, "4 frames of 1 or 1 frames of 4"),
        (spaces.Box(0, 255, (12, 12, 12), np.uint8), {}, "n_stack="),
        (spaces.Box(0, 255, (7, 8, 8), np.uint8), dict(n_stack=2), "does not divide"),
        (spaces.Box(0, 255, (11, 12, 12), np.uint8), dict(n_stack=0), "does not divide"),
        (spaces.Box(0, 255, (17, 20, 20), np.uint8), {}, "17 channels"),
        (spaces.Box(0, 1, (9, 8, 8), np.float32), {}, "uint8 images"),
        (spaces.Box(-10, 10, (9, 8, 8), np.float32), {}, "VecNormalize pass norm_obs=False"),
        (spaces.Box(0, 255, (20, 20, 9), np.uint8), {}, "channels first"),
        (spaces.Box(0, 255, (3, 8, 8, 3), np.uint8), {}, "FrameStackObservation"),
        (spaces.Dict(a=IMAGE, b=IMAGE), {}, "name it by image_key"),
        (spaces.Dict(a=IMAGE), dict(image_key="b"), "images of this Dict"),
        (spaces.Dict(a=spaces.Box(0, 255, (3, 8, 8, 3), np.uint8)), {}, r"needs an image.*\(3, 8, 8, 3\) uint8"),
        (spaces.Dict(a=spaces.Box(0, 1, (9, 8, 8), np.float32)), {}, "needs an image.* float32"),
        (IMAGE, dict(image_key="a"), "no Dict"),
        (IMAGE, dict(n_steps=0), "at least 1"),
        (IMAGE, dict(gamma=1.5), "gamma in"),
        (IMAGE, dict(augment="shift"), "pass an augmentation"),
        (IMAGE, dict(augment=RandomShift), "pass an instance"),
        (IMAGE, dict(augment=RandomCrop(13)), r"larger than the images \(12x12\)"),
        (spaces.Box(0, 255, (4, 8, 8), np.uint8), dict(n_stack=4, augment=ColorJitter()), "pass frame_channels="),
    ],
)
def test_bad_arguments(space, kwargs, message):
    with pytest.raises(ValueError, match=message):
        FrameReplayBuffer(100, space, ACTIONS, "cpu", **kwargs)


def test_frames_in_the_wrong_order():
    buffer = FrameReplayBuffer(10, IMAGE, ACTIONS, "cpu")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 3, 12, 12), dtype=np.uint8)
    newest_first = [np.concatenate(frames[2::-1])[None], np.concatenate(frames[:0:-1])[None]]
    with pytest.raises(ValueError, match="oldest first"):
        buffer.add(*newest_first, np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])
    with pytest.raises(ValueError, match="but the buffer is for"):
        buffer.add(np.zeros((2, 9, 12, 12)), np.zeros((2, 9, 12, 12)), np.zeros((2, 2)), np.zeros(2), np.zeros(2), [{}, {}])


def test_what_is_refused_leaves_the_buffer_as_it_was():
    story = Story(3, 3, 2, 20, "repeat", ((0, 0),) * 12)
    mine, theirs = pair(story)
    for obs, next_obs, *rest in Teller(story).steps():
        broken = next_obs.copy()
        broken[1] = 7  # the first environment's frames are fine
        with pytest.raises(ValueError, match="shifted by one frame"):
            mine.add(obs, broken, *rest)
        with pytest.raises(ValueError, match="float32, though their space declares uint8"):
            mine.add(obs, next_obs.astype(np.float32), *rest)
        for buffer in (mine, theirs):
            buffer.add(obs, next_obs, *rest)
    assert_same_sample(mine, theirs)


def test_store_keeps_what_is_not_released():
    store = FrameStore((1, 2, 2), 1, 200)
    for i in range(1000):
        store.append(0, np.full((1, 2, 2), i % 256, np.uint8))
        store.release(0, max(0, i - 150))
    numbers = np.arange(850, 1000)
    assert (store.export(0, 850, 1000)[:, 0, 0, 0] == numbers % 256).all()
    assert len(store._pools) == 1 and store.nbytes < 400 * 4
