"""One planned shard to one tar on the store, with the manifest's rows of it.

The tar is a plain WebDataset shard: members `<key>.clean.npy`, `<key>.jpeg10.jpg` and so on, uncompressed, in the
plan's order, with every date and owner zero, so that the same input gives the same bytes on any machine. The pixels of
an image are stored as they are in memory: a reader maps them at the manifest's offset and decodes nothing.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infra.storage import Storage, UserError
from sharding.sources import Source, SourceImage
from sharding.tar import Tar, member_name, npy_bytes
from sharding.write.decode import BadImage
from sharding.write.degrade import Degradation, Field
from sharding.write.plan import ShardPlan

RECORDS = "records/"
"""Folder of the finished shards' records, until the manifest is written."""
FORMER_RECORDS = "parts/"
"""Its former name; the shards of a data set that was interrupted under it are made again."""
MAX_READERS, READ_BATCH = 8, 8
"""Threads that read files ahead, and files that each reads at once."""


@dataclass(frozen=True)
class SampleSpec:
    """The stored fields of each image, independent of its source."""

    degradations: tuple[Degradation, ...] = ()
    bits: int = 8
    seed: int = 0

    @property
    def fields(self) -> dict[str, str]:
        """Field name -> extension, in the order of a shard's members."""
        return {"clean": "npy", **{d.name: d.extension for d in self.degradations}}


@dataclass
class ShardRecord:
    """A finished shard: size and hash, the manifest's rows, and the unusable images with reasons."""

    name: str
    split: str
    size_bytes: int = 0
    sha256: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    bad: list[dict[str, str]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The shard's entry in dataset.json."""
        return {
            "name": self.name,
            "split": self.split,
            "samples": len(self.rows),
            "bytes": self.size_bytes,
            "sha256": self.sha256,
        }

    def to_bytes(self) -> bytes:
        return json.dumps(vars(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> ShardRecord:
        return cls(**json.loads(data))


def put_shard(
    content: bytes | memoryview,
    record: ShardRecord,
    store: Storage,
    expected_sha256: str | None = None,
    assert_lease_held: Callable[[], None] = lambda: None,
) -> ShardRecord:
    """Write the shard, then its completed record: a shard without a record counts as missing.

    `assert_lease_held` is called just before. Raises UserError, and writes nothing, when `expected_sha256` is given and
    the shard has another hash.
    """
    record.size_bytes = len(content)
    record.sha256 = hashlib.sha256(content).hexdigest()
    if expected_sha256 not in (None, record.sha256):
        raise UserError(
            f"{store.url}/{record.name} is damaged and cannot be made again: the images or the encoders have changed "
            "since; restore the old ones, or make the whole data set again with --overwrite."
        )
    assert_lease_held()
    store.put(record.name, content, record.sha256)
    store.put(record_name(record.name), record.to_bytes())
    return record


def record_name(shard_name: str) -> str:
    """File of a finished shard's record."""
    return f"{RECORDS}{shard_name}.json"


def clear_records(store: Storage) -> None:
    """Delete all records."""
    for folder in (RECORDS, FORMER_RECORDS):
        for entry in store.list(folder):
            store.delete(entry.name)


def build_shard(
    source: Source, plan: ShardPlan, spec: SampleSpec, tar: Tar | None = None
) -> tuple[memoryview, ShardRecord]:
    """The shard's bytes, a view of `tar`, and its record without size and hash. UserError for an unreadable file."""
    record = ShardRecord(plan.name, plan.split)
    tar = tar or Tar()
    tar.clear()
    for image, data, source_sha256 in read_ahead(source, plan.images):
        try:
            clean = quantise(source.pixels(image, data), spec.bits)
        except BadImage as error:
            record.bad.append({"key": image.key, "file": image.file, "reason": str(error)})
            continue
        degraded = [degradation.apply(clean, image.key, spec.seed) for degradation in spec.degradations]
        fields = [Field("clean", "npy", npy_bytes(clean)), *degraded]
        record.rows.append(add_sample(tar, plan, image, source_sha256, fields))
    return tar.finish(), record


def read_ahead(source: Source, images: Sequence[SourceImage]) -> Iterator[tuple[SourceImage, bytes, str]]:
    """Each image in order with its file's bytes and their SHA-256, read by threads while others are decoded.

    On a network disk, reading small files one after the other would take longer than the codecs. On a local disk a
    second reader only competes for the processor, so readers are added when a read was waited for.
    """
    batches = (images[start : start + READ_BATCH] for start in range(0, len(images), READ_BATCH))
    readers = 1
    with ThreadPoolExecutor(MAX_READERS) as threads:
        pending: deque[Future[list[tuple[SourceImage, bytes, str]]]] = deque()
        for batch in batches:
            pending.append(threads.submit(lambda batch: [_read(source, image) for image in batch], batch))
            if len(pending) > readers:
                if not pending[0].done():
                    readers = min(readers + 1, MAX_READERS)
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _read(source: Source, image: SourceImage) -> tuple[SourceImage, bytes, str]:
    try:
        data = source.read(image)
        return image, data, hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise UserError(
            f"the image {image.file} was listed and cannot be read now ({error.strerror or error}); check that every "
            "machine that makes shards sees the folder, then run the same command again."
        ) from error


def quantise(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper `bits` of each 8-bit value: 5 in the released code, which adds the noise at reading."""
    return pixels if bits == 8 else pixels & np.uint8(0xFF << (8 - bits) & 0xFF)


def add_sample(
    tar: Tar, plan: ShardPlan, image: SourceImage, source_sha256: str, fields: Sequence[Field]
) -> dict[str, Any]:
    """Append one sample's members; returns its row of the manifest."""
    row: dict[str, Any] = {
        "key": image.key,
        "split": plan.split,
        "label": image.label,
        "source_file": image.file,
        "source_sha256": source_sha256,
        "shard": plan.index,
    }
    for item in fields:
        row[f"{item.name}_offset"] = tar.add(member_name(image.key, item.name, item.extension), item.data)
        row[f"{item.name}_bytes"] = len(item.data)
        row[f"{item.name}_crc32"] = zlib.crc32(item.data)
    return row
