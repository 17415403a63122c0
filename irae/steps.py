"""The steps of a flow: ActNorm, 1x1 convolution and coupling, applied with fused weights.

ActNorm and 1x1 convolution are one affine map per pixel, and the coupling's ActNorms are folded into its convolutions:
neither costs anything per pixel. The weights of all steps are fused at once, since K times as many operations on tiny
matrices would take a third of the convolutions' time. Legend as in layers.py; n steps, c channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from irae.layers import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Conv1x1,
    LUConv1x1,
    conv1x1,
    coupling_scale,
    exact_inverse,
    no_autocast,
    shift_and_scale,
)


@dataclass(frozen=True)
class StepShape:
    """Architecture that all steps of a flow share."""

    width: int
    """Hidden channels of the couplings' nets."""
    lu: bool = True
    """LUConv1x1 rather than Conv1x1."""
    scale_min: float = 0.0
    """Smallest scale of the couplings, in [0, 1)."""


def net_parameters(coupling: AffineCoupling) -> tuple[Tensor, ...]:
    """Trained tensors of a coupling's net: weight, log-scale and bias of each of its three layers."""
    assert coupling.conv_out.bias is not None
    return (
        *(coupling.conv_in.weight, coupling.norm_in.log_scale, coupling.norm_in.bias),
        *(coupling.conv_mid.weight, coupling.norm_mid.log_scale, coupling.norm_mid.bias),
        *(coupling.conv_out.weight, coupling.log_scale, coupling.conv_out.bias),
    )


