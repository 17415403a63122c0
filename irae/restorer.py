"""The interface that training, evaluation and restoration use of a model: IRAE or one of baselines/.

Images are (B, C, H, W) in [0, 1]; degraded ones may leave that range.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irae.config import IRAEConfig

Sigma255 = float | Tensor | None
"""Noise level in units of 1/255: one for all images, or one for each, (B,). None: no noise, or an unknown level."""


class Restorer(nn.Module):
    """A network that maps degraded images to restored ones of the same size.

    `forward` is trained; `restore` is evaluated. Both take `sigma_255`, which models without a noise map ignore.
    """

    model_name = ""
    """Its key in registry.MODELS; `build` sets it."""
    side_multiple = 1
    """`forward` requires sides divisible by this."""
    padding = "reflect"
    """Padding mode of `restore`: reflect or replicate."""
    config: IRAEConfig | None = None
    """Architecture; IRAE's alone is configurable."""
    invertible = False
    """Whether it has an `inverse`."""

    def forward(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        raise NotImplementedError

    def restore(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        """Any size: padded at the lower and right edge, restored, cropped back, clamped to [0, 1]."""
        height, width = degraded.shape[-2:]
        padded = pad_to_multiple(degraded, self.side_multiple, self.padding)
        return self(padded, sigma_255)[..., :height, :width].clamp(0, 1)

    def initialise(self, degraded: Tensor) -> None:
        """Data-dependent initialisation from the global first batch, once, on a new model. Most models have none."""

    def bottleneck(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        """Output (B, c, h, w) of the layer with the fewest activations, the last of several; not the output layer.

        All information about the input passes here, except through skip connections (the input itself where the network
        predicts a residual, a U-Net's bridges).
        """
        outputs = [output for _, output in self.record_activations(degraded, sigma_255)]
        return min(reversed(outputs[:-1]), key=torch.numel)

    def record_activations(self, degraded: Tensor, sigma_255: Sigma255 = None) -> list[tuple[Tensor, Tensor]]:
        """Input and output of each layer in order of execution; the same tensor twice for an in-place layer."""
        recorded: list[tuple[Tensor, Tensor]] = []

        def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            recorded.append((inputs[0], output))

        layers = (module for module in self.modules() if not list(module.children()))
        hooks = [layer.register_forward_hook(record) for layer in layers]
        try:
            self(degraded, sigma_255)
        finally:
            for hook in hooks:
                hook.remove()
        return recorded


@torch.no_grad()
def activation_elements_per_pixel(model: Restorer) -> list[float]:
    """Elements per image pixel of each tensor between the layers: the size of the activations. Not for IRAE, whose
    layers are functions."""
    side, device = 16, next(model.parameters()).device
    recorded = model.record_activations(torch.zeros(1, 3, side, side, device=device), 0.0)
    different = {id(tensor): tensor for pair in recorded for tensor in pair}
    return [tensor.numel() / side**2 for tensor in different.values()]


def pad_to_multiple(images: Tensor, multiple: int, mode: str = "reflect") -> Tensor:
    """Pad (B, C, H, W) at the lower and right edge to sides divisible by `multiple`; images too thin are replicated."""
    height, width = images.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if mode == "reflect" and not (down < height and right < width):
        mode = "replicate"
    return F.pad(images, (0, right, 0, down), mode=mode) if down or right else images
