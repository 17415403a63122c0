"""The pictures of one set of images: a gallery of all versions, and the best, median and worst image seen closely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.image_html import cut, data_uri, error_of, error_picture, read_picture, worst_place
from pipeline.report.load import RunFacts
from pipeline.report.rerun_commands import evaluate_command
from pipeline.runs.evaluations import Evaluation, example_name

PICTURES = 24
"""In the gallery at most."""
ERROR_SCALES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
Member = tuple[RunFacts, Evaluation]
"""A run, and its evaluation on these images."""
Versions = dict[str, np.ndarray]
"""clean, degraded, restored-0 of the first member and so on, as far as they are kept: uint8 (H, W, 3)."""


@dataclass(frozen=True)
class Layer:
    """One version of a picture."""

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
class Figure:
    """One image in the gallery."""

    key: str
    ranks: list[str]
    """best, median, worst: what it is of the first system's."""
    width: int
    height: int
    layers: list[Layer]
    scores: list[Score]


@dataclass(frozen=True)
class CloseUp:
    """A window of one version; below it its error, or for the clean one where the window lies."""

    label: str
    color: int | None
    psnr_db: float | None
    crop: str
    below: str
    box: tuple[float, float, float, float] | None = None
    """Left, top, width, height in % of the picture below."""


@dataclass(frozen=True)
class Study:
    """An image seen closely."""

    key: str
    ranks: list[str]
    width: int
    side: int
    """Of the window, px."""
    shown: list[CloseUp]


@dataclass(frozen=True)
class Gallery:
    """All pictures of a section."""

    choices: list[tuple[str, str]]
    """Name and label of each version that a figure can show."""
    figures: list[Figure]
    studies: list[Study]
    largest_error: float
    """Where the colours of the error maps end, on [0, 1]."""
    missing: list[tuple[RunFacts, list[str], str]]
    """Runs that keep no picture of some of the first one's best, median and worst images, the keys, and what to do."""


def make_gallery(members: Sequence[Member], ranked: Mapping[str, str]) -> Gallery:
    """`ranked`: best, median, worst -> key. ValueError for a picture that cannot be read."""
    ranks: dict[str, list[str]] = {}
    for rank, key in ranked.items():
        ranks.setdefault(key, []).append(rank)
    pictures = {key: read_versions(key, members) for key in kept_keys(members[0][1], list(ranks))}
    largest = error_scale(pictures.values())
    complete = [key for key, versions in pictures.items() if len(versions) == 2 + len(members)]
    return Gallery(
        choices_of(members),
        [figure(key, ranks.get(key, []), pictures[key], members, largest) for key in complete[:PICTURES]],
        [study(key, ranks[key], pictures[key], members, largest) for key in ranks if key in pictures],
        largest,
        [
            (run, keys, evaluate_command(run, evaluation, run.url, keys))
            for run, evaluation in members
            if (keys := lacking(evaluation, ranks))
        ],
    )


def restored(place: int) -> str:
    """Name of a member's output among the versions."""
    return f"restored-{place}"


def kept_keys(evaluation: Evaluation, first: list[str]) -> list[str]:
    """Images whose three pictures are there; these keys come first."""
    order = dict.fromkeys([*first, *(row["key"] for row in evaluation.images)])
    names = {key: [example_name(key, kind) for kind in ("clean", "degraded", "restored")] for key in order}
    return [key for key in order if evaluation.pictures.issuperset(names[key])][: PICTURES + len(first)]


def lacking(evaluation: Evaluation, keys: Mapping[str, object]) -> list[str]:
    return [key for key in keys if example_name(key, "restored") not in evaluation.pictures]


def read_versions(key: str, members: Sequence[Member]) -> Versions:
    """What is kept of an image, as far as it is of one size."""
    first = members[0][1]
    versions = {kind: read_picture(first, example_name(key, kind)) for kind in ("clean", "degraded")}
    for place, (_, evaluation) in enumerate(members):
        if example_name(key, "restored") in evaluation.pictures:
            pixels = read_picture(evaluation, example_name(key, "restored"))
            if pixels.shape == versions["clean"].shape == versions["degraded"].shape:
                versions[restored(place)] = pixels
    return versions


def error_scale(pictures: object) -> float:
    """One for all error maps, so that they can be compared: what one pixel in 50 of a restored one exceeds."""
    errors = [
        error_of(pixels, versions["clean"])
        for versions in pictures  # type: ignore[attr-defined]
        for name, pixels in versions.items()
        if name not in ("clean", "degraded")
    ]
    reached = max((float(np.quantile(error, 0.98)) for error in errors), default=0.0)
    return next(scale for scale in ERROR_SCALES if scale >= reached)


def choices_of(members: Sequence[Member]) -> list[tuple[str, str]]:
    """What can be laid beside what in the gallery."""
    outputs = [(restored(place), run.label) for place, (run, _) in enumerate(members)]
    errors = [(f"error-{place}", f"error of {run.label}") for place, (run, _) in enumerate(members)]
    return [("clean", "clean"), ("degraded", "degraded"), *outputs, *errors]


def scores(key: str, members: Sequence[Member]) -> list[Score]:
    """Of the degraded version, if it is known, and of each system's output."""
    degraded = members[0][1].image(key).get("psnr_db_degraded")
    found = [] if degraded is None else [Score("degraded", None, degraded)]
    return found + [Score(run.label, run.color, e.image(key)["psnr_db_restored"]) for run, e in members]


def figure(key: str, ranks: list[str], versions: Versions, members: Sequence[Member], largest: float) -> Figure:
    pictures = dict(versions)
    for place in range(len(members)):
        error = error_of(versions[restored(place)], versions["clean"])
        pictures[f"error-{place}"] = error_picture(error, largest)
    layers = [Layer(name, label, data_uri(pictures[name])) for name, label in choices_of(members)]
    height, width = versions["clean"].shape[:2]
    return Figure(key, ranks, width, height, layers, scores(key, members))


def study(key: str, ranks: list[str], versions: Versions, members: Sequence[Member], largest: float) -> Study:
    """The window is where the systems' errors, taken together, are largest."""
    clean = versions["clean"]
    outputs = {place: versions[restored(place)] for place in range(len(members)) if restored(place) in versions}
    window = worst_place(np.sqrt(np.mean([error_of(pixels, clean) ** 2 for pixels in outputs.values()], axis=0)))
    height, width = clean.shape[:2]
    top, left, side = window
    box = (100 * left / width, 100 * top / height, 100 * side / width, 100 * side / height)
    psnr_db = {score.label: score.psnr_db for score in scores(key, members)}

    def close_up(label: str, color: int | None, pixels: np.ndarray) -> CloseUp:
        error = error_picture(error_of(pixels, clean), largest)
        return CloseUp(label, color, psnr_db.get(label), data_uri(cut(pixels, window)), data_uri(error))

    shown = [
        CloseUp("clean", None, None, data_uri(cut(clean, window)), data_uri(clean), box),
        close_up("degraded", None, versions["degraded"]),
        *(close_up(members[place][0].label, members[place][0].color, pixels) for place, pixels in outputs.items()),
    ]
    return Study(key, ranks, width, side, shown)
