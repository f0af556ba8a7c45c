"""Pictures of what a representation sees. Everything is drawn from arrays, into PNG files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F

from crl.encoders import ModelEncoder
from crl.probe.episodes import ProbeData

#: points of an embedding
_POINTS = 1000


def _pyplot() -> Any:
    """
    :raises ImportError: without matplotlib; names the extra
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'crl[bench]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def newest_frame(image: np.ndarray) -> np.ndarray:
    """``(channels, height, width)`` of a stack, oldest frame first, to the newest one as ``(height, width, 3)`` uint8."""
    frame = image[-3:] if image.shape[0] % 3 == 0 else image[-1:].repeat(3, axis=0)
    return np.ascontiguousarray(frame.transpose(1, 2, 0)).clip(0, 255).astype(np.uint8)


def _grid(rows: list[list[np.ndarray]], titles: list[str], path: Path, headline: str) -> Path:
    plt = _pyplot()
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=(1.5 * len(rows[0]), 1.5 * len(rows) + 0.6), squeeze=False)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            axes[y, x].imshow(picture, interpolation="nearest")
            axes[y, x].set_axis_off()
            if y == 0:
                axes[y, x].set_title(titles[x], fontsize=8)
    figure.suptitle(headline, fontsize=9)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)
    return path


def draw_views(images: th.Tensor, views: list[th.Tensor], path: Path) -> Path:
    """
    Observations beside augmented views of them.

    :param images: ``(n, channels, height, width)``
    :param views: of the same observations; may be of another size
    :param path: ``.png`` file to write
    """
    rows = [[newest_frame(part[i].cpu().numpy()) for part in [images, *views]] for i in range(len(images))]
    titles = ["observation", *(f"view {i + 1}" for i in range(len(views)))]
    return _grid(rows, titles, path, "augmented views (newest frame)")


def draw_similarity(z: dict[str, np.ndarray], episodes: np.ndarray, path: Path) -> Path:
    """
    Cosine similarities of all pairs of some rows, which are in the order of episode and time.

    :param z: by name of the representation, ``(n, width)`` each
    :param episodes: ``(n,)``
    :param path: ``.png`` file to write
    """
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(z), figsize=(4.2 * len(z), 4), squeeze=False)
    borders = np.flatnonzero(np.diff(episodes)) + 0.5
    for axis, (name, rows) in zip(axes[0], z.items(), strict=True):
        centred = rows - rows.mean(0)
        unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        shown = axis.imshow(unit @ unit.T, vmin=-1, vmax=1, cmap="coolwarm", interpolation="nearest")
        for border in borders:
            axis.axhline(border, color="black", linewidth=0.6)
            axis.axvline(border, color="black", linewidth=0.6)
        axis.set(title=name, xlabel="step, by episode", ylabel="step, by episode")
        figure.colorbar(shown, ax=axis, fraction=0.046)
    figure.suptitle("cosine similarity of centred embeddings", fontsize=9)
    return _save(figure, path)


def embed(z: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """
    Two dimensions for the eye: t-SNE where scikit-learn is installed, else the first two principal components.

    :param z: ``(n, width)``
    :param seed: of t-SNE
    :return: ``(n, 2)``, and the name of the method
    """
    centred = z - z.mean(0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T
    # t-SNE of a collapsed representation divides by zero
    if find_spec("sklearn") is None or len(z) < 10 or values[0] < 1e-6 or plane.shape[1] < 2:
        return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1]))), "PCA"
    from sklearn.manifold import TSNE

    made = TSNE(perplexity=min(30.0, (len(z) - 1) / 4), init="pca", random_state=seed).fit_transform(centred)
    return np.asarray(made), "t-SNE"


def draw_embedding(z: np.ndarray, data: ProbeData, path: Path, seed: int) -> Path:
    """
    Each observation as a point, coloured by the first states and by time.

    :param z: ``(n, width)``, rows as in ``data``
    :param data: states and times
    :param path: ``.png`` file to write
    :param seed: of t-SNE, and of the points that are shown
    """
    plt = _pyplot()
    rows = np.random.default_rng(seed).permutation(len(z))[:_POINTS]
    points, method = embed(z[rows].astype(np.float64), seed)
    colours = [(name, data.states[rows, i]) for i, name in enumerate(data.names[:3])]
    colours += [("time in the episode", data.times[rows]), ("episode", data.episodes[rows])]
    figure, axes = plt.subplots(1, len(colours), figsize=(3.4 * len(colours), 3.2), squeeze=False)
    for axis, (name, values) in zip(axes[0], colours, strict=True):
        shown = axis.scatter(*points.T, c=values, s=5, cmap="viridis")
        axis.set(title=name, xticks=[], yticks=[])
        figure.colorbar(shown, ax=axis, fraction=0.046)
    figure.suptitle(f"{method} of the encoder's output", fontsize=9)
    return _save(figure, path)


