"""PSNR and SSIM, one value per image. Images are (B, C, H, W) in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from irae.errors import IRAEError

RELEASED_WINDOW, RELEASED_RANGE = 3, 2.0
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03


def psnr_db(restored: Tensor, clean: Tensor, where: Tensor | None = None) -> Tensor:
    """10 log10(1 / MSE) of each image, the restoration clamped to [0, 1]: float64 (B,), inf where they are equal.

    where: bool (B, 1, H, W), mask of the pixels that count; default: all.
    """
    squares = (restored.clamp(0, 1).double() - clean.double()).square().mean(dim=1, keepdim=True)
    counted = torch.ones_like(squares) if where is None else where.double()
    return -10 * torch.log10((squares * counted).sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3)))


def ssim(restored: Tensor, clean: Tensor) -> Tensor:
    """Structural similarity of each image, float64 (B,): Wang et al. 2004, equation 13.

    11x11 Gaussian window with sigma 1.5, data range 1, population variances, mean over the positions where the window
    fits and over the channels. IRAEError when a side is below 11.
    """
    if min(clean.shape[-2:]) < SSIM_WINDOW:
        raise IRAEError(f"SSIM needs sides of at least {SSIM_WINDOW} px, but the image is {tuple(clean.shape[-2:])}.")
    return _similarity(restored.clamp(0, 1).double(), clean.double(), _blur, 1.0, data_range=1.0)


def ssim_released(restored: Tensor, clean: Tensor) -> Tensor:
    """SSIM as the released code of IRAE computes it, float64 (B,); much higher than `ssim`, not to be compared with it.

    scikit-image's with a uniform window of 3, sample covariances and "multichannel" on arrays (C, H, W): the window
    spans channels and rows, each column counts as a channel, and the data range is the 2 that floats default to.
    IRAEError when the height is below 3.
    """
    if clean.shape[-2] < RELEASED_WINDOW:
        raise IRAEError(f"SSIM needs a height of at least {RELEASED_WINDOW} px, but the image has {clean.shape[-2]}.")
    # (B, C, H, W) -> (B, W, C, H): a window over the last two dimensions, at every position where it fits.
    x, y = (images.double().permute(0, 3, 1, 2) for images in (restored.clamp(0, 1), clean))
    mean, count = partial(F.avg_pool2d, kernel_size=RELEASED_WINDOW, stride=1), RELEASED_WINDOW**2
    return _similarity(x, y, mean, count / (count - 1), RELEASED_RANGE)


def _similarity(x: Tensor, y: Tensor, mean: Callable[[Tensor], Tensor], unbiased: float, data_range: float) -> Tensor:
    """Wang et al. 2004, equation 13, averaged over each image; `unbiased`: factor of the window's variances."""
    mean_x, mean_y = mean(x), mean(y)
    var_x = unbiased * (mean(x * x) - mean_x.square())
    var_y = unbiased * (mean(y * y) - mean_y.square())
    cov = unbiased * (mean(x * y) - mean_x * mean_y)
    c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    denominator = (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    return (numerator / denominator).mean(dim=(1, 2, 3))


def _blur(images: Tensor) -> Tensor:
    """Gaussian window at every position where it fits."""
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype, device=images.device) - SSIM_WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    window = window / window.sum()
    channels = images.shape[1]
    vertical = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    horizontal = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(images, vertical, groups=channels), horizontal, groups=channels)
