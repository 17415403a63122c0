"""Texts for readers: names of models, tasks and URLs, numbers."""

from __future__ import annotations

import re
from typing import Any

MODEL_TITLES = {"irae": "IRAE", "dncnn": "DnCNN", "ffdnet": "FFDNet", "unet": "U-Net", "arcnn": "AR-CNN"}
MODEL_TITLES |= {"contextual-attention": "Contextual Attention", "shift-net": "Shift-Net"}
MODEL_TITLES |= {"coherent-semantic-attention": "Coherent Semantic Attention"}
TASK_TITLES = (
    (r"noise-blind", "blind denoising"),
    (r"noise([\d.]+)", "denoising σ\u00a0=\u00a0{}"),
    (r"jpeg(\d+)", "JPEG quality\u00a0{}"),
    (r"inpaint-(\w+)", "inpainting, {}"),
)
"""Pattern of a task's label, and its title with spaces that do not break."""


def model_title(name: str) -> str:
    """Name as in its paper, with its variant: dncnn-17 -> DnCNN-17."""
    family, dash, variant = name.partition("-")
    return MODEL_TITLES.get(name) or MODEL_TITLES.get(family, family) + dash + variant


def task_title(label: str) -> str:
    """Task in words: noise25 -> denoising σ = 25. An unknown label is its own title."""
    for pattern, title in TASK_TITLES:
        if match := re.fullmatch(pattern, label):
            return title.format(*match.groups())
    return label


def url_name(url: str) -> str:
    """Last part of a URL: the name of a data set or run."""
    return url.rstrip("/").rpartition("/")[2]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def formatted(value: Any, pattern: str, missing: str = "") -> str:
    """The number by its pattern, such as .2f; `missing` for anything else."""
    return format(value, pattern) if is_number(value) else missing
