"""Agents that model others from pictures: rows of the CNN as it is, who moves what, rollouts that stay consistent, saving."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback

from crl.callbacks.episode_features import with_features
from crl.contract import EpisodeBatch
from crl.encoders import PixelEncoder
from crl.history import HistoryExtractor, HistorySpec, HistoryVecEnv, history_extractor, seen_by
from crl.history.window import HistoryWindow
from crl.objectives.liam import LIAM

from .agent_models import SaveState, Watch, drawn, make_callback, make_env, make_image_env, make_model, same, weights


def one_by_one(model, frames, actions, n_stack):
    """
    Rows of one episode, from their definition: frame by frame, without batches, with a layer norm by hand.

    :param frames: of the episode, ``(3, 12, 12)`` each
    :param actions: one less
    """
    cnn, rows = history_extractor(model).extractors["image"], []
    for t in range(len(frames)):
        stack = np.concatenate([frames[max(0, t - back)] for back in range(n_stack - 1, -1, -1)])
        with th.no_grad():
            features = cnn(th.as_tensor(stack)[None].float() / 255)[0].double()
        features = (features - features.mean()) / (features.var(correction=0) + 1e-5).sqrt()
        action = th.zeros(3)
        if t:
            action[actions[t - 1]] = 1
        rows.append(th.cat([features.float(), action]))
    return th.stack(rows)


class Keep(BaseCallback):
    """Keeps the frames and actions of the episodes that are going on, and looks at the window at each rollout's start."""

    def __init__(self, n_stack, other):
        super().__init__()
        self.n_stack, self.other, self.episodes, self.looked, self.stale = n_stack, other, {}, 0, 0

    def newest(self, obs, index):
        return obs["image"][index][-3:].copy()

    def _on_rollout_start(self):
        window = self.model.env.window
        for index in range(self.model.n_envs):
            if index not in self.episodes:
                self.episodes[index] = ([self.newest(self.model._last_obs, index)], [])
            frames, actions = self.episodes[index]
            wanted = one_by_one(self.model, frames, actions, self.n_stack)[-window.spec.length :]
            found = th.as_tensor(window.x[index, : window.lengths[index]])
            th.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
            if len(actions) and self.looked:
                self.stale = max(self.stale, float((self.rows[index] - found).abs().max()))
            encoder = history_extractor(self.model).encoder
            z = encoder.encode_prefixes(wanted[None], th.tensor([len(wanted)]))[0].detach()
            th.testing.assert_close(th.as_tensor(self.model._last_obs["embedding"][index]), z, rtol=1e-3, atol=1e-3)
            self.looked += 1

    def _on_step(self):
        for index, done in enumerate(self.locals["dones"]):
            frame = self.newest(self.locals["new_obs"], index)
            if done:
                self.episodes[index] = ([frame], [])
            else:
                self.episodes[index][0].append(frame)
                self.episodes[index][1].append(int(self.locals["actions"][index]))
        window = self.model.env.window
        self.rows = [th.as_tensor(window.x[i, : window.lengths[i]].copy()) for i in range(self.model.n_envs)]
        return True


@pytest.mark.parametrize("n_stack, length", [(1, 20), (3, 6)])
def test_window_at_a_rollouts_start_is_of_the_cnn_as_it_is_then(n_stack, length):
    callback = make_callback()
    model, keep = make_model(env=make_image_env(n_stack=n_stack, length=length)), Keep(n_stack, callback)
    model.learn(240, callback=[callback, keep])
    assert callback.n_updates > 0 and keep.looked == 15
    assert keep.stale > 1e-3, "rows as they were made would have been of an older CNN"


@pytest.mark.parametrize("n_stack", [1, 3])
def test_rows_of_stored_episodes_are_made_frame_by_frame(n_stack):
    model = make_model(env=make_image_env(n_envs=1, n_stack=n_stack, lengths=(5, 6)))
    callback = make_callback(min_steps=1)
    model.learn(16, callback=callback)
    store, extractor = callback.store, history_extractor(model)
    assert len(store) == 3 and store.arrays["obs"].shape == (store.size, 6, 3, 12, 12), "each frame once"
    assert store.arrays["obs"].dtype == np.uint8
    frames, actions = store.arrays["obs"], store.arrays["actions"]
    for place in range(3):
        batch = with_features(store.episodes(np.array([place])), extractor.see, n_stack)
        found = extractor.rows(batch.obs, batch.actions)[0]
        wanted = one_by_one(model, list(frames[place]), actions[place, :, 0], n_stack)
        th.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_features_are_of_what_counts_alone():
    seen = []

    def see(images):
        seen.append(images)
        return images.float().mean((2, 3))

    obs = th.arange(2 * 4 * 1 * 2 * 2, dtype=th.uint8).view(2, 4, 1, 2, 2)
    mask = th.tensor([[True, True, True], [True, False, False]])
    nothing = th.zeros(2, 3)
    batch = EpisodeBatch(obs, nothing[..., None].long(), nothing, nothing.bool(), nothing.bool(), mask)
    batch.partner_id = th.tensor([4, 2])
    found = with_features(batch, see, 2)
    assert len(seen[0]) == 6 and found.obs.shape == (2, 4, 2)
    means = obs.float().mean((2, 3, 4))
    wanted = th.stack([means[:, [0, 0, 1, 2]], means], dim=2)
    wanted[1, 2:] = 0
    th.testing.assert_close(found.obs, wanted)
    assert found.partner_id.tolist() == [4, 2] and batch.obs is obs and found.mask is mask


