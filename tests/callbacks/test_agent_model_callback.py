"""Agents that model others: who moves what and when, that rollouts stay consistent, both ways of carrying history, saving."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.vec_env import VecNormalize

from crl.history import HistoryExtractor, HistoryVecEnv, history_extractor, seen_by
from crl.objectives.agent_model import AgentModel
from crl.objectives.liam import LIAM
from crl.objectives.partner_id import PartnerId

from ..matching import Matching, NoInfo
from .agent_models import SaveState, Watch, make_callback, make_env, make_image_env, make_model, same, weights


def test_a_sync_within_the_rollout_would_show_in_the_ratio():
    """What the test below looks for is there when it should be."""
    callback = make_callback()
    callback._on_rollout_end = lambda: callback._train() and callback._sync()
    watch = Watch(callback)
    make_model(env=make_env("history")).learn(300, callback=[callback, watch])
    assert sum(watch.log_prob_errors) > 0


@pytest.mark.parametrize("way", ["embedding", "history"])
def test_ppos_first_ratio_is_exactly_one(way):
    callback = make_callback()
    watch = Watch(callback)
    model = make_model(env=make_env(way))
    model.learn(300, callback=[callback, watch])
    assert watch.n_updates[-1] > watch.n_updates[3] > 0, "the encoder was trained between rollouts"
    assert len(watch.log_prob_errors) == 16 * 7 and sum(watch.log_prob_errors) == 0
    # pairs of rollout start and update: the same encoder in both, and other ones from rollout to rollout
    pairs = list(zip(watch.encoders[::2], watch.encoders[1::2], strict=True))
    assert all(same(a, b) for a, b in pairs)
    assert not same(pairs[1][0], pairs[2][0])


def test_both_ways_learn_the_same():
    found = []
    for way in ("embedding", "history"):
        callback, model = make_callback(), make_model(env=make_env(way))
        model.learn(300, callback=callback)
        found.append((weights(model.policy), weights(callback.objective), callback.n_updates))
    (a, b, n), (c, d, m) = found
    assert n == m > 0
    for one, other in ((a, c), (b, d)):
        assert all(th.allclose(one[key], other[key], rtol=1e-4, atol=1e-6) for key in one)


def test_all_arms_begin_with_the_same_actor():
    of_actor = {}
    for name, kwargs in {"clam": {}, "none": dict(modelled=False), "rl": dict(env=make_env("history"), trained=True)}.items():
        state = make_model(**kwargs).policy.state_dict()
        of_actor[name] = {key: value for key, value in state.items() if "encoder" not in key}
    assert same(of_actor["clam"], of_actor["none"]) and same(of_actor["clam"], of_actor["rl"])


def test_what_is_acted_on_is_the_whole_history_encoded_from_scratch():
    model, callback = make_model(), make_callback()
    env, episodes, checked = model.env, [None] * 3, []

    class Check(BaseCallback):
        """Keeps raw observations and actions itself, and encodes them by the objective's way."""

        def _on_rollout_start(self):
            self.look(self.model._last_obs)

        def look(self, obs):
            encoder = history_extractor(self.model).encoder
            for index, seen in enumerate(obs):
                if episodes[index] is None:
                    episodes[index] = ([seen[:5]], [])
                raw, actions = episodes[index]
                taken = th.tensor(actions, dtype=th.long).view(1, -1, 1)
                rows = encoder.rows(th.as_tensor(np.stack(raw))[None], taken)
                wanted = encoder.encode_prefixes(rows, th.tensor([len(raw)]))[0]
                th.testing.assert_close(th.as_tensor(seen[5:]), wanted, rtol=1e-4, atol=1e-5)
                checked.append(len(raw))

        def _on_step(self):
            new = self.locals["new_obs"]
            for index, done in enumerate(self.locals["dones"]):
                if done:
                    episodes[index] = None
                else:
                    episodes[index][0].append(new[index, :5])
                    episodes[index][1].append(int(self.locals["actions"][index]))
            self.look(new)
            return True

    model.learn(200, callback=[callback, Check()])
    assert callback.n_updates > 0 and max(checked) > 8 and env.window.lengths.max() > 1


