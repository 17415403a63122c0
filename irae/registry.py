"""The models by name: IRAE, the paper's baselines, and forms of those with published weights.

Imports no torch, so that a command's --help is instant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from irae.config import IRAEConfig
from irae.errors import IRAEError

if TYPE_CHECKING:
    from irae.restorer import Restorer


@dataclass(frozen=True)
class ModelSpec:
    """Constructor of a model, and its constraints on data and task."""

    make: Callable[[IRAEConfig], Restorer]
    """A new model; baselines ignore the configuration."""
    side_multiple: int = 1
    """Divisor of the sides of training images (IRAE: the configuration's)."""
    needs_sigma: bool = False
    """Whether its input includes a noise map, so that it restores noise only."""


def _irae(config: IRAEConfig) -> Restorer:
    from irae.model import IRAE

    return IRAE(config)


def _dncnn(config: IRAEConfig, middle_layers: int, first_bias: bool = True, folded: bool = False) -> Restorer:
    from irae.baselines.dncnn import DnCNN

    return DnCNN(middle_layers, first_bias, folded)


def _ffdnet(config: IRAEConfig, noise_maps: int, folded: bool = False) -> Restorer:
    from irae.baselines.ffdnet import FFDNet

    return FFDNet(noise_maps, folded)


def _unet(config: IRAEConfig) -> Restorer:
    from irae.baselines.unet import UNet

    return UNet()


def _arcnn(config: IRAEConfig) -> Restorer:
    from irae.baselines.arcnn import ARCNN

    return ARCNN()


MODELS = {
    "irae": ModelSpec(_irae),
    "dncnn": ModelSpec(partial(_dncnn, middle_layers=40, first_bias=False)),
    "dncnn-17": ModelSpec(partial(_dncnn, middle_layers=15)),
    "dncnn-20": ModelSpec(partial(_dncnn, middle_layers=18)),
    "dncnn-17-folded": ModelSpec(partial(_dncnn, middle_layers=15, folded=True)),
    "dncnn-20-folded": ModelSpec(partial(_dncnn, middle_layers=18, folded=True)),
    "ffdnet": ModelSpec(partial(_ffdnet, noise_maps=3), side_multiple=2, needs_sigma=True),
    "ffdnet-folded": ModelSpec(partial(_ffdnet, noise_maps=1, folded=True), side_multiple=2, needs_sigma=True),
    "unet": ModelSpec(_unet, side_multiple=8),
    "arcnn": ModelSpec(_arcnn),
}
"""dncnn and ffdnet are the paper's; dncnn-17 (one noise level) and dncnn-20 (blind) are their authors'. "folded": as
published for use, with the batch normalisation inside the convolutions (pipeline/published.py)."""


def model_spec(name: str) -> ModelSpec:
    """The model of this name. IRAEError with the choices for an unknown one."""
    if name not in MODELS:
        raise IRAEError(f"--model is {name!r}, but must be one of {', '.join(MODELS)}.")
    return MODELS[name]


def build(name: str, config: IRAEConfig) -> Restorer:
    """A new model; `config` applies to IRAE alone. IRAEError for an unknown name or an invalid configuration."""
    model = model_spec(name).make(config)
    assert model.side_multiple == side_multiple(name, config), name
    model.model_name = name
    return model


def side_multiple(name: str, config: IRAEConfig) -> int:
    """Divisor of the sides of training images."""
    return config.side_multiple if name == "irae" else model_spec(name).side_multiple
