"""Each source on a small tree in its publisher's layout, then with mistakes in it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.storage import UserError
from sharding.sources import SPLITS, Source, SourceImage, open_source
from sharding.sources.base import MAX_KEY_CHARS, hash_split, safe_key, split_off_val
from sharding.sources.synthetic import dead_leaves
from sharding.write.decode import BadImage, crop_resize
from sharding.write.degrade import keyed_bits
from sharding.write.plan import make_plan

SAFE = re.compile(r"[A-Za-z0-9_/-]+")
REAL = os.environ.get("IRAE_TEST_DATA")
real_data = pytest.mark.skipif(not REAL, reason="IRAE_TEST_DATA names no folder with real photographs")


def picture(number: int, width: int = 24, height: int = 20) -> Image.Image:
    """An image whose colour encodes its number."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 5, y * 5, np.full_like(x, number * 7 % 256)], axis=2).astype(np.uint8))


def save(path: Path, number: int = 0, width: int = 24, height: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, width, height).save(path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


def splits(source: Source) -> dict[str, str]:
    """Key -> split, after checking the contract of every source."""
    images = source.images()
    assert images == sorted(images) and source.images() == images
    assert len({image.key for image in images}) == len(images)
    assert all(SAFE.fullmatch(image.key) and image.split in SPLITS for image in images)
    assert pickle.loads(pickle.dumps(source)) == source
    for image in images:
        data = source.read(image)
        pixels = source.pixels(image, data)
        assert pixels.shape == (source.size, source.size, 3) and pixels.dtype == np.uint8
        assert isinstance(data, bytes) and pixels.flags.c_contiguous
    return {image.key: image.split for image in images}


def without_val(found: dict[str, str]) -> dict[str, str]:
    """Splits before a part of train was split off as val, after checking the rule."""
    for key, split in found.items():
        (rule,) = split_off_val([SourceImage(key, "", "train")])
        assert split == rule.split if split in ("train", "val") else split == "test"
    return {key: "train" if split == "val" else split for key, split in found.items()}


def problem(source: Source) -> str:
    """The error with which the source refuses its folder."""
    with pytest.raises(UserError) as caught:
        source.images()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


# CelebA


def make_celeba(root: Path, faces: str = "img_align_celeba", partition: str = "list_eval_partition.txt") -> None:
    for number in range(1, 7):
        save(root / faces / f"{number:06d}.jpg", number, 178, 218)
    comma = "," if partition.endswith(".csv") else " "
    lines = [f"{number:06d}.jpg{comma}{number // 3}" for number in range(1, 7)]
    write(root / partition, *(["image_id,partition"] if comma == "," else []), *lines)


@pytest.mark.parametrize(
    ("faces", "partition"),
    [
        ("img_align_celeba", "list_eval_partition.txt"),
        ("Img/img_align_celeba", "Eval/list_eval_partition.txt"),
        ("img_align_celeba/img_align_celeba", "list_eval_partition.csv"),
    ],
)
def test_celeba_layouts(tmp_path: Path, faces: str, partition: str) -> None:
    make_celeba(tmp_path, faces, partition)
    found = splits(open_source("celeba", tmp_path))
    expected = ["train", "train", "val", "val", "val", "test"]
    assert found == {f"{number:06d}": split for number, split in enumerate(expected, 1)}


def test_celeba_crop_is_148_of_178_at_any_scale(tmp_path: Path) -> None:
    make_celeba(tmp_path)
    full = picture(3, 178, 218)
    source = open_source("celeba", tmp_path, size=64)
    for image, crop in ((full, 148), (full.resize((89, 109)), 74), (full.resize((356, 436)), 296)):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        pixels = source.pixels(source.images()[0], buffer.getvalue())
        np.testing.assert_array_equal(pixels, crop_resize(image, crop, 64))
    assert open_source("celeba", tmp_path, size=128).pixels(source.images()[0], buffer.getvalue()).shape[0] == 128


def test_celeba_mistakes(tmp_path: Path) -> None:
    source = open_source("celeba", tmp_path)
    (tmp_path / "notes.txt").touch()
    assert "img_align_celeba" in problem(source) and "there is notes.txt" in problem(source)
    (tmp_path / "img_align_celeba").mkdir()
    assert "list_eval_partition.txt" in problem(source)
    (tmp_path / "list_eval_partition.txt").touch()
    assert "names no images" in problem(source)
    make_celeba(tmp_path)
    partition = tmp_path / "list_eval_partition.txt"
    lines = partition.read_text().splitlines()
    write(partition, *lines[2:], *(f"9{number:05d}.jpg 0" for number in range(4)))
    message = problem(source)
    assert "4 images named there have no file (900000.jpg, 900001.jpg, 900002.jpg, ...)" in message
    assert "2 images are not named there (000001.jpg, 000002.jpg)" in message
    write(partition, *lines[:-1], "000006.jpg 3")
    assert "000006.jpg" in problem(source) and "0, 1 or 2" in problem(source)
    write(partition, *lines, lines[0])
    assert "line 7" in problem(source) and "twice" in problem(source)
    write(partition, *lines[:-1], "000006.jpg")
    assert "line 6" in problem(source)
    assert "does not exist" in problem(open_source("celeba", tmp_path / "nowhere"))


# CelebA-HQ


def make_celeba_hq(root: Path, names: str) -> None:
    for number in range(6):
        save(root / names.format(number), number)
    write(root / "list_eval_partition.txt", *(f"{100 + number}.jpg {number // 2}" for number in range(6)))
    rows = [f"{number}  {99 + number}  {100 + number}.jpg" for number in range(6)]
    write(root / "CelebA-HQ-to-CelebA-mapping.txt", "idx  orig_idx  orig_file", *rows)


@pytest.mark.parametrize("names", ["{:d}.jpg", "{:05d}.png", "imgHQ{:05d}.png", "CelebA-HQ-img/{:d}.jpg"])
def test_celeba_hq_splits(tmp_path: Path, names: str) -> None:
    make_celeba_hq(tmp_path, names)
    keys = [safe_key(names.format(number).split("/")[-1]) for number in range(6)]
    official = ["train", "train", "val", "val", "test", "test"]
    source = open_source("celeba-hq", tmp_path, size=32)
    assert splits(source) == dict(zip(keys, official, strict=True))
    assert source.settings()["split"] == "official"
    released = open_source("celeba-hq", tmp_path, size=32, split="released")
    assert without_val(splits(released)) == dict(zip(keys, ["train"] * 4 + ["test"] * 2, strict=True))
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    assert "mapping" in problem(released)
    assert splits(source) == {key: hash_split(key) for key in keys}
    assert "90/5/5" in source.settings()["split"]


def test_celeba_hq_mistakes(tmp_path: Path) -> None:
    source = open_source("celeba-hq", tmp_path)
    assert "no images" in problem(source)
    make_celeba_hq(tmp_path, "{:d}.jpg")
    save(tmp_path / "7.jpg")
    save(tmp_path / "face.jpg")
    (tmp_path / "0.jpg").unlink()
    message = problem(source)
    assert (
        "1 images named there have no file (0)" in message and "2 images are not named there (7, face.jpg)" in message
    )
    (tmp_path / "list_eval_partition.txt").unlink()
    assert "list_eval_partition" in problem(source)


# CUB


def make_cub(root: Path, each: int = 3) -> None:
    files = [f"{bird:03d}.Some_Bird/Some.Bird_{n}.jpg" for bird in (1, 2) for n in range(each)]
    for number, file in enumerate(files):
        save(root / "images" / file, number)
    write(root / "images.txt", *(f"{i} {file}" for i, file in enumerate(files, 1)))
    write(root / "train_test_split.txt", *(f"{i} {i % 2}" for i in range(1, len(files) + 1)))
    write(root / "image_class_labels.txt", *(f"{i} {(i + each - 1) // each}" for i in range(1, len(files) + 1)))


def test_cub(tmp_path: Path) -> None:
    make_cub(tmp_path / "CUB_200_2011")
    source = open_source("cub", tmp_path)
    keys = [f"{bird:03d}_Some_Bird/Some_Bird_{n}" for bird in (1, 2) for n in range(3)]
    assert without_val(splits(source)) == dict(zip(keys, ["train", "test"] * 3, strict=True))
    assert [image.label for image in source.images()] == [1, 1, 1, 2, 2, 2]
    inner = open_source("cub", tmp_path / "CUB_200_2011")
    assert inner.images() == source.images()  # the same data set wherever the root points
    assert inner.read(inner.images()[0]) == source.read(source.images()[0])


def test_cub_and_released_flowers_have_images_to_validate_on(tmp_path: Path) -> None:
    make_cub(tmp_path / "cub", each=40)
    make_flowers(tmp_path / "flowers", count=80, tstid=[*range(1, 81, 2)], valid=[*range(2, 81, 2)], trnid=[])
    for source in (
        open_source("cub", tmp_path / "cub", size=16),
        open_source("flowers", tmp_path / "flowers", size=16, split="released"),
    ):
        found = splits(source)
        assert 1 <= Counter(found.values())["val"] < 20 and Counter(without_val(found).values()) == {
            "train": 40,
            "test": 40,
        }
        assert "a tenth of train is val" in source.settings()["split"]


def test_cub_crop_is_300(tmp_path: Path) -> None:
    make_cub(tmp_path)
    source = open_source("cub", tmp_path)
    for size in ((500, 330), (250, 400)):
        image, buffer = picture(1, *size), io.BytesIO()
        image.save(buffer, "PNG")
        pixels = source.pixels(source.images()[0], buffer.getvalue())
        np.testing.assert_array_equal(pixels, crop_resize(image, 300, 128))


def test_cub_mistakes(tmp_path: Path) -> None:
    source = open_source("cub", tmp_path)
    assert "images.txt" in problem(source)
    make_cub(tmp_path)
    (tmp_path / "images/001.Some_Bird/Some.Bird_0.jpg").unlink()
    save(tmp_path / "images/003.New/new.jpg")
    message = problem(source)
    assert "1 images named there have no file (001.Some_Bird/Some.Bird_0.jpg)" in message
    assert "1 images are not named there (003.New/new.jpg)" in message
    write(tmp_path / "train_test_split.txt", *(f"{i} 1" for i in range(1, 6)))
    assert "train_test_split.txt" in problem(source) and "differ" in problem(source)
    write(tmp_path / "train_test_split.txt", *(f"{i} 2" for i in range(1, 7)))
    assert "0 to 1" in problem(source)


# Flowers


def make_flowers(root: Path, count: int = 6, **sets: list[int]) -> None:
    for number in range(1, count + 1):
        save(root / f"jpg/image_{number:05d}.jpg", number)
    sets = {"trnid": [4], "valid": [2, 6], "tstid": [1, 3, 5]} | sets
    scipy.io.savemat(root / "setid.mat", {name: np.array([ids], np.uint16) for name, ids in sets.items()})
    scipy.io.savemat(
        root / "imagelabels.mat", {"labels": np.array([[77, 77, 3, 4, 5, 102] + [1] * (count - 6)], np.uint8)}
    )


def test_flowers(tmp_path: Path) -> None:
    make_flowers(tmp_path)
    source = open_source("flowers", tmp_path)
    keys = [f"image_{number:05d}" for number in range(1, 7)]
    assert splits(source) == dict(zip(keys, ["test", "val", "test", "train", "test", "val"], strict=True))
    assert [image.label for image in source.images()] == [77, 77, 3, 4, 5, 102]
    released = open_source("flowers", tmp_path, split="released")
    assert without_val(splits(released)) == dict(
        zip(keys, ["train", "test", "train", "test", "train", "test"], strict=True)
    )
    image, buffer = picture(1, 600, 500), io.BytesIO()
    image.save(buffer, "PNG")
    np.testing.assert_array_equal(source.pixels(source.images()[0], buffer.getvalue()), crop_resize(image, 400, 128))


def test_flowers_mistakes(tmp_path: Path) -> None:
    source = open_source("flowers", tmp_path)
    assert "jpg" in problem(source)
    make_flowers(tmp_path, tstid=[1, 3, 7])
    message = problem(source)
    assert "1 images named there have no file (image_00007.jpg)" in message and "(image_00005.jpg)" in message
    make_flowers(tmp_path, trnid=[4, 5])
    assert "1 images more than once" in problem(source)
    make_flowers(tmp_path)
    scipy.io.savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[1, 2]], np.uint8)})
    assert "2 labels" in problem(source)
    scipy.io.savemat(tmp_path / "imagelabels.mat", {"other": np.array([[1, 2]], np.uint8)})
    assert "'labels'" in problem(source)
    (tmp_path / "setid.mat").write_text("<html>not found</html>")
    assert "setid.mat is no readable MATLAB file" in problem(source)


