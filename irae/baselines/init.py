"""Initial weights of the baselines: the counterpart of IRAE's identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RESIDUAL_GAIN = 0.1
"""Factor of the last layer's weights in a network that outputs a residual, which should start near 0."""


def init_looks_linear_(net: nn.Module, slope: float = 0.0, is_residual: bool = False) -> None:
    """Initialise a network of convolutions and (leaky) ReLUs as a linear map of each pixel.

    Filters come in mirrored pairs, a and -a, whose activations the next layer subtracts: relu(a) - relu(-a) = a, so
    that any depth preserves the signal (Balduzzi et al. 2017, "The shattered gradients problem", section 5, "looks
    linear"). Only a filter's centre is not 0, with orthogonal weights (Xiao et al. 2018, "Dynamical isometry and a mean
    field theory of CNNs", section 3). Random filters blur each pixel's noise in deep layers, and the loss then
    stagnates for hundreds of steps. `slope`: of the activations below 0.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    with torch.no_grad():
        for layer in layers:
            reads_pairs, writes_pairs = layer is not layers[0], layer is not layers[-1]
            inputs, outputs = layer.in_channels >> reads_pairs, layer.out_channels >> writes_pairs
            mix = nn.init.orthogonal_(torch.empty(outputs, inputs)) / (1 + slope if reads_pairs else 1)
            mix = mirrored(mix, 1) if reads_pairs else mix
            _fill(layer, mirrored(mix, 0) if writes_pairs else mix)
            if layer.bias is not None:
                layer.bias.zero_()
        if is_residual:
            layers[-1].weight.mul_(RESIDUAL_GAIN)


def mirrored(mix: Tensor, dim: int) -> Tensor:
    """Each element along `dim` followed by its negative."""
    return torch.stack([mix, -mix], dim + 1).flatten(dim, dim + 1)


def _fill(layer: nn.Conv2d | nn.ConvTranspose2d, mix: Tensor) -> None:
    """Copy (outputs, inputs) to each filter's centre, or to all positions of one that doubles the resolution."""
    if isinstance(layer, nn.ConvTranspose2d):
        layer.weight.copy_(mix.T[:, :, None, None].expand_as(layer.weight))
    else:
        height, width = layer.kernel_size
        layer.weight.zero_()
        layer.weight[:, :, height // 2, width // 2] = mix