@pytest.mark.parametrize("n_stack", [1, 2])
def test_ppos_first_ratio_is_exactly_one(n_stack):
    callback = make_callback()
    watch = Watch(callback)
    make_model(env=make_image_env(n_stack=n_stack)).learn(240, callback=[callback, watch])
    assert watch.n_updates[-1] > 0
    assert len(watch.log_prob_errors) == 16 * 5 and sum(watch.log_prob_errors) == 0


def test_who_moves_what():
    model, callback = make_model(env=make_image_env()), make_callback()
    model.learn(144, callback=callback)
    extractor = history_extractor(model)
    cnn = list(extractor.extractors.parameters())
    held = {id(p) for group in callback.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in model.policy.parameters()}
    # the contrast: a gradient for all of its encoder, none for the CNN that made its rows
    for p in cnn:
        p.grad = None
    before = weights(extractor)
    callback.train_step()
    assert all(p.grad is None for p in cnn) and same(before, weights(extractor))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in callback.objective.encoder.parameters())
    # the agent's loss: the CNN, and no encoder of histories
    for p in callback.objective.parameters():
        p.grad = None
    model.train()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in cnn)
    assert all(p.grad is None and not p.requires_grad for p in extractor.encoder.parameters())
    assert all(p.grad is None for p in callback.objective.parameters())
    after = weights(extractor)
    assert all(th.equal(before[key], after[key]) == key.startswith("encoder.") for key in before)


def test_arms_begin_with_the_same_actor_and_cnn():
    states = []
    for kwargs in ({}, dict(modelled=False)):
        state = make_model(env=make_image_env(), **kwargs).policy.state_dict()
        states.append({key: value for key, value in state.items() if "extractor.encoder" not in key})
    assert same(*states) and any("extractors.image" in key for key in states[0])


def test_without_an_encoder_nobody_looks():
    env = make_image_env(oracle=True)
    model = make_model(env=env, modelled=False)
    looked = []
    history_extractor(model).see = lambda images: looked.append(images)
    model.learn(96, callback=make_callback(None))
    assert not looked and (model._last_obs["embedding"] == 0).all()
    assert model._last_obs["partner"].sum(axis=1).tolist() == [1, 1, 1]
    assert history_extractor(model).features_dim == 6 + 3 + 4


def test_a_random_encoder_gets_rows_of_the_cnn_that_learns():
    env = make_image_env()
    model = make_model(env=env)
    keep = Keep(1, None)
    before = weights(history_extractor(model).encoder)
    model.learn(144, callback=[make_callback(None), keep])
    assert keep.stale > 1e-3 and same(before, weights(history_extractor(model).encoder))


def test_other_objectives_and_algorithms():
    callback = make_callback(LIAM(hidden_dim=8))
    model = make_model(RecurrentPPO, make_image_env(), "MultiInputLstmPolicy", batch_size=24, n_epochs=1)
    model.learn(144, callback=callback)
    assert callback.n_updates > 0 and "repr/liam_action_accuracy" in model.logger.name_to_value


@pytest.mark.parametrize("oracle", [False, True])
def test_alone_and_in_parallel_the_same_is_seen(oracle):
    env = make_image_env(n_envs=1, lengths=(3, 4), oracle=oracle)
    model = make_model(env=env)
    model.learn(48, callback=make_callback(min_steps=1))
    parallel = seen_by(model, env.venv)
    alone = seen_by(model, drawn(lengths=(3, 4), oracle=oracle))
    inner = env.venv.envs[0]
    obs = parallel.reset()
    # the same episode
    for name in ("partner", "fingerprint", "length", "t", "last", "noise"):
        setattr(alone.unwrapped, name, copy.copy(getattr(inner.unwrapped, name)))
    state = inner.unwrapped.np_random.bit_generator.state
    start = alone.reset
    alone.unwrapped.reset = lambda **kwargs: (alone.unwrapped._observe(), alone.unwrapped._info(-1))
    one, _ = start()
    alone.unwrapped.np_random.bit_generator.state = state
    assert alone.observation_space == parallel.observation_space and alone.observation_space.contains(one)
    assert set(one) == {"image", "embedding"} | ({"partner"} if oracle else set())
    for step in range(4):
        for name in one:
            np.testing.assert_allclose(obs[name][0], one[name], atol=1e-5)
        if step == 3:
            break
        action = model.predict(one, deterministic=True)[0]
        obs, _, dones, infos = parallel.step(np.array([action]))
        one, *_ = alone.step(action)
        if dones[0]:
            obs = {name: part[None] for name, part in infos[0]["terminal_observation"].items()}
    assert dones[0] and np.linalg.norm(one["embedding"]) == pytest.approx(1, abs=1e-5)


