"""The bijections that IRAE is built of, each with `forward`, `inverse` and `log_det` beside each other.

Legend: B images, C or c channels, H x W pixels. A layer's tensors are (B, c, H, W); `log_det` is (B,) and belongs to
the map from x to forward(x). Affine maps are folded into the convolution beside them before they touch the image, so
that an ActNorm costs nothing per pixel.

Sources: Glow, Kingma & Dhariwal 2018 (sections 3.1 to 3.3); Liu et al. 2020, arXiv 2009.03173 (section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irae.layers import ActNorm, AffineCoupling, Bijection, Conv1x1, LUConv1x1

COUPLING_SCALE_OFFSET = 2.0
"""Added to the raw scale before the sigmoid: an untrained coupling of the paper scales by sigmoid(2) = 0.88."""


class CouplingWeights(NamedTuple):
    """Weight and bias of the three convolutions of a coupling's net."""

    weight_in: Tensor
    bias_in: Tensor
    weight_mid: Tensor
    bias_mid: Tensor
    weight_out: Tensor
    bias_out: Tensor


class NetParameters(NamedTuple):
    """What is trained of a coupling's net: each convolution's weight, and the ActNorm (or factor and bias) after it."""

    conv_in: Tensor
    log_scale_in: Tensor
    bias_in: Tensor
    conv_mid: Tensor
    log_scale_mid: Tensor
    bias_mid: Tensor
    conv_out: Tensor
    log_scale_out: Tensor
    bias_out: Tensor


@dataclass(frozen=True)
class StepShape:
    """What all steps of a flow have in common."""

    width: int
    """Hidden channels of the couplings' nets."""
    lu: bool = True
    """LUConv1x1 rather than Conv1x1."""
    scale_min: float = 0.0
    """Of the couplings."""


class Folded(NamedTuple):
    """What a step applies to the image: x -> matrix x + bias at every pixel, and the coupling's net."""

    matrix: Tensor
    bias: Tensor
    net: CouplingWeights


