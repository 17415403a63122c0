"""AR-CNN: four convolutions against JPEG's blocks and rings.

Dong et al. 2015, "Compression artifacts reduction by a deep convolutional network", section 3; for colour, and with the
learned slopes (PReLU) of the IRAE paper's form.
"""

from __future__ import annotations

from torch import Tensor, nn

from irae.baselines.init import init_looks_linear_
from irae.restorer import Restorer, Sigma255


class ARCNN(Restorer):
    """Features (9x9), their enhancement (7x7), a map between them (1x1), the image (5x5)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=9, padding=4),
            nn.PReLU(),
            nn.Conv2d(64, 32, kernel_size=7, padding=3),
            nn.PReLU(),
            nn.Conv2d(32, 16, kernel_size=1),
            nn.PReLU(),
            nn.Conv2d(16, 3, kernel_size=5, padding=2),
        )
        init_looks_linear_(self.net, slope=0.25)

    def forward(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        return self.net(degraded).float()