def test_flowers_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_flowers(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert "pip install -e '.[matlab]'" in problem(open_source("flowers", tmp_path))


# Folder


def test_folder_splits_by_hash_or_as_told(tmp_path: Path) -> None:
    for number, name in enumerate(["a.JPG", "b/c.d/e f.png", "b/é.webp", "deep/er/x.tiff", "y.jpeg"]):
        save(tmp_path / name, number)
    for name in ("notes.txt", ".DS_Store", ".hidden.png", ".git/x.png", "b/Thumbs.db"):
        write(tmp_path / name, "no image")
    keys = ["a", "b/_", "b/c_d/e_f", "deep/er/x", "y"]
    assert splits(open_source("folder", tmp_path, size=16)) == {key: hash_split(key) for key in keys}
    assert splits(open_source("folder", tmp_path, size=16, split="test")) == dict.fromkeys(keys, "test")
    source = open_source("folder", tmp_path, size=16, crop=10)
    np.testing.assert_array_equal(source.pixels(*first(source)), crop_resize(Image.open(tmp_path / "a.JPG"), 10, 16))
    source = open_source("folder", tmp_path, size=16)
    np.testing.assert_array_equal(source.pixels(*first(source)), crop_resize(Image.open(tmp_path / "a.JPG"), 20, 16))


def first(source: Source) -> tuple[SourceImage, bytes]:
    image = source.images()[0]
    return image, source.read(image)


def test_folder_takes_its_split_folders(tmp_path: Path) -> None:
    for number, name in enumerate(["train/a.png", "train/sub/a.png", "validation/a.png", "Test/b.png"]):
        save(tmp_path / name, number)
    expected = {"train/a": "train", "train/sub/a": "train", "validation/a": "val", "Test/b": "test"}
    assert splits(open_source("folder", tmp_path, size=16)) == expected
    save(tmp_path / "more/c.png")
    save(tmp_path / "d.png")
    message = problem(open_source("folder", tmp_path, split="test"))
    assert "2 images lie outside" in message and "d.png, more/c.png" in message and "split 'test'" in message


def test_folder_mistakes(tmp_path: Path) -> None:
    assert "no images" in problem(open_source("folder", tmp_path))
    for name in ("a/x.png", "b/1.0.png", "b/1_0.png"):
        save(tmp_path / name)
    with pytest.raises(UserError, match=r"1 keys occur twice, the first being 'b/1_0' \(b/1.0.png, b/1_0.png\)"):
        make_plan(open_source("folder", tmp_path).images(), {}, 0, 10)
    assert "does not exist" in problem(open_source("folder", tmp_path / "nowhere"))
    for options in ({"size": 7}, {"crop": 0}, {"split": "dev"}):
        with pytest.raises(UserError, match="must be"):
            open_source("folder", tmp_path, **options)  # type: ignore[arg-type]


def test_a_broken_file_is_named_bad_only_when_decoded(tmp_path: Path) -> None:
    write(tmp_path / "a.png", "no image")
    source = open_source("folder", tmp_path)
    (image,) = source.images()
    with pytest.raises(BadImage):
        source.pixels(image, source.read(image))


@given(st.text(min_size=1, max_size=200).filter(lambda text: text.strip("/.")))
def test_keys_are_safe_short_and_their_own_function(path: str) -> None:
    key = safe_key(path)
    assert SAFE.fullmatch(key) and len(key) <= MAX_KEY_CHARS and safe_key(path) == key


def test_long_names_stay_apart() -> None:
    keys = {safe_key(f"{'long/' * 30}{number}.png") for number in range(100)}
    assert len(keys) == 100 and all(SAFE.fullmatch(key) and len(key) <= MAX_KEY_CHARS for key in keys)


def test_hash_split_has_its_shares_and_keeps_them() -> None:
    counts = Counter(hash_split(f"key{number}") for number in range(10_000))
    assert abs(counts["train"] - 9000) < 130 and abs(counts["val"] - 500) < 95 and abs(counts["test"] - 500) < 95
    assert [hash_split(key) for key in ("key0", "key13", "key84")] == ["train", "val", "test"]


def test_a_tenth_of_train_is_split_off_and_nothing_else() -> None:
    images = [SourceImage(f"key{number}", "", "train" if number % 2 else "test", number) for number in range(10_000)]
    after = split_off_val(images)
    assert abs(sum(image.split == "val" for image in after) - 500) < 95
    assert [without_val({image.key: image.split})[image.key] for image in after] == [image.split for image in images]
    assert [(image.key, image.label) for image in after] == [(image.key, image.label) for image in images]
    assert split_off_val(images[:100]) == after[:100]  # added images move none


# Synthetic


def test_synthetic_is_a_function_of_seed_split_and_number() -> None:
    small = open_source("synthetic", size=32, count_train=3, count_val=2, count_test=1)
    expected = {"train_000000": "train", "train_000001": "train", "train_000002": "train"}
    assert splits(small) == expected | {"val_000000": "val", "val_000001": "val", "test_000000": "test"}
    data = {image.key: small.read(image) for image in small.images()}
    assert len(set(data.values())) == 6
    more = open_source("synthetic", size=32, count_train=9, count_val=9, count_test=9)
    again = {image.key: more.read(image) for image in reversed(more.images())}
    assert {key: again[key] for key in data} == data
    other = open_source("synthetic", size=32, count_train=3, count_val=2, count_test=1, seed=1)
    assert not set(data.values()) & {other.read(image) for image in other.images()}


def test_synthetic_bytes_are_the_same_on_every_machine() -> None:
    images = [dead_leaves(size, keyed_bits("fixed")) for size in (16, 64, 256)]
    found = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images]
    assert found == ["c2beed531a04a27e", "ad4987f0bb41d337", "cc9146a882e65c60"]


