"""Degradations that are stored beside the clean image. A new one is one function here and its line in `KINDS`.

Such a function gets the clean image, its key, the run's seed and the parameters of the kind ("jpeg:10:444" gives
("10", "444")); it returns the stored field, or raises UserError for invalid parameters. Noise is not stored: it is
drawn at each reading.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageDraw, features

from infra.storage import UserError
from sharding.tar import npy_bytes

JPEG_SUBSAMPLING = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}


@dataclass(frozen=True)
class Field:
    """A stored field of one image: `<key>.<name>.<extension>` in the shard."""

    name: str
    extension: str
    data: bytes


@dataclass(frozen=True)
class Degradation:
    """One entry of `KINDS` with its parameters; `name` and `extension` are those of the stored field."""

    name: str
    extension: str
    kind: str
    parameters: tuple[str, ...]

    @property
    def text(self) -> str:
        """The option's spelling: jpeg:10."""
        return ":".join((self.kind, *self.parameters))

    def apply(self, clean: np.ndarray, key: str, seed: int) -> Field:
        """The field of `clean`, uint8 (H, W, 3) RGB: a function of the arguments alone."""
        assert clean.dtype == np.uint8 and clean.ndim == 3 and clean.shape[2] == 3, (clean.dtype, clean.shape)
        return KINDS[self.kind](clean, key, seed, self.parameters)


def jpeg(clean: np.ndarray, key: str, seed: int, parameters: Sequence[str]) -> Field:
    """`jpeg:QUALITY[:420|422|444]`: the bytes of a baseline JPEG; default: chroma halved both ways (420)."""
    quality, subsampling = [*parameters, "420"][:2]
    if not (quality.isascii() and quality.isdigit() and 1 <= int(quality) <= 100):
        raise UserError(f"the JPEG quality {quality!r} is not a whole number from 1 to 100")
    if subsampling not in JPEG_SUBSAMPLING or len(parameters) > 2:
        raise UserError(f"{':'.join(parameters)!r} is not QUALITY or QUALITY:{'|'.join(JPEG_SUBSAMPLING)}")
    buffer = io.BytesIO()
    Image.fromarray(clean).save(
        buffer, "JPEG", quality=int(quality), subsampling=JPEG_SUBSAMPLING[subsampling], optimize=False
    )
    name = f"jpeg{int(quality)}" + ("" if subsampling == "420" else f"_{subsampling}")
    return Field(name, "jpg", buffer.getvalue())


def mask(clean: np.ndarray, key: str, seed: int, parameters: Sequence[str]) -> Field:
    """`mask:box|center|brush`: uint8 (H, W), 1 where the image is missing, as .npy.

    box is the paper's: half of each side (128 of 256), at a uniformly drawn position. center is the same box in the
    middle. brush is irregular strokes over 10 to 40 % of the image.
    """
    shape = ":".join(parameters)
    if shape not in MASKS:
        raise UserError(f"the mask {shape!r} is not one of {', '.join(MASKS)}")
    name = f"mask_{shape}"
    height, width = clean.shape[:2]
    rng = np.random.Generator(keyed_bits(str(seed), key, name))
    return Field(name, "npy", npy_bytes(MASKS[shape](height, width, rng)))


def box_mask(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A box of half the sides, at a random position."""
    top = int(rng.integers(height - height // 2 + 1))
    left = int(rng.integers(width - width // 2 + 1))
    return _box(height, width, top, left)


def center_mask(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A box of half the sides, in the middle."""
    return _box(height, width, (height - height // 2) // 2, (width - width // 2) // 2)


def _box(height: int, width: int, top: int, left: int) -> np.ndarray:
    missing = np.zeros((height, width), np.uint8)
    missing[top : top + height // 2, left : left + width // 2] = 1
    return missing


def brush_mask(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Strokes (random walks that turn slowly, drawn with a thick round brush) until 10 to 36 % is covered.

    One step adds under 4 %, so the share stays under 40 %. Integers only: rounding cannot differ between machines.
    """
    side = min(height, width)
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    goal_pixels = int(rng.integers(10, 37)) * height * width / 100
    max_step = side // 8
    while True:
        radius = int(rng.integers(max(1, side // 32), max(1, side // 16) + 1))
        x, y = rng.integers((width, height)).tolist()
        step_x, step_y = rng.integers(-(side // 10), side // 10 + 1, 2).tolist()
        # Plain integers: numpy takes microseconds for each operation on two numbers.
        for turn_x, turn_y in rng.integers(-(side // 20), side // 20 + 1, (int(rng.integers(4, 16)), 2)).tolist():
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
            if canvas.histogram()[1] >= goal_pixels:
                return np.array(canvas)
            step_x = min(max(step_x + turn_x, -max_step), max_step)
            step_y = min(max(step_y + turn_y, -max_step), max_step)
            # A stroke is reflected at the edge; else it would creep along it.
            step_x = step_x if 0 <= x + step_x < width else -step_x
            step_y = step_y if 0 <= y + step_y < height else -step_y
            draw.line((x, y, x + step_x, y + step_y), fill=1, width=2 * radius)
            x, y = x + step_x, y + step_y


MASKS: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "box": box_mask,
    "center": center_mask,
    "brush": brush_mask,
}
KINDS: dict[str, Callable[[np.ndarray, str, int, Sequence[str]], Field]] = {"jpeg": jpeg, "mask": mask}


def parse_degradations(texts: Sequence[str]) -> list[Degradation]:
    """["jpeg:10,20:444", "mask:box"] -> jpeg10, jpeg20_444, mask_box: a kind, then comma-separated parameters.

    Raises UserError with every problem: unknown kinds, invalid parameters, the same field twice.
    """
    found: list[Degradation] = []
    problems: list[str] = []
    for text in texts:
        kind, _, choices = text.replace(" ", "").partition(":")
        if kind not in KINDS:
            problems.append(f"{text!r} is no degradation (choose from {', '.join(KINDS)}; noise is added when reading)")
            continue
        for choice in choices.split(","):
            parameters = tuple(choice.split(":"))
            try:  # a trial run checks the parameters and gives the field's name
                field = KINDS[kind](np.zeros((16, 16, 3), np.uint8), "", 0, parameters)
            except UserError as error:
                problems.append(f"in {text!r} {error}")
                continue
            if any(field.name == other.name for other in found):
                problems.append(f"in {text!r} {field.name} is requested twice")
            found.append(Degradation(field.name, field.extension, kind, parameters))
    if problems:
        raise UserError("; ".join(problems) + ".")
    return found


def encoder_settings() -> dict[str, Any]:
    """Libraries, versions and settings that decide the stored bytes, as JSON values for dataset.json."""
    return {
        "libraries": {
            "pillow": PIL.__version__,
            "libjpeg": features.version("jpg"),
            "libjpeg_turbo": features.version("libjpeg_turbo"),
            "numpy": np.__version__,
        },
        "jpeg": {"encoder": "pillow", "progressive": False, "optimize": False, "subsampling": JPEG_SUBSAMPLING["420"]},
        "mask": {"random": "Philox keyed by BLAKE2b", "drawn_by": "pillow"},
    }


def keyed_bits(*parts: str) -> np.random.Philox:
    """A random stream that depends on the texts alone: not on order, rank, process or machine."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little"))
