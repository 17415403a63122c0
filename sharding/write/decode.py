"""Image files to RGB pixels by stated rules. A file that breaks a rule is refused with a reason, never repaired."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000
MIN_SIDE = 8

# At most 8 bits a channel, and an exact or customary conversion to RGB.
_MODES = {"1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "PA", "RGBA"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8"
_TIFF_BITS_PER_SAMPLE = 258
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")


class BadImage(ValueError):
    """An unusable image; the message is the reason, without the file's name."""


def decode_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image to mode RGB, 8 bits a channel.

    - Formats: JPEG, PNG, WebP, BMP, TIFF, GIF; the first image of a phone's multi-image JPEG (MPO).
    - EXIF orientation is applied. Colour profiles are ignored. CMYK is converted by Pillow's plain formula.
    - Grey and palette become RGB. A fully opaque alpha channel is dropped.
    - Refused: transparency, more than 8 bits a channel, several images, more than `max_pixels` pixels (from the
      header), an empty file, a file that is no image, and a truncated file. Not detected: damage in the middle that the
      decoder conceals.

    Raises BadImage with the reason.
    """
    if not data:
        raise BadImage("the file is empty")
    # Pillow warns of big images (`max_pixels` decides) and of odd metadata (irrelevant to the pixels).
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        image = _open(data)
        _refuse_by_header(image, data, max_pixels)
        try:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
        except Exception as error:  # the decoders raise OSError, SyntaxError, struct.error, EOFError and others
            raise BadImage(f"damaged or cut short ({error})") from error
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # the common case: convert() would copy
    if image.has_transparency_data:
        lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
        if lowest != 255:
            raise BadImage("it has transparent parts")
    return image.convert("RGB")


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage(f"too many pixels ({error})") from error
    except Exception as error:
        if data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML_STARTS):
            raise BadImage("an HTML page, not an image") from error
        raise BadImage("no readable JPEG, PNG, WebP, BMP, TIFF or GIF image") from error


def _refuse_by_header(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raise BadImage for problems that the header shows, before any pixel is decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(f"too many pixels: {width}x{height} is over the limit of {max_pixels}")
    if _bits_per_channel(image, data) > 8 or image.mode.startswith(("I", "F")):
        raise BadImage("more than 8 bits a channel")
    if image.mode not in _MODES:
        raise BadImage(f"colour mode {image.mode} has no stated way to RGB")
    if data.startswith(_JPEG_START) and not _has_jpeg_end(data):
        raise BadImage("damaged or cut short (the JPEG's end is missing)")
    try:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception as error:  # counting walks through the file
        raise BadImage(f"damaged or cut short ({error})") from error
    if frames > 1:
        raise BadImage(f"it holds {frames} images (an animation or several pages)")


def _has_jpeg_end(data: bytes) -> bool:
    """Whether the end marker follows the scan. A partial download into reserved space ends in zeros instead, which
    Pillow decodes to grey."""
    start = 2
    while data[start : start + 1] == b"\xff" and data[start + 1 : start + 2] != b"\xda":  # header segments, to the scan
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return data.rfind(b"\xff\xd9", start) >= 0  # a thumbnail's end marker is inside a segment


def _bits_per_channel(image: Image.Image, data: bytes) -> int:
    """Bits a channel in the file: Pillow reduces 16-bit colour PNG and TIFF to 8 silently."""
    if data.startswith(_PNG_SIGNATURE):
        return data[24]  # after signature (8), chunk header (8), width (4) and height (4)
    if image.format == "TIFF":
        bits = image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, 1)  # type: ignore[attr-defined]
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 8


def crop_resize(image: Image.Image, crop: int | None, size: int) -> np.ndarray:
    """Centre crop of `crop` x `crop` px, resized to `size` x `size`: uint8 (size, size, 3), RGB, C-contiguous.

    `crop` None, or larger than the image, is the largest centred square (the paper's released code pads such images
    with black). Offsets are rounded as in torchvision's CenterCrop; the resize is Pillow's bilinear filter, which
    antialiases, as in torchvision's Resize of Pillow images. Raises BadImage when a side is under 8 px.
    """
    assert size > 0 and (crop is None or crop > 0), (crop, size)
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"{width}x{height} is under {MIN_SIDE} px a side")
    side = min(width, height) if crop is None else min(crop, width, height)
    left, top = round((width - side) / 2.0), round((height - side) / 2.0)
    square = image.crop((left, top, left + side, top + side))
    return np.array(square.resize((size, size), Image.Resampling.BILINEAR))
