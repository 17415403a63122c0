"""Images of the page: reading, error maps, close-ups, data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from infra.storage import UserError
from pipeline.runs.evaluations import Evaluation

RAMP = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 200))
"""Colours of an error from 0 to the end of the scale."""
CROP_SHARE = 3
"""Side of an image over that of a close-up's window."""
MIN_CROP_PX = 16
Box = tuple[int, int, int]
"""Top, left, side in px."""


def read_image(evaluation: Evaluation, name: str) -> np.ndarray:
    """uint8 (H, W, 3). UserError when the file is no image."""
    try:
        with Image.open(io.BytesIO(evaluation.store.get(name)), formats=("PNG",)) as image:
            return np.array(image.convert("RGB"))
    except (FileNotFoundError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"the image {evaluation.store.url}/{name} cannot be read ({error}); evaluate again.") from None


def data_uri(pixels: np.ndarray) -> str:
    """Lossless WebP of uint8 (H, W, 3)."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "WEBP", lossless=True, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()


def error_map(restored: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Mean over the channels of |restored - clean|, float (H, W) on [0, 1]. Both uint8 (H, W, 3)."""
    return np.abs(restored.astype(np.float32) - clean.astype(np.float32)).mean(axis=2) / 255


def colored_error(error: np.ndarray, largest: float) -> np.ndarray:
    """uint8 (H, W, 3): 0 is black, `largest` and above the lightest colour."""
    positions = np.clip(error / largest, 0, 1) * (len(RAMP) - 1)
    channels = [np.interp(positions, range(len(RAMP)), channel) for channel in zip(*RAMP, strict=True)]
    return np.stack(channels, axis=2).round().astype(np.uint8)


def worst_window(error: np.ndarray) -> Box:
    """The square window with the largest mean square of an error (H, W); of equal ones the first."""
    height, width = error.shape
    side = max(1, min(max(MIN_CROP_PX, min(height, width) // CROP_SHARE), height, width))
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = (error.astype(np.float64) ** 2).cumsum(0).cumsum(1)
    windows = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(windows.argmax(), windows.shape)
    return int(top), int(left), side


def cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    """The window of an image."""
    top, left, side = box
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])
