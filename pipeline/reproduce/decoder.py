"""The decoder of the claim, one small network for every layer of every model, and bounds from its error."""

from __future__ import annotations

import math

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from irae.baselines.init import init_looks_linear_

WIDTH, LAYERS = 32, 6


class Decoder(nn.Module):
    """Features (B, c, h, w) -> the network's input (B, 3, H, W): six 3x3 convolutions of 32 channels, a linear path.

    Features of lower resolution, H = s h, are first laid out at full resolution, c / s^2 channels (depth to space;
    missing channels are zeros), which loses nothing: only the first layer's size depends on the features.
    """

    def __init__(self, feature_shape: tuple[int, int, int], image_size: int) -> None:
        super().__init__()
        channels, height, _ = feature_shape
        assert image_size % height == 0, (feature_shape, image_size)
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

    def forward(self, features: Tensor) -> Tensor:
        x = F.pixel_shuffle(F.pad(features, (0, 0, 0, 0, 0, self.missing)), self.scale)
        return self.linear(x) + self.net(x)


def bound_nats(mse: np.ndarray | float, variance: float, prior_variance: float) -> np.ndarray:
    """Lower bound on the information of features z about the input, in nats per number of the image.

    Barber & Agakov 2003 ("The IM algorithm: a variational approach to information maximization", equation 3):
    I(n; z | x) >= h(n) - E[-log q(n | z, x)] for any q. Here y = x + n in [0, 1], and n is normal with the known
    entropy h(n) = 1/2 log(2 pi e prior_variance); q is a normal distribution about the decoder's y(z) minus x, whose
    `variance` is chosen without the test images of `mse`. A bound below 0 says nothing.
    With the input's variance for prior_variance: the gain over a normal distribution that is independent of z. It is no
    bound, since the entropy of y is unknown, but that is the same for all models.
    """
    return 0.5 * math.log(prior_variance / variance) + 0.5 - np.asarray(mse, np.float64) / (2 * variance)
