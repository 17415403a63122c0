"""FFDNet: convolutions at half the resolution, with the noise level as an input.

Zhang et al. 2018, "FFDNet: toward a fast and flexible solution for CNN-based image denoising", section III.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from irae.baselines.dncnn import conv_stack
from irae.errors import IRAEError
from irae.restorer import Restorer, Sigma255

FEATURES, MIDDLE_LAYERS = 96, 10


class FFDNet(Restorer):
    """Pixel unshuffle by 2, concatenation with noise maps, 12 convolutions, pixel shuffle.

    The authors' form has one noise map and outputs the image (folded, as published). The IRAE paper's has one map for
    each colour, no bias, and outputs the noise: restored = degraded - net(degraded, sigma).
    """

    side_multiple = 2
    padding = "replicate"

    def __init__(self, noise_maps: int, folded: bool = False) -> None:
        super().__init__()
        self.noise_maps, self.is_residual = noise_maps, not folded
        self.net = conv_stack(12 + noise_maps, FEATURES, 12, MIDDLE_LAYERS, first_bias=False, folded=folded)

    def forward(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        """IRAEError without sigma_255, or when a side is odd (restore() pads by itself)."""
        if sigma_255 is None:
            raise IRAEError("FFDNet needs the noise level: give --sigma-255.")
        batch, _, height, width = degraded.shape
        if height % 2 or width % 2:
            raise IRAEError(f"images of {height}x{width} do not fit FFDNet: both sides must be even.")
        sigma = torch.as_tensor(sigma_255, dtype=degraded.dtype, device=degraded.device) / 255
        maps = sigma.reshape(-1, 1, 1, 1).expand(batch, self.noise_maps, height // 2, width // 2)
        # pixel_unshuffle keeps a colour's four pixels together: the authors' order.
        output = F.pixel_shuffle(self.net(torch.cat([F.pixel_unshuffle(degraded, 2), maps], dim=1)).float(), 2)
        return degraded - output if self.is_residual else output
