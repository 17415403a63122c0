"""Image files in and out of `python -m pipeline.restore`: PNG, JPEG and WebP, and the output of each input.

Pixels are uint8, rows first, upright: the EXIF orientation is applied on reading and not written again. Of the metadata
only the ICC colour profile is copied; EXIF (orientation, location, camera), XMP, text and thumbnails are left behind.
"""

from __future__ import annotations

import io
import os
import unicodedata
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from infra.storage import UserError

MAX_PIXELS = 2**29
"""Largest image read, about 23,000 x 23,000: beyond it a few bytes of file could ask for all of the memory."""

# Pillow's own limit refuses honest panoramas from 179 million pixels on; read_image checks MAX_PIXELS instead.
Image.MAX_IMAGE_PIXELS = None

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_SUFFIXES = ", ".join(_FORMATS)
_SUFFIX_PROBLEM = f"{{}} does not end in one of {_SUFFIXES}: give it such a name, or name an existing folder"
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},  # 4:4:4: no colour detail is averaged away
    "WEBP": {"lossless": True, "exact": True},  # exact: colours under full transparency survive too
}
_MAX_SIDE = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}


@dataclass(frozen=True)
class DecodedImage:
    """One decoded image file."""

    rgb: np.ndarray
    """uint8 (H, W, 3), upright; a grayscale file has its one channel three times."""
    alpha: np.ndarray | None
    """uint8 (H, W), 255 = opaque, upright; None where the file has no transparency. Never restored, only passed on."""
    grayscale: bool
    """The file had one colour channel, and is saved back as one."""
    icc_profile: bytes | None
    """The file's colour profile; None where it has none, or where it does not describe `rgb` (CMYK)."""


def read_image(path: Path) -> DecodedImage:
    """Decode a PNG, JPEG or WebP file, whatever its suffix: palettes, 1 to 4 bits and CMYK become 8-bit RGB, a
    transparent colour an alpha channel.

    UserError: unreadable, empty, broken or truncated, another format, 16 bits a channel, animated, over MAX_PIXELS.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its name and permissions") from error
    if not data:
        raise UserError(f"{path} is empty (0 bytes): get a whole copy of it or leave it out")
    is_png = data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) > 24
    png_bits = data[24] if is_png else None  # Pillow reads 16-bit RGB as 8-bit without a warning
    if png_bits == 16:
        raise UserError(f"{path} has 16 bits a channel, of which half would be lost: convert it to 8 bits first")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(
                    f"{path} has {width} x {height} pixels, more than {MAX_PIXELS}: cut it into parts first"
                )
            # Not JPEG: a telephone's photograph with a depth or brightness map counts as several frames.
            if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
                raise UserError(f"{path} is animated: save the frames as single images first")
            if image.format == "PNG":
                # Loading alone passes over wrong checksums.
                Image.open(io.BytesIO(data), formats=("PNG",)).verify()
            image.load()  # now, so that later steps never meet broken pixels
            return _to_image(image, png_bits)
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a PNG, JPEG or WebP image, or its start is broken: convert it") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and others for broken files
        raise UserError(f"{path} is broken or cut short ({error}): get a whole copy of it or leave it out") from error


def write_image(path: Path, rgb: np.ndarray, like: DecodedImage | None = None) -> None:
    """Write `rgb`, uint8 (H, W, 3), atomically, in the format of the suffix of `path`; makes its folder.

    `like`, of the same height and width, gives alpha, grayscale (the rounded average of the channels) and the ICC
    profile, if it is for the file's channels. PNG and WebP are lossless. UserError: as check_writable.
    """
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3, f"{rgb.dtype} {rgb.shape}"
    alpha = None if like is None else like.alpha
    assert alpha is None or alpha.shape == rgb.shape[:2], f"alpha {alpha.shape}, rgb {rgb.shape}"
    check_writable(path, *rgb.shape[:2], has_alpha=alpha is not None)
    file_format = _FORMATS[path.suffix.lower()]

    grayscale = like is not None and like.grayscale
    if grayscale:
        rgb = ((rgb.sum(axis=2, dtype=np.uint16) + 1) // 3).astype(np.uint8)  # rounded to the nearest
    image = Image.fromarray(rgb)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    profile = None if like is None else like.icc_profile
    # WebP has no grayscale form: Pillow writes three equal channels. Bytes 16 to 19 name a profile's colour space.
    if profile is not None and profile[16:20] != (b"GRAY" if grayscale and file_format != "WEBP" else b"RGB "):
        profile = None

    encoded = io.BytesIO()
    image.save(encoded, file_format, icc_profile=profile, **_OPTIONS[file_format])
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, so that list_images never sees it, and in the same folder, so that os.replace is a rename.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(encoded.getbuffer())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, height: int, width: int, *, has_alpha: bool) -> None:
    """Refuse, before any work is done, what write_image could not write.

    UserError, with all problems: unsupported suffix, transparency in a JPEG, a side longer than the format allows.
    """
    file_format = _FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise UserError(_SUFFIX_PROBLEM.format(path))
    problems = []
    if has_alpha and file_format == "JPEG":
        problems.append(f"{path} cannot hold the input's transparency: write to .png or .webp")
    if max(height, width) > (limit := _MAX_SIDE[file_format]):
        problems.append(f"{path} would be {width} x {height}, but {file_format} ends at {limit} pixels: write to .png")
    _raise_all(problems)


def list_images(folder: Path) -> list[Path]:
    """All image files (by suffix, any case) under `folder`, sorted; hidden files and folders are left out, and links
    to folders are not followed. UserError: not a folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name an existing one")
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in _FORMATS and path.is_file())


