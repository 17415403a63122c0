"""One shard of the plan to one tar on the store, with the rows that the manifest will hold of it.

The tar is a plain WebDataset shard: members `<key>.clean.npy`, `<key>.jpeg10.jpg` and so on, uncompressed, in the
plan's order, with every date and owner zero, so that the same input gives the same bytes on any machine. The pixels of
an image lie in it as they are in memory: a reader that knows the offset maps them and decodes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sharding.decode import BadImage
from sharding.degrade import Degradation, Field, npy_bytes
from sharding.plan import ShardPlan
from sharding.sources import Source, SourceImage
from sharding.store import Store

PARTS = "parts/"
"""Where finished shards' rows lie until the manifest is written."""


@dataclass(frozen=True)
class Recipe:
    """What is stored of each image, apart from where it comes from."""

    degradations: tuple[Degradation, ...] = ()
    bits: int = 8
    seed: int = 0


@dataclass
class Part:
    """A finished shard: its checksums, a row for each sample, and the images that could not be used, with reasons."""

    name: str
    split: str
    size_bytes: int = 0
    sha256: str = ""
    md5: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    bad: list[dict[str, str]] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Part:
        return cls(**json.loads(data))


def pack_shard(source: Source, plan: ShardPlan, recipe: Recipe, store: Store) -> Part:
    """Make the shard, put it on the store, then its part: a shard without a part counts as not there."""
    tar, part = build_shard(source, plan, recipe)
    store.put(plan.name, tar)
    store.put(part_name(plan), part.to_bytes())
    return part


def part_name(plan: ShardPlan) -> str:
    """Where the rows of a finished shard are kept."""
    return f"{PARTS}{plan.name}.json"


def build_shard(source: Source, plan: ShardPlan, recipe: Recipe) -> tuple[bytes, Part]:
    """The shard's bytes and its part; touches no store."""
    part = Part(plan.name, plan.split)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for image in plan.images:
            try:
                data = source.read(image)
                fields = image_fields(source, image, data, recipe)
            except BadImage as error:
                part.bad.append({"key": image.key, "file": image.file, "reason": str(error)})
                continue
            part.rows.append(add_sample(tar, buffer, plan, image, data, fields))
    content = buffer.getvalue()
    part.size_bytes = len(content)
    part.sha256 = hashlib.sha256(content).hexdigest()
    part.md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return content, part


def image_fields(source: Source, image: SourceImage, data: bytes, recipe: Recipe) -> list[Field]:
    """The clean pixels first, then each degradation of them."""
    clean = quantise(source.pixels(image, data), recipe.bits)
    degraded = [degradation.apply(clean, image.key, recipe.seed) for degradation in recipe.degradations]
    return [Field("clean", "npy", npy_bytes(clean)), *degraded]


def quantise(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper `bits` of each 8-bit value; the released code's protocol is 5 (the noise is added at reading)."""
    return pixels & np.uint8(0xFF << (8 - bits) & 0xFF)


def add_sample(
    tar: tarfile.TarFile, buffer: io.BytesIO, plan: ShardPlan, image: SourceImage, data: bytes, fields: Sequence[Field]
) -> dict[str, Any]:
    """Append one sample's members; returns its row."""
    row: dict[str, Any] = {
        "key": image.key,
        "split": plan.split,
        "label": image.label,
        "source_file": image.file,
        "source_sha256": hashlib.sha256(data).hexdigest(),
        "shard": plan.index,
    }
    checksum = 0
    for item in fields:
        info = tarfile.TarInfo(f"{image.key}.{item.name}.{item.extension}")
        info.size = len(item.data)
        tar.addfile(info, io.BytesIO(item.data))
        end = buffer.tell()
        row[f"{item.name}_offset"] = end - padded(len(item.data))
        row[f"{item.name}_bytes"] = len(item.data)
        checksum = zlib.crc32(item.data, checksum)
    row["crc32"] = checksum
    return row


def padded(size_bytes: int) -> int:
    """A tar member's content fills whole blocks of 512 bytes."""
    return -(-size_bytes // 512) * 512
