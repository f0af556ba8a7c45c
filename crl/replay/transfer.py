"""Arrays to the model's device without waiting for it."""

from __future__ import annotations

import numpy as np
import torch as th


def to_device(array: np.ndarray, device: th.device) -> th.Tensor:
    """
    To a GPU through page-locked memory and without waiting: kernels that use the tensor come after the copy on the same
    stream. (Copies from ordinary memory make the CPU wait until the GPU has done all that was asked of it before.) On the CPU
    the tensor shares the array's memory.

    :param array: any shape and type that torch knows; on the CPU, nobody else's
    :param device: of the tensor
    :return: same values and type
    """
    if device.type != "cuda":
        return th.as_tensor(array, device=device)
    # torch's cache of page-locked blocks hands none out again before the copy out of it is done
    return th.from_numpy(np.ascontiguousarray(array)).pin_memory().to(device, non_blocking=True)
