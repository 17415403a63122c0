"""The tasks that a system is trained for: noise, JPEG, inpainting. What each reads of a sample, and what it is called.

No heavy import here: commands print from these.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from irae.systems import SYSTEMS

if TYPE_CHECKING:
    from pipeline.training.config import TrainConfig


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


def task_problems(config: TrainConfig) -> list[str]:
    """What is wrong with system and task, a sentence each."""
    problems = []
    if config.system not in SYSTEMS:
        problems.append(f"--system is {config.system!r}, but must be one of {', '.join(SYSTEMS)}.")
    elif SYSTEMS[config.system].needs_sigma and config.task != "noise":
        problems.append(f"--system {config.system} has a noise map as an input, so it goes with --task noise alone.")
    if config.reversible and config.system != "irae":
        problems.append(f"--reversible is for --system irae; {config.system} cannot be computed back. Leave it out.")
    if not 1 <= config.jpeg_quality <= 100:
        problems.append(f"--jpeg-quality is {config.jpeg_quality}, but must be from 1 to 100.")
    return problems


def missing_fields(config: TrainConfig, data: str, fields: Collection[str]) -> list[str]:
    """What the data set lacks for the task, with the option of `pipeline.shard` that makes it."""
    option = f"jpeg:{config.jpeg_quality}" if config.task == "jpeg" else f"mask:{config.mask}"
    return [
        f"the data set {data} has no field {name}, which --task {config.task} reads; make it with `python -m "
        f"pipeline.shard --degrade {option}`."
        for name in stored_fields(config)
        if name not in fields
    ]
