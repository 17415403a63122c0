"""The systems by name: IRAE, those that the paper compares it with, and forms of those with published weights.

Imports no torch, so that a command's --help is instant.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from irae.config import IRAEConfig
from irae.errors import IRAEError

if TYPE_CHECKING:
    from irae.restorer import Restorer


@dataclass(frozen=True)
class ModelSpec:
    """How to make one, and what must be known of it before that."""

    module: str
    cls: str
    options: Mapping[str, Any] = field(default_factory=dict)
    side_multiple: int = 1
    """Sides of training images must be divisible by this."""
    needs_sigma: bool = False
    """It has a noise map as an input, and so restores noise only."""


MODELS: dict[str, ModelSpec] = {
    "irae": ModelSpec("irae.model", "IRAE"),
    "dncnn": ModelSpec("irae.baselines.dncnn", "DnCNN", {"middle_layers": 40, "first_bias": False}),
    "dncnn-17": ModelSpec("irae.baselines.dncnn", "DnCNN", {"middle_layers": 15}),
    "dncnn-20": ModelSpec("irae.baselines.dncnn", "DnCNN", {"middle_layers": 18}),
    "dncnn-17-folded": ModelSpec("irae.baselines.dncnn", "DnCNN", {"middle_layers": 15, "folded": True}),
    "dncnn-20-folded": ModelSpec("irae.baselines.dncnn", "DnCNN", {"middle_layers": 18, "folded": True}),
    "ffdnet": ModelSpec("irae.baselines.ffdnet", "FFDNet", {"noise_maps": 3}, 2, True),
    "ffdnet-folded": ModelSpec("irae.baselines.ffdnet", "FFDNet", {"noise_maps": 1, "folded": True}, 2, True),
    "unet": ModelSpec("irae.baselines.unet", "UNet", {}, 8),
    "arcnn": ModelSpec("irae.baselines.arcnn", "ARCNN"),
}
"""dncnn and ffdnet are as the paper has them. dncnn-17 (one noise level) and dncnn-20 (blind) are as their authors have
them. "folded": as published for use, with the batch normalisation inside the convolutions; pipeline/published.py."""


def system_named(name: str) -> ModelSpec:
    """ValueError with the choices for an unknown name."""
    if name not in MODELS:
        raise IRAEError(f"--system is {name!r}, but must be one of {', '.join(MODELS)}.")
    return MODELS[name]


def build(system: str, config: IRAEConfig) -> Restorer:
    """A new model; `config` is of IRAE alone. ValueError for an unknown name or a configuration with problems."""
    entry = system_named(system)
    cls = getattr(importlib.import_module(entry.module), entry.cls)
    model: Restorer = cls(config) if system == "irae" else cls(**entry.options)
    assert model.side_multiple == side_multiple(system, config), system
    model.system = system
    return model


def side_multiple(system: str, config: IRAEConfig) -> int:
    """Sides of training images must be divisible by this."""
    return config.side_multiple if system == "irae" else system_named(system).side_multiple
