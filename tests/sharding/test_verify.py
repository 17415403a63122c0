"""Damage of every kind is found and named by verify, and refused by the reader."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from infra.storage import Storage, UserError, open_storage
from sharding import Dataset, ShardReader
from sharding.dataset import publish
from sharding.tar import BLOCK_BYTES
from sharding.verify import field_problem, verify
from sharding.write.degrade import npy_bytes, parse_degradations
from sharding.write.pack import SampleSpec, build_shard, put_shard
from tests.support.sharding import make_small, shard, small_plan, small_source

SPEC = SampleSpec(tuple(parse_degradations(["jpeg:10", "mask:box"])))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make_small(open_storage(folder), SPEC)
    return folder


def test_a_whole_data_set_has_no_problem_on_either_store(store_url: str) -> None:
    store = open_storage(store_url)
    make_small(store, SPEC)
    for checksum in (False, True):
        seen: list[int] = []
        report = verify(store, checksum, seen.append)
        assert report == ([], [])
        assert seen[-1] == 28 and len(seen) == 6
    store.put("train-00099.tar", b"another run's")
    assert verify(store).left_over == ["train-00099.tar"] and verify(store).problems == []


# ---- the campaign


def byte_ranges(dataset: Dataset, index: int) -> dict[str, list[tuple[int, int]]]:
    """The byte ranges of a shard by kind: tar headers, npy headers, pixels, JPEG bytes, paddings, the end."""
    found: dict[str, list[tuple[int, int]]] = {}
    at = 0
    for row in dataset.table.filter(np.asarray(dataset.table["shard"]) == index).to_pylist():
        for name in dataset.fields:
            start, size = row[f"{name}_offset"], row[f"{name}_bytes"]
            found.setdefault("header", []).append((start - BLOCK_BYTES, start))
            content = start
            if dataset.fields[name] == "npy":
                found.setdefault("npy header", []).append((start, start + 128))
                content += 128
            found.setdefault(name, []).append((content, start + size))
            at = start + size + -size % BLOCK_BYTES
            if at > start + size:
                found.setdefault("padding", []).append((start + size, at))
    found["end"] = [(at, dataset.shards[index]["bytes"])]
    return found


def damage(store: Storage, dataset: Dataset, chance: random.Random) -> tuple[str, set[str]]:
    """Damage one shard, or swap two; returns the kind of damage and their names."""
    shards = dataset.shards
    index = chance.randrange(len(shards))
    name = shards[index]["name"]
    data = store.get(name)
    kind = chance.choice(["flip", "flip", "cut", "cut", "longer", "swap", "missing", "empty", "zeros"])
    where = chance.choice(sorted(byte_ranges(dataset, index)))
    start, end = chance.choice(byte_ranges(dataset, index)[where])
    at = chance.randrange(start, end)
    if kind == "swap":
        other = shards[(index + chance.randrange(1, len(shards))) % len(shards)]["name"]
        theirs = store.get(other)
        store.put(name, theirs)
        store.put(other, data)
        return kind, {name, other}
    if kind == "missing":
        store.delete(name)
        return kind, {name}
    if kind == "zeros":  # as a partial download into reserved space
        damaged = data[:at] + bytes(len(data) - at)
        if damaged == data:
            damaged = bytes(len(data))
    else:
        flipped = bytes([data[at] ^ 1 << chance.randrange(8)])
        damaged = {
            "flip": data[:at] + flipped + data[at + 1 :],
            "cut": data[: chance.choice([at, start, end - 1])],
            "longer": data + bytes(chance.choice([1, 512, 10240])),
            "empty": b"",
        }[kind]
    assert damaged != data
    store.put(name, damaged)
    return f"{kind} in {where}", {name}


def campaign(whole: Path, folder: Path, count: int) -> None:
    """Damage a whole data set `count` times, once at a time: all damage and nothing else is found."""
    shutil.copytree(whole, folder)
    store = open_storage(folder)
    dataset = Dataset.open(store)
    kept = {entry["name"]: store.get(entry["name"]) for entry in dataset.shards}
    met = set()
    for number in range(count):
        kind, names = damage(store, dataset, random.Random(number))
        met.add(kind)
        for checksum in (True, False):
            problems = verify(store, checksum).problems
            found = {match[1] for text in problems if (match := re.search(r"/([\w-]+\.tar) ", text))}
            assert found == names, kind
            assert len(problems) == len(names)
        for name in names:
            assert reader_finds(dataset, name, folder / "cache"), (kind, name)
            store.put(name, kept[name])
    assert verify(store, checksum=True).problems == []
    assert len(met) > min(count / 4, 15), met


def reader_finds(dataset: Dataset, name: str, cache: Path) -> bool:
    """Whether reading the shard's first sample raises UserError with its name."""
    index, entry = next((i, entry) for i, entry in enumerate(dataset.shards) if entry["name"] == name)
    reader = ShardReader(dataset, entry["split"], cache)
    try:
        reader.read([int(np.flatnonzero(reader.split.shard == index)[0])])
    except UserError as error:
        return name in str(error)
    return False


def test_50_damaged_shards_are_found(whole: Path, tmp_path: Path) -> None:
    campaign(whole, tmp_path / "set", 50)


@pytest.mark.chaos
def test_500_damaged_shards_are_found(whole: Path, tmp_path: Path) -> None:
    campaign(whole, tmp_path / "set", 500)


