"""Cutting one window out of each image: the work behind crops and shifts."""

from __future__ import annotations

import torch as th


def cut_windows(images: th.Tensor, offsets: th.Tensor, height: int, width: int) -> th.Tensor:
    """
    The window of each image that begins at its offset; pixels beyond an edge repeat it, without padding first.

    On a GPU one gather, with no synchronisation. On a CPU slices copied image by image: row-wise copies of bytes are several
    times faster than a gather's index per pixel, and need no thread pool.

    :param images: ``(batch, channels, H, W)``, any dtype
    :param offsets: ``(batch, 2)`` int64, top and left, may be negative
    :param height: of the windows
    :param width: of the windows
    :return: ``(batch, channels, height, width)``, a copy, in the dtype of ``images``
    :raises ValueError: when there is not one offset for each image
    """
    if offsets.shape != (images.shape[0], 2):
        raise ValueError(
            f"offsets {tuple(offsets.shape)} were drawn for another batch: {images.shape[0]} images need one each"
        )
    # numpy has no bfloat16, and copies carry no gradient
    plain = images.device.type == "cpu" and images.dtype != th.bfloat16
    if plain and not (images.requires_grad and th.is_grad_enabled()):
        return copy_windows(images, offsets, height, width)
    return gather_windows(images, offsets, height, width)


def gather_windows(images: th.Tensor, offsets: th.Tensor, height: int, width: int) -> th.Tensor:
    """:func:`cut_windows` as one gather: any device, differentiable in the images."""
    batch, channels, full_height, full_width = images.shape
    rows = (offsets[:, :1] + th.arange(height, device=images.device)).clamp(0, full_height - 1)
    columns = (offsets[:, 1:] + th.arange(width, device=images.device)).clamp(0, full_width - 1)
    index = rows[:, :, None] * full_width + columns[:, None, :]  # (batch, height, width) into the flat image
    index = index.reshape(batch, 1, height * width).expand(-1, channels, -1)
    flat = images.reshape(batch, channels, full_height * full_width)
    return flat.gather(2, index).reshape(batch, channels, height, width)


def copy_windows(images: th.Tensor, offsets: th.Tensor, height: int, width: int) -> th.Tensor:
    """:func:`cut_windows` as slices: CPU only, no gradient."""
    batch, channels, full_height, full_width = images.shape
    out = th.empty((batch, channels, height, width), dtype=images.dtype)
    for source, target, (top, left) in zip(images.detach().numpy(), out.numpy(), offsets.tolist(), strict=True):
        # a window wholly outside shows the edge alone, just as one that still touches it does
        top = min(max(top, 1 - height), full_height - 1)
        left = min(max(left, 1 - width), full_width - 1)
        first_row, last_row = max(-top, 0), min(height, full_height - top)
        first_column, last_column = max(-left, 0), min(width, full_width - left)
        rows = target[:, first_row:last_row]
        inside = source[:, top + first_row : top + last_row, left + first_column : left + last_column]
        rows[:, :, first_column:last_column] = inside
        # columns before rows, so that the corners come with the rows
        if first_column:
            rows[:, :, :first_column] = rows[:, :, first_column : first_column + 1]
        if last_column < width:
            rows[:, :, last_column:] = rows[:, :, last_column - 1 : last_column]
        if first_row:
            target[:, :first_row] = target[:, first_row : first_row + 1]
        if last_row < height:
            target[:, last_row:] = target[:, last_row - 1 : last_row]
    return out