def draw_partners(z: dict[str, dict[int, np.ndarray]], partners: np.ndarray, names: list[str], path: Path, seed: int) -> Path:
    """
    Embeddings of histories, coloured by partner: a row for each encoder, a column for each number of observations seen.

    :param z: by name of the encoder and number of observations, ``(n, width)`` each
    :param partners: ``(n,)`` ids
    :param names: of all ids
    :param path: ``.png`` file to write
    :param seed: of t-SNE, and of the points that are shown
    """
    plt = _pyplot()
    moments = list(next(iter(z.values())))
    rows = np.random.default_rng(seed).permutation(len(partners))[:_POINTS]
    size = (3.2 * len(moments), 3.2 * len(z) + 0.6)
    figure, axes = plt.subplots(len(z), len(moments), figsize=size, squeeze=False)
    colours = plt.get_cmap("tab10")
    for y, (name, of_moment) in enumerate(z.items()):
        for x, moment in enumerate(moments):
            points, method = embed(of_moment[moment][rows].astype(np.float64), seed)
            for partner in np.unique(partners):
                chosen = points[partners[rows] == partner]
                axes[y, x].scatter(*chosen.T, s=6, color=colours(int(partner) % 10), label=names[partner])
            axes[y, x].set(title=f"{name}, {moment} seen ({method})", xticks=[], yticks=[])
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=7, markerscale=2)
    figure.suptitle("embeddings of histories by partner", fontsize=9)
    return _save(figure, path)


def nearest_neighbours(z: np.ndarray, episodes: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """
    :param z: ``(n, width)``
    :param episodes: ``(n,)``
    :param queries: ``(q,)`` rows
    :param k: neighbours of each
    :return: ``(q, k)`` rows of other episodes, the nearest (cosine, centred) first
    """
    centred = z - z.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    similarity = unit[queries] @ unit.T
    similarity[episodes[queries][:, None] == episodes[None]] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def draw_neighbours(z: np.ndarray, data: ProbeData, path: Path, seed: int, n_queries: int = 6, k: int = 5) -> Path:
    """
    Some observations beside those of other episodes that the encoder takes for most alike.

    :param z: ``(n, width)``, rows as in ``data``
    :param data: images and episodes
    :param path: ``.png`` file to write
    :param seed: of the choice
    :param n_queries: rows of the picture
    :param k: neighbours of each
    """
    queries = np.sort(np.random.default_rng(seed).choice(len(data), min(n_queries, len(data)), replace=False))
    found = nearest_neighbours(z, data.episodes, queries, k)
    rows = [[newest_frame(data.images[i].numpy()) for i in (q, *near)] for q, near in zip(queries, found, strict=True)]
    return _grid(rows, ["query", *(f"{i + 1}." for i in range(found.shape[1]))], path, "nearest in other episodes")


def saliency(encoder: ModelEncoder, images: th.Tensor, mean: th.Tensor) -> np.ndarray:
    """
    How strongly each pixel moves the embedding: the absolute gradient (Simonyan et al. 2013, arXiv:1312.6034) of half its
    squared distance from the mean embedding, summed over channels and frames, averaged over 5x5 pixels (strided convolutions
    look at some pixels more often than at their neighbours, which would show as a grid).

    :param encoder: not changed
    :param images: ``(n, channels, height, width)`` uint8, on its device
    :param mean: ``(features_dim,)``
    :return: ``(n, height, width)`` float32, each scaled to at most 1
    """
    pixels = images.float().requires_grad_()
    loss = 0.5 * (encoder(pixels) - mean).square().sum()
    gradient = th.autograd.grad(loss, pixels)[0].abs().sum(dim=1)
    gradient = F.avg_pool2d(gradient[:, None], 5, stride=1, padding=2)[:, 0]
    return np.asarray((gradient / gradient.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)).cpu().numpy())


def draw_saliency(images: th.Tensor, maps: dict[str, np.ndarray], path: Path) -> Path:
    """
    Observations beside saliency maps.

    :param images: ``(n, channels, height, width)``
    :param maps: by name of the encoder, ``(n, height, width)`` in 0..1
    :param path: ``.png`` file to write
    """
    inferno = _pyplot().get_cmap("inferno")
    heat = [(inferno(part)[..., :3] * 255).astype(np.uint8) for part in maps.values()]
    rows = [[newest_frame(images[i].cpu().numpy()), *(part[i] for part in heat)] for i in range(len(images))]
    return _grid(rows, ["observation", *maps], path, "saliency: what moves the embedding")
