"""The decoder of the claim: one small network, the same for every layer of every system."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irae.baselines.init import init_looks_linear_

WIDTH, LAYERS = 32, 6


class Decoder(nn.Module):
    """code (B, c, h, w) -> what went into the network, (B, 3, H, W): six 3x3 convolutions of 32 channels and, beside
    them, a linear path.

    A code of lower resolution, H = s h, is first laid out at full resolution, c / s^2 channels (depth to space; missing
    channels are zeros), which loses nothing. So only the first layer's size differs from code to code.
    """

    def __init__(self, code_shape: tuple[int, int, int], image_size: int) -> None:
        super().__init__()
        channels, height, _ = code_shape
        assert image_size % height == 0, (code_shape, image_size)
        self.scale = image_size // height
        self.missing = -channels % self.scale**2
        inputs = (channels + self.missing) // self.scale**2
        widths = [inputs, *[WIDTH] * (LAYERS - 1)]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
        self.net = nn.Sequential(*layers, nn.Conv2d(WIDTH, 3, kernel_size=3, padding=1))
        self.linear = nn.Conv2d(inputs, 3, kernel_size=1)
        init_looks_linear_(self.net, is_residual=True)

    def forward(self, code: Tensor) -> Tensor:
        x = F.pixel_shuffle(F.pad(code, (0, 0, 0, 0, 0, self.missing)), self.scale)
        return self.linear(x) + self.net(x)


def noise_nats(mse: Tensor | float, variance: float, sigma: float) -> Tensor:
    """Lower bound on what a code z says of the noise, I(y; z | x), in nats for each number of the image.

    y = x + n with n normal, of standard deviation sigma; everything in [0, 1] units. Barber & Agakov 2003 ("The IM
    algorithm: a variational approach to information maximization", equation 3): I(n; z | x) >= h(n) - E[-log q(n | z,
    x)] for any q, and h(n) = 1/2 log(2 pi e sigma^2) is known here, unlike the entropy of photographs. q is a normal
    distribution about the decoder's y(z) minus x, whose error is that of y(z) about y:
    1/2 log(sigma^2 / variance) + 1/2 - mse / (2 variance).
    `mse`: of test images; `variance`: q's, which must have been chosen without them. Since z is made of y, I(y; z) is
    at least as large, by what z says of x. A bound below 0 says nothing.
    """
    return 0.5 * math.log(sigma**2 / variance) + 0.5 - torch.as_tensor(mse, dtype=torch.float64) / (2 * variance)


def gain_nats(mse: Tensor | float, variance: float, variance_of_input: float) -> Tensor:
    """How much better than a normal distribution that knows nothing of the code, in nats for each number of the image.

    The difference of two Barber-Agakov bounds on I(y; z). It is no bound itself: the unknown entropy of y, which is the
    same for all systems, drops out.
    """
    mse = torch.as_tensor(mse, dtype=torch.float64)
    return 0.5 * math.log(variance_of_input / variance) + 0.5 - mse / (2 * variance)
