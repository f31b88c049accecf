"""PyTorch: runs a checkpoint without export, at any scale that its network has."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnet.errors import InputError, require
from overnet.runtime.backends.base import Backend, BackendOptions, check_precision, reporting
from overnet.types import ChannelMeans, ImageBatch

# Memory for a run of a plain network, as a multiple of its tensors' at the peak.
_PLAIN_RATIO = 2.6


class TorchBackend(Backend):
    """A checkpoint run by PyTorch, on a GPU where torch finds one. See `overnet.runtime.backends.base.Backend`.

    Args:
        model: a checkpoint in any form that `overnet.network.checkpoint.load_checkpoint` reads.
        scale: of an OverNet, from 1 to its overscale factor, fractions included. The backend's own scale is the nearest
            larger one that the network has, or the largest: a plain network has one for each head.
        options: the precision is ``"fp32"``, the default, or ``"bf16"`` (autocast); `threads` is torch's default where
            it is None; `device` is the GPU where there is one.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        InputError: there is no such device.
        MissingDependency: torch is not installed.
    """

    name = "torch"
    # Overscale 5, x4: measured 14,600 (tests/runtime/backends/test_memory.py).
    bytes_per_pixel = 17_000

    def __init__(self, model: Path, scale: float, options: BackendOptions) -> None:
        self._torch = torch = require("torch", extra="torch", purpose="the backend torch")
        from overnet.network.checkpoint import folded, load_checkpoint
        from overnet.network.plain import PlainNet

        self.precision = options.precision or "fp32"
        check_precision(self.precision, ("fp32", "bf16"), backend=self.name)
        network = folded(load_checkpoint(model))
        self.reach = network.config.reach
        if not network.config.serves(scale):
            scales = network.config.scales if isinstance(network, PlainNet) else (network.config.overscale,)
            scale = min((known for known in scales if known >= scale), default=max(scales))
        if isinstance(network, PlainNet):
            self.bytes_per_pixel = math.ceil(_PLAIN_RATIO * network.config.activation_bytes(int(scale)))
        self.scale = scale
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._device, self.device = torch.device("cpu"), "CPU"
        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
            if options.device >= len(names):
                raise InputError(f"device is {options.device}; the GPUs that torch sees are {', '.join(names)}")
            self._device, self.device = torch.device("cuda", options.device), names[options.device]
        # Convolutions on the CPU are faster with channels last.
        self._network = network.to(self._device).to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch

        # The modules whose input is a mean over the image: hooks on them read and replace the means.
        self._hooked_modules = [
            module
            for name, module in self._network.named_modules()
            if name.endswith("excitation.narrow") or name == "global_skip"
        ]

    def upscale(self, images: ImageBatch, channel_means: ChannelMeans | None = None) -> ImageBatch:
        """Upscale a batch; see `overnet.runtime.backends.base.Backend.upscale`."""
        if channel_means is None:
            return self._run(images)
        given = self._on_device(channel_means)
        return self._run_with_hooks(images, lambda index, mean: given[index])

    def channel_means(self, images: ImageBatch, given: ChannelMeans | None = None) -> ChannelMeans:
        """Return the network's means; see `overnet.runtime.backends.base.Backend.channel_means`."""
        means: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(self._hooked_modules)
        others = None if given is None else self._on_device(given)

        def record(index: int, mean: Any) -> Any:
            means[index] = mean.float().cpu().numpy()
            return mean if others is None else others[index]

        self._run_with_hooks(images, record)
        return means

    def _on_device(self, means: ChannelMeans) -> list[Any]:
        return [self._torch.from_numpy(mean).to(self._device) for mean in means]

    def _run_with_hooks(self, images: ImageBatch, replace: Callable[[int, Any], Any]) -> ImageBatch:
        """Run with `replace` called for each mean, which returns the mean to continue with."""
        hooks = [
            module.register_forward_pre_hook(lambda module, inputs, index=index: (replace(index, inputs[0]),))
            for index, module in enumerate(self._hooked_modules)
        ]
        try:
            return self._run(images)
        finally:
            for hook in hooks:
                hook.remove()

    def _run(self, images: ImageBatch) -> ImageBatch:
        torch = self._torch
        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")
        with reporting(f"PyTorch failed on {images.shape}"), torch.inference_mode(), autocast:
            levels = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float()
            upscaled = self._network(levels / 255, self.scale).float()
            levels = (upscaled.clamp(0, 1) * 255).round().to(torch.uint8)
            return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())
