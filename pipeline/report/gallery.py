"""Images of one section: a gallery of all versions, and close-ups of the best, median and worst image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infra.storage import UserError
from pipeline.report.image_html import Box, error_map, read_image, worst_window
from pipeline.report.load import RunFacts
from pipeline.report.rerun_commands import evaluate_command
from pipeline.runs.evaluations import EXAMPLE_KINDS, Evaluation, best_median_worst, example_name

MAX_IMAGES = 24
"""Largest number of images in a gallery."""
ERROR_SCALES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
Member = tuple[RunFacts, Evaluation]
"""A run, and its evaluation on these images."""


@dataclass(frozen=True)
class Version:
    """One version of an image: clean, degraded, or the output of a member."""

    name: str
    """clean, degraded, restored-0 (of the first member), ..."""
    label: str
    color: int | None
    psnr_db: float | None
    pixels: np.ndarray
    """uint8 (H, W, 3)."""
    error: np.ndarray
    """Difference from the clean version, float (H, W) on [0, 1]."""


@dataclass(frozen=True)
class ExampleImage:
    """The kept versions of an image: clean, degraded, outputs."""

    key: str
    ranks: list[str]
    """Ranks by the first member's PSNR, if any: best, median, worst."""
    versions: list[Version]

    @property
    def size(self) -> tuple[int, int]:
        """Width, height in px."""
        height, width = self.versions[0].pixels.shape[:2]
        return width, height

    @property
    def outputs(self) -> list[Version]:
        return self.versions[2:]

    @property
    def window(self) -> Box:
        """Window of the close-ups: where the models' errors, taken together, are largest."""
        return worst_window(np.sqrt(np.mean([version.error**2 for version in self.outputs], axis=0)))


@dataclass(frozen=True)
class Gallery:
    """All images of a section."""

    images: list[ExampleImage]
    """Images that every member keeps."""
    studies: list[ExampleImage]
    """Images for close-ups."""
    largest_error: float
    """End of the error maps' colour scale, on [0, 1]."""
    missing: list[tuple[RunFacts, list[str], str]]
    """Runs that lack examples of best, median or worst, their keys, and the command that keeps them."""


def make_gallery(members: Sequence[Member]) -> Gallery:
    """The kept images of these runs. UserError for an image that cannot be read."""
    first = members[0][1]
    ranks: dict[str, list[str]] = {}
    for rank, key in best_median_worst(first.per_image).items():
        ranks.setdefault(key, []).append(rank)
    keys = dict.fromkeys([*ranks, *(row["key"] for row in first.per_image)])
    kept = [key for key in keys if first.has_examples(key, *EXAMPLE_KINDS)][: MAX_IMAGES + len(ranks)]
    images = [ExampleImage(key, ranks.get(key, []), read_versions(key, members)) for key in kept]
    missing = [
        (run, lacking, evaluate_command(run, evaluation, run.url, lacking))
        for run, evaluation in members
        if (lacking := [key for key in ranks if not evaluation.has_examples(key, "restored")])
    ]
    # 98 % of any output's pixels lie below the end of the scale, which is one for all images.
    errors = [float(np.quantile(version.error, 0.98)) for image in images for version in image.outputs]
    largest_error = next(scale for scale in ERROR_SCALES if scale >= max(errors, default=0.0))
    complete = [image for image in images if len(image.outputs) == len(members)]
    studies = [image for image in images if image.ranks and image.outputs]
    return Gallery(complete[:MAX_IMAGES], studies, largest_error, missing)


def read_versions(key: str, members: Sequence[Member]) -> list[Version]:
    """Clean and degraded image, and the kept outputs that have their size."""
    first = members[0][1]
    clean, degraded = (read_image(first, example_name(key, kind)) for kind in ("clean", "degraded"))
    if degraded.shape != clean.shape:
        raise UserError(f"the examples of {key} in {first.store.url} have different sizes; evaluate again.")
    psnr_db = first.image(key).get("psnr_db_degraded")
    versions = [
        Version("clean", "clean", None, None, clean, error_map(clean, clean)),
        Version("degraded", "degraded", None, psnr_db, degraded, error_map(degraded, clean)),
    ]
    for i, (run, evaluation) in enumerate(members):
        if not evaluation.has_examples(key, "restored"):
            continue
        pixels, psnr_db = (
            read_image(evaluation, example_name(key, "restored")),
            evaluation.image(key)["psnr_db_restored"],
        )
        if pixels.shape == clean.shape:
            versions.append(Version(f"restored-{i}", run.label, run.color, psnr_db, pixels, error_map(pixels, clean)))
    return versions
