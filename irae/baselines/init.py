"""The weights that the compared systems begin with: the same courtesy for all as IRAE's identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAST_SHARE = 0.1
"""What is left of the last layer's weights where the network gives a difference: it begins near 0."""


def init_looks_linear_(net: nn.Module, slope: float = 0.0, gives_difference: bool = False) -> None:
    """Set the weights of a network of convolutions and (leaky) ReLUs so that it begins as a linear map of each pixel.

    Filters come in pairs, a and -a, whose activations a later layer subtracts: relu(a) - relu(-a) = a, so that nothing
    is lost in any number of layers (Balduzzi et al. 2017, "The shattered gradients problem", section 5, "looks
    linear"). Only a filter's middle begins other than 0, with orthogonal weights (Xiao et al. 2018, "Dynamical isometry
    and a mean field theory of CNNs", section 3). Random filters blur what deep layers know of a pixel's noise, and
    training stands still for hundreds of steps where no noise is found. `slope`: of the activations below 0.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    with torch.no_grad():
        for layer in layers:
            reads_pairs, gives_pairs = layer is not layers[0], layer is not layers[-1]
            inputs, outputs = layer.in_channels >> reads_pairs, layer.out_channels >> gives_pairs
            mix = nn.init.orthogonal_(torch.empty(outputs, inputs)) / (1 + slope if reads_pairs else 1)
            mix = paired(mix, 1) if reads_pairs else mix
            _fill(layer, paired(mix, 0) if gives_pairs else mix)
            if layer.bias is not None:
                layer.bias.zero_()
        if gives_difference:
            layers[-1].weight.mul_(LAST_SHARE)


def paired(mix: Tensor, dim: int) -> Tensor:
    """Behind each number along `dim` its negative."""
    return torch.stack([mix, -mix], dim + 1).flatten(dim, dim + 1)


def _fill(layer: nn.Conv2d | nn.ConvTranspose2d, mix: Tensor) -> None:
    """(outputs, inputs) to the middle of each filter, or to all places of one that doubles the resolution."""
    if isinstance(layer, nn.ConvTranspose2d):
        layer.weight.copy_(mix.T[:, :, None, None].expand_as(layer.weight))
    else:
        height, width = layer.kernel_size
        layer.weight.zero_()
        layer.weight[:, :, height // 2, width // 2] = mix
