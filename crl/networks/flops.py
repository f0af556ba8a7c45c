"""Counting what convolutions compute."""

from __future__ import annotations

from typing import Any

import torch as th
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from crl.networks import conv_stack


class ConvolutionCounter(TorchDispatchMode):
    """
    Context that counts convolutions while they run, forward and backward::

        with ConvolutionCounter() as count:
            model.train(2, batch_size)
        count.flops, count.images

    :ivar flops: floating point operations, two for a multiplication and its addition
    :ivar images: number of images that went into each kind of convolution, ``(kind, channels, height, width) -> images``
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0
        self.images: dict[tuple[str, int, int, int], int] = {}

    def __enter__(self) -> ConvolutionCounter:
        # with torch's own operations, which tell what they compute
        self._available = conv_stack.onednn_convolution
        conv_stack.onednn_convolution = lambda: False  # type: ignore[assignment]
        super().__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        conv_stack.onednn_convolution = self._available

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run it and count it."""
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in (th.ops.aten.convolution, th.ops.aten.convolution_backward):
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            backward = packet is th.ops.aten.convolution_backward
            images = args[1] if backward else args[0]
            key = ("backward" if backward else "forward", *images.shape[1:])
            self.images[key] = self.images.get(key, 0) + len(images)
        return out
