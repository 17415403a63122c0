"""Backpropagation whose memory does not grow with depth: each layer's input is recomputed from its output.

A chain of K steps keeps its last output alone. In the backward pass the exact inverse recovers each layer's input
(RevNet, Gomez et al. 2017, arXiv 1707.04585), from which its gradients follow. A coupling keeps x_b, so that its net
runs once more, not twice: a third more arithmetic than with stored activations.

Legend as in flow.py. Works under autocast; torch.compile does not look inside (a graph break at each level).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from irae.layers import AffineCoupling, conv1x1, no_autocast
from irae.steps import FlowStep, FusedNet, GenerativeStep, fuse_net, net_parameters


@dataclass(frozen=True)
class Affine:
    """y = M x + b at every pixel. Tensors: M (c, c), b (c,)."""

    inverse: tuple[Tensor, Tensor]
    """Matrix and bias of the inverse: no gradient passes through them."""
    tensor_count = 2

    def forward(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        return conv1x1(x, *tensors)

    def backward(self, y: Tensor, grad: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """The input, its gradient and the tensors' gradients, from the output and its gradient."""
        matrix, _ = tensors
        x = conv1x1(y, *self.inverse)
        grad_columns, x_columns = pixels_by_channels(grad), pixels_by_channels(x)
        with no_autocast(grad):
            return x, conv1x1(grad, matrix.t()), (grad_columns.t() @ x_columns, grad_columns.sum(0))


@dataclass(frozen=True)
class Coupling:
    """The coupling or its inverse. Tensors: `net_parameters`, fused when needed: kept, fused ones would grow with K."""

    coupling: AffineCoupling
    inverse: bool
    tensor_count = 9

    def forward(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        run = self.coupling.inverse if self.inverse else self.coupling.forward
        return run(x, self._net(tensors))

    def backward(self, y: Tensor, grad: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """As in Affine."""
        (y_a, y_b), (grad_a, grad_b) = y.chunk(2, dim=1), grad.chunk(2, dim=1)
        inputs = [tensor.detach().requires_grad_() for tensor in (y_b, *tensors)]
        with torch.enable_grad():
            shift, scale = self._net(inputs[1:])(inputs[0])
        t, s = shift.detach(), scale.detach()
        recover = self.coupling.forward if self.inverse else self.coupling.inverse
        x = recover(y, lambda _: (t, s))
        if self.inverse:
            grad_x = grad_a / s
            grad_shift, grad_scale = -grad_x, -grad_x * y_a
        else:
            grad_x = grad_a * s
            grad_shift, grad_scale = grad_a, grad_a * x.chunk(2, dim=1)[0]
        of_x_b, *of_tensors = torch.autograd.grad((shift, scale), inputs, (grad_shift, grad_scale))
        return x, torch.cat([grad_x, grad_b + of_x_b], dim=1), of_tensors

    def _net(self, tensors: Sequence[Tensor]) -> FusedNet:
        return FusedNet(fuse_net(tensors), self.coupling.scale_min)


Layer = Affine | Coupling


class _Chain(torch.autograd.Function):
    """Layers one after the other, of which only the last output is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[Layer], *tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        for layer in layers:
            x = layer.forward(x, [next(rest) for _ in range(layer.tensor_count)])
        ctx.layers = layers
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(x, *tensors)
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, *tensors = ctx.saved_tensors
        # Allocated before the loop: small tensors that stay, between large ones that go, would fragment the heap.
        grads = [torch.empty_like(tensor) for tensor in tensors]
        end = len(tensors)
        with torch.autocast(*ctx.autocast):
            for layer in reversed(ctx.layers):
                start = end - layer.tensor_count
                y, grad, of_tensors = layer.backward(y, grad, tensors[start:end])
                for kept, new in zip(grads[start:end], of_tensors, strict=True):
                    kept.copy_(new)
                end = start
        return grad, None, *grads


def run_reversible(x: Tensor, steps: Sequence[FlowStep], inverse: bool = False) -> Tensor:
    """The steps one after the other (or their inverses, last step first), keeping only the result for backward."""
    step_class = type(steps[0])
    affines = zip(*step_class.affines(steps, inverse), strict=True)
    with torch.no_grad():
        inverses = zip(*step_class.affines(steps, not inverse), strict=True)
    chain: list[tuple[Layer, Sequence[Tensor]]] = []
    for step, affine, its_inverse in zip(steps, affines, inverses, strict=True):
        layers: list[tuple[Layer, Sequence[Tensor]]] = [
            (Affine(its_inverse), affine),
            (Coupling(step.coupling, inverse), net_parameters(step.coupling)),
        ]
        chain += reversed(layers) if issubclass(step_class, GenerativeStep) else layers
    if inverse:
        chain.reverse()
    return _Chain.apply(x, [layer for layer, _ in chain], *(tensor for _, tensors in chain for tensor in tensors))


def pixels_by_channels(x: Tensor) -> Tensor:
    """(B, c, H, W) -> (B H W, c); no copy for channels-last images."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
