"""Every wrong input fails before training, with words that say what to change."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import EvalCallback, EveryNTimesteps
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.augment import Compose, HorizontalFlip, Intensity, RandomCrop, RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.encoders import PixelEncoder, load_encoder, save_encoder
from crl.objectives import CURL
from crl.objectives.achievement import AchievementDistillation
from crl.objectives.liam import LIAM
from crl.policies import PixelSACPolicy
from crl.replay import FrameReplayBuffer

from ..fakes import FakeImages
from .models import BOX, DISCRETE, SMALL, make_model
from .outside_atc import OutsideATC

SHIFT = RandomShift(2)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(objective="curl"), "pass an instance of crl.contract.Objective"),
        (dict(mode="joint"), "choose 'own_optimizer' or 'add_gradient'"),
        (dict(weight=-1.0), "must be >= 0"),
        (dict(weight=float("nan")), "must be >= 0"),
        (dict(balance=0.5), "only in mode='add_gradient'"),
        (dict(balance=0.0, mode="add_gradient"), "positive ratio"),
        (dict(batch_size=1), "at least 2 observations"),
        (dict(learning_rate=0.0), "a positive number"),
        (dict(learning_rate=lambda left: 1e-3 * left), "stays as it is whatever the agent's schedule does"),
        (dict(objective=AchievementDistillation()), "AchievementPhases is the callback for it"),
        (dict(objective=LIAM()), "AgentModelCallback is the callback for it"),
        (dict(max_grad_norm=-1.0), "positive number, 'auto' or None"),
        (dict(encoders="critic"), r"a list of names such as \['critic'\]"),
        (dict(encoders=[]), "a list of names"),
        (dict(interval=0), "at least 1 update"),
        (dict(store_size=1), "at least 2 transitions"),
    ],
)
def test_constructor(kwargs, message):
    with pytest.raises(ValueError, match=message):
        AuxiliaryLossCallback(**{"objective": CURL(), **kwargs})


def test_event_callbacks_would_train_nothing():
    """SB3's tell those they hold of neither rollouts nor the end."""
    for wrap in (lambda c: EveryNTimesteps(10, c), lambda c: EvalCallback(FakeImages(BOX), callback_after_eval=c)):
        with pytest.raises(ValueError, match=r"pass the callback itself, or in a list; interval="):
            make_model("sac").learn(50, callback=wrap(AuxiliaryLossCallback(CURL(augment=SHIFT))))


def test_one_objective_in_two_callbacks():
    objective = CURL(augment=SHIFT)
    both = [AuxiliaryLossCallback(objective, name=name) for name in ("a", "b")]
    with pytest.raises(ValueError, match="same objective object"):
        make_model("sac").learn(50, callback=both)


def test_files_that_are_no_callback(tmp_path):
    callback = AuxiliaryLossCallback(CURL(augment=SHIFT))
    make_model("sac").learn(30, callback=callback)
    callback.save(tmp_path / "cb")
    AuxiliaryLossCallback(CURL(augment=SHIFT)).load(tmp_path / "cb")
    for text in (b"no checkpoint", b""):
        (tmp_path / "other.pt").write_bytes(text)
        with pytest.raises(ValueError, match=r"other.pt is not what callback.save wrote"):
            AuxiliaryLossCallback(CURL(augment=SHIFT)).load(tmp_path / "other.pt")
    th.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="it holds list"):
        AuxiliaryLossCallback(CURL(augment=SHIFT)).load(tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError):
        AuxiliaryLossCallback(CURL(augment=SHIFT)).load(tmp_path / "nothing")


def refuses(model, message, **kwargs):
    before = model.num_timesteps
    with pytest.raises(ValueError, match=message):
        model.learn(50, callback=AuxiliaryLossCallback(**{"objective": CURL(augment=SHIFT), **kwargs}))
    assert model.num_timesteps == before, "it must fail before the first step"


