"""Flips and crops of training images."""

from __future__ import annotations

import numpy as np

from pipeline.data.augment import augment

COUNT, SIDE, CROP = 256, 12, 5


def numbered() -> np.ndarray:
    """Images that tell from each pixel where it was: (B, H, W, 2) = row, column."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.uint8)
    return np.broadcast_to(np.stack([rows, columns], -1), (COUNT, SIDE, SIDE, 2)).copy()


def drawn(epoch: int = 0, seed: int = 0, flip: bool = True, crop: int | None = CROP) -> np.ndarray:
    keys = [f"k{i}" for i in range(COUNT)]
    return augment(numbered(), keys, [epoch] * COUNT, seed=seed, flip=flip, crop=crop)


def test_every_image_is_a_window_or_its_mirror_image() -> None:
    out = drawn()
    assert out.shape == (COUNT, CROP, CROP, 2)
    tops, lefts, mirrored = set(), set(), 0
    for image in out:
        rows, columns = image[:, 0, 0].astype(int), image[0, :, 1].astype(int)
        assert (np.diff(rows) == 1).all() and abs(np.diff(columns)[0]) == 1 and len(set(np.diff(columns))) == 1
        mirrored += columns[1] < columns[0]
        tops.add(rows.min())
        lefts.add(columns.min())
    assert tops == lefts == set(range(SIDE - CROP + 1)), "all places are drawn"
    assert 0.35 * COUNT < mirrored < 0.65 * COUNT


def test_a_function_of_seed_epoch_and_key_alone() -> None:
    assert (drawn() == drawn()).all()
    assert (drawn() != drawn(epoch=1)).any() and (drawn() != drawn(seed=1)).any()
    keys = [f"k{i}" for i in range(COUNT)][::-1]
    backwards = augment(numbered(), keys, [0] * COUNT, seed=0, flip=True, crop=CROP)
    assert (backwards[::-1] == drawn()).all()


def test_without_either_nothing_changes_and_each_works_alone() -> None:
    assert (drawn(flip=False, crop=None) == numbered()).all()
    assert drawn(crop=None).shape == numbered().shape and (drawn(crop=None) != numbered()).any()
    assert (np.diff(drawn(flip=False)[:, 0, :, 1].astype(int), axis=1) == 1).all()