def test_synthetic_looks_like_natural_images() -> None:
    images = np.stack([dead_leaves(64, keyed_bits(str(number))) for number in range(200)]).astype(float) / 255
    grey = images.mean(axis=3)
    assert 0.45 < images.mean() < 0.55 and 0.18 < grey.std() < 0.28
    assert 0.05 < (images - grey[..., None]).std() < 0.12
    step = np.diff(grey, axis=2)
    assert np.mean((step - step.mean()) ** 4) / step.var() ** 2 > 5  # heavy tails; a Gaussian has 3
    # Spectrum: power falls about as frequency^-2, as in photographs (noise would give 0).
    window = np.hanning(64)[:, None] * np.hanning(64)
    power = (np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2).mean(axis=0)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64, 1 / 64), np.fft.fftfreq(64, 1 / 64)))
    rings = np.array([power[(radius >= r - 0.5) & (radius < r + 0.5)].mean() for r in range(2, 24)])
    slope = np.polyfit(np.log(np.arange(2, 24)), np.log(rings), 1)[0]
    assert -3 < slope < -1.2
    assert images.std(axis=(1, 2)).min() > 0.02  # no image is one leaf alone


# All


def test_open_source_refuses_in_one_sentence(tmp_path: Path) -> None:
    for arguments, options, parts in (
        (("faces",), {}, ["'faces'", "celeba, celeba-hq, cub, flowers, folder, synthetic"]),
        (("cub",), {}, ["cub needs a root"]),
        (("synthetic", tmp_path), {}, ["leave out root"]),
        (("folder", tmp_path), {"corp": 3}, ["no option corp", "crop, split"]),
        (("celeba", tmp_path), {"split": "x"}, ["no option split"]),
        (("flowers", tmp_path), {"split": "x"}, ["official, released"]),
        (("celeba", tmp_path, 4), {}, ["4 px"]),
        (("synthetic",), {"count_train": -1}, ["negative"]),
    ):
        with pytest.raises(UserError) as caught:
            open_source(*arguments, **options)
        assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value), str(caught.value)