def test_objective_without_augmentation():
    refuses(make_model("ppo"), "nothing augments: pass it augment=", objective=CURL())
    refuses(make_model("sac", replay_buffer_kwargs=dict(n_stack=2)), "nothing augments", objective=CURL())


def test_batch_larger_than_the_buffer():
    refuses(make_model("sac", buffer_size=20), r"batch_size=32 is larger than what it is drawn from \(20", batch_size=32)
    refuses(make_model("ppo"), r"batch_size=32 is larger than what it is drawn from \(16", batch_size=32)


def test_models_batch_size_of_one():
    refuses(make_model("sac", batch_size=1), "the model's batch_size is 1")
    refuses(make_model("a2c", n_steps=1), "a single transition")


def test_no_extractor_to_attach_to():
    refuses(PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=8), "needs images")
    env = FakeImages(BOX)
    refuses(SAC("MlpPolicy", env, buffer_size=50), "has no image encoder to train")


def test_crop_that_disagrees_with_the_encoder():
    replay = dict(n_stack=2, augment=RandomCrop(16))
    refuses(make_model("sac", replay_buffer_kwargs=replay), r"dict\(crop=16\)", objective=CURL())
    crop = dict(filters=4, layers=2, crop=16)
    model = make_model("sac", replay_buffer_kwargs=replay, policy_kwargs=dict(features_extractor_kwargs=crop))
    model.learn(24, callback=AuxiliaryLossCallback(CURL()))


def test_crop_before_an_encoder_of_one_size():
    model = PPO("CnnPolicy", FakeImages(DISCRETE, shape=(6, 44, 44)), n_steps=16, batch_size=8)
    words = r"RandomCrop\(size=36.*36x36 of images of 44x44.*shared encoder \(NatureCNN\).*RandomShift"
    refuses(model, words, objective=CURL(augment=RandomCrop(36)))


def test_crop_larger_than_the_frame():
    refuses(make_model("sac"), "larger than", objective=CURL(augment=RandomCrop(24)))


def test_float_images():
    class Floats(FakeImages):
        def __init__(self):
            super().__init__(BOX)
            self.observation_space = spaces.Box(0, 1, (6, 20, 20), np.float32)

        def _observe(self):
            return super()._observe().astype(np.float32) / 255

    with pytest.raises(ValueError, match="uint8 images in 0..255"):
        SAC(PixelSACPolicy, Floats(), buffer_size=10)


def test_scaled_images_and_augmentations_that_want_0_to_255():
    class Scaled(FakeImages):
        def __init__(self):
            super().__init__(BOX)
            self.observation_space = spaces.Box(-1, 1, (6, 20, 20), np.float32)

        def _observe(self):
            return super()._observe().astype(np.float32) / 127.5 - 1

    encoder = dict(filters=4, layers=2, normalized_image=True)
    model = SAC(
        PixelSACPolicy,
        Scaled(),
        buffer_size=50,
        learning_starts=10,
        batch_size=8,
        policy_kwargs=dict(normalize_images=False, features_extractor_kwargs=encoder),
    )
    refuses(model, "0..255", objective=CURL(augment=Compose([SHIFT, Intensity()])))
    model.learn(24, callback=AuxiliaryLossCallback(CURL(augment=Compose([SHIFT, HorizontalFlip()]))))


def test_stack_of_gymnasium():
    class Stacked(FakeImages):
        def __init__(self):
            super().__init__(BOX)
            self.observation_space = spaces.Box(0, 255, (3, 20, 20, 3), np.uint8)

    with pytest.raises(ValueError, match="FrameStackObservation"):
        PixelEncoder(Stacked().observation_space)


def test_ambiguous_stack():
    with pytest.raises(ValueError, match="n_stack"):
        make_model("sac", replay_buffer_kwargs=dict(augment=SHIFT))


def test_memory_option_says_why_it_is_not_needed():
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        make_model("sac", optimize_memory_usage=True)