def test_terminal_observations_hold_the_finished_history():
    env = make_env(n_envs=1, lengths=(3, 4))
    model = make_model(env=env)
    env.bind(history_extractor(model).encoder)
    obs, raw, actions = env.reset(), [], []
    raw.append(obs[0, :5])
    for action in (0, 2, 1):
        obs, _, dones, infos = env.step(np.array([action]))
        actions.append(action)
        raw.append((infos[0]["terminal_observation"] if dones[0] else obs[0])[:5])
    assert dones[0]
    encoder = env.window.encoder
    rows = encoder.rows(th.as_tensor(np.stack(raw))[None], th.tensor(actions).view(1, 3, 1))
    wanted = encoder.encode_prefixes(rows, th.tensor([4]))[0].detach().numpy()
    np.testing.assert_allclose(infos[0]["terminal_observation"][5:], wanted, atol=1e-5)
    assert env.window.lengths[0] == 1, "the next episode begins with nothing"


def test_long_histories_keep_the_newest_rows():
    env = make_env(n_envs=2, length=4, lengths=(9, 10))
    env.reset()
    rows = []
    for t in range(8):
        obs, *_ = env.step(np.array([t % 3, 1]))
        rows.append(env.window.x[0, env.window.lengths[0] - 1].copy())
        np.testing.assert_array_equal(env.window.x[0, : env.window.lengths[0]][-len(rows) :], rows[-4:])
    assert env.window.lengths.tolist() == [4, 4] and obs.shape == (2, 9)


@pytest.mark.parametrize(
    "algorithm, way, policy",
    [
        (A2C, "embedding", None),
        (A2C, "history", None),
        (RecurrentPPO, "embedding", "MlpLstmPolicy"),
        (RecurrentPPO, "history", "MultiInputLstmPolicy"),
    ],
)
def test_other_algorithms(algorithm, way, policy):
    callback = make_callback()
    kwargs = dict(batch_size=24, n_epochs=2) if algorithm is RecurrentPPO else {}
    model = make_model(algorithm, make_env(way), policy, **kwargs)
    before = weights(history_extractor(model).encoder)
    model.learn(200, callback=callback)
    assert callback.n_updates > 0 and not same(before, weights(history_extractor(model).encoder))
    assert same(weights(history_extractor(model).encoder), weights(callback.objective.target))
    env = seen_by(model, Matching())
    assert model.predict(env.reset()[0])[0] in range(3)


@pytest.mark.parametrize(
    "objective", [LIAM(hidden_dim=8), PartnerId(), AgentModel(min_crop=3, max_crop=9, positives="partner")]
)
def test_objectives_that_are_told(objective):
    model, callback = make_model(), make_callback(objective)
    model.learn(200, callback=callback)
    assert callback.n_updates > 0
    assert f"repr/{objective.name}_loss" in model.logger.name_to_value
    with pytest.raises(ValueError, match=r"info\['partner"):
        make_model(env=make_env(wrap=NoInfo)).learn(
            64, callback=make_callback(type(objective)() if objective.name != "supcon" else AgentModel(positives="partner"))
        )


@pytest.mark.parametrize("make", [make_env, make_image_env])
def test_training_is_the_same_when_infos_are_stripped(make):
    found = []
    for wrap in (lambda env: env, NoInfo):
        model, callback = make_model(env=make(wrap=wrap)), make_callback()
        model.learn(144, callback=callback)
        found.append(weights(callback.objective) | weights(model.policy))
    assert same(*found) and callback.n_updates > 0


def test_random_encoder_stays_and_the_agents_loss_trains_one_alone():
    model = make_model()
    before = weights(history_extractor(model).encoder)
    model.learn(100, callback=make_callback(None))
    assert same(before, weights(history_extractor(model).encoder))
    assert all(p.grad is None for p in history_extractor(model).encoder.parameters())
    rl = make_model(env=make_env("history"), trained=True)
    before = weights(history_extractor(rl).encoder)
    rl.learn(100, callback=make_callback(None))
    after = weights(history_extractor(rl).encoder)
    assert all(not th.equal(before[key], after[key]) for key in before)
    assert all(p.grad is not None for p in history_extractor(rl).encoder.parameters())


