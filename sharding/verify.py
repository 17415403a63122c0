"""Integrity check of a data set on its store: one sentence for each damaged shard.

The quick check compares sizes and the store's checksums; on S3 nothing is downloaded. The full check reads every byte,
compares it with the manifest, and decodes every image.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from infra.storage import Storage
from sharding.dataset import Dataset
from sharding.sources import SPLITS
from sharding.tar import BLOCK_BYTES, NPY_HEADER_BYTES, member_name, npy_header, tar_end, tar_header

PARALLEL_SHARDS = 4
"""Shards that are checked at once; the full check holds each in memory."""
AGAIN = "run the command that made the data set again, with --checksum: it makes damaged shards again"


class VerifyReport(NamedTuple):
    """Result of a check."""

    problems: list[str]
    """One sentence for each damaged shard."""
    left_over: list[str]
    """Shards that dataset.json does not name; harmless."""


def verify(
    store: Storage, checksum: bool = False, progress: Callable[[int], None] = lambda images: None
) -> VerifyReport:
    """Check a data set, with `checksum` every byte; `progress` gets the samples so far. UserError of `Dataset.open`."""
    dataset = Dataset.open(store)
    names = {shard["name"] for shard in dataset.shards}
    left_over = [entry.name for entry in store.list() if entry.name.endswith(".tar") and entry.name not in names]
    report, done = VerifyReport(_info_problems(dataset), left_over), 0
    with ThreadPoolExecutor(PARALLEL_SHARDS) as threads:
        found = threads.map(lambda index: _check(dataset, index, checksum), range(len(dataset.shards)))
        for shard, problem in zip(dataset.shards, found, strict=True):
            done += shard["samples"]
            if problem:
                report.problems.append(f"the shard {store.url}/{shard['name']} {problem}; {AGAIN}.")
            progress(done)
    return report


def shard_problem(store: Storage, shard: dict[str, Any], checksum: bool = False) -> str | None:
    """The damage of a shard as a whole, None without one. `shard` as in dataset.json; `checksum`: hash every byte."""
    size_bytes = store.size(shard["name"])
    if size_bytes is None:
        return "is missing"
    if size_bytes != shard["bytes"]:
        return f"has {size_bytes} bytes instead of {shard['bytes']}"
    recorded = None if checksum else store.sha256(shard["name"])
    if recorded is None:
        try:
            recorded = hashlib.sha256(store.get(shard["name"])).hexdigest()
        except FileNotFoundError:
            return "is missing"
    return None if recorded == shard["sha256"] else "holds other bytes than were written"


def _check(dataset: Dataset, index: int, checksum: bool) -> str | None:
    shard = dataset.shards[index]
    if not checksum:
        return shard_problem(dataset.store, shard)
    try:
        data = dataset.store.get(shard["name"])
    except FileNotFoundError:
        return "is missing"
    sha256 = hashlib.sha256(data).hexdigest()
    for other in dataset.shards:
        if sha256 == other["sha256"] != shard["sha256"]:
            return f"holds the content of {other['name']}"
    wrong = list(_content_problems(dataset, index, data))
    if len(data) != shard["bytes"]:
        wrong.insert(0, f"has {len(data)} bytes instead of {shard['bytes']}")
    elif sha256 != shard["sha256"] and not wrong:
        wrong.append("holds other bytes than were written")
    return " and ".join(wrong[:2]) + (f" (and {len(wrong) - 2} more)" if len(wrong) > 2 else "") if wrong else None


def _content_problems(dataset: Dataset, index: int, data: bytes) -> Iterator[str]:
    """The problems of a shard, first byte to last; the manifest's rows account for every byte."""
    rows = dataset.table.filter(np.asarray(dataset.table["shard"]) == index).to_pylist()
    position = 0
    for row in rows:
        for name, extension in dataset.fields.items():
            offset, size_bytes = row[f"{name}_offset"], row[f"{name}_bytes"]
            after = offset + size_bytes + -size_bytes % BLOCK_BYTES
            problem = (
                "is not where the manifest says"
                if offset != position + BLOCK_BYTES
                else "is cut off"
                if after > len(data)
                else "has a damaged tar header"
                if data[position:offset] != tar_header(member_name(row["key"], name, extension), size_bytes)
                else "is damaged (CRC-32)"
                if zlib.crc32(data[offset : offset + size_bytes]) != row[f"{name}_crc32"]
                else "is followed by something else than zeros"
                if any(data[offset + size_bytes : after])
                else field_problem(data[offset : offset + size_bytes], name, extension, dataset.image_size)
            )
            if problem:
                yield f"its field {name} of the sample {row['key']} {problem}"
            position = after
    end = data[position:]
    if len(end) != tar_end(position) or any(end):
        yield "its end is not that of a tar"


def field_problem(data: bytes, name: str, extension: str, size: int) -> str | None:
    """Why a field's bytes are no image (or mask) of `size` x `size` px; None when they are one."""
    if extension == "npy":
        shapes = [(size, size, 3)] if name == "clean" else [(size, size, 3), (size, size)]
        whole = any(
            data[:NPY_HEADER_BYTES] == npy_header(s) and len(data) == NPY_HEADER_BYTES + np.prod(s) for s in shapes
        )
        return None if whole else f"is no array of {size}x{size}"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            found = image.size
    except Exception as error:  # the decoders raise many kinds
        return f"cannot be decoded ({error})"
    return None if found == (size, size) else f"is {found[0]}x{found[1]} px instead of {size}x{size}"


def _info_problems(dataset: Dataset) -> list[str]:
    """Contradictions between dataset.json and the manifest."""
    found = Counter(dataset.table["split"].to_pylist())
    counts = {
        "samples": (dataset.table.num_rows, sum(shard["samples"] for shard in dataset.shards)),
        "samples by split": ({split: found[split] for split in SPLITS}, dataset.split_sizes),
    }
    return [
        f"{dataset.store.url}: the manifest has {counted} {name}, but dataset.json {stated}; {AGAIN}."
        for name, (counted, stated) in counts.items()
        if counted != stated
    ]
