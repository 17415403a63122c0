"""Shards: their bytes, their content by stock tools, and their records."""

from __future__ import annotations

import hashlib
import io
import itertools
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from webdataset.gopen import gopen_schemes

from infra.storage import UserError, filesystem, open_storage
from sharding.dataset import Dataset
from sharding.sources import SourceImage
from sharding.tar import Tar, tar_end, tar_header
from sharding.write.decode import BadImage
from sharding.write.degrade import parse_degradations
from sharding.write.pack import SampleSpec, ShardRecord, build_shard, quantise, record_name
from tests.support.sharding import make_small, pack_shard, small_plan, small_source

SPEC = SampleSpec(tuple(parse_degradations(["jpeg:10,90:444", "mask:box,brush"])))


@given(st.text("abcdefghij_/-.0123456789", min_size=1, max_size=100), st.integers(0, 8**11 - 1))
def test_headers_are_tarfile_s(name: str, size_bytes: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    assert tar_header(name, size_bytes) == info.tobuf(tarfile.USTAR_FORMAT)


@given(st.integers(0, 100_000).map(lambda blocks: 512 * blocks))
def test_the_end_is_tarfile_s(content_bytes: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.offset = content_bytes
    assert len(buffer.getvalue()) == tar_end(content_bytes)


def members_of(tar: memoryview) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return opened.getmembers()


def test_tarfile_reads_every_member_where_the_rows_say() -> None:
    source = small_source()
    plan = small_plan(source)
    for shard in plan.shards:
        tar, record = build_shard(source, shard, SPEC)
        members = members_of(tar)
        expected = [(row, name) for row in record.rows for name in SPEC.fields]
        assert [image.key for image in shard.images] == [row["key"] for row in record.rows]
        for member, (row, name) in zip(members, expected, strict=True):
            assert member.name == f"{row['key']}.{name}.{SPEC.fields[name]}"
            assert (member.offset_data, member.size) == (row[f"{name}_offset"], row[f"{name}_bytes"])
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            content = tar[member.offset_data :][: member.size]
            assert zlib.crc32(content) == row[f"{name}_crc32"]
        for image, row in zip(shard.images, record.rows, strict=True):
            assert row["source_sha256"] == hashlib.sha256(source.read(image)).hexdigest()
            assert (row["source_file"], row["split"], row["shard"]) == (image.file, shard.split, shard.index)


def test_the_same_input_gives_the_same_bytes_and_other_input_others(tmp_path: Path) -> None:
    source, store = small_source(), open_storage(tmp_path)
    shard = small_plan(source).shards[0]
    tar, _ = build_shard(source, shard, SPEC)
    record = pack_shard(source, shard, SPEC, store)
    assert store.get(shard.name) == tar
    assert record.sha256 == hashlib.sha256(tar).hexdigest() and record.sha256 == store.sha256(shard.name)
    assert ShardRecord.from_bytes(store.get(record_name(shard.name))) == record
    for other in (SampleSpec(SPEC.degradations, bits=5), SampleSpec(SPEC.degradations, seed=1), SampleSpec()):
        assert build_shard(source, shard, other)[0] != tar


def test_a_buffer_that_served_a_larger_shard_gives_the_same_bytes() -> None:
    source, used = small_source(), Tar()
    used.add("x", b"\xff" * (1 << 21))
    for shard in small_plan(source).shards:
        assert build_shard(source, shard, SPEC, used)[0] == build_shard(source, shard, SPEC)[0]


def test_a_tar_larger_than_its_first_buffer_is_whole() -> None:
    tar = Tar()
    contents = [bytes([number]) * (11 << 20) for number in range(6)]
    offsets = [tar.add(f"{number}.bin", content) for number, content in enumerate(contents)]
    whole = tar.finish()
    assert [member.offset_data for member in members_of(whole)] == offsets
    assert all(
        whole[offset : offset + len(content)] == content for offset, content in zip(offsets, contents, strict=True)
    )


def test_stock_webdataset_reads_every_field(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, store = small_source(), open_storage(store_url)
    make_small(store, SPEC, source)
    dataset = Dataset.open(store)
    urls = [f"{store_url}/{shard['name']}" for shard in dataset.shards]
    files, _ = filesystem(store_url)
    monkeypatch.setitem(gopen_schemes, "s3", lambda url, *_: files.open(url))
    stock = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil")
    samples = {sample["__key__"]: sample for sample in stock}
    images = source.images()
    assert samples.keys() == {image.key for image in images}
    for image in images:
        sample, clean = samples[image.key], source.pixels(image, source.read(image))
        np.testing.assert_array_equal(sample["clean.npy"], clean)
        for degradation in SPEC.degradations:
            field = degradation.apply(clean, image.key, SPEC.seed)
            stored = sample[f"{field.name}.{field.extension}"]
            expected = (
                np.load(io.BytesIO(field.data)) if field.extension == "npy" else Image.open(io.BytesIO(field.data))
            )
            np.testing.assert_array_equal(np.asarray(stored), np.asarray(expected))


def test_pixels_lie_at_the_manifest_s_offset(tmp_path: Path) -> None:
    store, source = open_storage(tmp_path), small_source()
    make_small(store, SPEC, source)
    dataset = Dataset.open(store)
    by_key = {image.key: image for image in source.images()}
    for split in ("train", "val", "test"):
        samples = dataset.split(split)
        for i, key in enumerate(samples.keys):
            shard = np.memmap(tmp_path / dataset.shards[samples.shard[i]]["name"], np.uint8, "r")
            pixels = shard[samples.offsets["clean"][i] + 128 :][: 16 * 16 * 3].reshape(16, 16, 3)
            np.testing.assert_array_equal(pixels, source.pixels(by_key[key], source.read(by_key[key])))


def test_bits_are_cut_as_stated() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    assert quantise(pixels, 8) is pixels
    np.testing.assert_array_equal(quantise(pixels, 5), pixels // 8 * 8)


class FaultySource:
    """The small source with some unusable (`bad`) or unreadable images."""

    def __init__(self, bad: set[str] = frozenset(), unreadable: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.inner, self.bad, self.unreadable = small_source(), bad, unreadable
        self.images, self.name, self.size = self.inner.images, "faulty", self.inner.size

    def read(self, image: SourceImage) -> bytes:
        if image.key in self.unreadable:
            raise FileNotFoundError(2, "No such file or directory")
        return self.inner.read(image)

    def pixels(self, image: SourceImage, data: bytes) -> np.ndarray:
        if image.key in self.bad:
            raise BadImage("the reason")
        return self.inner.pixels(image, data)


def test_unusable_images_are_listed_and_the_others_kept() -> None:
    shard = small_plan(small_source()).shards[0]
    bad = shard.images[2].key
    tar, record = build_shard(FaultySource({bad}), shard, SPEC)  # type: ignore[arg-type]
    assert record.bad == [{"key": bad, "file": shard.images[2].file, "reason": "the reason"}]
    assert [row["key"] for row in record.rows] == [image.key for image in shard.images if image.key != bad]
    names = [member.name for member in members_of(tar)]
    assert len(names) == len(record.rows) * len(SPEC.fields) and not any(name.startswith(f"{bad}.") for name in names)


def test_a_vanished_file_is_an_error_and_nothing_is_put(tmp_path: Path) -> None:
    shard = small_plan(small_source()).shards[0]
    gone = FaultySource(unreadable={shard.images[3].key})
    with pytest.raises(UserError, match=f"the image {shard.images[3].file} was listed and cannot be read now"):
        pack_shard(gone, shard, SPEC, open_storage(tmp_path))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_comes_out_different_is_not_put(tmp_path: Path) -> None:
    store, source = open_storage(tmp_path), small_source()
    shard = small_plan(source).shards[0]
    expected = pack_shard(source, shard, SPEC, store).sha256
    before = store.get(shard.name)
    assert pack_shard(source, shard, SPEC, store, expected).sha256 == expected
    with pytest.raises(UserError, match="the images or the encoders have changed since"):
        pack_shard(small_source(seed=1), shard, SPEC, store, expected)
    assert store.get(shard.name) == before

    def lost() -> None:
        raise UserError("taken over")

    with pytest.raises(UserError, match="taken over"):
        pack_shard(source, shard, SampleSpec(), store, None, lost)
    assert store.get(shard.name) == before


def test_a_data_set_s_shards_differ(tmp_path: Path) -> None:
    store = open_storage(tmp_path)
    make_small(store, SPEC)
    hashes = [shard["sha256"] for shard in Dataset.open(store).shards]
    assert all(a != b for a, b in itertools.combinations(hashes, 2))