def plan_outputs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Pairs of input and output, sorted by input; writes nothing.

    A file goes to a file, or under its own name into an existing folder; a folder to a folder, with the same relative
    names, which need not exist. UserError, with all problems: missing source, no images in it, unsupported suffix, an
    output that is an input or lies in the input folder, two inputs with one output, a file where a folder must be.
    """
    problems = []
    if source.is_dir():
        pairs = [(path, target / path.relative_to(source)) for path in list_images(source)]
        if not pairs:
            problems.append(f"{source} holds no images ({_SUFFIXES}): choose another folder")
    else:
        pairs = [(source, target / source.name if target.is_dir() else target)]
        if not source.exists():
            problems.append(f"{source} does not exist: check its name")
    _raise_all(problems + _path_problems(pairs) + _overwrite_problems(source, target, pairs))
    return pairs


def _to_image(image: Image.Image, png_bits: int | None) -> DecodedImage:
    grayscale = image.mode in ("1", "L", "LA")
    if image.mode == "L" and png_bits in (2, 4) and "transparency" in image.info:
        # Pillow scales the pixels to 0..255, but not the gray value that stands for transparent.
        image.info["transparency"] *= 255 // (2**png_bits - 1)
    profile = None if image.mode == "CMYK" else image.info.get("icc_profile") or None
    has_alpha = image.has_transparency_data
    with suppress(Exception):  # SyntaxError, struct.error, KeyError ...: a broken EXIF block leaves the pixels whole
        ImageOps.exif_transpose(image, in_place=True)
    pixels = np.array(image.convert("RGBA" if has_alpha else "RGB"))
    rgb = np.ascontiguousarray(pixels[:, :, :3])
    alpha = np.ascontiguousarray(pixels[:, :, 3]) if has_alpha else None
    return DecodedImage(rgb, alpha, grayscale, profile)


def _path_problems(pairs: list[tuple[Path, Path]]) -> list[str]:
    """Outputs that cannot be written, or that two inputs share."""
    problems = []
    first: dict[Path, Path] = {}
    for path, output in pairs:
        if output.suffix.lower() not in _FORMATS:
            problems.append(_SUFFIX_PROBLEM.format(output))
        if output.is_dir():
            problems.append(f"{output} is a folder, but an image would be written there: choose another output")
        existing = next(parent for parent in output.parents if parent.exists())
        if not existing.is_dir():
            problems.append(f"{existing} is a file, but must be a folder: choose another output")
        if (other := first.setdefault(_normalized(output), path)) != path:
            problems.append(f"{other} and {path} would both become {output}: rename one")
    return problems


def _overwrite_problems(source: Path, target: Path, pairs: list[tuple[Path, Path]]) -> list[str]:
    """Nothing is written over an input, nor into the input folder, where the next run would read it as an input."""
    if _normalized(source) == _normalized(target):
        return [f"{source} is both input and output: choose another output"]
    inside = [output for _, output in pairs if _normalized(output).is_relative_to(_normalized(source))]
    if inside and source.is_dir():
        return [f"{inside[0]} would lie in the input folder {source}: choose an output folder outside"]
    inputs = {_normalized(path) for path, _ in pairs}
    return [
        f"{output} is itself an input: choose another output" for _, output in pairs if _normalized(output) in inputs
    ]


def _normalized(path: Path) -> Path:
    """Equal for two paths that are, or on some disks would be, one file."""
    return Path(unicodedata.normalize("NFC", str(path.resolve())).casefold())


def _raise_all(problems: list[str]) -> None:
    if problems:
        raise UserError("; ".join(dict.fromkeys(problems)))
