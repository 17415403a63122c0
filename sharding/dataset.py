"""A data set on a store: the manifest with one Parquet row a sample, and dataset.json, the commit mark, written last.

Readers open a data set by its dataset.json alone; a shard that it does not name does not exist for them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import Storage, UserError
from infra.storage.parquet import read_table
from sharding.sources import SPLITS
from sharding.write.pack import ShardRecord

DATASET, MANIFEST, FORMAT = "dataset.json", "manifest.parquet", 1
AGAIN = "run the `python -m pipeline.shard` command that made the data set again"


@dataclass(frozen=True)
class Split:
    """The n samples of one split in the manifest's order; arrays of length n."""

    name: str
    keys: list[str]
    labels: list[int | None]
    shard: np.ndarray
    """int64: index in `Dataset.shards`."""
    offsets: Mapping[str, np.ndarray]
    """field -> int64: offset of the field's bytes in the shard."""
    sizes: Mapping[str, np.ndarray]
    """field -> int64: size of the field in bytes."""

    def __len__(self) -> int:
        return len(self.keys)


class Dataset:
    """A complete data set: the content of dataset.json, and the manifest's table."""

    def __init__(self, store: Storage, info: dict[str, Any], table: pa.Table) -> None:
        self.store, self.info, self.table = store, info, table
        self.name: str = info["name"]
        self.bits: int = info["bits"]
        self.sha256: str = info["manifest"]["sha256"]
        """The manifest's hash: data sets with the same hash hold the same samples."""
        self.image_size: int = info["image_size"]
        """Height and width of every image, px."""
        self.shards: list[dict[str, Any]] = info["shards"]
        """Name, split, samples, bytes and sha256 of each shard."""
        self.fields: dict[str, str] = info["fields"]
        """Name of each stored field -> its extension."""
        self.split_sizes: dict[str, int] = info["splits"]

    @classmethod
    def open(cls, store: Storage) -> Dataset:
        """Raises UserError when there is none, or dataset.json names another manifest."""
        try:
            info = json.loads(store.get(DATASET))
        except FileNotFoundError:
            raise UserError(
                f"there is no finished data set at {store.url} (no {DATASET}); make one there with `python -m "
                "pipeline.shard`, or finish an interrupted one by running its command again."
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise UserError(f"{store.url}/{DATASET} is damaged: it is no JSON; {AGAIN}.") from None
        if info.get("format") != FORMAT:
            raise UserError(
                f"{store.url}/{DATASET} has format {info.get('format')!r}, but this version reads {FORMAT}."
            )
        try:
            data = store.get(MANIFEST)
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != info["manifest"]["sha256"]:
            raise UserError(f"{store.url}/{MANIFEST} is missing or is not the one that {DATASET} names; {AGAIN}.")
        try:
            return cls(store, info, read_table(data))
        except KeyError as error:
            raise UserError(f"{store.url}/{DATASET} is damaged: it has no {error}; {AGAIN}.") from None

    def split(self, name: str) -> Split:
        """The samples of a split. Raises UserError when it has none."""
        if not self.split_sizes.get(name):
            others = ", ".join(f"{k} ({n})" for k, n in self.split_sizes.items() if n)
            raise UserError(f"the data set {self.name} has no {name!r} split; it has {others}.")
        table = self.table.filter(pa.compute.equal(self.table["split"], name))
        return Split(
            name=name,
            keys=table["key"].to_pylist(),
            labels=table["label"].to_pylist(),
            shard=table["shard"].to_numpy(),
            offsets={f: table[f"{f}_offset"].to_numpy() for f in self.fields},
            sizes={f: table[f"{f}_bytes"].to_numpy() for f in self.fields},
        )


def publish(
    store: Storage, records: Iterable[ShardRecord], info: dict[str, Any], fields: Mapping[str, str]
) -> dict[str, Any]:
    """Write the manifest, then dataset.json, from the shards' records in the plan's order; returns its content.

    Raises UserError when a shard is not on the store, as after a worker that wrote to a disk of its own.
    """
    schema = manifest_schema(fields)
    tables, shards, quarantined = [], [], 0
    for record in records:  # one at a time: the rows of all as Python objects would fill the memory
        tables.append(pa.Table.from_pylist(record.rows, schema=schema))
        shards.append(record.summary())
        quarantined += len(record.bad)
    sizes = {entry.name: entry.size_bytes for entry in store.list()}
    if absent := [shard["name"] for shard in shards if sizes.get(shard["name"]) != shard["bytes"]]:
        raise UserError(
            f"{len(absent)} shards are not at {store.url}, the first being {absent[0]}; with several machines --out "
            "must be an s3:// URL or a folder that all of them share."
        )
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), sink)
    manifest = sink.getvalue()
    full = {
        "format": FORMAT,
        **info,
        "fields": dict(fields),
        "splits": {split: sum(s["samples"] for s in shards if s["split"] == split) for split in SPLITS},
        "quarantined": quarantined,
        "manifest": {
            "file": MANIFEST,
            "rows": sum(shard["samples"] for shard in shards),
            "sha256": hashlib.sha256(manifest).hexdigest(),
        },
        "shards": shards,
    }
    store.put(MANIFEST, manifest)
    store.put(DATASET, json.dumps(full, indent=1).encode())
    return full


def manifest_schema(fields: Mapping[str, str]) -> pa.Schema:
    """Columns of the manifest: the origin of each sample, and offset, size and CRC-32 of each field in its shard."""
    return pa.schema(
        [
            ("key", pa.string()),
            ("split", pa.string()),
            ("label", pa.int64()),
            ("source_file", pa.string()),
            ("source_sha256", pa.string()),
            ("shard", pa.int64()),
            *((f"{f}_{suffix}", pa.int64()) for f in fields for suffix in ("offset", "bytes", "crc32")),
        ]
    )
