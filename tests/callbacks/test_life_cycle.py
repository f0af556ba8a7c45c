"""Several objectives, other callbacks, saving, two learns, exceptions, other environments."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.callbacks.step_hooks import _registered
from crl.objectives import CURL
from crl.replay import FrameReplayBuffer

from ..fakes import FakeImages
from .models import BOX, DISCRETE, augmentation, make_model, same


def n_hooks(optimizer):
    return len(optimizer._optimizer_step_pre_hooks)


@pytest.mark.parametrize("name", ["sac", "td3", "dqn", "ppo"])
def test_beside_eval_and_checkpoint(name, tmp_path):
    model = make_model(name)
    actions = DISCRETE if name in ("dqn", "ppo") else BOX
    auxiliary = AuxiliaryLossCallback(CURL(**augmentation(name)))
    others = [
        EvalCallback(DummyVecEnv([lambda: FakeImages(actions)]), eval_freq=10, n_eval_episodes=1, verbose=0),
        CheckpointCallback(10, str(tmp_path), save_replay_buffer=True),
    ]
    model.learn(40, callback=[others[0], auxiliary, others[1]])
    assert next(iter(auxiliary.attachments.values())).n_updates > 0
    saved = sorted(tmp_path.glob("*_30_steps.*" if name != "ppo" else "*_20_steps.*"))
    assert len(saved) == (1 if name == "ppo" else 2)
    loaded = type(model).load(next(p for p in saved if p.suffix == ".zip"))
    obs = FakeImages(actions).reset(seed=1)[0]
    assert loaded.predict(obs)[0] is not None


def test_loaded_model_predicts_without_callback_or_replay(tmp_path):
    model = make_model("sac")
    model.learn(30, callback=AuxiliaryLossCallback(CURL()))
    model.save(tmp_path / "m.zip")
    loaded = SAC.load(tmp_path / "m.zip")
    obs = np.random.default_rng(0).integers(0, 256, (4, 6, 20, 20), dtype=np.uint8)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_saved_callback_goes_on_identically(name, tmp_path):
    """Model, replay and callback saved, loaded into new objects: the objective's next steps are the same."""
    model = make_model(name)
    callback = AuxiliaryLossCallback(CURL(**augmentation(name)), batch_size=6)
    model.learn(32, callback=callback)
    model.save(tmp_path / "m")
    path = callback.save(tmp_path / "sub" / "callback")
    assert path.suffix == ".pt"
    again = AuxiliaryLossCallback(CURL(**augmentation(name)), batch_size=6)
    again.load(path)
    fresh = type(model).load(tmp_path / "m", env=model.get_env())
    if name == "sac":
        model.save_replay_buffer(tmp_path / "r")
        fresh.load_replay_buffer(tmp_path / "r")
    fresh._setup_learn(1, again)
    old, new = (next(iter(c.attachments.values())) for c in (callback, again))
    assert (old.n_updates, old.n_rl_updates) == (new.n_updates, new.n_rl_updates) and new.n_updates > 3
    for key, value in old.objective.state_dict().items():
        other = new.objective.state_dict()[key]
        assert th.equal(value, other) if isinstance(value, th.Tensor) else value == other
    if name == "sac":
        for c, item in ((callback, old), (again, new)):
            item.pending = 3
            c._catch_up(item)
        assert th.equal(old.objective.weight, new.objective.weight)
        assert th.equal(callback._generator.get_state(), again._generator.get_state())


def test_load_refuses_what_does_not_fit(tmp_path):
    model = make_model("sac")
    callback = AuxiliaryLossCallback(CURL())
    with pytest.raises(RuntimeError, match="nothing to save"):
        callback.save(tmp_path / "x")
    model.learn(20, callback=callback)
    path = callback.save(tmp_path / "x")
    with pytest.raises(ValueError, match="does not fit"):
        AuxiliaryLossCallback(CURL(), "add_gradient").load(path)
    with pytest.raises(FileNotFoundError, match="no saved callback"):
        AuxiliaryLossCallback(CURL()).load(tmp_path / "y.pt")
    other = AuxiliaryLossCallback(CURL(**augmentation("ppo")))
    other.load(path)
    with pytest.raises(ValueError, match="saved for encoders"):
        make_model("ppo").learn(16, callback=other)