class FlowStep(Bijection):
    """ActNorm, 1x1 convolution, coupling: one of the K steps of a level, image to code."""

    def __init__(self, channels: int, shape: StepShape) -> None:
        super().__init__()
        self.norm = ActNorm(channels)
        self.conv = LUConv1x1(channels) if shape.lu else Conv1x1(channels)
        self.coupling = AffineCoupling(channels, shape.width, shape.scale_min)

    @staticmethod
    def affine(weights: Tensor, log_scales: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
        """W (n, c, c) and ActNorm (n, c) of n steps as maps x -> M x + b: M (n, c, c), b (n, c)."""
        return weights * log_scales.exp()[:, None, :], times(weights, biases)

    @classmethod
    def affines(cls, steps: Sequence[FlowStep], undo: bool) -> tuple[Tensor, Tensor]:
        """Matrices (n, c, c) and biases (n, c) of the steps' affine maps; `undo`: of their inverses."""
        convs, norms = ([getattr(step, name) for step in steps] for name in ("conv", "norm"))
        weights = type(convs[0]).weights(convs)
        affine = cls.affine(weights, stacked(norms, "log_scale"), stacked(norms, "bias"))
        return inverted(*affine) if undo else affine

    @classmethod
    def folded(cls, steps: Sequence[FlowStep], undo: bool = False) -> list[Folded]:
        """Each step's weights; `undo`: with the inverse of its affine map.

        All steps at once: K times as many operations on tiny matrices would take as long as a third of the
        convolutions.
        """
        nets = AffineCoupling.folded([step.coupling for step in steps])
        return [Folded(*one) for one in zip(*cls.affines(steps, undo), nets, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.folded([self])[0])

    def inverse(self, y: Tensor) -> Tensor:
        return self.undo(y, self.folded([self], undo=True)[0])

    def run(self, x: Tensor, folded: Folded) -> Tensor:
        """`forward` with the step's weights at hand."""
        return self.coupling.run(conv1x1(x, folded.matrix, folded.bias), folded.net)

    def undo(self, y: Tensor, folded: Folded) -> Tensor:
        """`inverse` with the step's weights for it at hand."""
        return conv1x1(self.coupling.undo(y, folded.net), folded.matrix, folded.bias)

    def before_coupling(self, x: Tensor) -> Tensor:
        """What the coupling is given when x enters the step."""
        return self.conv(self.norm(x))

    def log_det(self, x: Tensor) -> Tensor:
        return self.norm.log_det(x) + self.conv.log_det(x) + self.coupling.log_det(self.before_coupling(x))

    def initialise(self, x: Tensor) -> Tensor:
        return self.coupling.initialise(self.conv(self.norm.initialise(x)))


class GenerativeStep(FlowStep):
    """The same three in the other order, code to image: coupling, 1x1 convolution, ActNorm. No matrix is inverted."""

    @staticmethod
    def affine(weights: Tensor, log_scales: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
        return weights * log_scales.exp()[:, :, None], biases

    def run(self, x: Tensor, folded: Folded) -> Tensor:
        return conv1x1(self.coupling.run(x, folded.net), folded.matrix, folded.bias)

    def undo(self, y: Tensor, folded: Folded) -> Tensor:
        return self.coupling.undo(conv1x1(y, folded.matrix, folded.bias), folded.net)

    def before_coupling(self, x: Tensor) -> Tensor:
        return x

    def initialise(self, x: Tensor) -> Tensor:
        return self.norm.initialise(self.conv(self.coupling.initialise(x)))

    @torch.no_grad()
    def start_as_inverse_of(self, step: FlowStep) -> None:
        """With untrained couplings, each of which scales half a by scale(0), this step after `step` is the identity."""
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


def fold_net(net: NetParameters) -> CouplingWeights:
    """ActNorms and the final factor folded into the convolutions, of one net or of many in a stack.

    Under autocast already in its precision: one cast for all.
    """

    def scaled(weight: Tensor, log_scale: Tensor) -> Tensor:
        return in_autocast(weight * log_scale.exp()[..., None, None, None])

    return CouplingWeights(
        scaled(net.conv_in, net.log_scale_in),
        in_autocast(net.bias_in),
        scaled(net.conv_mid, net.log_scale_mid),
        in_autocast(net.bias_mid),
        scaled(net.conv_out, net.log_scale_out),
        in_autocast(net.bias_out * net.log_scale_out.exp()),
    )


def coupling_net(x_b: Tensor, weights: CouplingWeights, scale_min: float) -> tuple[Tensor, Tensor]:
    """Shift and scale of a coupling from its second half, (B, c/2, H, W) each, in the precision of x_b."""
    h = F.relu_(F.conv2d(x_b, weights.weight_in, weights.bias_in, padding=1))
    h = F.relu_(F.conv2d(h, weights.weight_mid, weights.bias_mid))
    h = F.conv2d(h, weights.weight_out, weights.bias_out, padding=1).to(x_b.dtype)
    return h[:, 0::2], coupling_scale(h[:, 1::2], scale_min)


def coupling_scale(raw: Tensor, scale_min: float) -> Tensor:
    """s = scale_min + (1 - scale_min) * sigmoid(raw + 2)."""
    return scale_min + (1 - scale_min) * torch.sigmoid(raw + COUPLING_SCALE_OFFSET)


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """weight (c, c) applied at every pixel of x (B, c, H, W), in x's own precision also under autocast.

    The image itself never passes through bfloat16: only the couplings' nets do, whose rounding the inverse repeats.
    """
    with no_autocast(x):
        return F.conv2d(x, weight[:, :, None, None].to(x.dtype), bias if bias is None else bias.to(x.dtype))


def exact_inverse(matrix: Tensor) -> Tensor:
    """Inverse of (..., c, c), computed in float64, in the precision of the input."""
    with no_autocast(matrix):
        return torch.linalg.inv(matrix.double()).to(matrix.dtype)


def inverted(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix and bias of the map that undoes x -> weight x + bias; of n of them as well."""
    inverse = exact_inverse(weight)
    return inverse, -times(inverse, bias)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """(..., c, c) times (..., c) -> (..., c)."""
    with no_autocast(vector):
        return (matrix @ vector[..., None])[..., 0]


def stacked(modules: Sequence[nn.Module], name: str) -> Tensor:
    """One tensor of each module, stacked along a new first axis."""
    return torch.stack([getattr(module, name) for module in modules])


def no_autocast(tensor: Tensor) -> AbstractContextManager:
    """What is computed inside keeps the tensors' own precision: products of matrices would lose theirs to bfloat16."""
    return torch.autocast(tensor.device.type, enabled=False)


def in_autocast(tensor: Tensor) -> Tensor:
    """Cast as autocast would, if it is on here."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor
