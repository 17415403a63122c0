"""Restoring an image that is too large for the memory, tile by tile, without visible seams.

Along each axis neighbouring tiles share `overlap` pixels, and the result passes from one to the other like this:

    left tile   1 1 1 1 1 1|1 1 . . 0 0|            margin = overlap // 4 pixels at either end of the shared zone,
    right tile             |0 0 . . 1 1|1 1 1 1     where the nearer tile, which sees too little, has no weight;
                            margin ramp margin      between them a linear ramp, which hides what still differs

n: pixels along one axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from infra.storage import UserError


@torch.no_grad()
def restore_tiled(restore: Callable[[Tensor], Tensor], image: Tensor, tile: int, overlap: int) -> Tensor:
    """Apply `restore`, (1, C, h, w) -> the same shape, to tiles of at most `tile` x `tile` pixels; blend the results.

    image: float (1, C, H, W) in [0, 1]; the result has its shape, type and device.
    Equal to restore(image) up to rounding if each output pixel depends only on input pixels at most overlap // 4 rows
    and columns away. If `restore` treats pixels differently by their position modulo m (an m x m squeeze), `tile` and
    `overlap` must be multiples of m. UserError: tile <= overlap, or a negative overlap.
    """
    if not 0 <= overlap < tile:
        raise UserError(f"overlap is {overlap} and tile {tile}: choose 0 <= overlap < tile")
    assert image.ndim == 4 and image.shape[0] == 1 and image.is_floating_point(), f"{image.dtype} {image.shape}"
    output = torch.zeros_like(image)
    rows, columns = (_axis(n, tile, overlap) for n in image.shape[2:])
    for row, row_weight in rows:
        for column, column_weight in columns:
            part = image[:, :, row, column].clone()  # `restore` may work in place; neighbours read these pixels again
            result = restore(part)
            assert result.shape == part.shape, f"restore made {tuple(result.shape)} of {tuple(part.shape)}"
            weight = (row_weight[:, None] * column_weight).to(image)
            output[:, :, row, column] += weight * result.to(image)
    return output


def max_tile(free_bytes: int, bytes_per_pixel: float, multiple: int) -> int:
    """Side in pixels of the largest square tile, a multiple of `multiple`, whose activations fit into `free_bytes`.

    At least 8 * multiple, even where that does not fit: smaller tiles would be nearly all overlap.
    """
    assert bytes_per_pixel > 0 and multiple >= 1, f"{bytes_per_pixel} bytes a pixel, multiple {multiple}"
    side = math.isqrt(int(max(0, free_bytes) // bytes_per_pixel))
    return max(side // multiple, 8) * multiple


def _axis(n: int, tile: int, overlap: int) -> list[tuple[slice, Tensor]]:
    """The tiles along one axis: where each lies, and the weight of its pixels, float64; weights sum to one everywhere.

    The last tile is shorter rather than moved back, which keeps every start at a multiple of tile - overlap.
    """
    stride = tile - overlap
    count = max(1, math.ceil((n - overlap) / stride))
    tiles = []
    for k in range(count):
        where = slice(k * stride, min(n, k * stride + tile))
        x = torch.arange(where.start, where.stop, dtype=torch.float64)
        # Tile k has the share that was handed over to it less what it has handed on: the sum over k telescopes to one,
        # also where more than two tiles overlap.
        received = _handed_over(x, where.start, overlap) if k > 0 else torch.ones_like(x)
        handed_on = _handed_over(x, where.start + stride, overlap) if k < count - 1 else torch.zeros_like(x)
        tiles.append((where, received - handed_on))
    return tiles


def _handed_over(x: Tensor, start: int, overlap: int) -> Tensor:
    """The share, 0 to 1, that the tiles from the one at `start` on have at the pixels x: the ramp of the drawing."""
    margin = overlap // 4
    ramp = overlap - 2 * margin
    return ((x - start - margin + 1) / (ramp + 1)).clamp(0, 1)