@pytest.mark.parametrize("mode", ["own_optimizer", "add_gradient"])
def test_two_learns_in_a_row(mode):
    model = make_model("sac")
    callback = AuxiliaryLossCallback(CURL(), mode)
    model.learn(24, callback=callback)
    item = callback.attachments["critic"]
    first, weight = item.n_updates, callback.objective.weight
    assert n_hooks(model.critic.optimizer) == 0
    model.learn(24, callback=callback)
    assert callback.attachments["critic"] is item and callback.objective.weight is weight
    assert item.n_updates == first + 24 - 16, "one step per RL update, not two"
    model.learn(8, callback=callback, reset_num_timesteps=False)
    assert item.n_updates == first + 24 - 16 + 8


def test_the_same_objective_in_a_new_callback_goes_on():
    model, curl = make_model("sac"), CURL()
    model.learn(24, callback=AuxiliaryLossCallback(curl))
    weight = curl.weight
    model.learn(24, callback=AuxiliaryLossCallback(curl))
    assert curl.weight is weight


class Boom(BaseCallback):
    def _on_step(self):
        if self.n_calls == 20:
            raise RuntimeError("boom")
        return True


@pytest.mark.parametrize("mode", ["own_optimizer", "add_gradient"])
def test_hooks_of_a_learn_that_died_are_removed(mode):
    model = make_model("sac")
    dead = AuxiliaryLossCallback(CURL(), mode)
    with pytest.raises(RuntimeError, match="boom"):
        model.learn(40, callback=[dead, Boom()])
    assert n_hooks(model.critic.optimizer) == 1
    count = dead.attachments["critic"].n_rl_updates
    alive = AuxiliaryLossCallback(CURL(), mode)
    model.learn(20, callback=alive)
    assert dead.attachments["critic"].n_rl_updates == count, "the dead callback must not see later updates"
    assert alive.attachments["critic"].n_updates > 0
    assert n_hooks(model.critic.optimizer) == 0 and not _registered[model.critic.optimizer]


def test_a_learn_that_died_leaves_nothing_to_one_without_callback():
    model = make_model("sac")
    dead = AuxiliaryLossCallback(CURL(), "add_gradient")
    with pytest.raises(RuntimeError, match="boom"):
        model.learn(40, callback=[dead, Boom()])
    item = dead.attachments["critic"]
    count = item.n_rl_updates, item.n_updates
    model.learn(30)
    assert (item.n_rl_updates, item.n_updates) == count


def test_several_callbacks_at_once():
    model = make_model("sac")
    one, two = (
        AuxiliaryLossCallback(CURL(), "add_gradient"),
        AuxiliaryLossCallback(CURL(tau=0.5), "own_optimizer", name="second"),
    )
    model.learn(30, callback=[one, two])
    assert one.attachments["critic"].n_updates == two.attachments["critic"].n_updates > 5


def test_callbacks_that_would_overwrite_each_others_metrics():
    model = make_model("sac")
    with pytest.raises(ValueError, match="would log as curl: give each its own name="):
        model.learn(30, callback=[AuxiliaryLossCallback(CURL()), AuxiliaryLossCallback(CURL(keys="target"))])
    assert model.num_timesteps == 0


def test_separate_extractors_are_all_trained_and_named(capsys):
    model = make_model("sac-separate")
    callback = AuxiliaryLossCallback(CURL(), verbose=1)
    model.learn(24, callback=callback)
    assert set(callback.attachments) == {"actor", "critic"}
    objectives = [item.objective for item in callback.attachments.values()]
    assert objectives[0] is not objectives[1] and objectives[0].weight is not objectives[1].weight
    text = capsys.readouterr().out
    assert "the actor encoder" in text and "the critic encoder" in text
    model = make_model("sac-separate")
    before = [p.detach().clone() for p in model.actor.features_extractor.parameters()]
    only = AuxiliaryLossCallback(CURL(), encoders=["critic"])
    model.learn(18, callback=only)
    assert set(only.attachments) == {"critic"}
    assert len(before) > 0
    with pytest.raises(ValueError, match=r"no \['pi'\]; it has"):
        make_model("sac-separate").learn(18, callback=AuxiliaryLossCallback(CURL(), encoders=["pi"]))


def test_metrics_and_log_name_the_encoder(tmp_path):
    """Where a model has several encoders, also when one of them is chosen."""
    model = make_model("sac-separate")
    model.set_logger(configure(str(tmp_path), ["log", "csv"]))
    both = [AuxiliaryLossCallback(CURL(), encoders=[name], log_interval=4) for name in ("critic", "actor")]
    model.learn(44, callback=both, log_interval=1)
    logged = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"repr/curl_critic_loss", "repr/curl_actor_loss"} <= set(logged)
    text = (tmp_path / "log.txt").read_text()
    assert "curl trains the critic encoder (PixelEncoder)" in text and "curl trains the actor encoder" in text


