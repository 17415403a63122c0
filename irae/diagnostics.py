"""Inversion error and conditioning diagnostics of an IRAE."""

from __future__ import annotations

import torch
from torch import Tensor

from irae.layers import ActNorm, AffineCoupling, Conv1x1
from irae.model import IRAE
from irae.steps import FusedNet


@torch.no_grad()
def round_trip_max_error(model: IRAE, images: Tensor) -> float:
    """max |inverse(forward(y)) - y| over a batch (B, C, H, W) in the model's own precision; never in autocast."""
    with torch.autocast(images.device.type, enabled=False):
        return (model.inverse(model(images)) - images).abs().max().item()


@torch.no_grad()
def condition_number(model: torch.nn.Module) -> float:
    """Largest condition number of a 1x1 convolution: the bound on a rounding error's growth in its inverse."""
    weights = [layer.weight() for layer in model.modules() if isinstance(layer, Conv1x1)]
    finite = all(bool(torch.isfinite(weight).all()) for weight in weights)
    return max(torch.linalg.cond(weight.double()).item() for weight in weights) if finite else float("inf")


@torch.no_grad()
def min_coupling_scale(model: IRAE, images: Tensor) -> float:
    """Smallest scale of any coupling for these images (B, C, H, W): the inverse divides by it."""
    smallest = float("inf")
    with torch.autocast(images.device.type, enabled=False):
        for step, x in model.iter_steps_with_input(images):
            (net,) = FusedNet.of([step.coupling])
            _, scale = net(step.coupling_input(x).chunk(2, dim=1)[1])
            smallest = min(smallest, scale.min().item())
    return smallest


@torch.no_grad()
def largest_layer_gain(model: torch.nn.Module) -> tuple[str, float]:
    """Name and gain of the layer with the largest gain, to locate divergence; one that is not finite comes first."""
    gains = {}
    for name, layer in model.named_modules():
        if isinstance(layer, ActNorm | AffineCoupling):
            gains[name] = layer.log_scale.exp().max().item()
        elif isinstance(layer, Conv1x1):
            weight = layer.weight()
            finite = bool(torch.isfinite(weight).all())
            gains[name] = torch.linalg.matrix_norm(weight.double(), ord=2).item() if finite else float("nan")
        elif isinstance(layer, torch.nn.Conv2d):
            gains[name] = layer.weight.abs().max().item()
    return max(gains.items(), key=lambda item: (item[1] != item[1], item[1]))
