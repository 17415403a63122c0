"""DnCNN: a plain stack of convolutions that predicts the noise.

Zhang et al. 2017, "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising", section III.
"""

from __future__ import annotations

from torch import Tensor, nn

from irae.baselines.init import init_looks_linear_
from irae.restorer import Restorer, Sigma255

FEATURES = 64


class DnCNN(Restorer):
    """restored = degraded - net(degraded); net: conv, ReLU, middle layers of conv, BN, ReLU, conv; all 3x3.

    The authors' forms have 15 (one noise level) and 18 (blind) middle layers; the IRAE paper's has 40, and no bias.
    """

    def __init__(self, middle_layers: int, first_bias: bool = True, folded: bool = False) -> None:
        super().__init__()
        self.net = conv_stack(3, FEATURES, 3, middle_layers, first_bias, folded)

    def forward(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        return degraded - self.net(degraded).float()


def conv_stack(inputs: int, features: int, outputs: int, middle: int, first_bias: bool, folded: bool) -> nn.Sequential:
    """conv, ReLU, `middle` times (conv, BN, ReLU), conv. Folded: each convolution has a bias, and there is no BN.

    Initialised near 0, as a linear map of each pixel (init.py).
    """
    layers: list[nn.Module] = [_conv(inputs, features, first_bias or folded), nn.ReLU(inplace=True)]
    for _ in range(middle):
        layers.append(_conv(features, features, folded))
        if not folded:
            layers.append(nn.BatchNorm2d(features))
        layers.append(nn.ReLU(inplace=True))
    net = nn.Sequential(*layers, _conv(features, outputs, folded))
    init_looks_linear_(net, is_residual=True)
    return net


def _conv(inputs: int, outputs: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=bias)
