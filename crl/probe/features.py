"""Representations of the same observations: of an encoder, of one trained on the true state, of pixels alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch as th
import torch.nn.functional as F

from crl.contract import Augmentation
from crl.encoders import ModelEncoder

#: images that are encoded at a time
_BATCH = 500
#: pixels of a side that are left for PCA
_PCA_SIDE = 42


def _in_batches(function: Callable[[th.Tensor], th.Tensor], images: th.Tensor, device: th.device) -> np.ndarray:
    parts = [function(images[i : i + _BATCH].to(device)).flatten(1).float().cpu() for i in range(0, len(images), _BATCH)]
    return np.asarray(th.cat(parts).numpy())


def _device(encoder: ModelEncoder) -> th.device:
    return next(iter(encoder.parameters())).device


@th.no_grad()
def conv_features(encoder: ModelEncoder, images: th.Tensor) -> np.ndarray:
    """
    :param encoder: not changed
    :param images: ``(n, channels, height, width)`` uint8
    :return: ``(n, features)`` float32, the last convolution's output
    """
    return _in_batches(encoder.feature_map, images, _device(encoder))


@th.no_grad()
def output_features(encoder: ModelEncoder, images: th.Tensor) -> np.ndarray:
    """
    :param encoder: not changed
    :param images: ``(n, channels, height, width)`` uint8
    :return: ``(n, features_dim)`` float32
    """
    return _in_batches(encoder, images, _device(encoder))


def fit_supervised(
    encoder: ModelEncoder,
    images: th.Tensor,
    truth: np.ndarray | dict[str, np.ndarray],
    rows: np.ndarray,
    seed: int,
    updates: int,
    augment: Augmentation,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    advance: Callable[[], None] = lambda: None,
) -> ModelEncoder:
    """
    Train an encoder, and a linear head on it, to tell what is true: the ceiling of what its architecture can know. The head is
    initialised from torch's global generator.

    :param encoder: freshly initialised; trained in place
    :param images: ``(n, channels, height, width)`` uint8
    :param truth: states, ``(n, n_states)``, each of which varies (squared error of the standardised ones); or labels by name,
        each ``(n,)`` whole numbers (mean of their cross-entropies; rows with a negative one are left out of its own)
    :param rows: ``(n,)`` bool, those to train on
    :param seed: of batches and augmentation
    :param updates: of Adam, on batches of ``batch_size``
    :param augment: against overfitting
    :param batch_size: rows of an update
    :param learning_rate: of Adam
    :param advance: called after each update
    :return: the encoder
    """
    device = _device(encoder)
    width, loss_of = _to_labels(truth, device) if isinstance(truth, dict) else _to_states(truth, device)
    head = th.nn.Linear(encoder.features_dim, width).to(device)
    train_rows = np.flatnonzero(rows)
    optimizer = th.optim.Adam([*encoder.parameters(), *head.parameters()], learning_rate)
    rng, generator = np.random.default_rng(seed), th.Generator(device)
    generator.manual_seed(seed)
    for _ in range(updates):
        batch = rng.choice(train_rows, batch_size)
        loss = loss_of(head(encoder(augment(images[batch].to(device), generator))), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance()
    return encoder


#: the loss of a head's output on some rows
_Loss = Callable[[th.Tensor, np.ndarray], th.Tensor]


def _to_states(states: np.ndarray, device: th.device) -> tuple[int, _Loss]:
    target = th.as_tensor((states - states.mean(0)) / states.std(0)).float().to(device)
    return states.shape[1], lambda out, batch: F.mse_loss(out, target[batch])


def _to_labels(labels: dict[str, np.ndarray], device: th.device) -> tuple[int, _Loss]:
    coded = [np.unique(column, return_inverse=True) for column in labels.values()]
    widths = [len(classes) for classes, _ in coded]
    known = [th.as_tensor(column >= 0, device=device) for column in labels.values()]
    targets = [th.as_tensor(codes).long().to(device) for _, codes in coded]

    def loss(out: th.Tensor, batch: np.ndarray) -> th.Tensor:
        losses = []
        for logits, target, counts in zip(out.split(widths, dim=1), targets, known, strict=True):
            each = F.cross_entropy(logits, target[batch], reduction="none") * counts[batch]
            losses.append(each.sum() / counts[batch].sum().clamp(min=1))
        return th.stack(losses).mean()

    return sum(widths), loss


def pixel_pca(images: th.Tensor, rows: np.ndarray, width: int, seed: int) -> np.ndarray:
    """
    The first principal components of the pixels, fitted to some rows. Images larger than 42 pixels a side are averaged down
    to that: the components of more pixels take minutes and look the same.

    :param images: ``(n, channels, height, width)`` uint8
    :param rows: ``(n,)`` bool, those to fit to
    :param width: number of components (fewer for few rows)
    :param seed: of the randomised SVD (Halko et al. 2011)
    :return: ``(n, width)`` float32
    """
    smaller = min(images.shape[-2], _PCA_SIDE), min(images.shape[-1], _PCA_SIDE)
    parts = [F.adaptive_avg_pool2d(part.float() / 255.0, smaller).flatten(1) for part in images.split(_BATCH)]
    pixels = th.cat(parts)
    fitted = pixels[th.as_tensor(rows)]
    mean = fitted.mean(0)
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        n_components = min(width, *fitted.shape)
        _, _, v = th.svd_lowrank(fitted - mean, q=min(n_components + 10, *fitted.shape), niter=4)
    return np.asarray(((pixels - mean) @ v[:, :n_components]).numpy())
