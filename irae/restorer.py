"""What training, evaluation and restoration ask of a system, whichever it is: IRAE or one of baselines/.

Images are (B, C, H, W) in [0, 1]; degraded ones may leave that range.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irae.config import IRAEConfig

Sigma255 = float | Tensor | None
"""Noise in units of 1/255: one for all images, or one for each, (B,). None where there is none or it is not known."""


class Restorer(nn.Module):
    """A network that maps degraded images to restored ones of the same size.

    `forward` is what is trained; `restore` is what is shown and measured. Both take `sigma_255`, which systems without
    a noise map ignore.
    """

    system = ""
    """Its name in irae/systems.py; `build` sets it."""
    side_multiple = 1
    """`forward` takes images whose sides are divisible by this."""
    padding = "reflect"
    """How `restore` fills sides up to that: reflect or replicate."""
    config: IRAEConfig | None = None
    """What of it can be chosen; IRAE alone has such."""
    invertible = False
    """Whether it has `inverse`."""

    def forward(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        raise NotImplementedError

    def restore(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        """Any size: padded at the lower and right edge, restored, cropped back, clamped to [0, 1]."""
        height, width = degraded.shape[-2:]
        padded = pad_to_multiple(degraded, self.side_multiple, self.padding)
        return self(padded, sigma_255)[..., :height, :width].clamp(0, 1)

    def initialise(self, degraded: Tensor) -> None:
        """Set what depends on data from the global first batch. Once, on a new model. Most have no such thing."""

    def narrowest(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        """What the layer with the fewest numbers inside the network gives out, (B, c, h, w); of several the last one.

        "Inside": the layer that makes the output is none of them. Everything that the network knows of its input passes
        here, apart from what is led around it (the input itself where the network predicts a residual, a U-Net's
        bridges).
        """
        outputs = [output for _, output in self.passes(degraded, sigma_255)]
        return min(reversed(outputs[:-1]), key=torch.numel)

    def passes(self, degraded: Tensor, sigma_255: Sigma255 = None) -> list[tuple[Tensor, Tensor]]:
        """What each layer is given and gives out, in the order in which they run; one tensor if it works in place."""
        found: list[tuple[Tensor, Tensor]] = []

        def note(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            found.append((given[0], output))

        layers = (module for module in self.modules() if not list(module.children()))
        hooks = [layer.register_forward_hook(note) for layer in layers]
        try:
            self(degraded, sigma_255)
        finally:
            for hook in hooks:
                hook.remove()
        return found


@torch.no_grad()
def activation_elements_per_pixel(model: Restorer) -> list[float]:
    """How many numbers each tensor between the layers has for each pixel of an image: what activations take. Not for
    IRAE, whose layers are functions."""
    side, device = 16, next(model.parameters()).device
    passes = model.passes(torch.zeros(1, 3, side, side, device=device), 0.0)
    different = {id(tensor): tensor for one in passes for tensor in one}
    return [tensor.numel() / side**2 for tensor in different.values()]


def pad_to_multiple(images: Tensor, multiple: int, mode: str = "reflect") -> Tensor:
    """(B, C, H, W) -> sides rounded up to a multiple at the lower and right edge; repeated if too thin to reflect."""
    height, width = images.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if mode == "reflect" and not (down < height and right < width):
        mode = "replicate"
    return F.pad(images, (0, right, 0, down), mode=mode) if down or right else images
