"""The bijections that IRAE is built of, each with `forward`, `inverse` and `log_det` beside each other.

Legend: B images, C or c channels, H x W pixels. A layer's tensors are (B, c, H, W); `log_det` is (B,) and belongs to
the map from x to forward(x). Affine maps are folded into the convolution beside them before they touch the image, so
that an ActNorm costs nothing per pixel.

Sources: Glow, Kingma & Dhariwal 2018 (sections 3.1 to 3.3); Liu et al. 2020, arXiv 2009.03173 (section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from irae.layers import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Conv1x1,
    CouplingWeights,
    LUConv1x1,
    conv1x1,
    coupling_scale,
    inverted,
    stacked,
    times,
)


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
