import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.torch_layers import NatureCNN

from crl.encoders import (
    ImpalaEncoder,
    ModelEncoder,
    NatureEncoder,
    PixelEncoder,
    RainbowEncoder,
    load_encoder,
    save_encoder,
)

from ..fakes import FakeImages
from ..networks.test_bodies import sine_weights
from ..processor import needs_bf16


def image_box(channels=9, size=84):
    return spaces.Box(0, 255, (channels, size, size), np.uint8)


def test_pixel_encoder_golden_values():
    encoder = PixelEncoder(image_box(), head="tanh").double()
    sine_weights(encoder.body, 0.1)
    sine_weights(encoder._head, 0.01)
    x = (th.arange(9 * 84 * 84, dtype=th.float64) % 256 / 255).reshape(1, 9, 84, 84)
    flat = encoder.forward_body(x)
    linear = encoder._head[1](flat.flatten(1))
    assert linear[0, :4].tolist() == pytest.approx([0.000899, 0.001099, 0.000643, -0.000197], abs=1e-6)
    normed = encoder._head[2](linear)
    assert normed[0, :4].tolist() == pytest.approx([0.261141, 0.322380, 0.182487, -0.075054], abs=1e-4)
    assert encoder(x)[0, :4].tolist() == pytest.approx([0.255362, 0.311657, 0.180488, -0.074914], abs=1e-4)


def test_pixel_encoder_parameter_count():
    encoder = PixelEncoder(image_box())
    assert sum(p.numel() for p in encoder.parameters()) == 30368 + 1960050 + 100
    assert encoder.features_dim == 50


@pytest.mark.parametrize("cls, dim", [(PixelEncoder, 50), (NatureEncoder, 512), (RainbowEncoder, 576), (ImpalaEncoder, 256)])
def test_every_encoder_at_84(cls, dim):
    encoder = cls(image_box(4))
    assert encoder(th.rand(3, 4, 84, 84)).shape == (3, dim)
    assert encoder.features_dim == dim


def test_published_initialisations_and_impalas_width():
    curl, drq = (PixelEncoder(image_box(9, 32), init=init).body[2].weight for init in (None, "orthogonal"))
    assert curl.count_nonzero() == curl[:, :, 1, 1].count_nonzero() > 0, "delta-orthogonal: the centre taps alone"
    assert drq[:, :, 0, 0].count_nonzero() > 0
    assert [cls(image_box(4)).init for cls in (NatureEncoder, RainbowEncoder, ImpalaEncoder)] == ["default"] * 3
    assert ImpalaEncoder(image_box(3, 32), width=2).map_shape == (64, 4, 4)
    with pytest.raises(ValueError, match=r"width=0\): must be positive"):
        ImpalaEncoder(image_box(3, 32), width=0)


@pytest.mark.parametrize("size", [32, 64, 100])
def test_any_input_size(size):
    assert PixelEncoder(image_box(9, size))(th.rand(2, 9, size, size)).shape == (2, 50)


def test_crop_takes_the_centre_of_larger_images():
    encoder = PixelEncoder(image_box(9, 100), crop=84)
    large = th.rand(2, 9, 100, 100)
    th.testing.assert_close(encoder(large), encoder(large[:, :, 8:92, 8:92]))
    # smaller ones, and those that a RandomCrop of another size made, which would be cropped twice
    for size in (80, 90, 120):
        with pytest.raises(ValueError, match=rf"built for 84x84 and got {size}x{size}.*dict\(crop={size}\)"):
            encoder(th.rand(2, 9, size, size))
    with pytest.raises(ValueError, match=r"crop=90\) is larger than the frames"):
        PixelEncoder(image_box(9, 84), crop=90)
    with pytest.raises(ValueError, match=r"crop=0\) is no window .*choose 1 to 84"):
        PixelEncoder(image_box(9, 84), crop=0)


def test_wrong_size_names_the_crop():
    with pytest.raises(ValueError, match="crop=84"):
        PixelEncoder(image_box(9, 100))(th.rand(2, 9, 84, 84))


@pytest.mark.parametrize("pool, cells", [(1, 1), (2, 4)])
def test_pooling_removes_the_large_matrix(pool, cells):
    encoder = PixelEncoder(image_box(), pool_size=pool)
    assert encoder._head[1].weight.shape == (50, 32 * cells)
    x = th.rand(2, 9, 84, 84)
    pooled = th.nn.functional.adaptive_avg_pool2d(encoder.forward_body(x), pool).flatten(1)
    th.testing.assert_close(encoder(x), encoder._head[1:](pooled))


def test_heads():
    x = th.rand(4, 9, 84, 84)
    assert PixelEncoder(image_box(), head="tanh")(x).abs().max() <= 1
    normed = PixelEncoder(image_box())(x)
    th.testing.assert_close(normed.mean(1), th.zeros(4), atol=1e-5, rtol=0)
    assert PixelEncoder(image_box(), head="linear")(x).mean(1).abs().max() > 1e-4


def test_own_head_is_fresh_and_of_the_same_kind():
    encoder = PixelEncoder(image_box(9, 32))
    head = encoder.make_head()
    assert not th.equal(head.layers[2].weight, encoder._head[1].weight)
    th.testing.assert_close(head.layers[2].weight @ head.layers[2].weight.T, th.eye(50), atol=1e-5, rtol=0)
    assert head(encoder.forward_body(th.rand(2, 9, 32, 32))).shape == (2, 50)


