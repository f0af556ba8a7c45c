"""Features of encoders, the supervised ceiling, and the pixels' principal components."""

import copy

import numpy as np
import torch as th
from gymnasium import spaces

from crl.augment import RandomShift
from crl.encoders import ModelEncoder, PixelEncoder
from crl.probe.features import conv_features, fit_supervised, output_features, pixel_pca
from crl.probe.labels import UNKNOWN, linear_f1
from crl.probe.linear import ridge_r2, split_episodes

SPACE = spaces.Box(0, 255, (3, 12, 12), np.uint8)


def encoder(seed=0):
    th.manual_seed(seed)
    return ModelEncoder(PixelEncoder(SPACE, features_dim=8, filters=8, layers=2), SPACE)


def squares(n=600, seed=0):
    """A bright square at a random place; its place is the state."""
    rng = np.random.default_rng(seed)
    places = rng.integers(1, 10, (n, 2))
    images = rng.integers(0, 40, (n, 3, 12, 12), dtype=np.uint8)
    for image, (y, x) in zip(images, places, strict=True):
        image[:, y - 1 : y + 2, x - 1 : x + 2] = 220
    return th.as_tensor(images), places.astype(float), np.repeat(np.arange(n // 10), 10)


def test_features_are_the_encoders():
    model, images = encoder(), squares(30)[0]
    with th.no_grad():
        np.testing.assert_allclose(output_features(model, images), model(images).numpy(), atol=1e-6)
        np.testing.assert_allclose(conv_features(model, images), model.feature_map(images).flatten(1).numpy(), atol=1e-6)


def test_many_batches_are_one(monkeypatch):
    model, images = encoder(), squares(30)[0]
    whole = output_features(model, images)
    monkeypatch.setattr("crl.probe.features._BATCH", 7)
    np.testing.assert_allclose(output_features(model, images), whole, atol=1e-5)


def test_supervision_teaches_the_state():
    """The ceiling lies above the random encoder on episodes that it was not trained on, and only the copy is trained."""
    images, states, episodes = squares()
    random = encoder()
    before = copy.deepcopy(random.state_dict())
    th.manual_seed(0)
    rows = split_episodes(episodes).train
    trained = fit_supervised(copy.deepcopy(random), images, states, rows, seed=0, updates=150, augment=RandomShift(0))
    low, high = (ridge_r2(output_features(model, images), states, episodes).mean() for model in (random, trained))
    assert high > low + 0.2 and high > 0.7
    assert all(th.equal(value, before[name]) for name, value in random.state_dict().items())


def test_supervision_teaches_labels():
    """Rows and columns in thirds: as numbers that are no indices, and with different numbers of classes."""
    images, states, episodes = squares()
    labels = {"row": 10 + 5 * (states[:, 0].astype(int) // 4), "right": (states[:, 1] > 5).astype(int)}
    random = encoder()
    th.manual_seed(0)
    rows = split_episodes(episodes).train
    trained = fit_supervised(copy.deepcopy(random), images, labels, rows, seed=0, updates=150, augment=RandomShift(0))
    for column in labels.values():
        low, high = (linear_f1(output_features(model, images), column, episodes) for model in (random, trained))
        assert high > low + 0.1 and high > 0.85


def test_rows_without_a_label_teach_nothing_of_it():
    images, _, episodes = squares(80)
    rows = split_episodes(episodes).train
    right = np.random.default_rng(0).integers(0, 3, 80)
    unknown = np.arange(80) % 3 == 0
    other = images.clone()
    other[th.as_tensor(unknown)] = 0
    made = []
    for pixels in (images, other):
        th.manual_seed(0)
        labels = {"right": np.where(unknown, UNKNOWN, right)}
        made.append(fit_supervised(encoder(), pixels, labels, rows, seed=0, updates=3, augment=RandomShift(1)).state_dict())
    for name, value in made[0].items():
        assert th.allclose(value, made[1][name], atol=1e-6)


def test_supervision_never_sees_test_images():
    images, states, episodes = squares(80)
    rows = split_episodes(episodes).train
    other = images.clone()
    other[th.as_tensor(~rows)] = 0
    made = []
    for pixels in (images, other):
        th.manual_seed(0)
        model = fit_supervised(encoder(), pixels, states, rows, seed=0, updates=3, augment=RandomShift(1))
        made.append(model.state_dict())
    assert all(th.equal(value, made[1][name]) for name, value in made[0].items())


def test_pca_is_that_of_numpy():
    """Up to the axes' signs, from a plain SVD; rows that are not fitted to do not matter; the global stream is left alone."""
    images, _, _ = squares(60)
    rows = np.arange(60) < 40
    th.manual_seed(3)
    expected_draw = th.rand(1)
    th.manual_seed(3)
    found = pixel_pca(images, rows, 5, seed=0)
    assert th.equal(th.rand(1), expected_draw)
    pixels = images.flatten(1).double().numpy() / 255
    centred = pixels - pixels[rows].mean(0)
    axes = np.linalg.svd(centred[rows], full_matrices=False)[2][:5]
    assert found.shape == (60, 5)
    np.testing.assert_allclose(np.abs(found[:, :2]), np.abs(centred @ axes[:2].T), rtol=2e-2, atol=2e-2)


def test_pca_averages_large_images():
    images = th.zeros(6, 3, 84, 84, dtype=th.uint8)
    images[:, :, 1::2] = th.randint(0, 255, (6, 3, 42, 84), dtype=th.uint8)
    half = images.float().reshape(6, 3, 42, 2, 42, 2).mean((3, 5))
    assert np.allclose(
        np.abs(pixel_pca(images, np.ones(6, bool), 3, 0)), np.abs(pixel_pca(half, np.ones(6, bool), 3, 0)), atol=1e-3
    )
