"""The bijections that IRAE is built of, each with `forward`, `inverse` and `log_det` beside each other.

Legend: B images, C or c channels, H x W pixels. A layer's tensors are (B, c, H, W); `log_det` is (B,) and belongs to
the map from x to forward(x). Affine maps are folded into the convolution beside them before they touch the image, so
that an ActNorm costs nothing per pixel.

Sources: Glow, Kingma & Dhariwal 2018 (sections 3.1 to 3.3); Liu et al. 2020, arXiv 2009.03173 (section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTNORM_MIN_STD = 1e-4
"""A channel that is constant in the first batch is not blown up by more than this allows."""


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


class Bijection(nn.Module):
    """An invertible layer. None of the three methods changes a weight; only `initialise` does, and only when called."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        """The x for which forward(x) = y."""
        raise NotImplementedError

    def log_det(self, x: Tensor) -> Tensor:
        """log |det d forward(x) / dx|, (B,)."""
        raise NotImplementedError

    def initialise(self, x: Tensor) -> Tensor:
        """Set what depends on data from the batch x, once, before training; returns forward(x)."""
        return self(x)


class ActNorm(Bijection):
    """y = exp(log_scale) * x + bias, per channel (Glow, section 3.1). The identity until `initialise`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.log_scale.exp()[:, None, None] + self.bias[:, None, None]

    def inverse(self, y: Tensor) -> Tensor:
        return (y - self.bias[:, None, None]) * (-self.log_scale).exp()[:, None, None]

    def log_det(self, x: Tensor) -> Tensor:
        return (self.log_scale.sum() * x.shape[2] * x.shape[3]).expand(x.shape[0])

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Tensor:
        """Give the batch zero mean and unit variance in every channel."""
        mean = x.mean(dim=(0, 2, 3))
        std = x.std(dim=(0, 2, 3), unbiased=False).clamp_min(ACTNORM_MIN_STD)
        self.log_scale.copy_(-std.log())
        self.bias.copy_(-mean / std)
        return self(x)


class Conv1x1(Bijection):
    """y = W x at every pixel, W stored as it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])

    def weight(self) -> Tensor:
        """W, (c, c)."""
        return self.weights([self])[0]

    @staticmethod
    def weights(layers: Sequence[Any]) -> Tensor:
        """W of each layer, (n, c, c)."""
        return stacked(layers, "matrix")

    def log_abs_det(self) -> Tensor:
        """log |det W|, a scalar."""
        return torch.linalg.slogdet(self.matrix)[1]

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Make W equal to the given invertible (c, c) matrix."""
        self.matrix.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return conv1x1(x, self.weight())

    def inverse(self, y: Tensor) -> Tensor:
        return conv1x1(y, exact_inverse(self.weight()))

    def log_det(self, x: Tensor) -> Tensor:
        return (self.log_abs_det() * x.shape[2] * x.shape[3]).expand(x.shape[0])


class LUConv1x1(Conv1x1):
    """The same with W = P L (U + diag(s)), P and the signs of s fixed (Glow, section 3.2); invertible for any L, U."""

    permutation: Tensor
    diagonal_sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        weight = self.matrix.detach().clone()
        del self.matrix
        self.lower = nn.Parameter(torch.empty(channels, channels))
        self.upper = nn.Parameter(torch.empty(channels, channels))
        self.log_diagonal = nn.Parameter(torch.empty(channels))
        self.register_buffer("permutation", torch.empty(channels, channels))
        self.register_buffer("diagonal_sign", torch.empty(channels))
        self.set_weight(weight)

    @staticmethod
    def weights(layers: Sequence[Any]) -> Tensor:
        lower, upper = stacked(layers, "lower").tril(-1), stacked(layers, "upper").triu(1)
        diagonal = torch.diag_embed(stacked(layers, "diagonal_sign") * stacked(layers, "log_diagonal").exp())
        unit = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        with no_autocast(lower):
            return stacked(layers, "permutation") @ (lower + unit) @ (upper + diagonal)

    def log_abs_det(self) -> Tensor:
        return self.log_diagonal.sum()

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        permutation, lower, upper = torch.linalg.lu(weight.double())
        diagonal = upper.diagonal()
        self.permutation.copy_(permutation)
        self.lower.copy_(lower.tril(-1))
        self.upper.copy_(upper.triu(1))
        self.log_diagonal.copy_(diagonal.abs().log())
        self.diagonal_sign.copy_(diagonal.sign())


