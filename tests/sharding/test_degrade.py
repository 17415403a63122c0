"""The stored degradations: their results, which depend on image, key, seed and name alone."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from sharding.sources import open_source
from sharding.tar import NPY_HEADER_BYTES, npy_bytes
from sharding.write.degrade import (
    KINDS,
    Degradation,
    Field,
    encoder_settings,
    parse_degradations,
)

SOURCE = open_source("synthetic", size=64, count_train=4, count_val=0, count_test=0)
CLEAN = [SOURCE.pixels(image, SOURCE.read(image)) for image in SOURCE.images()]


def one(text: str) -> Degradation:
    (found,) = parse_degradations([text])
    return found


def mask(text: str, key: str = "key", seed: int = 0, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    field = one(text).apply(np.zeros((*shape, 3), np.uint8), key, seed)
    assert (field.name, field.extension) == (text.replace(":", "_"), "npy")
    loaded: np.ndarray = np.load(io.BytesIO(field.data), allow_pickle=False)
    assert loaded.dtype == np.uint8 and loaded.shape == shape and set(np.unique(loaded)) <= {0, 1}
    return loaded


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_jpeg_bytes_are_a_jpeg_of_the_size_and_sampling_asked_for() -> None:
    for text, name, factors in (("jpeg:10", "jpeg10", (2, 2)), ("jpeg:90:444", "jpeg90_444", (1, 1))):
        field = one(text).apply(CLEAN[0], "key", 0)
        image = Image.open(io.BytesIO(field.data))
        assert (field.name, field.extension, image.format, image.size) == (name, "jpg", "JPEG", (64, 64))
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        assert image.layer[0][1:3] == factors  # the luma's share of a chroma sample, across and down
        assert "progressive" not in image.info


def test_a_higher_quality_is_nearer_to_the_clean_image_and_larger() -> None:
    for clean in CLEAN:
        fields = [d.apply(clean, "key", 0) for d in parse_degradations(["jpeg:1,10,20,30,40,80,100"])]
        qualities = [psnr_db(np.asarray(Image.open(io.BytesIO(field.data))), clean) for field in fields]
        assert qualities == sorted(qualities) and qualities[0] < 18 < 24 < qualities[-1]
        sizes = [len(field.data) for field in fields]
        assert sizes == sorted(sizes)


@given(st.integers(8, 80), st.integers(8, 80), st.text(max_size=5), st.integers(0, 2**63))
def test_the_box_has_half_the_sides_and_lies_inside(height: int, width: int, key: str, seed: int) -> None:
    for text in ("mask:box", "mask:center"):
        missing = mask(text, key, seed, (height, width))
        rows, columns = np.flatnonzero(missing.any(axis=1)), np.flatnonzero(missing.any(axis=0))
        assert len(rows) == height // 2 and len(columns) == width // 2
        assert missing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert missing.sum() == (height // 2) * (width // 2)
    assert rows[0] == (height - height // 2) // 2 and columns[0] == (width - width // 2) // 2  # center


def test_the_papers_box_is_128_of_256() -> None:
    assert mask("mask:box", shape=(256, 256)).sum() == 128 * 128


def test_boxes_are_spread_over_all_places() -> None:
    places = [np.argwhere(mask("mask:box", f"key{i}", 0, (16, 16)))[0] for i in range(900)]
    counts = np.zeros((9, 9), int)
    np.add.at(counts, tuple(np.transpose(places)), 1)
    expected = 900 / 81
    assert ((counts - expected) ** 2 / expected).sum() < 133  # chi-squared with 80 degrees: exceeded once in 10,000


@settings(max_examples=200)
@given(st.sampled_from([(16, 16), (64, 64), (33, 90), (128, 128)]), st.text(max_size=5), st.integers(0, 2**31))
def test_brush_strokes_cover_10_to_40_percent(shape: tuple[int, int], key: str, seed: int) -> None:
    assert 0.10 <= mask("mask:brush", key, seed, shape).mean() <= 0.40


def test_brush_strokes_differ_reach_everywhere_and_are_strokes() -> None:
    masks = np.stack([mask("mask:brush", f"key{i}") for i in range(300)])
    assert len({m.tobytes() for m in masks}) == 300
    assert masks.mean(axis=0).min() > 0 and masks.mean(axis=0).max() < 0.5
    shares = masks.mean(axis=(1, 2))
    assert shares.min() < 0.15 and shares.max() > 0.30
    edges = (np.diff(masks.astype(int), axis=1) != 0).sum(axis=(1, 2)) / masks.sum(axis=(1, 2))
    assert 0.05 < edges.mean() < 0.25  # a few px wide: neither dust nor one blob


def test_masks_depend_on_key_seed_and_name_and_not_on_the_pixels() -> None:
    for text in ("mask:box", "mask:brush"):
        degradation = one(text)
        first = degradation.apply(CLEAN[0], "key", 1)
        assert degradation.apply(CLEAN[1], "key", 1) == first
        others = [degradation.apply(CLEAN[0], f"key{i}", 1) for i in range(20)]
        others += [degradation.apply(CLEAN[0], "key", seed) for seed in range(2, 22)]
        assert sum(other == first for other in others) < 3  # a box has 33 x 33 places
        assert len({other.data for other in others}) > 30


@pytest.mark.integration
def test_another_process_gives_the_same_bytes() -> None:
    texts = ["jpeg:10,40", "mask:box,center,brush"]
    program = (
        "import sys, hashlib, numpy as np; from sharding.write.degrade import parse_degradations;"
        "clean = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(64, 64, 3);"
        f"print(*[hashlib.sha256(d.apply(clean, 'key', 7).data).hexdigest() for d in parse_degradations({texts})])"
    )
    run = subprocess.run([sys.executable, "-c", program], input=CLEAN[0].tobytes(), capture_output=True, check=True)
    ours = [hashlib.sha256(d.apply(CLEAN[0], "key", 7).data).hexdigest() for d in parse_degradations(texts)]
    assert run.stdout.decode().split() == ours


def test_parsing_gives_names_in_order_and_travels_by_pickle() -> None:
    found = parse_degradations(["jpeg:10, 20:444", "mask:box,center,brush"])
    assert [d.name for d in found] == ["jpeg10", "jpeg20_444", "mask_box", "mask_center", "mask_brush"]
    assert pickle.loads(pickle.dumps(found)) == found
    for degradation in found:
        assert degradation.apply(CLEAN[0], "key", 0).name == degradation.name
    assert parse_degradations([]) == []


def test_parsing_names_every_mistake_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        parse_degradations(["awgn:25", "jpeg:0,101,ten,10,10:411,10", "mask", "mask:blob", "jpeg:20:444:1"])
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    for part in ("'awgn:25'", "jpeg, mask", "'0'", "'101'", "'ten'", "'10:411'", "jpeg10 is requested twice"):
        assert part in message
    for part in ("the mask ''", "'blob'", "box, center, brush", "'20:444:1'"):
        assert part in message


def test_a_new_kind_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def dark(clean: np.ndarray, key: str, seed: int, parameters: tuple[str, ...]) -> Field:
        return Field(f"dark{parameters[0]}", "npy", npy_bytes(clean // np.uint8(parameters[0])))

    monkeypatch.setitem(KINDS, "dark", dark)
    field = one("dark:2").apply(CLEAN[0], "key", 0)
    assert field.name == "dark2"
    np.testing.assert_array_equal(np.load(io.BytesIO(field.data)), CLEAN[0] // 2)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=3).filter(lambda shape: np.prod(shape) < 300_000))
def test_npy_has_its_pixels_at_byte_128(shape: list[int]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    for view in (array, array.T):  # also where memory is not in C order
        data = npy_bytes(view)
        np.testing.assert_array_equal(np.load(io.BytesIO(data), allow_pickle=False), view)
        assert data[NPY_HEADER_BYTES:] == view.tobytes() and NPY_HEADER_BYTES == 128
        assert data[:8] == b"\x93NUMPY\x01\x00"


def test_encoder_settings_name_versions_and_are_json() -> None:
    found = json.loads(json.dumps(encoder_settings()))
    assert found["libraries"]["pillow"] == Image.__version__
    assert found["libraries"]["libjpeg_turbo"] or found["libraries"]["libjpeg"]
    assert found["jpeg"]["subsampling"] == "4:2:0"
