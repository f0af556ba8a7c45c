"""What the pictures are drawn from."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from crl.encoders import ModelEncoder, PixelEncoder
from crl.probe import pictures
from crl.probe.episodes import ProbeData


def test_neighbours_are_of_other_episodes_and_nearest():
    rng = np.random.default_rng(0)
    z, episodes = rng.normal(size=(40, 5)), np.repeat(np.arange(4), 10)
    found = pictures.nearest_neighbours(z, episodes, np.array([3, 25]), 4)
    unit = z - z.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for query, row in zip((3, 25), found, strict=True):
        others = [i for i in range(40) if episodes[i] != episodes[query]]
        assert list(row) == sorted(others, key=lambda i: -(unit[query] @ unit[i]))[:4]


def test_saliency_is_where_the_embedding_looks():
    """An encoder that is blind to all but one corner."""

    class Corner(th.nn.Module):
        features_dim = 1

        def forward(self, x):
            return x[:, :, :4, :4].mean((1, 2, 3))[:, None] ** 2

    encoder = ModelEncoder(Corner(), spaces.Box(0, 255, (3, 16, 16), np.uint8))
    images = th.randint(1, 255, (2, 3, 16, 16), dtype=th.uint8)
    found = pictures.saliency(encoder, images, th.zeros(1))
    assert found.shape == (2, 16, 16) and np.isclose(found.max((1, 2)), 1.0).all()
    # two pixels of blur beyond the corner
    assert (found[:, 6:] == 0).all() and (found[:, :, 6:] == 0).all() and (found[:, :3, :3] > 0).all()


@pytest.mark.parametrize("channels, expected", [(9, [6, 7, 8]), (4, [3, 3, 3]), (1, [0, 0, 0])])
def test_newest_frame(channels, expected):
    image = np.arange(channels, dtype=np.uint8)[:, None, None] * np.ones((1, 5, 6), np.uint8)
    assert pictures.newest_frame(image).shape == (5, 6, 3) and pictures.newest_frame(image)[0, 0].tolist() == expected


@pytest.mark.parametrize("has_sklearn", [True, False])
def test_embedding(has_sklearn, monkeypatch):
    if not has_sklearn:
        monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    z = np.random.default_rng(0).normal(size=(60, 4)) * [9, 3, 0.1, 0.1]
    points, method = pictures.embed(z, 0)
    assert points.shape == (60, 2) and method == ("t-SNE" if has_sklearn else "PCA")
    if not has_sklearn:
        centred = z - z.mean(0)
        np.testing.assert_allclose(points.var(0).sum(), np.linalg.eigvalsh(centred.T @ centred / 60)[-2:].sum())
    # a collapsed representation is drawn all the same
    assert np.isfinite(pictures.embed(np.ones((60, 4)), 0)[0]).all()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'crl\[bench\]'"):
        pictures.draw_similarity({"z": np.eye(3)}, np.zeros(3), None)


def test_files(tmp_path):
    """Few rows, one state, a small encoder: everything is drawn."""
    space = spaces.Box(0, 255, (3, 12, 12), np.uint8)
    encoder = ModelEncoder(PixelEncoder(space, features_dim=6, filters=4, layers=2), space)
    images = th.randint(0, 255, (24, 3, 12, 12), dtype=th.uint8)
    data = ProbeData(images, np.arange(24.0)[:, None], ["x"], np.repeat([0, 1], 12), np.tile(np.arange(12), 2))
    with th.no_grad():
        z = encoder(images).numpy()
    paths = [
        pictures.draw_views(images[:2], [images[:2, :, :8, :8]], tmp_path / "views.png"),
        pictures.draw_similarity({"trained": z, "random": z}, data.episodes, tmp_path / "similarity.png"),
        pictures.draw_embedding(z, data, tmp_path / "embedding.png", 0),
        pictures.draw_neighbours(z, data, tmp_path / "neighbours.png", 0),
        pictures.draw_saliency(
            images[:2], {"trained": pictures.saliency(encoder, images[:2], th.zeros(6))}, tmp_path / "s.png"
        ),
    ]
    from PIL import Image

    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 100 and len(set(image.convert("L").tobytes())) > 10, f"{path} shows nothing"