def test_sequences_from_a_buffer_that_overwrites_them():
    replay = dict(replay_buffer_class=None, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    model = make_model("dqn", optimize_memory_usage=True, **replay)
    refuses(model, "use FrameReplayBuffer", objective=OutsideATC(augment=SHIFT))
    model.learn(24, callback=AuxiliaryLossCallback(CURL(augment=SHIFT)))


def test_n_steps_that_would_be_ignored():
    with pytest.warns(UserWarning, match="n_steps"):
        model = make_model("sac", n_steps=3)
    refuses(model, "n_steps", objective=CURL())
    replay = dict(n_stack=2, augment=SHIFT, n_steps=3, gamma=0.9)
    refuses(make_model("sac", replay_buffer_kwargs=replay), "gamma", objective=CURL())


@pytest.mark.parametrize("init, fine", [(None, True), ("orthogonal", True), ("delta_orthogonal", False), ("default", False)])
def test_initialisation_that_sb3_overwrites(init, fine):
    kwargs = {**SMALL, "features_extractor_kwargs": dict(filters=4, layers=2, init=init)}
    model = make_model("ppo", policy_kwargs=kwargs)
    if fine:
        model.learn(16, callback=AuxiliaryLossCallback(CURL(augment=SHIFT)))
    else:
        refuses(model, "ortho_init=False")
    make_model("ppo", policy_kwargs={**kwargs, "ortho_init": False}).learn(
        16, callback=AuxiliaryLossCallback(CURL(augment=SHIFT))
    )


def test_initialisation_that_sb3_contrib_overwrites():
    """MaskablePPO's policy does as PPO's, and is no subclass of it."""

    class Masked(FakeImages):
        def action_masks(self):
            return np.ones(3, dtype=bool)

    kwargs = {**SMALL, "features_extractor_kwargs": dict(filters=4, layers=2, init="delta_orthogonal")}
    refuses(MaskablePPO("CnnPolicy", Masked(DISCRETE), n_steps=16, batch_size=8, policy_kwargs=kwargs), "ortho_init=False")


def test_loaded_weights_survive_attaching(tmp_path):
    source, model = make_model("ppo", seed=1), make_model("ppo")
    path = save_encoder(source.policy.features_extractor, tmp_path / "encoder")
    load_encoder(model.policy.features_extractor, path)
    model._setup_learn(16, AuxiliaryLossCallback(CURL(augment=SHIFT)))
    for a, b in zip(source.policy.features_extractor.parameters(), model.policy.features_extractor.parameters(), strict=True):
        assert (a == b).all()


def test_two_images_in_a_dict():
    class Two(FakeImages):
        def __init__(self):
            super().__init__(BOX, shape=(6, 40, 40))
            self.observation_space = spaces.Dict(a=self.observation_space, b=self.observation_space)

        def _observe(self):
            return dict(a=super()._observe(), b=super()._observe())

    model = SAC("MultiInputPolicy", DummyVecEnv([Two]), buffer_size=50)
    refuses(model, r"several images, \['a', 'b'\]: choose one by image_key=")
    for key, words in (("c", r"no image 'c' .*\['a', 'b'\]"), ("a", "keeps the frames of 'b'")):
        kwargs = dict(replay_buffer_class=FrameReplayBuffer, replay_buffer_kwargs=dict(n_stack=2, image_key="b"))
        other = SAC("MultiInputPolicy", DummyVecEnv([Two]), buffer_size=50, **(kwargs if key == "a" else {}))
        with pytest.raises(ValueError, match=words):
            other.learn(1, callback=AuxiliaryLossCallback(CURL(augment=SHIFT), image_key=key))
    with pytest.raises(ValueError, match="image_key='a'.*no dictionary"):
        make_model("ppo").learn(16, callback=AuxiliaryLossCallback(CURL(augment=SHIFT), image_key="a"))


def test_target_keys_on_policy():
    refuses(make_model("ppo"), "no target encoder", objective=CURL(keys="target", augment=SHIFT))
