"""IRAE: an invertible encoder and an invertible decoder (Liu et al. 2020, arXiv 2009.03173, figure 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irae.config import IRAEConfig
from irae.flow import FlowStep, StepShape
from irae.levels import Codes, Flow, GenerativeFlow


class IRAE(nn.Module):
    """restored = D(E(noisy - 0.5)) + 0.5, with an exact inverse. Images are (B, C, H, W) in [0, 1]."""

    def __init__(self, config: IRAEConfig) -> None:
        if problems := config.problems():
            raise ValueError("\n".join(problems))
        super().__init__()
        self.config = config
        step = StepShape(config.width, config.conv1x1 == "lu", config.scale_min)
        size = (config.channels, config.K, config.L, step)
        self.encoder = Flow(*size)
        self.decoder = Flow(*size) if config.decoder == "inverse" else GenerativeFlow(*size)
        if config.start == "identity":
            self._start_as_identity()

    def forward(self, noisy: Tensor) -> Tensor:
        return self.decode(self.encode(noisy))

    def inverse(self, restored: Tensor) -> Tensor:
        """The image of which `restored` is the restoration: exact up to rounding."""
        x = restored - 0.5
        codes = self.decoder(x) if isinstance(self.decoder, Flow) else self.decoder.inverse(x)
        return self.encoder.inverse(codes) + 0.5

    def encode(self, noisy: Tensor) -> Codes:
        """Image to codes. ValueError when the sides are not divisible by 2^L."""
        multiple = self.config.side_multiple
        height, width = noisy.shape[-2:]
        if height % multiple or width % multiple:
            raise ValueError(
                f"images of {height}x{width} do not fit L={self.config.L}: both sides must be divisible by {multiple} "
                "(choose another size or a smaller L; restore() pads by itself)."
            )
        return self.encoder(noisy - 0.5)

    def decode(self, codes: Codes) -> Tensor:
        """Codes to image."""
        x = self.decoder.inverse(codes) if isinstance(self.decoder, Flow) else self.decoder(codes)
        return x + 0.5

    def log_det(self, noisy: Tensor) -> Tensor:
        """log |det d restored / d noisy|, (B,)."""
        decoded = self.decoder.log_det(self._into_decoder(noisy))
        return self.encoder.log_det(noisy - 0.5) + (-decoded if isinstance(self.decoder, Flow) else decoded)

    def walk(self, noisy: Tensor) -> Iterator[tuple[FlowStep, Tensor]]:
        """Every step of both flows with what enters it (of the paper's decoder, in the direction that it is a flow)."""
        yield from self.encoder.walk(noisy - 0.5)
        yield from self.decoder.walk(self._into_decoder(noisy))

    def _into_decoder(self, noisy: Tensor) -> Any:
        """What the decoder's forward is given: codes, or the image of which the paper's decoder is the flow."""
        codes = self.encode(noisy)
        return self.decoder.inverse(codes) if isinstance(self.decoder, Flow) else codes

    def restore(self, noisy: Tensor) -> Tensor:
        """Any size: padded by reflection to a multiple of 2^L, restored, cropped back, clamped to [0, 1]."""
        height, width = noisy.shape[-2:]
        return self(pad_to_multiple(noisy, self.config.side_multiple))[..., :height, :width].clamp(0, 1)

    def use_reversible(self, on: bool) -> None:
        """Train with memory that does not grow with K (see reversible.py), or in the ordinary way."""
        self.encoder.reversible = self.decoder.reversible = on

    @torch.no_grad()
    def initialise(self, noisy: Tensor) -> None:
        """Set every ActNorm, the decoder's too, from the global first batch. Once, on a new model, before any wrapping.

        The paper's decoder is initialised as the flow that it is, from images to codes; the direct one so that each
        step gives out what its mirror in the encoder was given.
        """
        x = noisy - 0.5
        codes = self.encoder.initialise(x)
        if isinstance(self.decoder, Flow):
            self.decoder.initialise(x)
        else:
            self.decoder.initialise_like(codes, self.encoder)

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        if isinstance(self.decoder, GenerativeFlow):
            self.decoder.start_as_inverse_of(self.encoder)
            return
        sources = [m for m in self.encoder.modules() if isinstance(m, FlowStep)]
        targets = [m for m in self.decoder.modules() if isinstance(m, FlowStep)]
        for source, target in zip(sources, targets, strict=True):
            target.conv.load_state_dict(source.conv.state_dict())


def on_device(model: IRAE, device: torch.device) -> IRAE:
    """The model on the device, its convolutions' weights channels last in memory: as the images lie."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) -> sides rounded up to a multiple; reflected at the lower and right edge (repeated, if too thin)."""
    height, width = images.shape[-2:]
    down, right = -height % multiple, -width % multiple
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(images, (0, right, 0, down), mode=mode) if down or right else images


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers in the model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