@pytest.mark.parametrize(
    "space, message",
    [
        (spaces.Box(0, 1, (9, 84, 84), np.float32), "uint8 images in 0..255"),
        (spaces.Box(0, 255, (84, 84, 9), np.uint8), "channels first"),
        (spaces.Box(0, 255, (3, 84, 84, 3), np.uint8), "FrameStackObservation"),
        (spaces.Box(-1, 1, (4,), np.float32), "needs images"),
        (spaces.Discrete(4), "needs an image space"),
        (spaces.Box(0, 1, (9, 84, 84), np.uint8), "uint8 images in 0..255"),
    ],
)
def test_spaces_that_are_no_images(space, message):
    with pytest.raises(ValueError, match=message):
        PixelEncoder(space)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(head="mlp"), "choose 'layer_norm'"),
        (dict(pool_size=0), "pool_size=0"),
        (dict(pool_size=10), r"larger than the convolutions' output \(9x9\)"),
        (dict(features_dim=0), "features_dim=0"),
        (dict(init="he"), "choose one of"),
        (dict(precision="fp8"), "fp8"),
        (dict(filters=0), "both at least 1"),
    ],
)
def test_wrong_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PixelEncoder(image_box(9, 32), **kwargs)


@pytest.mark.parametrize(
    "low, high, dtype, fine",
    [
        (0, 1, np.float32, True),
        (-0.5, 0.5, np.float32, True),
        (0, 255, np.float32, False),
        (0, 255, np.uint8, False),
        (-np.inf, np.inf, np.float32, False),
    ],
)
def test_scaled_images_have_scaled_bounds(low, high, dtype, fine):
    space = spaces.Box(low, high, (9, 32, 32), dtype)
    if fine:
        assert PixelEncoder(space, normalized_image=True)(th.rand(2, 9, 32, 32)).shape == (2, 50)
    else:
        with pytest.raises(ValueError, match="declare the bounds that they really have"):
            PixelEncoder(space, normalized_image=True)


def test_images_too_small():
    with pytest.raises(ValueError, match="too small for its convolutions: render larger"):
        NatureEncoder(image_box(4, 20))


@needs_bf16
def test_bf16_body_stays_close_and_gives_fp32():
    th.manual_seed(0)
    encoder = PixelEncoder(image_box(9, 48))
    fast = PixelEncoder(image_box(9, 48), precision="bf16")
    fast.load_state_dict(encoder.state_dict())
    x = th.rand(8, 9, 48, 48)
    body = fast.forward_body(x)
    assert body.dtype == th.float32
    th.testing.assert_close(body, encoder.forward_body(x), atol=2e-2, rtol=5e-2)
    assert not th.equal(body, encoder.forward_body(x))


def test_save_and_load(tmp_path):
    encoder, other = PixelEncoder(image_box(9, 32)), PixelEncoder(image_box(9, 32))
    path = save_encoder(encoder, tmp_path / "deep" / "encoder")
    assert path.suffix == ".safetensors"
    x = th.rand(2, 9, 32, 32)
    assert not th.equal(encoder(x), other(x))
    load_encoder(other, tmp_path / "deep" / "encoder")
    assert th.equal(encoder(x), other(x)) and other.loaded_from == path


def test_load_says_what_does_not_fit(tmp_path):
    path = save_encoder(PixelEncoder(image_box(9, 32)), tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"_head.1.weight: file \(50, 2592\), encoder \(30, 2592\)"):
        load_encoder(PixelEncoder(image_box(9, 32), features_dim=30), path)
    with pytest.raises(ValueError, match="not in the file"):
        load_encoder(PixelEncoder(image_box(9, 32), layers=5), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load_encoder(PixelEncoder(image_box(9, 32)), path)
    with pytest.raises(FileNotFoundError, match="no encoder file"):
        load_encoder(PixelEncoder(image_box(9, 32)), tmp_path / "nothing.safetensors")


def test_weights_loaded_before_sb3_initialises(tmp_path):
    """On-policy policies would overwrite what the extractor's constructor has loaded."""
    env = FakeImages(spaces.Discrete(2))
    path = save_encoder(PixelEncoder(env.observation_space, filters=2, layers=1), tmp_path / "encoder")

    class Pretrained(PixelEncoder):
        def __init__(self, observation_space):
            super().__init__(observation_space, filters=2, layers=1)
            load_encoder(self, path)

    policy_kwargs = dict(features_extractor_class=Pretrained)
    with pytest.raises(ValueError, match="ortho_init=False"):
        PPO("CnnPolicy", env, n_steps=16, batch_size=8, policy_kwargs=policy_kwargs)
    model = PPO("CnnPolicy", env, n_steps=16, batch_size=8, policy_kwargs=dict(ortho_init=False, **policy_kwargs))
    want = Pretrained(env.observation_space).state_dict()
    assert all(th.equal(value, want[name]) for name, value in model.policy.features_extractor.state_dict().items())
    sac = SAC("CnnPolicy", FakeImages(spaces.Box(-1, 1, (2,))), buffer_size=10, policy_kwargs=policy_kwargs)
    assert th.equal(sac.critic.features_extractor.body[0].weight, want["_body.0.weight"]), "off-policy nothing overwrites"


@pytest.mark.parametrize("cls", [PixelEncoder, NatureCNN])
def test_model_encoder_scales_and_finds_the_feature_map(cls):
    space = image_box(9, 48)
    encoder = cls(space)
    wrapped = ModelEncoder(encoder, space)
    images = th.randint(0, 256, (3, 9, 48, 48), dtype=th.uint8)
    th.testing.assert_close(wrapped(images), encoder(images.float() / 255))
    feature_map = wrapped.feature_map(images)
    assert feature_map.dim() == 4
    head = encoder._head if cls is PixelEncoder else th.nn.Sequential(th.nn.Flatten(), encoder.linear)
    th.testing.assert_close(head(feature_map), wrapped(images))
    clone = copy.deepcopy(wrapped)
    assert th.equal(clone(images), wrapped(images))
    assert not {id(p) for p in clone.parameters()} & {id(p) for p in wrapped.parameters()}
