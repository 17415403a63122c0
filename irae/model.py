"""IRAE: an invertible encoder and an invertible decoder (Liu et al. 2020, arXiv 2009.03173, figure 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from irae.config import IRAEConfig
from irae.errors import IRAEError
from irae.flow import Codes, Flow, GenerativeFlow
from irae.layers import squeeze
from irae.restorer import Restorer, Sigma255
from irae.steps import FlowStep, StepShape

ModelT = TypeVar("ModelT", bound=nn.Module)


class IRAE(Restorer):
    """restored = D(E(degraded - 0.5)) + 0.5, with an exact inverse. Images are (B, C, H, W) in [0, 1]."""

    config: IRAEConfig
    system = "irae"
    invertible = True

    def __init__(self, config: IRAEConfig) -> None:
        if problems := config.problems():
            raise IRAEError("\n".join(problems))
        super().__init__()
        self.config = config
        self.side_multiple = config.side_multiple
        step = StepShape(config.width, config.conv1x1 == "lu", config.scale_min)
        size = (config.channels, config.K, config.L, step)
        self.encoder = Flow(*size)
        self.decoder = Flow(*size) if config.decoder == "inverse" else GenerativeFlow(*size)
        if config.start == "identity":
            self._start_as_identity()

    def forward(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        return self.decode(self.encode(degraded))

    def inverse(self, restored: Tensor) -> Tensor:
        """The image of which `restored` is the restoration: exact up to rounding."""
        x = restored - 0.5
        codes = self.decoder(x) if isinstance(self.decoder, Flow) else self.decoder.inverse(x)
        return self.encoder.inverse(codes) + 0.5

    def encode(self, degraded: Tensor) -> Codes:
        """Image to codes. ValueError when the sides are not divisible by 2^L."""
        multiple = self.config.side_multiple
        height, width = degraded.shape[-2:]
        if height % multiple or width % multiple:
            raise IRAEError(
                f"images of {height}x{width} do not fit L={self.config.L}: both sides must be divisible by {multiple} "
                "(choose another size or a smaller L; restore() pads by itself)."
            )
        return self.encoder(degraded - 0.5)

    def decode(self, codes: Codes) -> Tensor:
        """Codes to image."""
        x = self.decoder.inverse(codes) if isinstance(self.decoder, Flow) else self.decoder(codes)
        return x + 0.5

    def log_det(self, degraded: Tensor) -> Tensor:
        """log |det d restored / d degraded|, (B,)."""
        decoded = self.decoder.log_det(self._into_decoder(degraded))
        return self.encoder.log_det(degraded - 0.5) + (-decoded if isinstance(self.decoder, Flow) else decoded)

    def walk(self, degraded: Tensor) -> Iterator[tuple[FlowStep, Tensor]]:
        """Every step of both flows with what enters it (of the paper's decoder, in the direction that it is a flow)."""
        yield from self.encoder.walk(degraded - 0.5)
        yield from self.decoder.walk(self._into_decoder(degraded))

    def _into_decoder(self, degraded: Tensor) -> Any:
        """What the decoder's forward is given: codes, or the image of which the paper's decoder is the flow."""
        codes = self.encode(degraded)
        return self.decoder.inverse(codes) if isinstance(self.decoder, Flow) else codes

    def narrowest(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        """The codes, (B, C 4^L, H / 2^L, W / 2^L): as many numbers as the image has, and no layer has fewer."""
        *levels, codes = self.encode(degraded)
        for code in levels:
            while code.shape[-1] > codes.shape[-1]:
                code = squeeze(code)
            codes = torch.cat([code, codes], dim=1)
        return codes

    def use_reversible(self, on: bool) -> None:
        """Train with memory that does not grow with K (see reversible.py), or in the ordinary way."""
        self.encoder.reversible = self.decoder.reversible = on

    @torch.no_grad()
    def initialise(self, degraded: Tensor) -> None:
        """Set the ActNorms from the global first batch. Once, on a new model, before any wrapping.

        The direct decoder's are set so that each step gives out what its mirror in the encoder was given. Of the
        paper's decoder drawn at random only those inside the couplings are, as in the released code, of which nothing
        but the inverse is ever run: with all of them set, K=16 at its learning rate often is not finite in the third
        step (on faces, always).
        """
        x = degraded - 0.5
        codes = self.encoder.initialise(x)
        if isinstance(self.decoder, GenerativeFlow):
            self.decoder.initialise_like(codes, self.encoder)
        elif self.config.start == "identity":
            self.decoder.initialise(x)
        else:
            self.decoder.initialise_nets_back(codes)

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        if isinstance(self.decoder, GenerativeFlow):
            self.decoder.start_as_inverse_of(self.encoder)
            return
        sources = [m for m in self.encoder.modules() if isinstance(m, FlowStep)]
        targets = [m for m in self.decoder.modules() if isinstance(m, FlowStep)]
        for source, target in zip(sources, targets, strict=True):
            target.conv.load_state_dict(source.conv.state_dict())


def on_device(model: ModelT, device: torch.device) -> ModelT:
    """The model on the device, its convolutions' weights channels last in memory: as the images lie."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers in the model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