def test_agents_loss_leaves_no_gradient_on_the_acting_encoder():
    model, callback = make_model(env=make_env("history")), make_callback()
    model.learn(200, callback=callback)
    assert all(p.grad is None and not p.requires_grad for p in history_extractor(model).encoder.parameters())
    held = {id(p) for group in callback.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in model.policy.parameters()}


@pytest.mark.parametrize("algorithm, policy", [(PPO, None), (RecurrentPPO, "MlpLstmPolicy")])
def test_goes_on_from_a_saved_state_bit_by_bit(algorithm, policy):
    """As crl.runs does it: model, callback and environments are saved at the start of a rollout, and made anew."""
    kwargs = dict(batch_size=24, n_epochs=2) if algorithm is RecurrentPPO else {}

    class Stateful(Matching):
        def get_state(self):
            names = ("partner", "fingerprint", "length", "t", "last")
            return {**{n: getattr(self, n) for n in names}, "rng": self.np_random.bit_generator.state}

        def set_state(self, state):
            self.np_random.bit_generator.state = state["rng"]
            for name, value in state.items():
                if name != "rng":
                    setattr(self, name, value)

    def begin():
        from stable_baselines3.common.vec_env import DummyVecEnv

        from crl.envs.monitor import ResumableMonitor
        from crl.history import HistoryVecEnv

        plain = make_env()
        venv = DummyVecEnv([lambda: ResumableMonitor(Stateful()) for _ in range(3)])
        return make_model(algorithm, HistoryVecEnv(venv, plain.spec), policy, **kwargs)

    model, callback = begin(), make_callback()
    saved = SaveState(callback, lambda env: env.env_method("get_state"))
    model.learn(288, callback=[callback, saved])
    reference = weights(model.policy) | weights(callback.objective)
    env, going_on = begin().env, make_callback()
    for index, state in enumerate(saved.envs):
        env.env_method("set_state", state, indices=index)
    other = saved.go_on(env, going_on, 144)
    assert other.num_timesteps == model.num_timesteps and going_on.n_updates == callback.n_updates
    assert same(weights(other.policy) | weights(going_on.objective), reference)


def test_says_what_does_not_fit():
    with pytest.raises(ValueError, match="does not see histories"):
        PPO("MlpPolicy", make_env().venv, n_steps=16, batch_size=16).learn(16, callback=make_callback())
    with pytest.raises(ValueError, match="on-policy"):
        DQN("MlpPolicy", make_env()).learn(16, callback=make_callback())
    with pytest.raises(ValueError, match="must hold an encoder"):
        make_model(modelled=False).learn(16, callback=make_callback())
    with pytest.raises(ValueError, match="way='history'"):
        make_model(trained=True)
    for kwargs in (
        dict(batch_size=1),
        dict(interval=0),
        dict(store_size=3),
        dict(learning_rate=0.0),
        dict(objective=AgentModel),
    ):
        with pytest.raises(ValueError):
            make_callback(**kwargs)
    saved = make_callback()
    model = make_model()
    model.learn(48, callback=saved)
    with pytest.raises(ValueError, match="does not fit"):
        make_callback(LIAM()).load_state_dict(saved.state_dict())


