"""How well conditioned an IRAE is, and how exactly it inverts."""

from __future__ import annotations

import torch
from torch import Tensor

from irae.flow import ActNorm, AffineCoupling, Conv1x1
from irae.model import IRAE


@torch.no_grad()
def round_trip_max_error(model: IRAE, images: Tensor) -> float:
    """max |inverse(forward(y)) - y| over a batch (B, C, H, W) in the model's own precision; never in autocast."""
    with torch.autocast(images.device.type, enabled=False):
        return (model.inverse(model(images)) - images).abs().max().item()


@torch.no_grad()
def largest_scale(model: torch.nn.Module) -> tuple[str, float]:
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
