"""The architecture of an IRAE. Imports no torch, so that a command's --help is instant."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class IRAEConfig:
    """Architecture of an IRAE. `IRAE(config)` refuses one that has `problems`."""

    K: int = 16
    """Flow steps in each level."""
    L: int = 2
    """Levels; the image's sides must be divisible by 2^L."""
    width: int = 64
    """Hidden channels of the couplings' nets."""
    channels: int = 3
    """Channels of the image."""
    conv1x1: Literal["lu", "plain"] = "lu"
    """W = P L (U + diag(s)) as in Glow, or W itself."""
    decoder: Literal["inverse", "direct"] = "direct"
    """inverse: the paper's, the inverse of a second flow. direct: parametrised from codes to image; faster."""
    scale_min: float = 0.5
    """Smallest scale of a coupling. 0 is the paper's: any scale above 0, which trains to maps that float32 cannot
    invert."""
    init: Literal["random", "identity"] = "identity"
    """identity: the untrained network is the identity. random: encoder and decoder are drawn independently."""

    def problems(self) -> list[str]:
        """All invalid values, a sentence each."""
        problems = [
            f"{name} is {value}, but must be a whole number from 1 up."
            for name, value in (("K", self.K), ("L", self.L), ("width", self.width), ("channels", self.channels))
            if not isinstance(value, int) or value < 1
        ]
        for name, value, choices in (
            ("conv1x1", self.conv1x1, ("lu", "plain")),
            ("decoder", self.decoder, ("inverse", "direct")),
            ("init", self.init, ("random", "identity")),
        ):
            if value not in choices:
                problems.append(f"{name} is {value!r}, but must be {' or '.join(choices)}.")
        if not 0 <= self.scale_min < 1:
            problems.append(f"scale_min is {self.scale_min}, but must be at least 0 and below 1.")
        return problems

    @property
    def side_multiple(self) -> int:
        """Both sides of an image must be divisible by this."""
        return 2**self.L

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `IRAEConfig(**values)` is the inverse."""
        return dataclasses.asdict(self)
