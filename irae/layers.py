"""The bijections that IRAE is built of: ActNorm, invertible 1x1 convolution and affine coupling.

Legend: B images, c channels, H x W pixels. x and y are (B, c, H, W); a log-determinant is (B,) and belongs to
x -> forward(x). steps.py applies the same maps with fused weights.

Sources: Glow, Kingma & Dhariwal 2018, arXiv 1807.03039 (table 1); Liu et al. 2020, arXiv 2009.03173 (section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTNORM_MIN_STD = 1e-4
"""Smallest standard deviation that ActNorm divides by at initialisation: a constant channel is not blown up."""
COUPLING_SCALE_OFFSET = 2.0
"""Offset of the raw scale before the sigmoid: an untrained coupling of the paper scales by sigmoid(2) = 0.88."""

CouplingNet = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x_b (B, c/2, H, W) -> shift t and scale s, each (B, c/2, H, W)."""


class Bijection(nn.Module):
    """An invertible layer. Subclasses MUST define all three methods, none of which may change a weight."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        """The x for which forward(x) = y."""
        raise NotImplementedError

    def log_det(self, x: Tensor) -> Tensor:
        """log |det d forward(x) / dx|, (B,)."""
        raise NotImplementedError


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
    def initialise(self, x: Tensor) -> None:
        """Set the weights so that forward(x) has zero mean and unit variance in every channel of the batch."""
        mean = x.mean(dim=(0, 2, 3))
        std = x.std(dim=(0, 2, 3), unbiased=False).clamp_min(ACTNORM_MIN_STD)
        self.log_scale.copy_(-std.log())
        self.bias.copy_(-mean / std)


class Conv1x1(Bijection):
    """y = W x at every pixel, with W (c, c) itself as the weight (Glow, section 3.2)."""

    factors: tuple[str, ...] = ("matrix",)
    """Names of the tensors that `compose` makes W of, in its order."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])

    @staticmethod
    def compose(*factors: Tensor) -> Tensor:
        """W from its factors; (n, c, c) from stacks of n."""
        (matrix,) = factors
        return matrix

    def weight(self) -> Tensor:
        """W, (c, c)."""
        return self.compose(*(getattr(self, name)[None] for name in self.factors))[0]

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Make W equal to the given invertible (c, c) matrix."""
        self.matrix.copy_(weight)

    def log_abs_det(self) -> Tensor:
        """log |det W|, a scalar."""
        return torch.linalg.slogdet(self.matrix)[1]

    def forward(self, x: Tensor) -> Tensor:
        return conv1x1(x, self.weight())

    def inverse(self, y: Tensor) -> Tensor:
        return conv1x1(y, exact_inverse(self.weight()))

    def log_det(self, x: Tensor) -> Tensor:
        return (self.log_abs_det() * x.shape[2] * x.shape[3]).expand(x.shape[0])  # Glow, equation 9


class LUConv1x1(Conv1x1):
    """The same with W = P L (U + diag(s)), P and the signs of s fixed (Glow, equation 10); invertible for any L, U."""

    factors = ("permutation", "lower", "upper", "diagonal_sign", "log_diagonal")
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
    def compose(*factors: Tensor) -> Tensor:
        permutation, lower, upper, sign, log_diagonal = factors
        unit = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        diagonal = torch.diag_embed(sign * log_diagonal.exp())
        with no_autocast(lower):
            return permutation @ (lower.tril(-1) + unit) @ (upper.triu(1) + diagonal)

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        permutation, lower, upper = torch.linalg.lu(weight.double())
        diagonal = upper.diagonal()
        self.permutation.copy_(permutation)
        self.lower.copy_(lower.tril(-1))
        self.upper.copy_(upper.triu(1))
        self.log_diagonal.copy_(diagonal.abs().log())
        self.diagonal_sign.copy_(diagonal.sign())

    def log_abs_det(self) -> Tensor:
        return self.log_diagonal.sum()  # Glow, equation 11


class AffineCoupling(Bijection):
    """y_a = s * x_a + t, y_b = x_b, with (t, s) = net(x_b) (Glow, section 3.3; the net as in the paper).

    The net: 3x3 convolution (c/2 -> width), ActNorm, ReLU, 1x1 convolution, ActNorm, ReLU, 3x3 convolution (-> c),
    which starts at zero, times exp(log_scale). The paper has scale_min = 0: training for restoration then drives s
    towards 0 where there is only noise, and the inverse, which divides by it, loses all its digits.
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

    def forward(self, x: Tensor, net: CouplingNet | None = None) -> Tensor:
        """`net`: another implementation of `self.net`, here and in the methods below."""
        x_a, x_b = x.chunk(2, dim=1)
        shift, scale = (net or self.net)(x_b)
        return torch.cat([scale * x_a + shift, x_b], dim=1)

    def inverse(self, y: Tensor, net: CouplingNet | None = None) -> Tensor:
        y_a, y_b = y.chunk(2, dim=1)
        shift, scale = (net or self.net)(y_b)
        return torch.cat([(y_a - shift) / scale, y_b], dim=1)

    def log_det(self, x: Tensor, net: CouplingNet | None = None) -> Tensor:
        _, scale = (net or self.net)(x.chunk(2, dim=1)[1])
        return scale.log().sum(dim=(1, 2, 3))

    def net(self, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """Shift t and scale s, each (B, c/2, H, W) in the precision of x_b."""
        h = F.relu(self.norm_in(self.conv_in(x_b)))
        h = F.relu(self.norm_mid(self.conv_mid(h)))
        h = self.conv_out(h) * self.log_scale.exp()[:, None, None]
        return shift_and_scale(h.to(x_b.dtype), self.scale_min)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Normalise both hidden layers on this batch, of inputs or of outputs: the net sees the same half of both."""
        h = self.conv_in(x.chunk(2, dim=1)[1])
        self.norm_in.initialise(h)
        h = self.conv_mid(F.relu(self.norm_in(h)))
        self.norm_mid.initialise(h)


def shift_and_scale(h: Tensor, scale_min: float) -> tuple[Tensor, Tensor]:
    """t, the even channels of h (B, c, H, W), and s from the odd ones."""
    return h[:, 0::2], coupling_scale(h[:, 1::2], scale_min)


def coupling_scale(raw: Tensor, scale_min: float) -> Tensor:
    """s = scale_min + (1 - scale_min) * sigmoid(raw + 2), in (scale_min, 1)."""
    return scale_min + (1 - scale_min) * torch.sigmoid(raw + COUPLING_SCALE_OFFSET)


def squeeze(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 4C, H/2, W/2): each 2x2 block becomes channels (Glow, section 3.6; log-determinant 0)."""
    return F.pixel_unshuffle(x, 2)


def unsqueeze(y: Tensor) -> Tensor:
    """The inverse of `squeeze`."""
    return F.pixel_shuffle(y, 2)


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """weight (c, c) and bias (c,) applied at every pixel of x, in the precision of x even under autocast.

    The image itself never passes through bfloat16: only the couplings' nets do, whose rounding the inverse repeats.
    """
    with no_autocast(x):
        return F.conv2d(x, weight[:, :, None, None].to(x.dtype), bias if bias is None else bias.to(x.dtype))


def exact_inverse(matrix: Tensor) -> Tensor:
    """Inverse of (..., c, c), computed in float64, in the precision of the input."""
    with no_autocast(matrix):
        return torch.linalg.inv(matrix.double()).to(matrix.dtype)


def no_autocast(tensor: Tensor) -> AbstractContextManager:
    """Context without autocast on the tensor's device: products of small matrices lose their digits in bfloat16."""
    return torch.autocast(tensor.device.type, enabled=False)