@pytest.mark.parametrize("kind", ["flip", "cut", "swap", "missing"])
def test_damage_on_s3_is_found_by_checksums_and_by_content(s3_url: str, kind: str) -> None:
    store = open_storage(s3_url)
    make_small(store, SPEC)
    first, second = (store.get(f"train-0000{number}.tar") for number in (0, 1))
    damaged = {"flip": first[:1000] + b"!" + first[1001:], "cut": first[:-512], "swap": second}
    if kind == "missing":
        store.delete("train-00000.tar")
    else:
        store.put("train-00000.tar", damaged[kind])
    for checksum in (False, True):
        (problem,) = verify(store, checksum).problems
        assert problem.startswith(f"the shard {s3_url}/train-00000.tar ") and problem.endswith(".")


# ---- what is named


def named(store: Storage, name: str, data: bytes | None) -> str:
    kept = store.get(name)
    if data is None:
        store.delete(name)
    else:
        store.put(name, data)
    (problem,) = verify(store, checksum=True).problems
    store.put(name, kept)
    return problem


def test_shard_sample_and_field_are_named(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "set")
    store = open_storage(tmp_path / "set")
    dataset = Dataset.open(store)
    name = dataset.shards[0]["name"]
    data = store.get(name)
    row = dataset.table.slice(2, 1).to_pylist()[0]

    def flipped(at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

    for field in dataset.fields:
        start = row[f"{field}_offset"]
        which = f"its field {field} of the sample {row['key']}"
        assert f"{which} is damaged (CRC-32)" in named(store, name, flipped(start + 140))
        assert f"{which} has a damaged tar header" in named(store, name, flipped(start - 400))
        cut = named(store, name, data[: start + 1])
        assert f"{which} is cut off" in cut and f"has {start + 1} bytes instead of {len(data)}" in cut
    after = row["clean_offset"] + row["clean_bytes"]
    assert f"the sample {row['key']} is followed by something else" in named(store, name, flipped(after))
    assert "its end is not that of a tar" in named(store, name, flipped(len(data) - 1))
    assert "is missing" in named(store, name, None)
    other = dataset.shards[1]["name"]
    assert f"holds the content of {other}" in named(store, name, store.get(other))


def test_wrong_images_with_right_checksums_are_found(tmp_path: Path) -> None:
    store, source = open_storage(tmp_path), small_source()
    plan = small_plan(source)
    records = []
    for shard_plan in plan.shards:
        tar, record = build_shard(source, shard_plan, SPEC)
        records.append(put_shard(tar, record, store))
    publish(store, records, {"name": "synthetic", "bits": 8, "image_size": 17}, SPEC.fields)  # the images are 16 px
    problems = verify(store, checksum=True).problems
    assert len(problems) == len(plan.shards)
    assert "its field clean of the sample" in problems[0] and "is no array of 17x17" in problems[0]
    assert verify(store).problems == []


def test_fields_must_be_images_of_the_size() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    (jpeg,) = parse_degradations(["jpeg:10"])
    data = jpeg.apply(image, "", 0).data
    assert field_problem(npy_bytes(image), "clean", "npy", 16) is None is field_problem(data, "jpeg10", "jpg", 16)
    assert field_problem(npy_bytes(image[..., 0]), "mask", "npy", 16) is None
    assert field_problem(npy_bytes(image[..., 0]), "clean", "npy", 16) == "is no array of 16x16"
    assert field_problem(npy_bytes(image)[:-1], "clean", "npy", 16) == "is no array of 16x16"
    assert field_problem(data, "jpeg10", "jpg", 17) == "is 16x16 px instead of 17x17"
    assert "cannot be decoded" in (field_problem(data[: len(data) // 2], "jpeg10", "jpg", 16) or "")


# ---- the commands


@pytest.mark.integration
def test_the_command_names_every_damaged_shard_and_exits_with_2(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "set")
    url = str(tmp_path / "set")
    code, out, err = shard("verify", url, "--checksum")
    assert (code, err) == (0, "") and "is whole: 6 shards, 28 images" in out
    store = open_storage(url)
    store.delete("val-00000.tar")
    store.put("train-00001.tar", b"damaged")
    store.put("train-00077.tar", b"")
    for options in ([], ["--checksum"]):
        code, out, err = shard("verify", url, *options)
        assert code == 2 and "train-00077.tar is left over" in out
        lines = err.strip().splitlines()
        assert len(lines) == 2 and all(line.startswith(f"error: the shard {url}/") for line in lines)
        assert "train-00001.tar has 7 bytes" in lines[0] and "val-00000.tar is missing" in lines[1]
    code, _, err = shard("verify", str(tmp_path / "nothing"))
    assert code == 2 and "there is no finished data set" in err


def test_inspect_shows_what_is_stored(whole: Path, tmp_path: Path) -> None:
    from pipeline.shard.inspect import contact_sheet, image_means, shown_fields

    store = open_storage(whole)
    dataset = Dataset.open(store)
    row = dataset.table.slice(0, 1).to_pylist()[0]
    clean, jpeg, masked = shown_fields(dataset, row)
    source = small_source()
    image = next(image for image in source.images() if image.key == row["key"])
    np.testing.assert_array_equal(clean, source.pixels(image, source.read(image)))
    hole = parse_degradations(["mask:box"])[0].apply(clean, row["key"], 0).data
    missing = np.frombuffer(hole[128:], np.uint8).reshape(16, 16) == 1
    assert (masked[missing] == 255).all() and (masked[~missing] == clean[~missing]).all()
    assert jpeg.shape == clean.shape and (jpeg != clean).any()
    means, shards = image_means(dataset)
    assert len(means) == 28 and shards == 6 and 0.2 < means.mean() < 0.8
    assert contact_sheet(dataset, 3).width >= 3 * 128