def test_settings_are_json_without_the_local_path(tmp_path: Path) -> None:
    for name in ("celeba", "celeba-hq", "cub", "flowers", "folder", "synthetic"):
        source = open_source(name, None if name == "synthetic" else tmp_path, size=48)
        text = json.dumps(source.settings())
        assert str(tmp_path) not in text and source.settings()["size"] == 48 and source.settings()["source"] == name
        assert text != json.dumps(open_source(name, source.__dict__.get("root"), size=64).settings())


@real_data
@pytest.mark.parametrize(
    ("name", "folder", "counts"),
    [
        ("celeba", "celeba", {"train": 7000, "val": 500, "test": 500}),
        ("cub", "cub", {"train": 249, "val": 21, "test": 213}),
        ("cub", "cub/CUB_200_2011", {"train": 249, "val": 21, "test": 213}),
        ("flowers", "flowers", {"train": 100, "val": 100, "test": 1000}),
        ("folder", "cbsd68", {"train": 61, "val": 2, "test": 5}),
    ],
)
def test_real_photographs(name: str, folder: str, counts: dict[str, int]) -> None:
    source = open_source(name, Path(str(REAL)) / folder)
    images = source.images()
    assert Counter(image.split for image in images) == counts
    for image in images[::40]:
        pixels = source.pixels(image, source.read(image))
        assert pixels.shape == (source.size, source.size, 3) and pixels.std() > 5
