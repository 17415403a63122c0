"""Named starting points for a training configuration."""

from __future__ import annotations

from collections.abc import Callable

from infra.storage.errors import UserError
from pipeline.config.train import TrainConfig

_BASE = TrainConfig()
PRESETS: dict[str, TrainConfig] = {
    "paper": _BASE.with_options(
        preset="paper", K=16, L=2, width=64, decoder="inverse", init="random", scale_min=0.0, precision="float32"
    ),
    "standard": _BASE.with_options(preset="standard"),
    "best": _BASE.with_options(
        preset="best",
        K=4,
        global_batch_size=32,
        lr=4e-3,
        lr_schedule="cosine",
        lr_warmup_images=3200,
        ema_images=1600,
        flip=True,
        max_minutes=10.0,
    ),
    "laptop": _BASE.with_options(preset="laptop", K=4, global_batch_size=32, max_minutes=10.0),
}
"""paper: the form and recipe of arXiv 2009.03173 (denoising). standard: the same size in the form that learns faster.
best: highest PSNR after ten minutes of a processor (docs/explanation/training.md). laptop: a small network for a
processor, ten minutes, with a rate that depends on no budget."""


def preset(name: str, has_gpu: Callable[[], bool]) -> TrainConfig:
    """The named preset; auto depends on whether there is a GPU. UserError with the choices for an unknown name."""
    if name == "auto":
        name = "standard" if has_gpu() else "laptop"
    if name not in PRESETS:
        raise UserError(f"--preset is {name!r}, but must be auto, {', '.join(PRESETS)}.")
    return PRESETS[name]
