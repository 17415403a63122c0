"""File bytes -> RGB pixels, by stated rules. What breaks a rule is refused with a reason, never repaired silently."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000
MIN_SIDE = 8

# Eight bits a channel or fewer, and an exact or customary way to RGB.
_MODES = {"1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "PA", "RGBA"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8"
_TIFF_BITS_PER_SAMPLE = 258
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")


class BadImage(ValueError):
    """An image that is not used; the message is the reason, without the file's name."""


def decode_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one picture to mode RGB, 8 bits a channel.

    - JPEG, PNG, WebP, BMP, TIFF and GIF; of a phone's JPEG that carries further pictures (MPO), the first.
    - EXIF orientation is applied. Colour profiles are ignored. CMYK goes to RGB by Pillow's plain formula.
    - Grey and palette become RGB. An alpha channel that is fully opaque is dropped.
    - Refused: any transparency, more than 8 bits a channel, several pictures, more than `max_pixels` pixels (counted
      before decoding), an empty file, a file that is no image, and a file cut short before its last pixel. Not seen:
      damage in the middle that the decoder papers over.

    Raises BadImage with the reason.
    """
    if not data:
        raise BadImage("the file is empty")
    # Pillow warns of big images (our own limit decides) and of odd metadata (which does not touch the pixels).
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
    """Raise BadImage for what the header alone shows, before any pixel is decoded."""
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
        pictures = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception as error:  # counting walks through the file
        raise BadImage(f"damaged or cut short ({error})") from error
    if pictures > 1:
        raise BadImage(f"it holds {pictures} pictures (an animation or several pages)")


def _has_jpeg_end(data: bytes) -> bool:
    """Whether the end mark follows the scan. A file fetched in part into reserved space ends in zeros instead, and
    Pillow decodes those to grey."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":  # header segments, up to the scan
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.rfind(b"\xff\xd9", at) >= 0  # a thumbnail's own end mark lies inside a segment


def _bits_per_channel(image: Image.Image, data: bytes) -> int:
    """Bits a channel in the file. Pillow reduces 16-bit colour PNG and TIFF to 8 without a word."""
    if data.startswith(_PNG_SIGNATURE):
        return data[24]  # signature 8, chunk head 8, width 4, height 4, then the bit depth
    if image.format == "TIFF":
        bits = image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, 1)  # type: ignore[attr-defined]
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 8


def crop_resize(image: Image.Image, crop: int | None, size: int) -> np.ndarray:
    """Centre crop of `crop` x `crop` px, resized to `size` x `size`: uint8 (size, size, 3), RGB, C-contiguous.

    `crop` None is the largest centred square. So is a crop larger than the image (the paper's released code pads such
    images with black; this does not). Offsets are rounded as torchvision's CenterCrop rounds them; the resize is
    Pillow's bilinear filter, which averages when it shrinks, as torchvision's Resize on Pillow images does.
    Raises BadImage when a side is under 8 px.
    """
    assert size > 0 and (crop is None or crop > 0), (crop, size)
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"{width}x{height} is under {MIN_SIDE} px a side")
    side = min(width, height) if crop is None else min(crop, width, height)
    left, top = round((width - side) / 2.0), round((height - side) / 2.0)
    square = image.crop((left, top, left + side, top + side))
    return np.array(square.resize((size, size), Image.Resampling.BILINEAR))
