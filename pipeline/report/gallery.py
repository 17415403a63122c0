"""Images of one section: a gallery of all versions, and close-ups of the best, median and worst image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.image_html import colored_error, cut, data_uri, error_map, read_image, worst_window
from pipeline.report.load import RunFacts
from pipeline.report.rerun_commands import evaluate_command
from pipeline.runs.evaluations import EXAMPLE_KINDS, Evaluation, example_name

MAX_IMAGES = 24
"""Largest number of images in a gallery."""
ERROR_SCALES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
Member = tuple[RunFacts, Evaluation]
"""A run, and its evaluation on these images."""
Versions = dict[str, np.ndarray]
"""Versions of an image that are kept, uint8 (H, W, 3): clean, degraded, restored-0 (of the first member), ..."""


@dataclass(frozen=True)
class Layer:
    """One version of an image in the gallery."""

    name: str
    label: str
    uri: str


@dataclass(frozen=True)
class Score:
    """PSNR of one version."""

    label: str
    color: int | None
    psnr_db: float


@dataclass(frozen=True)
class GalleryImage:
    """One image with all its versions."""

    key: str
    ranks: list[str]
    """Ranks by the first member's PSNR, if any: best, median, worst."""
    width: int
    height: int
    layers: list[Layer]
    scores: list[Score]


@dataclass(frozen=True)
class CloseUp:
    """A window of one version, above its error map; of the clean one, above the whole image."""

    label: str
    color: int | None
    psnr_db: float | None
    crop: str
    below: str
    box: tuple[float, float, float, float] | None = None
    """Position of the window in the whole image: left, top, width, height in %."""


@dataclass(frozen=True)
class Study:
    """Close-ups of all versions of an image, in the same window."""

    key: str
    ranks: list[str]
    width: int
    side: int
    """Side of the window, px."""
    close_ups: list[CloseUp]


@dataclass(frozen=True)
class Gallery:
    """All images of a section."""

    choices: list[tuple[str, str]]
    """Name and label of each version."""
    images: list[GalleryImage]
    studies: list[Study]
    largest_error: float
    """End of the error maps' colour scale, on [0, 1]."""
    missing: list[tuple[RunFacts, list[str], str]]
    """Runs that lack examples of best, median or worst, their keys, and the command that keeps them."""


def make_gallery(members: Sequence[Member], ranked: Mapping[str, str]) -> Gallery:
    """ranked: best, median, worst -> key. UserError for an image that cannot be read."""
    ranks: dict[str, list[str]] = {}
    for rank, key in ranked.items():
        ranks.setdefault(key, []).append(rank)
    versions = {key: read_versions(key, members) for key in kept_keys(members[0][1], list(ranks))}
    largest = error_scale(versions.values())
    complete = [key for key, found in versions.items() if len(found) == 2 + len(members)]
    missing = [
        (run, keys, evaluate_command(run, evaluation, run.url, keys))
        for run, evaluation in members
        if (keys := [key for key in ranks if not evaluation.has_examples(key, "restored")])
    ]
    return Gallery(
        choices_of(members),
        [gallery_image(key, ranks.get(key, []), versions[key], members, largest) for key in complete[:MAX_IMAGES]],
        [study(key, ranks[key], versions[key], members, largest) for key in ranks if key in versions],
        largest,
        missing,
    )


def kept_keys(evaluation: Evaluation, first: list[str]) -> list[str]:
    """Images with all three example files; these keys come first."""
    keys = dict.fromkeys([*first, *(row["key"] for row in evaluation.per_image)])
    return [key for key in keys if evaluation.has_examples(key, *EXAMPLE_KINDS)][: MAX_IMAGES + len(first)]


def read_versions(key: str, members: Sequence[Member]) -> Versions:
    """Kept versions of an image that have the size of the clean one."""
    first = members[0][1]
    versions = {kind: read_image(first, example_name(key, kind)) for kind in ("clean", "degraded")}
    for i, (_, evaluation) in enumerate(members):
        if evaluation.has_examples(key, "restored"):
            pixels = read_image(evaluation, example_name(key, "restored"))
            if pixels.shape == versions["clean"].shape == versions["degraded"].shape:
                versions[f"restored-{i}"] = pixels
    return versions


def error_scale(images: Iterable[Versions]) -> float:
    """One end of the scale for all error maps, so that they can be compared: 98 % of a restored image's pixels or more
    lie below."""
    errors = [
        error_map(pixels, versions["clean"])
        for versions in images
        for name, pixels in versions.items()
        if name not in ("clean", "degraded")
    ]
    reached = max((float(np.quantile(error, 0.98)) for error in errors), default=0.0)
    return next(scale for scale in ERROR_SCALES if scale >= reached)


def choices_of(members: Sequence[Member]) -> list[tuple[str, str]]:
    """Versions that the gallery shows."""
    outputs = [(f"restored-{i}", run.label) for i, (run, _) in enumerate(members)]
    errors = [(f"error-{i}", f"error of {run.label}") for i, (run, _) in enumerate(members)]
    return [("clean", "clean"), ("degraded", "degraded"), *outputs, *errors]


def scores(key: str, members: Sequence[Member]) -> list[Score]:
    """PSNR of the degraded version, if it is known, and of each model's output."""
    degraded = members[0][1].image(key).get("psnr_db_degraded")
    found = [] if degraded is None else [Score("degraded", None, degraded)]
    return found + [Score(run.label, run.color, e.image(key)["psnr_db_restored"]) for run, e in members]


def gallery_image(
    key: str, ranks: list[str], versions: Versions, members: Sequence[Member], largest: float
) -> GalleryImage:
    clean = versions["clean"]
    errors = {
        f"error-{i}": colored_error(error_map(versions[f"restored-{i}"], clean), largest) for i in range(len(members))
    }
    layers = [Layer(name, label, data_uri((versions | errors)[name])) for name, label in choices_of(members)]
    height, width = clean.shape[:2]
    return GalleryImage(key, ranks, width, height, layers, scores(key, members))


def study(key: str, ranks: list[str], versions: Versions, members: Sequence[Member], largest: float) -> Study:
    """Close-ups in the window where the models' errors, taken together, are largest."""
    clean = versions["clean"]
    outputs = [(run, versions[f"restored-{i}"]) for i, (run, _) in enumerate(members) if f"restored-{i}" in versions]
    window = worst_window(np.sqrt(np.mean([error_map(pixels, clean) ** 2 for _, pixels in outputs], axis=0)))
    height, width = clean.shape[:2]
    top, left, side = window
    box = (100 * left / width, 100 * top / height, 100 * side / width, 100 * side / height)
    psnr_db = {score.label: score.psnr_db for score in scores(key, members)}

    def close_up(label: str, color: int | None, pixels: np.ndarray) -> CloseUp:
        error = colored_error(error_map(pixels, clean), largest)
        return CloseUp(label, color, psnr_db.get(label), data_uri(cut(pixels, window)), data_uri(error))

    close_ups = [
        CloseUp("clean", None, None, data_uri(cut(clean, window)), data_uri(clean), box),
        close_up("degraded", None, versions["degraded"]),
        *(close_up(run.label, run.color, pixels) for run, pixels in outputs),
    ]
    return Study(key, ranks, width, side, close_ups)
