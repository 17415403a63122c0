"""One shard of the plan to one tar on the store, with the rows that the manifest will hold of it.

The tar is a plain WebDataset shard: members `<key>.clean.npy`, `<key>.jpeg10.jpg` and so on, uncompressed, in the
plan's order, with every date and owner zero, so that the same input gives the same bytes on any machine. The pixels of
an image lie in it as they are in memory: a reader that knows the offset maps them and decodes nothing.
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
from sharding.tar import Tar, member_name
from sharding.write.decode import BadImage
from sharding.write.degrade import Degradation, Field, npy_bytes
from sharding.write.plan import ShardPlan

RECORDS = "parts/"
"""Where finished shards' rows lie until the manifest is written."""
MOST_READERS, READ_BATCH = 8, 8
"""Threads that read files ahead, and how many files each takes at once."""


@dataclass(frozen=True)
class SampleSpec:
    """What is stored of each image, apart from where it comes from."""

    degradations: tuple[Degradation, ...] = ()
    bits: int = 8
    seed: int = 0

    @property
    def fields(self) -> dict[str, str]:
        """Name of each stored field -> its extension, in the order in which they lie in a shard."""
        return {"clean": "npy", **{d.name: d.extension for d in self.degradations}}


@dataclass
class ShardRecord:
    """A finished shard: its checksums, a row for each sample, and the images that could not be used, with reasons."""

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


def pack_shard(
    source: Source,
    plan: ShardPlan,
    spec: SampleSpec,
    store: Storage,
    expected_sha256: str | None = None,
    check_still_ours: Callable[[], None] = lambda: None,
) -> ShardRecord:
    """`build_shard`, then `put_shard`: one shard is in memory."""
    content, part = build_shard(source, plan, spec)
    return put_shard(content, part, store, expected_sha256, check_still_ours)


def put_shard(
    content: bytes | memoryview,
    part: ShardRecord,
    store: Storage,
    expected_sha256: str | None = None,
    check_still_ours: Callable[[], None] = lambda: None,
) -> ShardRecord:
    """Put the shard on the store, then its part, now with the checksum: a shard without a part counts as not there.

    `check_still_ours` is called just before. Raises ValueError, and puts nothing, when the shard should have
    `expected_sha256` and has not.
    """
    part.size_bytes = len(content)
    part.sha256 = hashlib.sha256(content).hexdigest()
    if expected_sha256 not in (None, part.sha256):
        raise UserError(
            f"{store.url}/{part.name} is damaged and cannot be made again: the images or the encoders have changed "
            "since; bring back the old ones, or make the whole data set anew with --overwrite."
        )
    check_still_ours()
    store.put(part.name, content, part.sha256)
    store.put(record_name(part.name), part.to_bytes())
    return part


def record_name(shard_name: str) -> str:
    """Where the rows of a finished shard are kept."""
    return f"{RECORDS}{shard_name}.json"


def build_shard(
    source: Source, plan: ShardPlan, spec: SampleSpec, tar: Tar | None = None
) -> tuple[memoryview, ShardRecord]:
    """The shard's bytes, and its part, yet without its checksum. ValueError when an image cannot be read.

    The bytes lie in `tar`, which may have served before, or in a new one.
    """
    part = ShardRecord(plan.name, plan.split)
    tar = tar or Tar()
    tar.clear()
    for image, data, source_sha256 in read_ahead(source, plan.images):
        try:
            fields = image_fields(source, image, data, spec)
        except BadImage as error:
            part.bad.append({"key": image.key, "file": image.file, "reason": str(error)})
            continue
        part.rows.append(add_sample(tar, plan, image, source_sha256, fields))
    return tar.finish(), part


def read_ahead(source: Source, images: Sequence[SourceImage]) -> Iterator[tuple[SourceImage, bytes, str]]:
    """Each image in order with its file's bytes and their SHA-256, read by threads while others are decoded.

    On a network disk, waiting for one small file after the other would take longer than the codecs. On a local one a
    second reader only takes the processor from them, so there are more only once it was waited for.
    """
    batches = (images[start : start + READ_BATCH] for start in range(0, len(images), READ_BATCH))
    readers = 1
    with ThreadPoolExecutor(MOST_READERS) as threads:
        pending: deque[Future[list[tuple[SourceImage, bytes, str]]]] = deque()
        for batch in batches:
            pending.append(threads.submit(lambda batch: [_read(source, image) for image in batch], batch))
            if len(pending) > readers:
                if not pending[0].done():
                    readers = min(readers + 1, MOST_READERS)
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _read(source: Source, image: SourceImage) -> tuple[SourceImage, bytes, str]:
    try:
        data = source.read(image)
        return image, data, hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise UserError(
            f"the image {image.file} was listed and cannot be read now ({error.strerror or error}); look whether the "
            "folder is there on every machine that works on the shards, then run the same command again."
        ) from error


def image_fields(source: Source, image: SourceImage, data: bytes, spec: SampleSpec) -> list[Field]:
    """The clean pixels first, then each degradation of them."""
    clean = quantise(source.pixels(image, data), spec.bits)
    degraded = [degradation.apply(clean, image.key, spec.seed) for degradation in spec.degradations]
    return [Field("clean", "npy", npy_bytes(clean)), *degraded]


def quantise(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper `bits` of each 8-bit value; the released code's protocol is 5 (the noise is added at reading)."""
    return pixels if bits == 8 else pixels & np.uint8(0xFF << (8 - bits) & 0xFF)


def add_sample(
    tar: Tar, plan: ShardPlan, image: SourceImage, source_sha256: str, fields: Sequence[Field]
) -> dict[str, Any]:
    """Append one sample's members; returns its row."""
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
