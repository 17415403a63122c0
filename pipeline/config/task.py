"""The tasks that a system is trained for: noise, JPEG, inpainting. What each reads of a sample, and what it is called.

No heavy import here: commands print from these.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipeline.config.train import TrainConfig

Sigma = float | Literal["blind"]
TaskKind = Literal["noise", "jpeg", "inpaint"]
Mask = Literal["box", "center", "brush"]


def task_label(config: TrainConfig) -> str:
    """A short name: noise25, noise-blind, jpeg10, inpaint-box."""
    if config.task == "jpeg":
        return f"jpeg{config.jpeg_quality}"
    if config.task == "inpaint":
        return f"inpaint-{config.mask}"
    return "noise-blind" if config.sigma_255 == "blind" else f"noise{config.sigma_255:g}"


def task_text(config: TrainConfig) -> str:
    """The same in words."""
    if config.task == "jpeg":
        return f"JPEG of quality {config.jpeg_quality}"
    if config.task == "inpaint":
        return f"inpainting, mask {config.mask}"
    return f"noise sigma {config.sigma_255}"


def stored_fields(config: TrainConfig) -> tuple[str, ...]:
    """Names of the stored fields that the task reads: the clean image, and its degradation unless that is noise."""
    if config.task == "jpeg":
        return "clean", f"jpeg{config.jpeg_quality}"
    if config.task == "inpaint":
        return "clean", f"mask_{config.mask}"
    return ("clean",)


def missing_fields(config: TrainConfig, data: str, fields: Collection[str]) -> list[str]:
    """What the data set lacks for the task, with the option of `pipeline.shard` that makes it."""
    option = f"jpeg:{config.jpeg_quality}" if config.task == "jpeg" else f"mask:{config.mask}"
    return [
        f"the data set {data} has no field {name}, which --task {config.task} reads; make it with `python -m "
        f"pipeline.shard --degrade {option}`."
        for name in stored_fields(config)
        if name not in fields
    ]