def test_one_objective_is_not_trained_on_two_encoders():
    callback = AuxiliaryLossCallback(CURL())
    make_model("sac").learn(20, callback=callback)
    with pytest.raises(ValueError, match="pass a new callback"):
        make_model("sac-separate").learn(20, callback=callback)


def test_actor_extractor_is_left_alone_when_not_named():
    """With encoders=['critic'] and no RL updates to the actor's encoder by the objective, the actor's path is RL's alone."""
    plain = make_model("sac-separate")
    plain.learn(17)
    named = make_model("sac-separate")
    named.learn(17, callback=AuxiliaryLossCallback(CURL(), encoders=["critic"]))
    # one RL update has happened, the objective's step came after it: the actor's weights agree, the critic's do not
    assert same(*(dict(m.actor.features_extractor.state_dict()) for m in (plain, named)))
    assert not same(*(dict(m.critic.features_extractor.state_dict()) for m in (plain, named)))


def test_pi_and_vf_extractors():
    model = make_model("ppo", policy_kwargs=dict(share_features_extractor=False))
    callback = AuxiliaryLossCallback(CURL(**augmentation("ppo")))
    model.learn(32, callback=callback)
    assert set(callback.attachments) == {"pi", "vf"}


def test_sb3_shared_extractor_of_sac_belongs_to_the_actor():
    model = make_model("sac-separate", policy_kwargs=dict(share_features_extractor=True))
    callback = AuxiliaryLossCallback(CURL(), "add_gradient")
    model.learn(24, callback=callback)
    (item,) = callback.attachments.values()
    assert item.found.optimizer is model.actor.optimizer and item.n_updates > 3


def test_load_with_another_number_of_envs(tmp_path):
    model = make_model("sac", n_envs=1)
    callback = AuxiliaryLossCallback(CURL())
    model.learn(30, callback=callback)
    model.save(tmp_path / "m")
    three = DummyVecEnv([lambda: FakeImages(BOX)] * 3)
    wider = SAC.load(tmp_path / "m", env=three)
    assert wider.replay_buffer.n_envs == 3
    wider.learn(60, callback=callback)
    assert callback.attachments["critic"].found.encoder.extractor is wider.policy.encoder


def test_load_with_another_number_of_envs_on_policy(tmp_path):
    model = make_model("ppo")
    callback = AuxiliaryLossCallback(CURL(**augmentation("ppo")))
    model.learn(32, callback=callback)
    model.save(tmp_path / "m")
    wider = PPO.load(tmp_path / "m", env=DummyVecEnv([lambda: FakeImages(DISCRETE)] * 3))
    wider.learn(96, callback=callback)
    assert callback._store.buffer.n_envs == 3 and callback.attachments["shared"].n_updates > 5


def test_set_env_between_learns():
    """SB3 wants the same number of environments in set_env; the new ones are at other places."""
    for name in ("sac", "ppo"):
        model = make_model(name, n_envs=2)
        callback = AuxiliaryLossCallback(CURL(**augmentation(name)))
        model.learn(32, callback=callback)
        first = next(iter(callback.attachments.values())).n_updates
        model.set_env(DummyVecEnv([lambda: FakeImages(DISCRETE if name == "ppo" else BOX)] * 2))  # noqa: B023
        model.learn(32, callback=callback, reset_num_timesteps=False)
        assert next(iter(callback.attachments.values())).n_updates > first


@pytest.mark.parametrize("cls", [SAC, DQN, PPO])
@pytest.mark.parametrize("frames", [True, False])
def test_dict_observations(cls, frames, tmp_path):
    actions = BOX if cls is SAC else DISCRETE
    env = FakeImages(actions, shape=(6, 40, 40), as_dict=True)
    kwargs = (
        dict(n_steps=16, batch_size=8) if cls is PPO else dict(buffer_size=100, learning_starts=10, batch_size=8, train_freq=1)
    )
    if frames and cls is not PPO:
        kwargs |= dict(replay_buffer_class=FrameReplayBuffer, replay_buffer_kwargs=dict(n_stack=2))
    model = cls(
        "MultiInputPolicy", env, seed=0, policy_kwargs=dict(features_extractor_kwargs=dict(cnn_output_dim=16)), **kwargs
    )
    callback = AuxiliaryLossCallback(CURL(augment=RandomShift(2)))
    model.learn(32, callback=callback)
    item = next(iter(callback.attachments.values()))
    assert item.n_updates > 3 and item.found.encoder.features_dim == 16
    model.save(tmp_path / "m")
    assert cls.load(tmp_path / "m").predict(env.observation_space.sample())[0] is not None


