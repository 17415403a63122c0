"""U-Net: down to an eighth of the resolution and up again, with bridges between equal resolutions.

Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image segmentation"; the IRAE paper's form:
padded convolutions, average pooling, leaky ReLU, no normalisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irae.baselines.init import init_looks_linear_
from irae.errors import IRAEError
from irae.restorer import Restorer, Sigma255

DEPTH, FILTERS, SLOPE = 4, 64, 0.2


class UNet(Restorer):
    """64, 128, 256, 512 filters; outputs the restored image itself."""

    side_multiple = 2 ** (DEPTH - 1)

    def __init__(self) -> None:
        super().__init__()
        widths = [FILTERS * 2**level for level in range(DEPTH)]
        self.down = nn.ModuleList(_block(i, o) for i, o in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, kernel_size=2, stride=2) for w in reversed(widths[:-1]))
        self.join = nn.ModuleList(_block(2 * w, w) for w in reversed(widths[:-1]))
        self.last = nn.Conv2d(FILTERS, 3, kernel_size=3, padding=1)
        init_looks_linear_(self, SLOPE)

    def forward(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        """IRAEError when a side is not divisible by 8 (restore() pads by itself)."""
        height, width = degraded.shape[-2:]
        if height % self.side_multiple or width % self.side_multiple:
            raise IRAEError(f"images of {height}x{width} do not fit this U-Net: sides must be divisible by 8.")
        x, bridges = degraded, []
        for block in self.down[:-1]:
            x = block(x)
            bridges.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.down[-1](x)
        for up, join, bridge in zip(self.up, self.join, reversed(bridges), strict=True):
            x = join(torch.cat([up(x), bridge], dim=1))
        return self.last(x).float()


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
        nn.LeakyReLU(SLOPE, inplace=True),
        nn.Conv2d(outputs, outputs, kernel_size=3, padding=1),
        nn.LeakyReLU(SLOPE, inplace=True),
    )
