"""IRAE: an invertible encoder and an invertible decoder (Liu et al. 2020, arXiv 2009.03173, figure 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from irae.config import IRAEConfig
from irae.errors import IRAEError
from irae.flow import Codes, Flow, GenerativeFlow
from irae.layers import Conv1x1, squeeze
from irae.restorer import Restorer, Sigma255
from irae.steps import FlowStep, StepShape

ModelT = TypeVar("ModelT", bound=nn.Module)


class IRAE(Restorer):
    """restored = D(E(degraded - 0.5)) + 0.5, with an exact inverse. Images are (B, C, H, W) in [0, 1]."""

    config: IRAEConfig
    model_name = "irae"
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
        if config.init == "identity":
            self._init_as_identity()

    def forward(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        return self.decode(self.encode(degraded))

    def inverse(self, restored: Tensor) -> Tensor:
        """The image of which `restored` is the restoration: exact up to rounding."""
        x = restored - 0.5
        codes = self.decoder(x) if isinstance(self.decoder, Flow) else self.decoder.inverse(x)
        return self.encoder.inverse(codes) + 0.5

    def encode(self, degraded: Tensor) -> Codes:
        """Image to codes. IRAEError when a side is not divisible by 2^L."""
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
        decoded = self.decoder.log_det(self._decoder_input(degraded))
        return self.encoder.log_det(degraded - 0.5) + (-decoded if isinstance(self.decoder, Flow) else decoded)

    def iter_steps_with_input(self, degraded: Tensor) -> Iterator[tuple[FlowStep, Tensor]]:
        """Every step of both flows and its input (of the paper's decoder: in the direction of its flow)."""
        yield from self.encoder.iter_steps_with_input(degraded - 0.5)
        yield from self.decoder.iter_steps_with_input(self._decoder_input(degraded))

    def _decoder_input(self, degraded: Tensor) -> Any:
        """Input of the decoder's forward: the codes, or for the paper's decoder, itself a flow, the image."""
        codes = self.encode(degraded)
        return self.decoder.inverse(codes) if isinstance(self.decoder, Flow) else codes

    def bottleneck(self, degraded: Tensor, sigma_255: Sigma255 = None) -> Tensor:
        """The codes, (B, C 4^L, H / 2^L, W / 2^L): as many numbers as the image has, and no layer has fewer."""
        *levels, codes = self.encode(degraded)
        for code in levels:
            while code.shape[-1] > codes.shape[-1]:
                code = squeeze(code)
            codes = torch.cat([code, codes], dim=1)
        return codes

    def use_reversible(self, on: bool) -> None:
        """Switch training with memory independent of K on or off (reversible.py)."""
        self.encoder.reversible = self.decoder.reversible = on

    @torch.no_grad()
    def initialise(self, degraded: Tensor) -> None:
        """Set the ActNorms from the global first batch. Once, on a new model, before any wrapping.

        The direct decoder's are set so that each step's output matches the input of its mirror in the encoder. In the
        paper's randomly initialised decoder only those inside the couplings are set, as in the released code, which
        runs nothing but its inverse: with all of them set, the loss at K=16 and the paper's learning rate is often not
        finite in the third step (on faces, always).
        """
        x = degraded - 0.5
        codes = self.encoder.initialise(x)
        if isinstance(self.decoder, GenerativeFlow):
            self.decoder.initialise_like(codes, self.encoder)
        elif self.config.init == "identity":
            self.decoder.initialise(x)
        else:
            self.decoder.init_coupling_nets_reversed(codes)

    @torch.no_grad()
    def _init_as_identity(self) -> None:
        if isinstance(self.decoder, GenerativeFlow):
            self.decoder.init_as_inverse_of(self.encoder)
            return
        for source, target in zip(self.encoder.modules(), self.decoder.modules(), strict=True):
            if isinstance(source, Conv1x1):
                target.load_state_dict(source.state_dict())


def on_device(model: ModelT, device: torch.device) -> ModelT:
    """The model on the device, its convolutions' weights channels last in memory, like the images."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers in the model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