class TwoCameras(FakeImages):
    def __init__(self, actions):
        super().__init__(actions, shape=(6, 40, 40))
        self.observation_space = spaces.Dict(front=self.observation_space, wrist=self.observation_space)

    def _observe(self):
        return dict(front=super()._observe(), wrist=super()._observe())


@pytest.mark.parametrize("cls", [SAC, PPO])
@pytest.mark.parametrize("told", ["by the callback", "by the buffer"])
def test_one_of_two_cameras(cls, told):
    """The encoder of the one that is named is trained, and no other."""
    kwargs = dict(n_steps=16, batch_size=8, n_epochs=1, learning_rate=0.0)
    key: str | None = "wrist"
    if cls is SAC:
        kwargs = dict(buffer_size=100, learning_starts=10, batch_size=8, train_freq=1, learning_rate=0.0)
    if told == "by the buffer":
        if cls is PPO:
            pytest.skip("there is none")
        key = None
        kwargs |= dict(replay_buffer_class=FrameReplayBuffer, replay_buffer_kwargs=dict(n_stack=2, image_key="wrist"))
    model = cls(
        "MultiInputPolicy",
        TwoCameras(BOX if cls is SAC else DISCRETE),
        policy_kwargs=dict(features_extractor_kwargs=dict(cnn_output_dim=16)),
        **kwargs,
    )
    callback = AuxiliaryLossCallback(CURL(augment=RandomShift(2)), "own_optimizer", image_key=key)
    before = {name: value.clone() for name, value in model.policy.named_parameters()}
    model.learn(48, callback=callback)
    moved = {name for name, value in model.policy.named_parameters() if not th.equal(value, before[name])}
    moved = {name for name in moved if not name.startswith("critic_target")}  # an average rounds
    assert moved and all("extractors.wrist" in name for name in moved), moved


@pytest.mark.parametrize("name", ["sac", "dqn"])
def test_sb3s_own_replay_buffer(name):
    model = make_model(name, replay_buffer_class=None, replay_buffer_kwargs=None)
    callback = AuxiliaryLossCallback(CURL(augment=RandomShift(2)))
    model.learn(30, callback=callback)
    assert next(iter(callback.attachments.values())).n_updates > 5


def test_metrics_reach_the_logger():
    model = make_model("sac")
    seen = {}

    class Spy(BaseCallback):
        def _on_step(self):
            seen.update({k: v for k, v in self.model.logger.name_to_value.items() if k.startswith("repr/")})
            return True

    model.learn(40, callback=[AuxiliaryLossCallback(CURL(), log_interval=5), Spy()])
    names = {"loss", "accuracy", "positive_similarity", "negative_similarity", "embedding_std", "effective_rank"}
    names |= {"grad_norm", "rl_grad_norm", "grad_cosine", "n_updates"}
    assert {f"repr/curl_{name}" for name in names} <= set(seen)
    assert all(np.isfinite(v) for v in seen.values())
    assert 0 <= seen["repr/curl_accuracy"] <= 1 and -1 <= seen["repr/curl_grad_cosine"] <= 1
    assert 1 <= seen["repr/curl_effective_rank"] <= 8 and seen["repr/curl_rl_grad_norm"] > 0


def test_learns_to_tell_observations_apart():
    """The loss falls below chance, ln(batch). Fails when the contrastive gradient is cut."""
    model = make_model("sac", env_kwargs=dict(flat=True), policy_kwargs=dict(encoder_gradient="objective"))
    callback = AuxiliaryLossCallback(CURL(), log_interval=10_000, batch_size=16)
    model.learn(250, callback=callback)
    item = callback.attachments["critic"]
    item.flush_metrics()
    for _ in range(10):
        item.step(callback._draw)
    assert item.flush_metrics()["loss"] < 0.5 * np.log(16)


def test_nan_is_reported():
    model = make_model("sac")
    callback = AuxiliaryLossCallback(CURL(), log_interval=2)

    class Poison(BaseCallback):
        def _on_step(self):
            if self.n_calls == 20:
                with th.no_grad():
                    callback.objective.weight.fill_(float("nan"))
            return True

    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        model.learn(30, callback=[callback, Poison()])


def test_one_callback_is_of_one_model(tmp_path):
    """A model that was saved and loaded goes on with the callback it had; another model's encoder is not for its heads."""
    callback, model = AuxiliaryLossCallback(CURL()), make_model("sac")
    model.learn(40, callback=callback)
    model.save(tmp_path / "model")
    again = SAC.load(tmp_path / "model", env=model.env)
    again.learn(40, callback=callback)
    with pytest.raises(ValueError, match="encoder of another model"):
        make_model("sac", seed=5).learn(40, callback=callback)
