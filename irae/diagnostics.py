"""How well conditioned an IRAE is, and how exactly it inverts."""

from __future__ import annotations

import torch
from torch import Tensor

from irae.layers import ActNorm, AffineCoupling, Conv1x1
from irae.model import IRAE


@torch.no_grad()
def round_trip_max_error(model: IRAE, images: Tensor) -> float:
    """max |inverse(forward(y)) - y| over a batch (B, C, H, W) in the model's own precision; never in autocast."""
    with torch.autocast(images.device.type, enabled=False):
        return (model.inverse(model(images)) - images).abs().max().item()


@torch.no_grad()
def condition_number(model: torch.nn.Module) -> float:
    """The largest condition number of a 1x1 convolution: so many times may a rounding error grow on the way back."""
    weights = [layer.weight() for layer in model.modules() if isinstance(layer, Conv1x1)]
    finite = all(bool(torch.isfinite(weight).all()) for weight in weights)
    return max(torch.linalg.cond(weight.double()).item() for weight in weights) if finite else float("inf")


@torch.no_grad()
def min_coupling_scale(model: IRAE, images: Tensor) -> float:
    """The smallest factor of any coupling for these images (B, C, H, W): the inverse divides by it."""
    with torch.autocast(images.device.type, enabled=False):
        halves = ((step.coupling, step.before_coupling(x).chunk(2, dim=1)[1]) for step, x in model.walk(images))
        return min(coupling.shift_and_scale(x_b)[1].min().item() for coupling, x_b in halves)


@torch.no_grad()
def largest_layer_gain(model: torch.nn.Module) -> tuple[str, float]:
    """Name and size of the layer that magnifies most: where to look when training blew up.

    A layer whose scale is not finite comes before all others.
    """
    scales = {}
    for name, layer in model.named_modules():
        if isinstance(layer, ActNorm | AffineCoupling):
            scales[name] = layer.log_scale.exp().max().item()
        elif isinstance(layer, Conv1x1):
            weight = layer.weight()
            finite = bool(torch.isfinite(weight).all())
            scales[name] = torch.linalg.matrix_norm(weight.double(), ord=2).item() if finite else float("nan")
        elif isinstance(layer, torch.nn.Conv2d):
            scales[name] = layer.weight.abs().max().item()
    return max(scales.items(), key=lambda item: (item[1] != item[1], item[1]))
