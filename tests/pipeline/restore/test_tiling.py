"""Tiled restoration: nothing changes for the identity, nothing for local operators, and no seam shows for others."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.restore.tiling import max_tile, restore_tiled

SIZES = st.integers(1, 40)
TILE_AND_OVERLAP = st.integers(1, 30).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))


def random_image(height: int, width: int, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)


def box_filter(image: Tensor, radius: int) -> Tensor:
    """Mean of the image's own pixels at most `radius` rows and columns away: the borders are special."""
    return F.avg_pool2d(image, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


@settings(deadline=None, max_examples=200)
@given(SIZES, SIZES, TILE_AND_OVERLAP)
def test_identity_gives_the_image_back(height: int, width: int, plan: tuple[int, int]) -> None:
    image = random_image(height, width)
    torch.testing.assert_close(restore_tiled(lambda part: part, image, *plan), image, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=200)
@given(SIZES, SIZES, st.integers(0, 4), st.integers(0, 3), st.integers(1, 20))
def test_local_operator_gives_what_it_gives_untiled(
    height: int, width: int, radius: int, extra: int, stride: int
) -> None:
    overlap = 4 * radius + extra
    image = random_image(height, width, dtype=torch.float64)
    tiled = restore_tiled(lambda part: box_filter(part, radius), image, overlap + stride, overlap)
    torch.testing.assert_close(tiled, box_filter(image, radius), rtol=0, atol=1e-12)


def test_radius_beyond_the_margin_is_not_exact() -> None:
    """The condition of the docstring is sharp: else the test above would not see a margin that is too narrow."""
    image = random_image(64, 64, dtype=torch.float64)
    tiled = restore_tiled(lambda part: box_filter(part, 3), image, 24, 8)
    assert not torch.allclose(tiled, box_filter(image, 3), rtol=0, atol=1e-6)


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(1, 4), st.integers(1, 5), st.integers(0, 5))
def test_tiles_start_at_multiples(height: int, width: int, multiple: int, strides: int, overlaps: int) -> None:
    """An operator that depends on the position modulo `multiple`, as a squeeze does, is not disturbed."""

    def keep_one_of_each_cell(part: Tensor) -> Tensor:
        kept = torch.zeros_like(part)
        kept[:, :, ::multiple, ::multiple] = part[:, :, ::multiple, ::multiple]
        return kept

    image = random_image(height, width)
    overlap = overlaps * multiple
    tiled = restore_tiled(keep_one_of_each_cell, image, overlap + strides * multiple, overlap)
    torch.testing.assert_close(tiled, keep_one_of_each_cell(image), rtol=0, atol=1e-6)


@settings(deadline=None)
@given(SIZES, SIZES, TILE_AND_OVERLAP)
def test_tiles_are_within_the_limit_and_share_the_overlap(height: int, width: int, plan: tuple[int, int]) -> None:
    tile, overlap = plan
    seen: list[tuple[range, range]] = []

    def look(part: Tensor) -> Tensor:
        rows, columns = part[0, 0, :, 0].int().tolist(), part[0, 1, 0, :].int().tolist()
        seen.append((range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1)))
        return part

    axes = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    restore_tiled(look, torch.stack(axes)[None], tile, overlap)
    for axis, n in enumerate((height, width)):
        spans = sorted({(tile_[axis].start, tile_[axis].stop) for tile_ in seen})
        assert spans[0][0] == 0 and spans[-1][1] == n
        assert all(stop - start <= tile for start, stop in spans)
        assert all(left[1] - right[0] == overlap for left, right in zip(spans, spans[1:], strict=False))
    assert len(seen) == len(set(seen))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 30), st.integers(1, 20))
def test_disagreeing_tiles_make_no_step(width: int, overlap: int, stride: int) -> None:
    """Tiles that are 0 and 1 in turn differ as much as they can: the ramp spreads it over half of the overlap."""
    turn = 0

    def disagree(part: Tensor) -> Tensor:
        nonlocal turn
        turn += 1
        return torch.full_like(part, turn % 2)

    tile = overlap + max(stride, overlap)  # at most two tiles anywhere
    tiled = restore_tiled(disagree, random_image(1, width, channels=1), tile, overlap)[0, 0, 0]
    assert tiled.min() >= 0 and tiled.max() <= 1
    if width > tile:
        assert tiled.diff().abs().max() <= 1 / (overlap / 2 + 1) + 1e-6


def test_restore_may_work_in_place_and_in_another_type() -> None:
    image = random_image(30, 50)
    before = image.clone()
    tiled = restore_tiled(lambda part: part.mul_(0.5).to(torch.float64), image, 16, 8)
    assert torch.equal(image, before)
    assert tiled.dtype == image.dtype
    torch.testing.assert_close(tiled, image / 2, rtol=0, atol=1e-6)


def test_no_graph_is_kept() -> None:
    """A graph would hold the activations of all tiles at once."""
    gain = torch.ones((), requires_grad=True)
    assert not restore_tiled(lambda part: part * gain, random_image(20, 20), 8, 2).requires_grad


@pytest.mark.parametrize(("tile", "overlap"), [(8, 8), (8, 9), (0, 0), (8, -1)])
def test_impossible_overlap_is_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"overlap is {overlap} and tile {tile}"):
        restore_tiled(lambda part: part, random_image(4, 4), tile, overlap)


@given(st.integers(-1, 2**42), st.floats(0.001, 1e6), st.integers(1, 64))
def test_max_tile_is_the_largest_that_fits(free_bytes: int, bytes_per_pixel: float, multiple: int) -> None:
    side = max_tile(free_bytes, bytes_per_pixel, multiple)

    def fits(n: int) -> bool:
        return n * n * Fraction(bytes_per_pixel) <= free_bytes

    assert side % multiple == 0 and side >= 8 * multiple
    assert fits(side) or side == 8 * multiple
    assert not fits(side + multiple)