def fuse_net(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Weight and bias of three convolutions from `net_parameters` or stacks of them; in autocast's precision."""
    conv_in, log_scale_in, bias_in, conv_mid, log_scale_mid, bias_mid, conv_out, log_scale_out, bias_out = parameters

    def scaled(weight: Tensor, log_scale: Tensor) -> Tensor:
        return weight * log_scale.exp()[..., None, None, None]

    fused = (
        *(scaled(conv_in, log_scale_in), bias_in),
        *(scaled(conv_mid, log_scale_mid), bias_mid),
        *(scaled(conv_out, log_scale_out), bias_out * log_scale_out.exp()),
    )
    return [cast_as_autocast(tensor) for tensor in fused]


@dataclass(frozen=True)
class FusedNet:
    """`AffineCoupling.net` as three convolutions."""

    weights: Sequence[Tensor]
    """Weight and bias of each."""
    scale_min: float

    @classmethod
    def of(cls, couplings: Sequence[AffineCoupling]) -> list[FusedNet]:
        """The nets of all couplings."""
        stacks = [torch.stack(tensors) for tensors in zip(*map(net_parameters, couplings), strict=True)]
        fused = zip(*(tensor.unbind() for tensor in fuse_net(stacks)), strict=True)
        return [cls(weights, coupling.scale_min) for weights, coupling in zip(fused, couplings, strict=True)]

    def __call__(self, x_b: Tensor) -> tuple[Tensor, Tensor]:
        weight_in, bias_in, weight_mid, bias_mid, weight_out, bias_out = self.weights
        h = F.relu_(F.conv2d(x_b, weight_in, bias_in, padding=1))
        h = F.relu_(F.conv2d(h, weight_mid, bias_mid))
        h = F.conv2d(h, weight_out, bias_out, padding=1)
        return shift_and_scale(h.to(x_b.dtype), self.scale_min)


class FusedStep(NamedTuple):
    """Weights of a step: x -> matrix x + bias at every pixel, and the coupling's net."""

    matrix: Tensor
    bias: Tensor
    net: FusedNet


class FlowStep(Bijection):
    """ActNorm, 1x1 convolution, coupling: one of the K steps of a level, image to code."""

    def __init__(self, channels: int, shape: StepShape) -> None:
        super().__init__()
        self.norm = ActNorm(channels)
        self.conv = LUConv1x1(channels) if shape.lu else Conv1x1(channels)
        self.coupling = AffineCoupling(channels, shape.width, shape.scale_min)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_fused(x, self.fused([self])[0])

    def inverse(self, y: Tensor) -> Tensor:
        return self.inverse_fused(y, self.fused([self], inverse=True)[0])

    def log_det(self, x: Tensor) -> Tensor:
        (net,) = FusedNet.of([self.coupling])
        return self.norm.log_det(x) + self.conv.log_det(x) + self.coupling.log_det(self.coupling_input(x), net)

    def forward_fused(self, x: Tensor, weights: FusedStep) -> Tensor:
        """`forward` by the step's element of `fused(steps)`."""
        return self.coupling.forward(conv1x1(x, weights.matrix, weights.bias), weights.net)

    def inverse_fused(self, y: Tensor, weights: FusedStep) -> Tensor:
        """`inverse` by the step's element of `fused(steps, inverse=True)`."""
        return conv1x1(self.coupling.inverse(y, weights.net), weights.matrix, weights.bias)

    @classmethod
    def fused(cls, steps: Sequence[FlowStep], inverse: bool = False) -> list[FusedStep]:
        """Each step's weights; `inverse`: with the inverse of its affine map."""
        nets = FusedNet.of([step.coupling for step in steps])
        return [FusedStep(*one) for one in zip(*cls.affines(steps, inverse), nets, strict=True)]

    @classmethod
    def affines(cls, steps: Sequence[FlowStep], inverse: bool) -> tuple[Tensor, Tensor]:
        """Matrices (n, c, c) and biases (n, c) of the steps' affine maps, or of their inverses."""
        conv = steps[0].conv
        factors = (torch.stack([getattr(step.conv, name) for step in steps]) for name in conv.factors)
        log_scales, biases = (torch.stack([getattr(step.norm, n) for step in steps]) for n in ("log_scale", "bias"))
        matrices, biases = cls.affine(conv.compose(*factors), log_scales, biases)
        if not inverse:
            return matrices, biases
        inverses = exact_inverse(matrices)
        return inverses, -matvec(inverses, biases)

    @staticmethod
    def affine(weights: Tensor, log_scales: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
        """M and b of x -> M x + b: W (n, c, c) after an ActNorm (n, c)."""
        return weights * log_scales.exp()[:, None, :], matvec(weights, biases)

    def coupling_input(self, x: Tensor) -> Tensor:
        """Input of the coupling when x enters the step."""
        return self.conv(self.norm(x))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Tensor:
        """Set every ActNorm from the batch x, once, before training; returns forward(x)."""
        self.norm.initialise(x)
        return self._initialise_coupling(self.conv(self.norm(x)))

    def _initialise_coupling(self, x: Tensor) -> Tensor:
        self.coupling.initialise(x)
        (net,) = FusedNet.of([self.coupling])
        return self.coupling(x, net)


class GenerativeStep(FlowStep):
    """The same three in the other order, code to image: coupling, 1x1 convolution, ActNorm. No matrix is inverted."""

    def forward_fused(self, x: Tensor, weights: FusedStep) -> Tensor:
        return conv1x1(self.coupling.forward(x, weights.net), weights.matrix, weights.bias)

    def inverse_fused(self, y: Tensor, weights: FusedStep) -> Tensor:
        return self.coupling.inverse(conv1x1(y, weights.matrix, weights.bias), weights.net)

    @staticmethod
    def affine(weights: Tensor, log_scales: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
        """An ActNorm after W."""
        return weights * log_scales.exp()[:, :, None], biases

    def coupling_input(self, x: Tensor) -> Tensor:
        return x

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Tensor:
        x = self.conv(self._initialise_coupling(x))
        self.norm.initialise(x)
        return self.norm(x)

    @torch.no_grad()
    def init_as_inverse_of(self, step: FlowStep) -> None:
        """Make this step after `step` the identity while both couplings are untrained, each scaling x_a by s(0)."""
        weight = torch.linalg.inv(step.conv.weight().double())
        half = weight.shape[0] // 2
        untrained = torch.zeros((), dtype=torch.float64)
        weight[:, :half] /= coupling_scale(untrained, step.coupling.scale_min)
        weight[:, :half] /= coupling_scale(untrained, self.coupling.scale_min)
        self.conv.set_weight(weight)

    @torch.no_grad()
    def initialise_like(self, x: Tensor, step: FlowStep) -> Tensor:
        """Initialise on the code x so that the output has the mean and variance that entered `step`."""
        self.initialise(x)
        self.norm.bias.copy_((self.norm.bias - step.norm.bias) * (-step.norm.log_scale).exp())
        self.norm.log_scale.sub_(step.norm.log_scale)
        return self(x)


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """(..., c, c) times (..., c) -> (..., c), without autocast."""
    with no_autocast(vector):
        return (matrix @ vector[..., None])[..., 0]


def cast_as_autocast(tensor: Tensor) -> Tensor:
    """The tensor in autocast's precision, if that is enabled: one cast for all couplings."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor
