"""Backpropagation whose memory does not grow with depth: inputs of layers are computed back from their outputs.

A run of K steps keeps its last output alone. On the way back each layer's input is recovered by the exact inverse
(RevNet, Gomez et al. 2017; Glow's couplings keep x_b as it is, so that their net runs once more, not twice) and its
gradients are computed from that. Costs one more pass of the couplings' nets: a third more arithmetic.

Legend as in flow.py. Works under autocast; torch.compile does not look inside (a graph break at each level).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from irae.layers import NetParameters, conv1x1, coupling_net, fold_net, no_autocast
from irae.steps import FlowStep, GenerativeStep


@dataclass(frozen=True)
class Affine:
    """y = M x + b at every pixel. Tensors: M (c, c), b (c,)."""

    undoing: tuple[Tensor, Tensor]
    """Matrix and bias of the inverse: no gradient passes through them."""
    tensor_count = 2

    def run(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        return conv1x1(x, *tensors)

    def undo(self, y: Tensor, grad: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """The input, and the gradients of the input and of the tensors, from the output and its gradient."""
        matrix, _ = tensors
        x = conv1x1(y, *self.undoing)
        grad_columns, x_columns = pixels_by_channels(grad), pixels_by_channels(x)
        with no_autocast(grad):
            return x, conv1x1(grad, matrix.t()), (grad_columns.t() @ x_columns, grad_columns.sum(0))


@dataclass(frozen=True)
class Coupling:
    """y_a = s x_a + t, or backwards y_a = (x_a - t) / s; y_b = x_b. Tensors: NetParameters.

    They are folded when they are needed and not before: folded weights that are kept would grow with K.
    """

    scale_min: float
    backwards: bool
    tensor_count = len(NetParameters._fields)

    def run(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        x_a, x_b = x.chunk(2, dim=1)
        shift, scale = coupling_net(x_b, fold_net(NetParameters(*tensors)), self.scale_min)
        return torch.cat([(x_a - shift) / scale if self.backwards else scale * x_a + shift, x_b], dim=1)

    def undo(self, y: Tensor, grad: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """As in Affine."""
        (y_a, y_b), (grad_a, grad_b) = y.chunk(2, dim=1), grad.chunk(2, dim=1)
        inputs = [t.detach().requires_grad_() for t in (y_b, *tensors)]
        with torch.enable_grad():
            shift, scale = coupling_net(inputs[0], fold_net(NetParameters(*inputs[1:])), self.scale_min)
        t, s = shift.detach(), scale.detach()
        if self.backwards:
            x_a, grad_x = y_a * s + t, grad_a / s
            grad_shift, grad_scale = -grad_x, -grad_x * y_a
        else:
            x_a, grad_x = (y_a - t) / s, grad_a * s
            grad_shift, grad_scale = grad_a, grad_a * x_a
        of_x_b, *of_tensors = torch.autograd.grad((shift, scale), inputs, (grad_shift, grad_scale))
        return torch.cat([x_a, y_b], dim=1), torch.cat([grad_x, grad_b + of_x_b], dim=1), of_tensors


Layer = Affine | Coupling


class _Chain(torch.autograd.Function):
    """Layers one after the other, of which only the last output is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[Layer], *tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        for layer in layers:
            x = layer.run(x, [next(rest) for _ in range(layer.tensor_count)])
        ctx.layers = layers
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(x, *tensors)
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, *tensors = ctx.saved_tensors
        # Made before the loop: what stays, between large temporaries that go, would tear the heap into pieces.
        grads = [torch.empty_like(tensor) for tensor in tensors]
        end = len(tensors)
        with torch.autocast(*ctx.autocast):
            for layer in reversed(ctx.layers):
                start = end - layer.tensor_count
                y, grad, of_tensors = layer.undo(y, grad, tensors[start:end])
                for kept, new in zip(grads[start:end], of_tensors, strict=True):
                    kept.copy_(new)
                end = start
        return grad, None, *grads


def run_reversible(x: Tensor, steps: Sequence[FlowStep], backwards: bool = False) -> Tensor:
    """The steps one after the other (or their inverses, last step first), keeping nothing but the result."""
    kind = type(steps[0])
    affines = zip(*kind.affines(steps, undo=backwards), strict=True)
    with torch.no_grad():
        undoing = zip(*kind.affines(steps, undo=not backwards), strict=True)
    in_order = list(zip(steps, affines, undoing, strict=True))
    layers: list[Layer] = []
    tensors: list[Tensor] = []
    for step, affine, its_undoing in reversed(in_order) if backwards else in_order:
        parts: list[tuple[Layer, Sequence[Tensor]]] = [
            (Affine(its_undoing), affine),
            (Coupling(step.coupling.scale_min, backwards), step.coupling.raw()),
        ]
        # The generative step has the coupling first, and so has the inverse of the other one.
        for layer, its_tensors in reversed(parts) if issubclass(kind, GenerativeStep) != backwards else parts:
            layers.append(layer)
            tensors.extend(its_tensors)
    return _Chain.apply(x, layers, *tensors)


def pixels_by_channels(x: Tensor) -> Tensor:
    """(B, c, H, W) -> (B H W, c); no copy for channels-last images."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
