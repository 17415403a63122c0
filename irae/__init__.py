"""The invertible restoration autoencoder and its mathematics. Needs torch, numpy and safetensors only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from irae.config import IRAEConfig

if TYPE_CHECKING:
    from irae.model import IRAE

__all__ = ["IRAE", "IRAEConfig"]


def __getattr__(name: str) -> Any:
    """`irae.IRAE` without loading torch for those who only want a config."""
    if name == "IRAE":
        from irae.model import IRAE

        return IRAE
    raise AttributeError(name)