def test_goes_on_from_a_saved_state_bit_by_bit():
    model, callback = make_model(env=make_image_env(n_stack=2)), make_callback()
    saved = SaveState(callback, lambda env: [copy.deepcopy(one) for one in env.venv.envs])
    model.learn(240, callback=[callback, saved])
    reference = weights(model.policy) | weights(callback.objective)
    env, going_on = make_image_env(n_stack=2), make_callback()
    env.venv.envs = saved.envs
    other = saved.go_on(env, going_on, 96)
    assert other.num_timesteps == model.num_timesteps and going_on.n_updates == callback.n_updates > 0
    assert same(weights(other.policy) | weights(going_on.objective), reference)
    a, b = callback.store.state_dict()["arrays"]["obs"], going_on.store.state_dict()["arrays"]["obs"]
    assert a["zlib"] == b["zlib"] and a["shape"] == b["shape"]


@pytest.mark.parametrize("make", [make_env, make_image_env])
def test_saved_callbacks_are_read_again(make, tmp_path):
    callback, going_on = make_callback(LIAM(hidden_dim=8)), make_callback(LIAM(hidden_dim=8))
    model = make_model(env=make())
    model.learn(96, callback=callback)
    going_on.load(callback.save(tmp_path / "callback"))
    # nothing is trained before the first rollout begins
    going_on.init_callback(model)
    wanted, found = callback.store.state_dict(), going_on.store.state_dict()
    assert found["n_added"] == wanted["n_added"] > 0
    for name, array in wanted["arrays"].items():
        assert array == found["arrays"][name] if isinstance(array, dict) else np.array_equal(array, found["arrays"][name])
    for one, other in zip(wanted["open"], found["open"], strict=True):
        assert all(np.array_equal(np.asarray(one[name]), np.asarray(other[name])) for name in one)
    assert same(weights(callback.objective), weights(going_on.objective))


IMAGE, VECTOR, DISCRETE = spaces.Box(0, 255, (3, 12, 12), np.uint8), spaces.Box(-1, 1, (5,)), spaces.Discrete(3)


@pytest.mark.parametrize(
    "spec, space, words",
    [
        (HistorySpec("history", image_features=4), IMAGE, "moved on"),
        (HistorySpec(columns=(1,), image_features=4), IMAGE, "no columns"),
        (HistorySpec(), IMAGE, "how wide"),
        (HistorySpec(image_features=4, n_stack=2), IMAGE, "no stack"),
        (HistorySpec(image_features=4), VECTOR, "leave both out"),
        (HistorySpec(image_features=4), spaces.Dict(a=IMAGE, b=IMAGE), "one image"),
        (HistorySpec(image_features=4), spaces.Dict(a=IMAGE, embedding=VECTOR), "embedding"),
        (HistorySpec(image_features=4), spaces.Box(0, 1, (3, 12, 12)), "uint8"),
    ],
)
def test_says_what_does_not_fit(spec, space, words):
    with pytest.raises(ValueError, match=words):
        HistoryWindow(spec, space, DISCRETE)


def test_says_what_is_missing():
    with pytest.raises(ValueError, match="at least one frame"):
        HistorySpec(n_stack=0)
    window = HistoryWindow(HistorySpec(image_features=4, n_stack=2), spaces.Box(0, 255, (6, 12, 12), np.uint8), DISCRETE)
    with pytest.raises(ValueError, match="first frame so many times"):
        window.begin(np.array([0]), {"image": np.arange(6 * 144, dtype=np.uint8).reshape(1, 6, 12, 12)})
    env = make_image_env()
    spec = dict(spec=env.spec, base_space=env.base_space, action_space=env.action_space)
    with pytest.raises(ValueError, match="give a CNN for images"):
        HistoryExtractor(env.observation_space, **spec)
    with pytest.raises(ValueError, match="give a CNN for images"):
        vector = dict(spec=HistorySpec(), base_space=VECTOR, action_space=DISCRETE)
        HistoryExtractor(spaces.Box(-1, 1, (25,)), **vector, image_class=PixelEncoder)
    with pytest.raises(ValueError, match="see="):
        env.bind(history_extractor(make_model(env=env)).encoder)
    assert isinstance(env, HistoryVecEnv)
