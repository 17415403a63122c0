"""Named starting points for a training configuration."""

from __future__ import annotations

from collections.abc import Callable

from infra.storage import UserError
from irae.config import IRAEConfig
from pipeline.config.train import TrainConfig

PRESETS: dict[str, TrainConfig] = {
    "paper": TrainConfig(
        preset="paper",
        model=IRAEConfig(K=16, L=2, width=64, conv1x1="lu", decoder="inverse", start="random", scale_min=0.0),
        precision="float32",
    ),
    "standard": TrainConfig(preset="standard"),
    "best": TrainConfig(
        preset="best",
        model=IRAEConfig(K=4),
        global_batch_size=32,
        lr=4e-3,
        lr_schedule="cosine",
        lr_warmup_images=3200,
        ema_images=1600,
        flip=True,
        max_minutes=10.0,
    ),
    "laptop": TrainConfig(preset="laptop", model=IRAEConfig(K=4), global_batch_size=32, max_minutes=10.0),
}
"""paper: the faithful form and recipe of arXiv 2009.03173 (denoising). standard: the same size in the form that learns
faster. best: what gave the highest PSNR in ten minutes of a processor (docs/explanation/training.md). laptop: a small one for a
processor, ten minutes, whose rate depends on no budget."""


def preset(name: str, has_gpu: Callable[[], bool]) -> TrainConfig:
    """The named preset; auto depends on whether there is a GPU. ValueError with the choices for an unknown name."""
    if name == "auto":
        name = "standard" if has_gpu() else "laptop"
    if name not in PRESETS:
        raise UserError(f"--preset is {name!r}, but must be auto, {', '.join(PRESETS)}.")
    return PRESETS[name]
