"""Restoration tasks: noise, JPEG, missing pixels. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from infra.storage.errors import UserError

Sigma = float | Literal["blind"]
TaskKind = Literal["noise", "jpeg", "inpaint"]
Mask = Literal["box", "center", "brush"]


@dataclass(frozen=True)
class Task:
    """A restoration task and its strength."""

    kind: Annotated[TaskKind, tyro.conf.arg(name="task")] = "noise"
    """Degradation to restore: noise, drawn in each epoch; jpeg, inpaint: stored by `pipeline.shard --degrade`."""
    sigma_255: Sigma = 25.0
    """noise: sigma in units of 1/255, or blind (uniform in 0 to 55 for each image)."""
    jpeg_quality: int = 10
    """jpeg: quality of the stored images, 1 to 100."""
    mask: Mask = "box"
    """inpaint: shape of the missing region."""

    @classmethod
    def parse(cls, label: str) -> Task:
        """Task of a label such as noise25, noise-blind, jpeg10 or inpaint-box. UserError for another text."""
        try:
            if label.startswith("jpeg"):
                return cls("jpeg", jpeg_quality=int(label.removeprefix("jpeg")))
            if label.startswith("inpaint-"):
                mask = label.removeprefix("inpaint-")
                return cls("inpaint", mask=next(m for m in ("box", "center", "brush") if m == mask))
            if label == "noise-blind":
                return cls("noise", "blind")
            if label.startswith("noise"):
                return cls("noise", float(label.removeprefix("noise")))
        except (ValueError, StopIteration):
            pass
        raise UserError(f"{label!r} is no task; give noise25, noise-blind, jpeg10, inpaint-box or the like.")

    @property
    def label(self) -> str:
        """Short name: noise25, noise-blind, jpeg10, inpaint-box."""
        if self.kind == "jpeg":
            return f"jpeg{self.jpeg_quality}"
        if self.kind == "inpaint":
            return f"inpaint-{self.mask}"
        return "noise-blind" if self.sigma_255 == "blind" else f"noise{self.sigma_255:g}"

    @property
    def title(self) -> str:
        """Name in words."""
        if self.kind == "jpeg":
            return f"JPEG of quality {self.jpeg_quality}"
        if self.kind == "inpaint":
            return f"inpainting, mask {self.mask}"
        return f"noise sigma {self.sigma_255}"

    @property
    def fields(self) -> tuple[str, ...]:
        """Stored fields that the task reads: the clean image, and its degradation unless that is noise."""
        if self.kind == "jpeg":
            return "clean", f"jpeg{self.jpeg_quality}"
        if self.kind == "inpaint":
            return "clean", f"mask_{self.mask}"
        return ("clean",)

    @property
    def known_sigma_255(self) -> float | None:
        """Noise level that is the same for every image; None when blind."""
        return None if self.sigma_255 == "blind" else self.sigma_255

    def problems(self) -> list[str]:
        """A sentence for each invalid value."""
        problems = sigma_problems(self.sigma_255)
        if not 1 <= self.jpeg_quality <= 100:
            problems.append(f"--jpeg-quality is {self.jpeg_quality}, but must be from 1 to 100.")
        return problems

    def missing_fields(self, data: str, fields: Collection[str]) -> list[str]:
        """A sentence for each field that the data set lacks, with the option of `pipeline.shard` that stores it."""
        option = f"jpeg:{self.jpeg_quality}" if self.kind == "jpeg" else f"mask:{self.mask}"
        return [
            f"the data set {data} has no field {name}, which --task {self.kind} reads; make it with `python -m "
            f"pipeline.shard --degrade {option}`."
            for name in self.fields
            if name not in fields
        ]


def sigma_problems(sigma_255: Sigma | None) -> list[str]:
    """A sentence when the noise level is out of range; None is no level."""
    if sigma_255 is None or sigma_255 == "blind" or 0 <= sigma_255 <= 255:
        return []
    return [f"--sigma-255 is {sigma_255}, but must be between 0 and 255, or blind."]