class Recorder(gym.Wrapper):
    """Keeps the episodes that are played in an environment, as they are seen from inside."""

    def __init__(self, env):
        super().__init__(env)
        self.episodes = []

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        self.episodes.append([[obs], [], [], [info["partner_id"]]])
        return obs, info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        for kept, value in zip(self.episodes[-1], (obs, int(action), reward, info["partner_id"]), strict=True):
            kept.append(value)
        if terminated or truncated:
            self.episodes[-1].append(terminated)
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("algorithm, way", [(A2C, "embedding"), (PPO, "history")])
def test_the_store_holds_the_episodes_that_were_played(algorithm, way, truncate):
    """Each whole, the last observation its own: over ends of episodes, of rollouts and of learn()."""
    envs = []

    def wrap(env):
        envs.append(Recorder(env))
        return envs[-1]

    callback = make_callback(AgentModel(min_crop=3, max_crop=9, projector=(8, 4), positives="partner"), store_size=500)
    model = make_model(algorithm, make_env(way, wrap=wrap, truncate=truncate))
    model.learn(150, callback=callback)
    for one in envs:  # those that are under way are given up: the second learn() resets
        one.episodes[-1].append("given up")
    model.learn(150, callback=callback)
    played = [episode for one in envs for episode in one.episodes if len(episode) == 5 and episode[4] != "given up"]
    assert len(callback.store) == len(played) > 15
    batch = callback.store.episodes(np.arange(len(played)), th.device("cpu"))
    of_store = {}
    for index in range(len(played)):
        n = int(batch.mask[index].sum())
        of_store[batch.obs[index, 0].numpy().tobytes()] = (index, n)
    assert len(of_store) == len(played)
    for obs, actions, rewards, partners, terminated in played:
        index, n = of_store[np.asarray(obs[0], np.float32).tobytes()]
        assert n == len(actions) and len(set(partners)) == 1 and batch.partner_id[index] == partners[0]
        np.testing.assert_array_equal(batch.obs[index, : n + 1], np.stack(obs))
        assert batch.actions[index, :n, 0].tolist() == actions
        np.testing.assert_allclose(batch.rewards[index, :n], rewards)
        assert bool(batch.terminated[index].any()) == terminated == (not truncate)
        assert bool(batch.truncated[index].any()) == (not terminated)


def test_refuses_what_would_train_otherwise_than_it_says():
    with pytest.raises(ValueError, match="EveryNTimesteps would call"):
        make_model().learn(48, callback=EveryNTimesteps(8, make_callback()))
    with pytest.raises(ValueError, match="no schedule"):
        make_callback(learning_rate=lambda left: 1e-3 * left)
    with pytest.raises(ValueError, match="VecNormalize.*inside"):
        model = make_model()
        model.env = VecNormalize(model.env)
        model.learn(48, callback=make_callback())
    inside = make_env()
    env = HistoryVecEnv(VecNormalize(inside.venv), inside.spec)
    make_model(env=env).learn(48, callback=make_callback())
    scaled = make_model()
    scaled.env = VecNormalize(scaled.env, norm_obs=False)
    scaled.learn(48, callback=make_callback())
    for way in ("embedding", "history"):
        env = make_env(way)
        extractor = dict(spec=env.spec, base_space=env.base_space, action_space=env.action_space)
        own = dict(features_extractor_class=HistoryExtractor, features_extractor_kwargs=extractor)
        policy = "MlpPolicy" if way == "embedding" else "MultiInputPolicy"
        apart = PPO(policy, env, n_steps=16, batch_size=24, policy_kwargs=dict(own, share_features_extractor=False))
        with pytest.raises(ValueError, match="share_features_extractor"):
            apart.learn(48, callback=make_callback())


def test_says_when_it_never_trained():
    with pytest.warns(UserWarning, match=r"never trained: \d+ episodes are stored.*min_episodes=400"):
        make_model().learn(96, callback=make_callback(min_episodes=400))


def test_one_callback_is_of_one_model(tmp_path):
    callback, model = make_callback(), make_model()
    model.learn(144, callback=callback)
    n = callback.n_updates
    model.learn(144, callback=callback)
    assert callback.n_updates > n, "a second learn() goes on"
    model.save(tmp_path / "model")
    again = PPO.load(tmp_path / "model", env=make_env())
    n = callback.n_updates
    again.learn(144, callback=callback)
    assert callback.n_updates > n, "so does a model that was saved"
    with pytest.raises(ValueError, match="encoder of another model"):
        make_model(seed=1).learn(48, callback=callback)