class AffineCoupling(Bijection):
    """z_a = s * x_a + t, z_b = x_b, with (t, s) = net(x_b) (Glow, section 3.3; the net as in the paper).

    net: 3x3 convolution (c/2 -> width), ActNorm, ReLU, 1x1 convolution, ActNorm, ReLU, 3x3 convolution (-> c) that
    starts at zero, times exp(log_scale). Even channels of its output are t; s = scale_min + (1 - scale_min) *
    sigmoid(odd channels + 2). The paper has scale_min = 0: training for restoration then drives s towards 0 where there
    is only noise, and the inverse, which divides by it, loses all its digits.
    """

    def __init__(self, channels: int, width: int, scale_min: float = 0.0) -> None:
        super().__init__()
        self.scale_min = scale_min
        self.conv_in = nn.Conv2d(channels // 2, width, 3, padding=1, bias=False)
        self.norm_in = ActNorm(width)
        self.conv_mid = nn.Conv2d(width, width, 1, bias=False)
        self.norm_mid = ActNorm(width)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)
        self.log_scale = nn.Parameter(torch.zeros(channels))
        for conv in (self.conv_in, self.conv_mid):
            nn.init.normal_(conv.weight, std=0.05)
        nn.init.zeros_(self.conv_out.weight)
        assert self.conv_out.bias is not None
        nn.init.zeros_(self.conv_out.bias)

    def raw(self) -> NetParameters:
        """The net as it is trained."""
        assert self.conv_out.bias is not None
        return NetParameters(
            *(self.conv_in.weight, self.norm_in.log_scale, self.norm_in.bias),
            *(self.conv_mid.weight, self.norm_mid.log_scale, self.norm_mid.bias),
            *(self.conv_out.weight, self.log_scale, self.conv_out.bias),
        )

    @staticmethod
    def folded(couplings: Sequence[AffineCoupling]) -> list[CouplingWeights]:
        """The nets of all couplings as they are applied."""
        stacks = (torch.stack(parts) for parts in zip(*(coupling.raw() for coupling in couplings), strict=True))
        folded = fold_net(NetParameters(*stacks))
        return [CouplingWeights(*one) for one in zip(*(part.unbind() for part in folded), strict=True)]

    def shift_and_scale(self, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """t and s, each (B, c/2, H, W), float32 at least, whatever precision the convolutions ran in."""
        return coupling_net(x_b, self.folded([self])[0], self.scale_min)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.folded([self])[0])

    def inverse(self, y: Tensor) -> Tensor:
        return self.undo(y, self.folded([self])[0])

    def run(self, x: Tensor, weights: CouplingWeights) -> Tensor:
        """`forward` with the net's weights at hand."""
        x_a, x_b = x.chunk(2, dim=1)
        shift, scale = coupling_net(x_b, weights, self.scale_min)
        return torch.cat([scale * x_a + shift, x_b], dim=1)

    def undo(self, y: Tensor, weights: CouplingWeights) -> Tensor:
        """`inverse` with the net's weights at hand."""
        y_a, x_b = y.chunk(2, dim=1)
        shift, scale = coupling_net(x_b, weights, self.scale_min)
        return torch.cat([(y_a - shift) / scale, x_b], dim=1)

    def log_det(self, x: Tensor) -> Tensor:
        scale = self.shift_and_scale(x.chunk(2, dim=1)[1])[1]
        return scale.log().sum(dim=(1, 2, 3))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Tensor:
        """Normalise the two hidden layers of the net on this batch (of inputs or outputs: the net sees the same)."""
        h = F.relu(self.norm_in.initialise(self.conv_in(x.chunk(2, dim=1)[1])))
        self.norm_mid.initialise(self.conv_mid(h))
        return self(x)


def squeeze(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 4C, H/2, W/2): each 2x2 block becomes channels (Glow, section 3.6; log-determinant 0)."""
    return F.pixel_unshuffle(x, 2)


def unsqueeze(y: Tensor) -> Tensor:
    """The inverse of `squeeze`."""
    return F.pixel_shuffle(y, 2)


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
